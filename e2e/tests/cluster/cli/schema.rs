//! `penstock schema`: a table that is not as asked, and what a person does about it.

use std::time::Duration;

use penstock_e2e::Result;
use penstock_e2e::trial::{APP, Acknowledged, PIPELINE, Trial, Turn, within};

use super::{ended, json, over_tls, printed};

const PLAIN: &str = "  ingest: {scaling: {replicas: 1}}\n";

fn spec(kind: &str) -> String {
    format!(
        "{PLAIN}  clickhouse: {{columns: [{{name: amount, type: {kind}, from: properties.amount}}], \
         rollups: [{{name: per_day, count: Events, every: Day, by: [event_name]}}]}}\n"
    )
}

/// An event of so many days ago.
fn event(days: u64) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let at = now.as_secs() - days * 86_400;
    format!(r#"{{"event_type":"bought","timestamp":{at},"event_data":{{"amount":2}}}}"#)
}

#[test]
fn a_person_sees_what_differs_agrees_and_has_old_rows_rewritten() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "schema", PLAIN)?;
    let (traffic, table) = (trial.traffic(APP)?, trial.table());
    let ask = |question: &str| Ok::<_, penstock_e2e::Error>(kit.clickhouse(question)?.trim().to_owned());
    for days in [0, 10, 40] {
        traffic.json(&event(days))?;
    }
    within(60, "three rows", || Ok(trial.rows()?.0 == 3))?;

    // As asked, and how large.
    let status = json(&kit, &trial, &["schema", "status", PIPELINE])?;
    assert_eq!(
        (
            &status["table"],
            &status["stored"]["rows"],
            &status["stored"]["made"]
        ),
        (&table.as_str().into(), &3.into(), &true.into()),
        "{status}"
    );
    let text = printed(&kit, &trial, &["schema", "status", PIPELINE])?;
    assert!(
        text.contains("3 rows") && text.contains("Rows go: by expires_on"),
        "{text}"
    );
    let plan = printed(&kit, &trial, &["schema", "plan", PIPELINE])?;
    assert_eq!(plan, "Nothing to do: the tables are as asked.\n");

    // What the operator does by itself needs nobody; old rows have the column, and are not counted yet.
    trial.apply(&trial.pipeline(&spec("Float64")))?;
    trial.ready()?;
    let settled = |what: &str| {
        within(60, what, || {
            Ok(ended(&kit, &trial, &["schema", "status", PIPELINE])?.0 == Some(0))
        })
    };
    settled("column and rollup are there")?;
    let counted = format!("SELECT uniqCombined64Merge(counted) FROM {table}_per_day");
    assert_eq!(ask(&counted)?, "0");
    let parts = format!(
        "SELECT uniqExact(name) - uniqExactIf(name, column = 'amount') FROM system.parts_columns \
         WHERE active AND concat(database, '.', table) = '{table}'"
    );
    assert_ne!(ask(&parts)?, "0", "the column is computed when it is read");
    let backfill = [
        "schema",
        "apply",
        PIPELINE,
        "--backfill",
        "amount",
        "--backfill",
        "per_day",
    ];
    let would = printed(&kit, &trial, &[&backfill[..], &["--dry-run"]].concat())?;
    assert!(
        would.contains("MATERIALIZE COLUMN `amount`") && would.contains("INSERT INTO"),
        "{would}"
    );
    assert_eq!(ask(&counted)?, "0", "nothing was done");
    for _ in 0..2 {
        let done = printed(&kit, &trial, &backfill)?;
        assert_eq!(done, format!("Done: {table} is as asked.\n"));
        assert_eq!((ask(&counted)?, ask(&parts)?), ("3".into(), "0".into()));
    }
    let (code, said) = ended(
        &kit,
        &trial,
        &["schema", "apply", PIPELINE, "--backfill", "nothing"],
    )?;
    assert!(
        code == Some(3) && said.contains("neither a column nor a rollup nothing"),
        "{code:?} {said}"
    );

    // What rewrites rows is shown, and done once it is agreed to.
    trial.apply(&trial.pipeline(&spec("Int64")))?;
    trial.condition("TablesReady", "False", Duration::from_secs(90))?;
    let (code, plan) = ended(&kit, &trial, &["schema", "plan", PIPELINE])?;
    assert!(
        code == Some(7) && plan.contains("MODIFY COLUMN `amount` Int64"),
        "{code:?} {plan}"
    );
    trial.condition("Ready", "False", Duration::from_secs(30))?;
    let (code, said) = ended(&kit, &trial, &["status"])?;
    assert!(
        code == Some(5) && said.contains("SchemaConflict"),
        "{code:?} {said}"
    );
    let (code, said) = ended(&kit, &trial, &["schema", "apply", PIPELINE, "--agree", "0000"])?;
    assert!(
        code == Some(2) && said.contains("look at `penstock schema plan events` again"),
        "{code:?} {said}"
    );
    let (code, said) = ended(
        &kit,
        &trial,
        &["schema", "apply", PIPELINE, "--backfill", "amount"],
    )?;
    assert!(
        code == Some(1) && said.contains("not as asked"),
        "{code:?} {said}"
    );
    let fingerprint = plan.trim().rsplit(' ').next().unwrap_or_default();
    printed(
        &kit,
        &trial,
        &["schema", "apply", PIPELINE, "--agree", fingerprint],
    )?;
    assert_eq!(
        ask(&format!(
            "SELECT toTypeName(any(amount)), sum(amount) FROM {table}"
        ))?,
        "Int64\t6"
    );
    trial.condition("TablesReady", "True", Duration::from_secs(90))?;

    // A retention of today for rows of yesterday: that which is over goes.
    trial.apply(
        &trial
            .app(APP)
            .replace("{displayName: Trial}", "{displayName: Trial, retention: 30d}"),
    )?;
    let retention = ["schema", "apply", PIPELINE, "--retention"];
    let would = printed(&kit, &trial, &[&retention[..], &["--dry-run"]].concat())?;
    assert!(
        would.contains("App shop: 3 rows would have another end; of 1 the day is past"),
        "{would}"
    );
    printed(&kit, &trial, &retention)?;
    let ends = format!("SELECT countIf(expires_on != toDate(event_timestamp) + 31) FROM {table}");
    assert_eq!(ask(&ends)?, "0");
    kit.clickhouse(&format!("OPTIMIZE TABLE {table} FINAL"))?;
    assert_eq!(trial.rows()?.0, 2, "one was 40 days old");
    let again = printed(&kit, &trial, &retention)?;
    assert!(
        again.starts_with("App shop: every row ends when it shall."),
        "{again}"
    );

    // A change that cannot be finished.
    kit.clickhouse(&format!(
        "ALTER TABLE {table} UPDATE user_agent = toString(toUInt8(concat('x', user_agent))) WHERE 1 SETTINGS mutations_sync = 0"
    ))?;
    within(60, "the change fails", || {
        let status = ended(&kit, &trial, &["schema", "status", PIPELINE])?;
        Ok(status.0 == Some(7) && status.1.contains("Cannot parse"))
    })?;
    for arguments in [
        &["schema", "repair", PIPELINE][..],
        &["schema", "repair", PIPELINE, "--dry-run"],
    ] {
        let would = printed(&kit, &trial, arguments)?;
        assert!(would.starts_with("1 change would be ended with --yes"), "{would}");
    }
    let done = printed(&kit, &trial, &["schema", "repair", PIPELINE, "--yes"])?;
    assert!(done.starts_with("1 change ended"), "{done}");
    let again = printed(&kit, &trial, &["schema", "repair", PIPELINE])?;
    assert_eq!(again, format!("Nothing to repair: no change of {table} fails.\n"));
    settled("nothing is under way")?;

    // Who may not is told what to do, and a password goes to no address that only a resource names.
    let with = |name: &str, value: Option<&str>| {
        let mut command = super::penstock(&kit, &trial, &["schema", "status", PIPELINE]);
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
        let output = command
            .output()
            .map_err(|error| penstock_e2e::Error::new(error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok::<_, penstock_e2e::Error>((output.status.code(), said))
    };
    let (code, said) = with("CLICKHOUSE_PASSWORD", Some("wrong"))?;
    assert!(
        code == Some(1) && said.contains("--clickhouse-user"),
        "{code:?} {said}"
    );
    let (code, said) = with("CLICKHOUSE_URL", None)?;
    assert!(
        code == Some(2) && said.contains("say --clickhouse http://"),
        "{code:?} {said}"
    );

    // Over TLS, to a server whose certificate somebody known has signed.
    let status = ["schema", "status", PIPELINE, "-o", "yaml"];
    let yaml = over_tls(&kit, &trial, &status)?;
    let found: serde_json::Value =
        serde_yaml::from_str(&yaml).map_err(|error| penstock_e2e::Error::new(format!("{error}: {yaml}")))?;
    assert_eq!(found["table"], table.as_str(), "{yaml}");
    let failed = |error: &dyn std::fmt::Display| penstock_e2e::Error::new(error.to_string());
    let foreign = tempfile::tempdir().map_err(|error| failed(&error))?;
    let authority = foreign.path().join("ca.crt");
    let pair = rcgen::generate_simple_self_signed(["nobody".to_owned()]).map_err(|error| failed(&error))?;
    std::fs::write(&authority, pair.cert.pem()).map_err(|error| failed(&error))?;
    let (https, authority) = (kit.secured_clickhouse(), authority.display().to_string());
    let status = ["schema", "status", PIPELINE, "--clickhouse", &https];
    let (code, said) = ended(
        &kit,
        &trial,
        &[&status[..], &["--clickhouse-ca", &authority]].concat(),
    )?;
    assert!(
        code == Some(4) && said.contains("UnknownIssuer"),
        "{code:?} {said}"
    );
    Ok(())
}

/// A change of stored rows is held up, so that it is under way for as long as this looks at it, and let go while events
/// arrive.
#[test]
fn stored_rows_are_rewritten_while_events_arrive() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "rewrite", PLAIN)?;
    let (traffic, table) = (trial.traffic(APP)?, trial.table());
    let ask = |question: &str| Ok::<_, penstock_e2e::Error>(kit.clickhouse(question)?.trim().to_owned());
    let pods = || {
        let all = [trial.pods("ingest")?, trial.pods("consume")?].concat();
        let mut all: Vec<_> = all.into_iter().map(|pod| (pod.name, pod.restarts)).collect();
        all.sort();
        Ok::<_, penstock_e2e::Error>(all)
    };
    let mut sent = traffic.send(40_000, 500, 4, Duration::ZERO, Duration::from_secs(60))?;
    within(60, "what was before", || Ok(trial.rows()?.0 >= 40_000))?;
    let before = pods()?;

    let arrive = |what: &str| {
        let stored = trial.rows()?.0;
        within(30, what, || Ok(trial.rows()?.0 > stored))
    };
    let changes = |verb: &str| kit.clickhouse(&format!("SYSTEM {verb} MERGES {table}"));
    // What every row has, whenever it was stored.
    let shape = |kind: &str| -> Result<()> {
        let wrong =
            format!("SELECT toTypeName(any(amount)), countIf(toString(amount) != '12.5') FROM {table}");
        assert_eq!(ask(&wrong)?, format!("{kind}\t0"));
        Ok(())
    };
    let written = |kind: &str| {
        let parts = format!(
            "SELECT uniqExact(name) - uniqExactIf(name, column = 'amount' AND type = '{kind}') \
             FROM system.parts_columns WHERE active AND concat(database, '.', table) = '{table}'"
        );
        Ok::<_, penstock_e2e::Error>(ask(&parts)? == "0")
    };
    // It is not called done while it is held up, and rows arrive all the same.
    let under_way = |apply: &[&str], kind: &str| -> Result<()> {
        let (code, said) = ended(&kit, &trial, &[apply, &["--timeout", "5s"]].concat())?;
        assert!(
            code == Some(1) && said.contains("parts are to be rewritten; it goes on"),
            "{code:?} {said}"
        );
        arrive("rows arrive during a change")?;
        shape(kind)?;
        assert!(!written(kind)?, "it was held up");
        let (code, status) = ended(&kit, &trial, &["schema", "status", PIPELINE, "-o", "json"])?;
        let status: serde_json::Value = serde_json::from_str(&status)
            .map_err(|error| penstock_e2e::Error::new(format!("{error}: {status}")))?;
        assert_eq!(code, Some(7), "{status}");
        assert!(status["mutations"][0]["partsToDo"].as_u64() > Some(0), "{status}");
        Ok(())
    };
    let finished = |apply: &[&str], kind: &str| -> Result<String> {
        changes("START")?;
        let said = printed(&kit, &trial, apply)?;
        assert!(written(kind)?, "not every row has it, and it was called done");
        let (code, status) = ended(&kit, &trial, &["schema", "status", PIPELINE])?;
        assert_eq!(code, Some(0), "{status}");
        arrive("rows arrive after a change")?;
        shape(kind)?;
        Ok(said)
    };

    let send = || traffic.send(1000, 25, 2, Duration::from_millis(50), Duration::from_secs(60));
    let (more, ()) = Acknowledged::meanwhile(send, || {
        // A new column, written into old rows on request; and a rollup, counted for the past beside what it counts now. A merge
        // would write it, too.
        changes("STOP")?;
        trial.apply(&trial.pipeline(&spec("Float64")))?;
        trial.ready()?;
        within(60, "column and rollup are there", || {
            Ok(ended(&kit, &trial, &["schema", "status", PIPELINE])?.0 == Some(0))
        })?;
        arrive("rows arrive before the change")?;
        shape("Float64")?;
        let backfill = ["schema", "apply", PIPELINE, "--backfill", "amount"];
        under_way(&backfill, "Float64")?;
        let both = [&backfill[..], &["--backfill", "per_day"]].concat();
        let done = finished(&both, "Float64")?;
        assert_eq!(done, format!("Done: {table} is as asked.\n"));

        // A change of its type waits for a person, behind one that is under way; until then all goes on as it was.
        changes("STOP")?;
        let (code, said) = ended(&kit, &trial, &[&backfill[..], &["--timeout", "5s"]].concat())?;
        assert_eq!(code, Some(1), "{said}");
        // What else is asked for waits with it, and comes with it.
        let more = spec("String").replace(
            "columns: [",
            "columns: [{name: city, type: String, from: properties.city}, ",
        );
        trial.apply(&trial.pipeline(&more))?;
        let (reason, _) = trial.condition("TablesReady", "False", Duration::from_secs(90))?;
        assert_eq!(reason, "SchemaConflict");
        arrive("rows arrive while a person is waited for")?;
        shape("Float64")?;
        let (code, plan) = ended(&kit, &trial, &["schema", "plan", PIPELINE])?;
        assert!(
            code == Some(7) && plan.contains("MODIFY COLUMN `amount` String"),
            "{code:?} {plan}"
        );
        let fingerprint = plan.trim().rsplit(' ').next().unwrap_or_default();
        let agreed = format!("penstock.dev/apply-schema={fingerprint}");
        trial.kubectl(&["annotate", "ingestionpipelines", PIPELINE, &agreed])?;
        trial.condition("TablesReady", "True", Duration::from_secs(90))?;
        assert_eq!(ask(&format!("SELECT countIf(city != '') FROM {table}"))?, "0");
        let agree = ["schema", "apply", PIPELINE, "--agree", fingerprint];
        under_way(&agree, "String")?;
        finished(&agree, "String").map(drop)
    })?;
    assert_eq!((more.failed, &more.errors), (0, &Vec::new()));
    sent.merge(more);
    trial.settle(&sent, Duration::from_secs(60))?;
    shape("String")?;
    assert_eq!(pods()?, before, "pods were restarted");
    let counted = ask(&format!(
        "SELECT uniqCombined64Merge(counted) / {} FROM {table}_per_day",
        sent.ids.len()
    ))?;
    let counted: f64 = counted.parse().unwrap_or_default();
    assert!(
        (counted - 1.0).abs() < 0.03,
        "{counted} of all events are counted"
    );
    Ok(())
}
