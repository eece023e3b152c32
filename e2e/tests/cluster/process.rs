//! The operator as a process: who leads, what it does before its definitions exist, with an object that it cannot read,
//! and when it may see some namespaces only.
//!
//! Processes of the tests act for an operator. Where they would meet the installed one, that is switched off, and the
//! test is alone.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use penstock_e2e::penstock::NAMESPACE;
use penstock_e2e::trial::{APP, PIPELINE, Trial, Turn, within};
use penstock_e2e::{Error, Instance, Result};
use serde_json::Value;

/// The cluster, and what an operator is started with.
pub(crate) struct Cluster {
    pub(crate) kit: Turn,
    /// `repository:tag` of what operator and pods run.
    pub(crate) image: String,
    /// The installed operator is, and comes back when this is dropped.
    switched_off: bool,
}

impl Cluster {
    /// With its installed operator.
    fn beside_others() -> Result<Self> {
        Self::of(Turn::beside_others()?)
    }

    /// Without it.
    pub(crate) fn alone() -> Result<Self> {
        let mut cluster = Self::of(Turn::alone()?)?;
        let kit = &cluster.kit;
        // Earlier tests' pipelines may need the installed operator to end; one of a test that failed may never do so.
        let _ = within(60, "what is being deleted is gone", || {
            let path = "jsonpath={.items[?(@.metadata.deletionTimestamp)].metadata.name}";
            let ending =
                kit.kubectl_output(&["get", "apps.penstock.dev,ingestionpipelines", "-A", "-o", path])?;
            Ok(ending.trim().is_empty())
        });
        cluster.switched_off = true;
        scale(&cluster.kit, 0)?;
        Ok(cluster)
    }

    fn of(kit: Turn) -> Result<Self> {
        let path = "{.spec.template.spec.containers[0].env[?(@.name==\"PENSTOCK_IMAGE\")].value}";
        let image = kit.kubectl_output(&[
            "-n",
            NAMESPACE,
            "get",
            "deployment",
            "penstock",
            "-o",
            &format!("jsonpath={path}"),
        ])?;
        Ok(Self {
            kit,
            image,
            switched_off: false,
        })
    }

    /// Starts an operator whose Lease is in `lease`.
    pub(crate) fn operator(
        &self,
        lease: &str,
        name: &str,
        port: u16,
        more: &[(&str, &str)],
    ) -> Result<Operator> {
        let users = self.kit.clickhouse_users()?;
        let folder = std::env::temp_dir().join(format!("penstock-operator-{lease}-{name}"));
        std::fs::create_dir_all(&folder).expect("a folder for credentials");
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("a file for a credential");
            path
        };
        let mut command = Command::new(self.kit.program("penstock-operator"));
        command
            .env("KUBECONFIG", self.kit.kubeconfig())
            .env("PENSTOCK_IMAGE", &self.image)
            .env("PENSTOCK_KAFKA_BOOTSTRAP", self.kit.kafka_bootstrap()?)
            .env("PENSTOCK_CLICKHOUSE_URL", self.kit.clickhouse_url())
            .env(
                "PENSTOCK_CLICKHOUSE_USERNAME_FILE",
                file("admin-user", &users.admin.user),
            )
            .env(
                "PENSTOCK_CLICKHOUSE_PASSWORD_FILE",
                file("admin-password", &users.admin.password),
            )
            .env(
                "PENSTOCK_CLICKHOUSE_CONSUMER_USERNAME_FILE",
                file("user", &users.consumer.user),
            )
            .env(
                "PENSTOCK_CLICKHOUSE_CONSUMER_PASSWORD_FILE",
                file("password", &users.consumer.password),
            )
            .env("PENSTOCK_NAMESPACE", lease)
            .env("PENSTOCK_POD_NAME", name)
            .env("PENSTOCK_ADMIN_LISTEN", format!("127.0.0.1:{port}"))
            .envs(more.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command
            .spawn()
            .map_err(|error| Error::new(format!("starting the operator: {error}")))?;
        Ok(Operator { child, folder, port })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.switched_off {
            let _ = scale(&self.kit, 1);
        }
    }
}

fn scale(kit: &Instance, replicas: u32) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    kit.kubectl_output(&["-n", NAMESPACE, "scale", "deployment", "penstock", &replicas])?;
    if replicas == "--replicas=0" {
        let selector = "app.kubernetes.io/name=penstock";
        kit.kubectl_output(&[
            "-n",
            NAMESPACE,
            "wait",
            "--for=delete",
            "pod",
            "-l",
            selector,
            "--timeout=60s",
        ])?;
    } else {
        kit.kubectl_output(&[
            "-n",
            NAMESPACE,
            "rollout",
            "status",
            "deployment/penstock",
            "--timeout=60s",
        ])?;
    }
    Ok(())
}

