//! Official SDKs as they ship, and plain HTTP: as many rows as events, and as many event ids.
//!
//! The SDKs' programs are in `e2e/sdk`; each prints what its callbacks and return values said, and all of it is asserted,
//! because an SDK that retries or drops in silence would hide a wrong answer of the endpoint.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use penstock_e2e::trial::{APP, Trial, Turn};
use penstock_e2e::{Error, Instance, Result};
use serde_json::Value;

const SPEC: &str = "  ingest: {scaling: {replicas: 2}}\n";
/// Of each SDK.
const EVENTS: u64 = 5_000;
const PER_SECOND: u64 = 500;

/// The folder of Node.js with its program, and the virtual environment of Python.
pub(crate) fn sdks(kit: &Instance) -> Result<(PathBuf, PathBuf)> {
    let script = kit.repository().join("e2e/sdk/fetch");
    let output = Command::new(&script)
        .output()
        .map_err(|error| Error::new(format!("{}: {error}", script.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().collect::<Vec<_>>()[..] {
        [node, python] if output.status.success() => Ok((node.into(), python.into())),
        _ => Err(Error::new(format!(
            "the SDKs are not installed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
        .next("run e2e/sdk/fetch where the registries can be reached, outside of the cluster's network")),
    }
}

/// Runs an SDK's program with the trial's address and key, and gives back what it reports.
fn report(trial: &Trial<'_>, command: &mut Command, run: &str) -> Result<Value> {
    let output = command
        .args([run, &EVENTS.to_string(), &PER_SECOND.to_string()])
        .env("PENSTOCK_INGEST_URL", trial.url())
        .env("PENSTOCK_WRITE_KEY", trial.key(APP)?)
        .output()
        .map_err(|error| Error::new(format!("{command:?}: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let parsed = text
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok());
    match parsed {
        Some(report) if output.status.success() => Ok(report),
        _ => Err(Error::new(format!(
            "the SDK's program ended with {}: {text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ))),
    }
}

/// Waits until there are as many rows as events and the count stays, and holds the distinct ids against it. `count()`
/// without FINAL: a row that is stored twice counts twice.
fn stored(trial: &Trial<'_>, events: u64, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    let mut before = (0, 0);
    loop {
        let rows = trial.rows()?;
        if rows.0 >= events && rows == before {
            assert_eq!(rows, (events, events), "rows and distinct ids of {events} events");
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::new(format!(
                "after {} s {} has {} rows and {} distinct ids of {events} events",
                within.as_secs(),
                trial.table(),
                rows.0,
                rows.1
            )));
        }
        before = rows;
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The rows by event name, as the SDK's program counted its calls.
fn names_are_right(kit: &Instance, trial: &Trial<'_>, report: &Value, library: &str) -> Result<()> {
    let expected: BTreeMap<String, u64> = report["made"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(call, count)| {
            let name = if call == "track" {
                "Order Completed"
            } else {
                call.as_str()
            };
            (name.to_owned(), count.as_u64().unwrap_or_default())
        })
        .collect();
    assert_eq!(expected.len(), 5, "{report}");
    let answer = kit.clickhouse(&format!(
        "SELECT event_name, count() FROM {} WHERE library LIKE '{library}%' AND user_id LIKE 'user-%' \
         AND device_id LIKE 'run-%' GROUP BY event_name ORDER BY event_name",
        trial.table()
    ))?;
    let found: BTreeMap<String, u64> = answer
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, count)| (name.to_owned(), count.parse().unwrap_or_default()))
        .collect();
    assert_eq!(found, expected);
    Ok(())
}

#[test]
fn analytics_node_as_it_ships() -> Result<()> {
    let kit = Turn::in_quiet()?;
    let (node, _) = sdks(&kit)?;
    let trial = Trial::start(&kit, "sdk-node", SPEC)?;
    let report = report(
        &trial,
        Command::new("node").arg(node.join("send.mjs")),
        "run-node",
    )?;
    assert_eq!(report["errors"], serde_json::json!([]), "{report}");
    assert_eq!(report["acknowledged"], EVENTS, "{report}");
    stored(&trial, EVENTS, Duration::from_secs(60))?;
    names_are_right(&kit, &trial, &report, "@segment/analytics-node")
}

#[test]
fn segment_analytics_python_as_it_ships() -> Result<()> {
    let kit = Turn::in_quiet()?;
    let (_, python) = sdks(&kit)?;
    let trial = Trial::start(&kit, "sdk-python", SPEC)?;
    let program = kit.repository().join("e2e/sdk/python/send.py");
    let report = report(
        &trial,
        Command::new(python.join("bin/python")).arg(program),
        "run-python",
    )?;
    assert_eq!(report["errors"], serde_json::json!([]), "{report}");
    assert_eq!(report["enqueued"], EVENTS, "{report}");
    stored(&trial, EVENTS, Duration::from_secs(60))?;
    names_are_right(&kit, &trial, &report, "analytics-python")
}

const BATCHED: u64 = 195_000;
const SINGLE: u64 = 5_000;

#[test]
fn two_hundred_thousand_events_over_plain_http() -> Result<()> {
    // It takes all the CPU there is.
    let kit = Turn::alone()?;
    let trial = Trial::start(&kit, "http", SPEC)?;
    let traffic = trial.traffic(APP)?;
    let (url, key) = (trial.url(), trial.key(APP)?);
    let claimed = AtomicU64::new(0);
    let started = Instant::now();
    let sent = std::thread::scope(|scope| {
        let batches = scope.spawn(|| traffic.send(BATCHED, 500, 6, Duration::ZERO, Duration::from_secs(180)));
        let singles: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| send_singles(&url, &key, &claimed)))
            .collect();
        for single in singles {
            single.join().expect("the senders do not panic")?;
        }
        batches.join().expect("the senders do not panic")
    })?;
    // An attempt that failed may be stored or not; without any, the number of rows is known exactly.
    assert_eq!((sent.failed, &sent.errors), (0, &Vec::new()));
    println!(
        "{} events acknowledged in {:.1?}",
        BATCHED + SINGLE,
        started.elapsed()
    );
    stored(&trial, BATCHED + SINGLE, Duration::from_secs(120))?;
    println!("and stored after {:.1?}", started.elapsed());
    let ids = trial.stored()?;
    assert_eq!(sent.ids.iter().filter(|id| !ids.contains(*id)).count(), 0);
    Ok(())
}

/// One event per request until all are claimed; the answer must be the one of the guide, with the event's own id.
fn send_singles(url: &str, key: &str, claimed: &AtomicU64) -> Result<()> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(15)))
        .proxy(None)
        .build()
        .into();
    loop {
        let number = claimed.fetch_add(1, Ordering::Relaxed);
        if number >= SINGLE {
            return Ok(());
        }
        let id = uuid::Uuid::new_v4();
        let event = format!(
            r#"{{"event_type":"view","event_id":"{id}","user_id":"u-{}","event_data":{{"number":{number}}}}}"#,
            number % 97
        );
        let answer = agent
            .post(format!("{url}/v1/events"))
            .header("X-API-Key", key)
            .send(event)
            .map_err(|error| Error::new(format!("event {number}: {error}")))?
            .body_mut()
            .read_to_string()
            .map_err(|error| Error::new(format!("event {number}: {error}")))?;
        let answer: Value = serde_json::from_str(&answer)
            .map_err(|error| Error::new(format!("event {number} was answered `{answer}`: {error}")))?;
        assert_eq!(
            (answer["status"].as_str(), answer["event_id"].as_str()),
            (Some("accepted"), Some(id.to_string().as_str())),
            "{answer}"
        );
    }
}
