//! `penstock`, as a person uses it beside a pipeline of the operator's.

mod replay;
mod schema;
mod user;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use penstock_e2e::trial::{APP, PIPELINE, Trial, Turn, within};
use penstock_e2e::{Error, Result};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;

/// `penstock`, in the trial's namespace, for a person who may do all in ClickHouse.
fn penstock(kit: &Turn, trial: &Trial<'_>, arguments: &[&str]) -> Command {
    let mut command = Command::new(kit.program("penstock"));
    command
        .args(arguments)
        .args(["-n", trial.namespace()])
        .env_clear()
        .env("KUBECONFIG", kit.kubeconfig())
        .stdin(Stdio::null());
    if let Ok(users) = kit.clickhouse_users() {
        command
            .env("CLICKHOUSE_URL", kit.clickhouse_url())
            .env("CLICKHOUSE_USER", users.admin.user)
            .env("CLICKHOUSE_PASSWORD", users.admin.password);
    }
    command
}

fn run(kit: &Turn, trial: &Trial<'_>, arguments: &[&str]) -> Result<Output> {
    penstock(kit, trial, arguments)
        .output()
        .map_err(|error| Error::new(format!("penstock {arguments:?}: {error}")))
}

/// How it ends and what it prints, errors too.
fn ended(kit: &Turn, trial: &Trial<'_>, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = run(kit, trial, arguments)?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

/// What it prints, where it succeeds.
pub(crate) fn printed(kit: &Turn, trial: &Trial<'_>, arguments: &[&str]) -> Result<String> {
    succeeded(arguments, run(kit, trial, arguments)?)
}

/// The same with ClickHouse over TLS, and the user's password out of a file: what the variables say is wrong.
fn over_tls(kit: &Turn, trial: &Trial<'_>, arguments: &[&str]) -> Result<String> {
    let failed = |error: std::io::Error| Error::new(error.to_string());
    let admin = kit.clickhouse_users()?.admin;
    let folder = tempfile::tempdir().map_err(failed)?;
    let password = folder.path().join("password");
    std::fs::write(&password, admin.password + "\n").map_err(failed)?;
    let mut command = penstock(kit, trial, arguments);
    command
        .args(["--clickhouse", &kit.secured_clickhouse()])
        .args(["--clickhouse-user", &admin.user])
        .arg("--password-file")
        .arg(&password)
        .arg("--clickhouse-ca")
        .arg(&kit.client_certificate().ca)
        .env("CLICKHOUSE_URL", "http://127.0.0.1:1")
        .env("CLICKHOUSE_USER", "nobody")
        .env("CLICKHOUSE_PASSWORD", "wrong");
    succeeded(arguments, command.output().map_err(failed)?)
}

fn succeeded(arguments: &[&str], output: Output) -> Result<String> {
    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        code => Err(Error::new(format!(
            "penstock {arguments:?} ended with {code:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        ))),
    }
}

pub(crate) fn json(kit: &Turn, trial: &Trial<'_>, arguments: &[&str]) -> Result<Value> {
    let mut all = arguments.to_vec();
    all.extend(["-o", "json"]);
    let text = printed(kit, trial, &all)?;
    serde_json::from_str(&text).map_err(|error| Error::new(format!("{error}: {text}")))
}

/// A record of lines that ingest would not write.
fn produce(kit: &Turn, topic: &str, lines: &str) -> Result<()> {
    produce_record(kit, BaseRecord::to(topic).payload(lines))
}

fn produce_record(kit: &Turn, record: BaseRecord<'_, (), str>) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kit.kafka_bootstrap()?)
        .create()
        .map_err(|error| Error::new(error.to_string()))?;
    producer
        .send(record)
        .map_err(|(error, _)| Error::new(error.to_string()))?;
    producer
        .flush(Duration::from_secs(30))
        .map_err(|error| Error::new(error.to_string()))
}

fn line(app: &str, number: u32, user: &str) -> String {
    format!(
        r#"{{"v":1,"app_id":"{app}","event_id":"0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e{number:02x}","received_at":1795000000000,"timestamp":1795000000000,"client_timestamp":1795000000000,"ip":"","user_agent":"","library":"","source":"native","event_type":"purchase","user_id":"{user}"}}"#
    )
}

#[test]
fn the_command_line_shows_a_pipeline_its_events_and_replays_its_letters_once() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "cli", "")?;

    // What is Ready.
    let all = json(&kit, &trial, &["status"])?;
    assert_eq!(
        (&all[0]["name"], &all[0]["ready"]),
        (&PIPELINE.into(), &"True".into())
    );
    let one = printed(&kit, &trial, &["status", PIPELINE])?;
    for part in [
        "Ready",
        "WorkloadsAvailable",
        APP,
        "default:",
        trial.url().as_str(),
    ] {
        assert!(one.contains(part), "{part} is not in\n{one}");
    }
    let absent = run(&kit, &trial, &["status", "nothing"])?;
    let said = String::from_utf8_lossy(&absent.stderr).into_owned();
    assert_eq!(absent.status.code(), Some(3), "{said}");
    assert!(said.contains("no pipeline nothing"), "{said}");

    // The same under the name by which kubectl finds it.
    let folder = tempfile::tempdir().map_err(|error| Error::new(error.to_string()))?;
    std::os::unix::fs::symlink(kit.program("penstock"), folder.path().join("kubectl-penstock"))
        .map_err(|error| Error::new(error.to_string()))?;
    let plugin = |arguments: &[&str]| {
        let output = kit.kubectl().args(arguments).env("PATH", folder.path()).output();
        let output = output.map_err(|error| Error::new(error.to_string()))?;
        Ok::<_, Error>(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let listed = plugin(&["plugin", "list"])?;
    assert!(listed.contains("/kubectl-penstock"), "{listed}");
    let status = ["penstock", "status", PIPELINE, "-n", trial.namespace()];
    assert!(
        plugin(&status)?.contains("WorkloadsAvailable"),
        "{}",
        plugin(&status)?
    );
    let wrong = plugin(&["penstock", "status", "nothing", "-n", trial.namespace()])?;
    assert!(
        wrong.starts_with("kubectl penstock: no pipeline nothing"),
        "{wrong}"
    );

    // An event of three hours ago, before all others in its partition.
    let topic = all[0]["topic"].as_str().unwrap_or_default();
    let app = trial.app_id(APP)?;
    let past = line(&app, 0, "u").replace("purchase", "past");
    let hours_ago = std::time::SystemTime::now() - Duration::from_secs(3 * 3600);
    let hours_ago = hours_ago
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64);
    produce_record(
        &kit,
        BaseRecord::to(topic)
            .partition(0)
            .timestamp(hours_ago)
            .payload(&*past),
    )?;

    // An event as it comes. The note says when it listens.
    let mut tail = penstock(
        &kit,
        &trial,
        &["tail", PIPELINE, "--app", APP, "--limit", "1", "-o", "json"],
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .map_err(|error| Error::new(error.to_string()))?;
    let mut note = String::new();
    BufReader::new(tail.stderr.take().expect("piped"))
        .read_line(&mut note)
        .map_err(|error| Error::new(error.to_string()))?;
    assert!(note.starts_with("Reading "), "{note}");
    let sent = trial
        .traffic(APP)?
        .send(1, 1, 1, Duration::ZERO, Duration::from_secs(30))?;
    let seen = tail
        .wait_with_output()
        .map_err(|error| Error::new(error.to_string()))?;
    let seen: Value = serde_json::from_slice(&seen.stdout).map_err(|error| Error::new(error.to_string()))?;
    let id = seen["event_id"].as_str().unwrap_or_default();
    assert!(sent.ids.contains(id), "{seen}");

    // Letters: two lines that the table refuses, and one that is none.
    assert!(
        printed(&kit, &trial, &["dlq", "list", PIPELINE])?.is_empty(),
        "no letters yet"
    );
    kit.clickhouse(&format!(
        "ALTER TABLE {} ADD CONSTRAINT sane CHECK user_id NOT LIKE 'poison%'",
        trial.table()
    ))?;
    let lines = [
        line(&app, 1, "poison-1"),
        line(&app, 2, "u"),
        "not ours".into(),
        line(&app, 3, "poison-2"),
    ];
    produce(&kit, topic, &(lines.join("\n") + "\n"))?;
    let mut letters = Value::Null;
    within(90, "three letters", || {
        letters = json(&kit, &trial, &["dlq", "list", PIPELINE])?;
        Ok(letters.as_array().is_some_and(|letters| letters.len() >= 3))
    })?;
    let letters = letters.as_array().cloned().unwrap_or_default();
    let malformed = letters
        .iter()
        .find(|letter| letter["reason"] == "Malformed")
        .ok_or_else(|| Error::new(format!("none is malformed: {letters:?}")))?;
    let offset = malformed["offset"].to_string();
    let shown = printed(&kit, &trial, &["dlq", "show", PIPELINE, &offset])?;
    assert!(
        shown.contains("penstock-step       consume") && shown.ends_with("\nnot ours\n"),
        "{shown}"
    );
    assert_eq!(
        printed(&kit, &trial, &["dlq", "show", PIPELINE, &offset, "--raw"])?,
        "not ours"
    );
    assert_eq!(
        run(&kit, &trial, &["dlq", "show", PIPELINE, "999"])?
            .status
            .code(),
        Some(3)
    );

    // The table is mended; then the letters are rows, once.
    kit.clickhouse(&format!("ALTER TABLE {} DROP CONSTRAINT sane", trial.table()))?;
    let refused = ["dlq", "replay", PIPELINE, "--reason", "Refused"];
    let would = printed(&kit, &trial, &[&refused[..], &["--dry-run"]].concat())?;
    assert!(would.starts_with("2 letters would be replayed"), "{would}");
    // By their positions: one of them, and one that ingest refused, which is said with a code of its own.
    let position = |letter: &Value| format!("{}/{}", letter["partition"], letter["offset"]);
    let one = letters.iter().find(|letter| letter["reason"] == "Refused");
    let one = position(one.ok_or_else(|| Error::new("none is refused"))?);
    let answer = trial
        .traffic(APP)?
        .json(r#"{"event_type":"aged","timestamp":1500000000}"#)?;
    assert!(answer.contains("too_old"), "{answer}");
    let mut aged = Value::Null;
    within(30, "the letter of an event that is too old", || {
        aged = json(&kit, &trial, &["dlq", "list", PIPELINE, "--reason", "TooOld"])?;
        Ok(aged[0].is_object())
    })?;
    let aged = position(&aged[0]);
    let (code, said) = ended(&kit, &trial, &["dlq", "replay", PIPELINE, &one, &aged])?;
    assert!(
        code == Some(6)
            && said.starts_with("1 letter replayed to ")
            && said.contains("1 letter cannot be replayed: the event is older than its App keeps events"),
        "{code:?} {said}"
    );
    let done = printed(&kit, &trial, &refused)?;
    assert!(
        done.starts_with("1 letter replayed to ") && done.ends_with("\n1 letter replayed before.\n"),
        "{done}"
    );
    within(60, "five rows", || Ok(trial.rows()?.0 >= 5))?;
    let again = printed(&kit, &trial, &refused)?;
    assert_eq!(again, "Nothing to replay.\n2 letters replayed before.\n");
    let listed = json(&kit, &trial, &["dlq", "list", PIPELINE, "--reason", "Refused"])?;
    let listed = listed.as_array().cloned().unwrap_or_default();
    assert!(
        listed.len() == 2 && listed.iter().all(|letter| letter["replayed"] == true),
        "{listed:?}"
    );
    // What comes behind is stored, and nothing twice.
    let more = trial
        .traffic(APP)?
        .send(20, 5, 1, Duration::ZERO, Duration::from_secs(30))?;
    within(60, "what comes behind", || {
        let stored = trial.stored()?;
        Ok(more.ids.iter().all(|id| stored.contains(id)))
    })?;
    assert_eq!(trial.rows()?, (25, 25));

    // What is in the topic already: all of it, or of the last hour, which is all but one.
    let past = ["tail", PIPELINE, "--from-beginning", "--event", "past"];
    let past = printed(
        &kit,
        &trial,
        &[&past[..], &["--limit", "1", "-o", "yaml"]].concat(),
    )?;
    assert!(
        past.starts_with("---\n") && past.contains("\nevent_type: past\n"),
        "{past}"
    );
    let since = ["tail", PIPELINE, "--since", "1h", "--limit", "24", "-o", "json"];
    let since = printed(&kit, &trial, &since)?;
    assert_eq!(since.lines().count(), 24);
    assert!(!since.contains("\"event_type\":\"past\""), "{since}");
    Ok(())
}

#[test]
fn what_cannot_be_reached_is_said_with_what_to_do() -> Result<()> {
    let kit = Turn::beside_others()?;
    let told = |arguments: &[&str], kubeconfig: &str| -> Result<(Option<i32>, String)> {
        let output = Command::new(kit.program("penstock"))
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", kubeconfig)
            .output()
            .map_err(|error| Error::new(error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((output.status.code(), said))
    };
    // A port that nobody listens on.
    let nobody = format!("127.0.0.1:{}", penstock_e2e::trial::port());
    let list = ["dlq", "list", "x", "--topic", "t", "--kafka", &nobody];
    let (code, said) = told(&list, "/nowhere")?;
    assert!(
        code == Some(4) && said.contains(&nobody) && said.contains("--kafka"),
        "{code:?} {said}"
    );
    let (code, said) = told(&["status"], "/nowhere")?;
    assert!(code == Some(1) && said.contains("/nowhere"), "{code:?} {said}");
    let kafka = kit.kafka_bootstrap()?;
    let list = [
        "dlq",
        "list",
        "x",
        "--topic",
        "penstock-absent",
        "--kafka",
        &kafka,
    ];
    let (code, said) = told(&list, "/nowhere")?;
    assert!(
        code == Some(3) && said.contains("penstock-absent.dlq"),
        "{code:?} {said}"
    );
    Ok(())
}
