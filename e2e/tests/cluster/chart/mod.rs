//! The chart: what it refuses, what it renders, what a real API server says of that, and what outlives an uninstall.
//!
//! ```text
//! alerts      what alerts and dashboards ask for, and when an alert fires
//! values      what is refused, and what the README says of the rest
//! rendering   what comes out of a matrix of values
//! release     install, upgrade, uninstall
//! secrets     an operator that has all it knows from Secrets, and what changes in them
//! ```

mod alerts;
mod release;
mod rendering;
mod secrets;
mod values;

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use penstock_e2e::{Instance, short_id};
use serde_json::Value;

const IMAGE: &str = "image: {repository: registry.test/penstock, tag: v1}\n";

fn output(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        // A program that refuses early does not read to the end.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().expect("the program ends");
    writer.join().expect("the input is written");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn succeeds(command: &mut Command, input: &str) -> String {
    let output = output(command, input);
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

struct Chart<'a> {
    kit: &'a Instance,
    namespace: String,
}

impl Chart<'_> {
    fn template(&self, values: &str, more: &[&str]) -> Output {
        let chart = self.kit.repository().join("charts/penstock");
        let values = values.replace("NAMESPACE", &self.namespace);
        let mut helm = self.kit.helm();
        helm.args(["template", "shop"])
            .arg(chart)
            .args(["--namespace", &self.namespace, "--values", "-"])
            .args(more);
        output(&mut helm, &values)
    }

    #[track_caller]
    fn objects(&self, values: &str, more: &[&str]) -> (String, Vec<Value>) {
        let output = self.template(&format!("{IMAGE}{values}"), more);
        assert!(output.status.success(), "{values}: {}", text(&output.stderr));
        let rendered = text(&output.stdout);
        let objects: Vec<Value> = serde_yaml::from_multiple(&rendered).expect("YAML");
        (
            rendered,
            objects.into_iter().filter(|object| !object.is_null()).collect(),
        )
    }
}

/// The values files of the installation guide: the plain one, and what secured services need instead.
fn guide_values(kit: &Instance) -> [String; 2] {
    let guide = fs::read_to_string(kit.repository().join("docs/install.md")).expect("the guide");
    let blocks: Vec<String> = guide
        .split("```yaml\n")
        .skip(1)
        .take(2)
        .map(|block| block.split("```").next().unwrap_or_default().to_owned())
        .collect();
    let blocks = <[String; 2]>::try_from(blocks).expect("two blocks of values");
    assert!(
        blocks[0].contains("adminSecret") && blocks[1].contains("mechanism"),
        "{blocks:?}"
    );
    blocks
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}
/// A namespace of its own that enforces and warns by the restricted Pod Security Standard; gone at the end.
struct Namespace<'a> {
    kit: &'a Instance,
    name: String,
}

impl<'a> Namespace<'a> {
    fn new(kit: &'a Instance) -> Self {
        let name = format!("chart-{}", short_id().expect("an id"));
        let manifest = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/warn": "restricted",
            }},
        });
        succeeds(kit.kubectl().args(["create", "-f", "-"]), &manifest.to_string());
        Self { kit, name }
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let mut delete = self.kit.kubectl();
        delete.args(["delete", "namespace", &self.name, "--wait=false"]);
        output(&mut delete, "");
    }
}