/// Makes a definition again, as the one who made it first: to Helm nothing has happened.
fn put_back(kit: &Instance, definition: &str) -> Result<()> {
    let mut child = kit
        .kubectl()
        .args(["apply", "--server-side", "--field-manager=helm", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("kubectl starts");
    let mut stdin = child.stdin.take().expect("its standard input is a pipe");
    stdin.write_all(definition.as_bytes()).expect("kubectl reads");
    drop(stdin);
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        other => Err(Error::new(format!("kubectl apply of a definition: {other:?}"))),
    }
}

/// A running operator; killed when dropped.
pub(crate) struct Operator {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Operator {
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid is small");
        kill(Pid::from_raw(pid), signal).expect("the process is ours");
    }

    /// Status and text of a page of its admin port; `None` while nobody answers.
    fn page(&self, path: &str) -> Option<(u16, String)> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(2)))
            .build()
            .into();
        let mut answer = agent
            .get(format!("http://127.0.0.1:{}{path}", self.port))
            .call()
            .ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        Some((answer.status().as_u16(), text))
    }

    fn ready(&self) -> bool {
        self.page("/readyz").is_some_and(|(status, _)| status == 200)
    }

    pub(crate) fn leads(&self) -> bool {
        self.page("/metrics")
            .is_some_and(|(_, text)| text.lines().any(|line| line == "penstock_operator_leader 1"))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn holder(trial: &Trial<'_>) -> Result<String> {
    let path = "jsonpath={.spec.holderIdentity}";
    trial.kubectl(&[
        "get",
        "lease",
        "penstock-operator",
        "--ignore-not-found",
        "-o",
        path,
    ])
}

#[test]
fn one_leads_and_another_takes_over() -> Result<()> {
    let cluster = Cluster::beside_others()?;
    let trial = Trial::empty(&cluster.kit, "lease")?;
    let mut operators: Vec<(String, Operator)> = Vec::new();
    for (number, port) in (1..=3).zip(18_201..) {
        let name = format!("operator-{number}");
        // They look at a namespace where nothing is: this is about the Lease.
        let only = [("PENSTOCK_WATCH_NAMESPACES", trial.namespace())];
        operators.push((
            name.clone(),
            cluster.operator(trial.namespace(), &name, port, &only)?,
        ));
    }
    within(20, "all are ready", || {
        Ok(operators.iter().all(|(_, operator)| operator.ready()))
    })?;
    within(5, "one leads", || {
        Ok(operators.iter().filter(|(_, operator)| operator.leads()).count() == 1)
    })?;

    // Told to stop, the leader hands over.
    let first = holder(&trial)?;
    let take = |operators: &mut Vec<(String, Operator)>, name: &str| {
        let at = operators
            .iter()
            .position(|(other, _)| other == name)
            .expect("the holder is one of them");
        operators.remove(at).1
    };
    let mut leader = take(&mut operators, &first);
    leader.signal(Signal::SIGTERM);
    let took = within(3, "another leads after SIGTERM", || {
        let now = holder(&trial)?;
        Ok(!now.is_empty() && now != first)
    })?;
    println!("SIGTERM: handed over after {took:?}");
    within(10, "the stopped one has ended", || {
        Ok(leader.child.try_wait().expect("it is our child").is_some())
    })?;
    assert!(
        leader.child.wait().expect("it is our child").success(),
        "a stop on request is no failure"
    );

    // Frozen, the leader is replaced; thawed, it ends without writing anything.
    let second = holder(&trial)?;
    let mut frozen = take(&mut operators, &second);
    frozen.signal(Signal::SIGSTOP);
    let took = within(
        25,
        "another leads after SIGSTOP",
        || Ok(holder(&trial)? != second),
    )?;
    println!("SIGSTOP: taken over after {took:?}");
    assert!(
        took > Duration::from_secs(10),
        "taken from a leader that may still have been writing"
    );
    let third = holder(&trial)?;
    frozen.signal(Signal::SIGCONT);
    within(5, "the thawed one has ended", || {
        Ok(frozen.child.try_wait().expect("it is our child").is_some())
    })?;
    assert!(
        !frozen.child.wait().expect("it is our child").success(),
        "leadership lost is a failure"
    );
    assert_eq!(holder(&trial)?, third, "the thawed one took the Lease back");
    assert!(
        operators
            .iter()
            .all(|(name, operator)| (*name == third) == operator.leads())
    );
    Ok(())
}

#[test]
fn a_watched_namespace_is_served_and_another_is_not() -> Result<()> {
    let cluster = Cluster::alone()?;
    let (seen, unseen) = (
        Trial::empty(&cluster.kit, "seen")?,
        Trial::empty(&cluster.kit, "unseen")?,
    );
    for trial in [&seen, &unseen] {
        trial.apply(&trial.app(APP))?;
        trial.apply(&trial.pipeline("  ingest: {scaling: {replicas: 1}}\n"))?;
    }
    let only = [("PENSTOCK_WATCH_NAMESPACES", seen.namespace())];
    let operator = cluster.operator(seen.namespace(), "operator", 18_211, &only)?;
    within(20, "the operator leads", || Ok(operator.leads()))?;
    seen.ready()?;
    assert!(seen.key(APP).is_ok());
    assert_eq!(
        unseen
            .kubectl(&["get", "secrets,deployments", "-o", "name"])?
            .trim(),
        ""
    );
    let generation = unseen.kubectl(&[
        "get",
        "ipl",
        PIPELINE,
        "-o",
        "jsonpath={.status.observedGeneration}",
    ])?;
    assert_eq!(generation, "-1", "nobody has looked at it");
    Ok(())
}

#[test]
fn a_malformed_object_stalls_nobody_else() -> Result<()> {
    let cluster = Cluster::alone()?;
    let trial = Trial::empty(&cluster.kit, "malformed")?;
    let definition = "crd/apps.penstock.dev";
    let strict = cluster.kit.kubectl_output(&["get", definition, "-o", "json"])?;
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline("  ingest: {scaling: {replicas: 1}}\n"))?;
    let operator = cluster.operator(trial.namespace(), "operator", 18_221, &[])?;
    within(20, "the operator leads", || Ok(operator.leads()))?;
    trial.ready()?;
    // As an older or a newer version may have stored it: the schema lets everything through for a moment.
    let loose = r#"[{"op":"replace","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec","value":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}]"#;
    let made = (|| {
        cluster
            .kit
            .kubectl_output(&["patch", definition, "--type=json", "-p", loose])?;
        within(10, "the loose schema is in force", || {
            let bad = |name| {
                trial
                    .app(name)
                    .replace("displayName: Trial", "keys: {not: a list}")
            };
            Ok(trial.apply(&bad("bad")).is_ok() && trial.apply(&bad(APP)).is_ok())
        })
    })();
    let schema: Value = serde_json::from_str(&strict).expect("kubectl answers in JSON");
    let schema = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let restore = serde_json::json!([
        {"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec", "value": schema}
    ]);
    cluster
        .kit
        .kubectl_output(&["patch", definition, "--type=json", "-p", &restore.to_string()])?;
    made?;
    // One that has never seen the App when it was sound.
    drop(operator);
    let operator = cluster.operator(trial.namespace(), "operator", 18_221, &[])?;
    within(30, "the next operator leads", || Ok(operator.leads()))?;
    trial.apply(&trial.app("late"))?;
    within(20, "the list has the new App", || {
        let list = trial.kubectl(&[
            "get",
            "configmap",
            "events-apps",
            "-o",
            "jsonpath={.data.apps\\.yaml}",
        ])?;
        let has = |app: &str| list.contains(&format!("name: {}/{app}\n", trial.namespace()));
        Ok(has("late") && has(APP) && !has("bad"))
    })?;
    let events = trial.kubectl(&[
        "get",
        "events.events.k8s.io",
        "-o",
        "jsonpath={range .items[?(@.regarding.name==\"bad\")]}{.reason} {end}",
    ])?;
    assert!(events.trim().starts_with("Malformed"), "{events}");
    let (_, metrics) = operator.page("/metrics").expect("it serves");
    assert!(
        metrics
            .contains(r#"penstock_operator_reconcile_failures_total{controller="app",reason="Malformed"}"#),
        "{metrics}"
    );
    Ok(())
}

#[test]
fn an_operator_waits_for_its_definitions() -> Result<()> {
    let cluster = Cluster::alone()?;
    let kit = &cluster.kit;
    let definitions = ["apps.penstock.dev", "ingestionpipelines.penstock.dev"];
    // Another test's resources would go with their definitions; those of the last tests are still being deleted.
    within(120, "no App and no pipeline is left", || {
        Ok(kit
            .kubectl_output(&["get", "penstock", "-A", "-o", "name"])?
            .trim()
            .is_empty())
    })?;
    let trial = Trial::empty(kit, "early")?;
    let mut saved = Vec::new();
    for definition in definitions {
        let text = kit.kubectl_output(&["get", "crd", definition, "-o", "json"])?;
        let mut object: Value = serde_json::from_str(&text).expect("kubectl answers in JSON");
        let metadata = object["metadata"]
            .as_object_mut()
            .expect("an object has metadata");
        metadata.retain(|key, _| ["name", "labels", "annotations"].contains(&key.as_str()));
        object.as_object_mut().expect("an object").remove("status");
        saved.push(object.to_string());
    }
    kit.kubectl_output(&["delete", "crd", definitions[0], definitions[1], "--timeout=60s"])?;
    let waited = (|| {
        let operator = cluster.operator(trial.namespace(), "operator", 18_231, &[])?;
        within(10, "it says what is missing, and counts it", || {
            let page = |path| operator.page(path).unwrap_or_default();
            let (status, text) = page("/readyz");
            let counted = page("/metrics")
                .1
                .lines()
                .any(|line| line == "penstock_operator_definitions_missing 1");
            Ok(status == 503 && text.contains("not installed") && counted)
        })?;
        let live = operator.page("/livez").is_some_and(|(status, _)| status == 200);
        Ok((operator, live))
    })();
    for definition in &saved {
        put_back(kit, definition)?;
    }
    let (operator, live) = waited?;
    assert!(live, "not ready is not dead");
    within(20, "it is ready once they are there", || Ok(operator.ready()))?;
    trial.apply(&trial.app(APP))?;
    trial.kubectl(&["wait", "--for=condition=Ready", "app/shop", "--timeout=30s"])?;
    Ok(())
}
