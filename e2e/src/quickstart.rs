//! The example of `examples/quickstart/`: one App, one IngestionPipeline, and where its events go.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::fetch::{beside, fresh, lock, sha256};
use crate::instance::Instance;
use crate::progress::{Outcome, Progress};
use crate::run::run_logged;
use crate::secret;

pub const NAMESPACE: &str = "growth";
pub const APP: &str = "shop";
pub const PIPELINE: &str = "events";

/// How many events a visitor of the example sends.
const EVENTS: usize = 10;
const STORED_WITHIN: Duration = Duration::from_secs(60);

/// Where and with which key a client sends, and where the rows appear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub url: String,
    pub key: String,
    pub app_id: String,
    pub database: String,
}

/// The quickstart's endpoint, once the cluster has it.
pub fn endpoint(instance: &Instance) -> Option<Endpoint> {
    let get = |kind: &str, name: &str| -> Option<Value> {
        let text = instance
            .kubectl_output(&["get", kind, name, "-n", NAMESPACE, "-o", "json"])
            .ok()?;
        serde_json::from_str(&text).ok()
    };
    let pipeline = get("ingestionpipelines.penstock.dev", PIPELINE)?;
    let app = get("apps.penstock.dev", APP)?;
    let (secret, data_key) = write_key_secret(&app)?;
    let encoded = get("secret", &secret)?["data"][data_key].as_str()?.to_owned();
    Some(Endpoint {
        url: ingest_url(),
        key: decode_base64(&encoded)?,
        app_id: app["status"]["appId"].as_str()?.to_owned(),
        database: database(&pipeline),
    })
}

/// Applies the example, sends events with the official SDK, waits for the rows, and gives back what to show: the rows,
/// the resources, and what to try next.
pub fn run(instance: &Instance, progress: &Progress) -> Result<String> {
    progress.heading("quickstart: examples/quickstart");
    let folder = instance.repository().join("examples/quickstart");
    progress.step("apply", None, || {
        instance.inside(|| {
            crate::run::run(
                instance
                    .kubectl()
                    .args(["apply", "--server-side", "-f"])
                    .arg(&folder),
            )?;
            Ok(Outcome::done(format!(
                "App `{APP}` and IngestionPipeline `{PIPELINE}` in namespace {NAMESPACE}"
            )))
        })
    })?;
    progress.step("pipeline", None, || {
        instance.wait(
            &["-n", NAMESPACE, &format!("ingestionpipelines/{PIPELINE}")],
            "condition=Ready",
            120,
        )?;
        Ok(Outcome::done("ready"))
    })?;
    let endpoint = endpoint(instance).ok_or_else(|| {
        Error::new(format!(
            "the pipeline is ready, but the App `{APP}` has no key to send with"
        ))
        .next(format!(
            "look at it with `{}`",
            instance.command(&format!("exec -- kubectl describe app {APP} -n {NAMESPACE}"))
        ))
    })?;
    let log = instance.cache().build_log("segment-sdk");
    let sender = progress.step("@segment/analytics-node", Some(&log), || sender(instance))?;
    let visitor = format!("visitor-{}", secret::short_id()?);
    progress.step("send events", None, || {
        instance.inside_with_names(|| {
            crate::run::run(
                Command::new("node")
                    .arg(sender.join("send.mjs"))
                    .args([&visitor, &EVENTS.to_string()])
                    .env("PENSTOCK_INGEST_URL", &endpoint.url)
                    .env("PENSTOCK_WRITE_KEY", &endpoint.key),
            )
        })?;
        Ok(Outcome::done(format!("{EVENTS} accepted by {}", endpoint.url)))
    })?;
    let table = format!("{}.{PIPELINE}", endpoint.database);
    progress.step("rows in ClickHouse", None, || stored(instance, &table, &visitor))?;
    let rows = instance.clickhouse(&format!(
        "SELECT event_timestamp, event_name, user_id, properties, library FROM {table} WHERE device_id = '{visitor}' \
         ORDER BY JSONExtractInt(properties, 'step') LIMIT {EVENTS} FORMAT PrettyCompactMonoBlock"
    ))?;
    let resources = instance.kubectl_output(&["get", "apps,ingestionpipelines", "-n", NAMESPACE])?;
    Ok(format!(
        "\n{rows}\n{resources}\n{}",
        next_commands(instance, &table)
    ))
}

