//! What other programs read from a pipeline's topic: both formats with the program of docs/record.md, which shares no code
//! with ours; and what a topic whose records have keys may become.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Duration;

use penstock_e2e::trial::{APP, Acknowledged, PIPELINE, Trial, Turn, within};
use penstock_e2e::{Error, Result};
use serde_json::Value;

use crate::{cli, sdk};

const PARTITIONS: i32 = 3;

fn spec(kafka: &str) -> String {
    format!("  ingest: {{scaling: {{replicas: 1}}}}\n  kafka: {{partitions: {PARTITIONS}{kafka}}}\n")
}

/// One event, and the record that it was in.
#[derive(Debug)]
struct Read {
    partition: i64,
    key: Option<String>,
    headers: BTreeMap<String, String>,
    event: Value,
}

impl Read {
    fn of(line: &str) -> Option<Self> {
        let (partition, key, headers, event) = serde_json::from_str(line).ok()?;
        Some(Self {
            partition,
            key,
            headers,
            event,
        })
    }

    fn text(&self, member: &str) -> &str {
        self.event[member].as_str().unwrap_or_default()
    }
}

/// Runs a program of Python with the packages of `e2e/sdk`.
fn python(kit: &Turn, program: &str, arguments: &[&str]) -> Result<String> {
    let (_, environment) = sdk::sdks(kit)?;
    let output = Command::new(environment.join("bin/python"))
        .args(["-c", program])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::new(format!("python: {error}")))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Error::new(format!("python ended with {}: {said}", output.status))),
    }
}