/// Waits until every event of a visitor is a row.
fn stored(instance: &Instance, table: &str, visitor: &str) -> Result<Outcome<()>> {
    let deadline = Instant::now() + STORED_WITHIN;
    let question = format!("SELECT count(), uniqExact(event_id) FROM {table} WHERE device_id = '{visitor}'");
    loop {
        let answer = instance.clickhouse(&question)?;
        if answer.trim() == format!("{EVENTS}\t{EVENTS}") {
            return Ok(Outcome::done(format!("{EVENTS} events, {EVENTS} rows")));
        }
        if Instant::now() >= deadline {
            return Err(Error::new(format!(
                "{EVENTS} events were accepted, but after {} s {table} has rows and distinct ids: {}",
                STORED_WITHIN.as_secs(),
                answer.trim()
            ))
            .next(format!(
                "look at the consumer with `{}`",
                instance.command(&format!(
                    "exec -- kubectl logs -n {NAMESPACE} deployment/{PIPELINE}-consume"
                ))
            )));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The folder in the cache with the example's program and the SDK package that its lock file names.
fn sender(instance: &Instance) -> Result<Outcome<PathBuf>> {
    let source = instance.repository().join("examples/quickstart/send");
    let files = ["package.json", "package-lock.json", "send.mjs"];
    let mut name = String::from("quickstart-send");
    for file in files {
        name.push('-');
        name.push_str(&sha256(&source.join(file))?[..8]);
    }
    let folder = instance.cache().root().join(name);
    if folder.exists() {
        return Ok(Outcome::of(folder, "there already"));
    }
    let _lock = lock(instance, "quickstart-send")?;
    let work = fresh(&beside(&folder))?;
    for file in files {
        fs::copy(source.join(file), work.join(file)).doing(format_args!("copying {file}"))?;
    }
    let log = instance.cache().build_log("segment-sdk");
    run_logged(
        Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
            .current_dir(&work),
        &log,
    )
    .map_err(|error| {
        error.next("check that the npm registry is reachable (`npm ping`), then run the same command again")
    })?;
    if !folder.exists() {
        fs::rename(&work, &folder).doing(format_args!("completing {}", folder.display()))?;
    }
    Ok(Outcome::of(folder, "from npm"))
}

fn next_commands(instance: &Instance, table: &str) -> String {
    let event = r#"{"event_type":"purchase","user_id":"u-1","event_data":{"amount":12.5}}"#;
    let lines = [
        ("send an event", instance.command(&format!(
            "exec -- sh -c 'curl -s $PENSTOCK_INGEST_URL/v1/events -H \"X-API-Key: $PENSTOCK_WRITE_KEY\" -d '\\''{event}'\\'"
        ))),
        ("see it stored", instance.command(&format!(
            "exec -- sh -c 'curl -s \"$CLICKHOUSE_URL\" -u \"$CLICKHOUSE_USER:$CLICKHOUSE_PASSWORD\" -d \"SELECT event_name, user_id, received_at FROM {table} ORDER BY received_at DESC LIMIT 5 FORMAT PrettyCompactMonoBlock\"'"
        ))),
        ("why a pipeline is (not) ready", instance.command(&format!("exec -- kubectl describe ipl {PIPELINE} -n {NAMESPACE}"))),
        ("change it", format!("edit examples/quickstart/pipeline.yaml, then {}", instance.command("exec -- kubectl apply --server-side -f examples/quickstart/pipeline.yaml"))),
        ("what runs", instance.command("status")),
        ("remove every trace", instance.command("down")),
    ];
    lines.iter().fold("Try next:\n".to_owned(), |text, (what, line)| {
        format!("{text}  # {what}\n  {line}\n")
    })
}

fn ingest_url() -> String {
    format!("http://{PIPELINE}-ingest.{NAMESPACE}.svc:8080")
}

/// The Secret of the App's first key that may write, and the entry in it.
fn write_key_secret(app: &Value) -> Option<(String, String)> {
    let key = app["spec"]["keys"]
        .as_array()?
        .iter()
        .find(|key| key["scope"] != "Read")?;
    let reference = &key["secretRef"];
    match reference["name"].as_str() {
        Some(name) => Some((
            name.to_owned(),
            reference["key"].as_str().unwrap_or("key").to_owned(),
        )),
        None => Some((format!("{APP}-{}", key["name"].as_str()?), "key".to_owned())),
    }
}

fn database(pipeline: &Value) -> String {
    let named = pipeline["spec"]["clickhouse"]["database"]
        .as_str()
        .map(str::to_owned);
    named.unwrap_or_else(|| NAMESPACE.replace('-', "_"))
}

/// Secrets hold standard base64.
pub(crate) fn decode_base64(text: &str) -> Option<String> {
    let bytes = STANDARD.decode(text).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_key_is_found_where_the_app_says() {
        let generated =
            json!({"spec": {"keys": [{"name": "dash", "scope": "Read"}, {"name": "web", "scope": "Write"}]}});
        assert_eq!(
            write_key_secret(&generated),
            Some(("shop-web".into(), "key".into()))
        );
        let given = json!({"spec": {"keys": [{"name": "web", "scope": "Write", "secretRef": {"name": "s", "key": "k"}}]}});
        assert_eq!(write_key_secret(&given), Some(("s".into(), "k".into())));
        assert_eq!(write_key_secret(&json!({"spec": {}})), None);
    }

    #[test]
    fn the_database_follows_the_pipeline() {
        assert_eq!(database(&json!({"spec": {"clickhouse": {"database": "d"}}})), "d");
        assert_eq!(database(&json!({"spec": {}})), "growth");
    }

    #[test]
    fn secrets_are_decoded() {
        for (text, encoded) in [("psk_a", "cHNrX2E="), ("ab", "YWI="), ("abc", "YWJj"), ("", "")] {
            assert_eq!(decode_base64(encoded).as_deref(), Some(text));
        }
        assert_eq!(decode_base64("*"), None);
    }
}