/// The topic, as the reader of the page sees it.
fn read(kit: &Turn, topic: &str) -> Result<Vec<Read>> {
    let page = kit.repository().join("docs/record.md");
    let page =
        std::fs::read_to_string(&page).map_err(|error| Error::new(format!("{}: {error}", page.display())))?;
    let program = page
        .split("```python\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .ok_or_else(|| Error::new("docs/record.md has no program"))?;
    let lines = python(kit, program, &[&kit.kafka_bootstrap()?, topic])?;
    lines
        .lines()
        .map(|line| Read::of(line).ok_or_else(|| Error::new(format!("the reader printed {line}"))))
        .collect()
}

/// The partitions of keys, as kafka-python's own producer would choose them.
fn partitions(kit: &Turn, keys: &[&str]) -> Result<Vec<i64>> {
    let program = "import sys; from kafka.partitioner.default import murmur2\n\
                   for key in sys.argv[2:]: print((murmur2(key.encode()) & 0x7fffffff) % int(sys.argv[1]))";
    let count = PARTITIONS.to_string();
    let text = python(kit, program, &[&[count.as_str()], keys].concat())?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

#[test]
fn a_pipeline_goes_over_to_single_records_that_any_program_can_read() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "records", &spec(""))?;
    let traffic = trial.traffic(APP)?;

    // From many events a record to one, and nobody notices.
    let names = || -> Result<Vec<String>> {
        let pods = trial.pods("ingest")?;
        Ok(pods.into_iter().map(|pod| pod.name).collect())
    };
    let before = names()?;
    let send = || traffic.send(200, 10, 2, Duration::from_millis(50), Duration::from_secs(60));
    let (mut sent, ()) = Acknowledged::meanwhile(send, || {
        trial.apply(&trial.pipeline(&spec(", recordFormat: Single")))?;
        within(120, "another pod in the place of the first", || {
            Ok(names()?.len() == 1 && names()? != before)
        })?;
        trial.ready()
    })?;
    assert_eq!((sent.failed, &sent.errors), (0, &Vec::new()));
    // A pod that goes serves on until everyone has heard of it.
    std::thread::sleep(Duration::from_secs(6));
    within(60, "the former pods are gone", || {
        Ok(trial.pods("ingest")?.len() == 1)
    })?;
    sent.merge(traffic.send(50, 10, 1, Duration::ZERO, Duration::from_secs(30))?);

    let users = [
        "u-1",
        "u-2",
        "é ü",
        "quoted \"u\"",
        "poison-1",
        "a/b:c",
        "0193f1c2",
    ];
    let ours: Vec<String> = (0..70)
        .map(|number| format!("{number:08x}-1111-4000-8000-000000000000"))
        .collect();
    kit.clickhouse(&format!(
        "ALTER TABLE {} ADD CONSTRAINT sane CHECK user_id NOT LIKE 'poison%'",
        trial.table()
    ))?;
    for (number, id) in ours.iter().enumerate() {
        let event = serde_json::json!({
            "event_type": "order placed", "event_id": id, "user_id": users[number % users.len()],
        });
        let answer = traffic.json(&event.to_string())?;
        assert!(answer.contains("\"status\":\"accepted\""), "{answer}");
    }
    assert_eq!(traffic.once()?, 200, "an event without a user");
    let (poisoned, stored) = (10, sent.ids.len() as u64 + 61);
    within(90, "all that the table takes", || {
        Ok(trial.rows()? == (stored, stored))
    })?;

    // A letter keeps its key, so that what comes back goes where the user's events are.
    let letters = || cli::json(&kit, &trial, &["dlq", "list", PIPELINE, "--reason", "Refused"]);
    within(90, "the letters", || {
        Ok(letters()?.as_array().map(Vec::len) == Some(poisoned))
    })?;
    kit.clickhouse(&format!("ALTER TABLE {} DROP CONSTRAINT sane", trial.table()))?;
    let done = cli::printed(&kit, &trial, &["dlq", "replay", PIPELINE])?;
    assert!(done.starts_with("10 letters replayed"), "{done}");
    let all = stored + poisoned as u64;
    within(60, "what was replayed", || Ok(trial.rows()? == (all, all)))?;

    let topic = cli::json(&kit, &trial, &["status"])?[0]["topic"].clone();
    let read = read(&kit, topic.as_str().unwrap_or_default())?;
    let (replayed, records): (Vec<Read>, Vec<Read>) = read
        .into_iter()
        .partition(|one| one.headers.contains_key("penstock-replay"));
    let ids: BTreeSet<&str> = records.iter().map(|one| one.text("event_id")).collect();
    assert_eq!((records.len() as u64, ids.len() as u64), (all, all));
    assert!(sent.ids.iter().chain(&ours).all(|id| ids.contains(id.as_str())));
    let (single, batch): (Vec<&Read>, Vec<&Read>) = records
        .iter()
        .partition(|one| one.headers.contains_key("penstock-event-type"));
    assert!(
        batch.iter().all(|one| one.key.is_none()),
        "records of many events"
    );
    assert!(
        !batch.is_empty() && single.len() >= 50 + ours.len(),
        "{} events in records of many, {} in records of one",
        batch.len(),
        single.len()
    );
    let groups: BTreeSet<&str> = single
        .iter()
        .map(|one| one.headers["penstock-group"].as_str())
        .collect();
    assert_eq!(groups.len(), single.len(), "each has a name of its own");
    for one in &single {
        assert_eq!(one.key.as_deref(), one.event["user_id"].as_str(), "{one:?}");
        assert_eq!(one.headers["penstock-event-type"], one.text("event_type"));
        assert_eq!(one.headers["penstock-app"], one.text("app_id"));
    }
    let places = users.iter().copied().zip(partitions(&kit, &users)?);
    for (user, partition) in places {
        let of = |one: &&Read| one.key.as_deref() == Some(user);
        let found: Vec<&Read> = single.iter().copied().filter(of).collect();
        let numbers: Vec<&str> = found.iter().map(|one| one.text("event_id")).collect();
        assert_eq!(numbers.len(), 10, "{user}");
        assert!(numbers.is_sorted(), "{user}: {numbers:?}");
        assert!(
            found
                .into_iter()
                .chain(replayed.iter().filter(of))
                .all(|one| one.partition == partition),
            "{user} belongs into partition {partition}"
        );
    }
    assert_eq!(replayed.len(), poisoned);
    assert!(replayed.iter().all(|one| one.key.as_deref() == Some("poison-1")));

    // More partitions would part a user's events, so a person has to say it.
    let more = spec(", recordFormat: Single").replace("partitions: 3", "partitions: 4");
    trial.apply(&trial.pipeline(&more))?;
    let (reason, _) = trial.condition("TopicsReady", "False", Duration::from_secs(90))?;
    assert_eq!(reason, "NotSupported");
    let path = "jsonpath={.status.conditions[?(@.type==\"TopicsReady\")].message}";
    let message = trial.kubectl(&["get", "ingestionpipelines", PIPELINE, "-o", path])?;
    assert!(
        message.contains("penstock.dev/grow-partitions of the pipeline to 4"),
        "{message}"
    );
    let agreed = "penstock.dev/grow-partitions=4";
    trial.kubectl(&["annotate", "ingestionpipelines", PIPELINE, agreed])?;
    trial.condition("TopicsReady", "True", Duration::from_secs(90))?;
    Ok(())
}
