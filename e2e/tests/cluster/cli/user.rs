//! `penstock user`: one user's events and dead letters, out of the tables and out of the world.

use std::time::Duration;

use penstock_e2e::Result;
use penstock_e2e::trial::{APP, Acknowledged, PIPELINE, Trial, Turn, within};
use serde_json::Value;

use super::{ended, json, line, over_tls, printed, produce, run};

/// Ids are anybody's text.
const USER: &str = "o'neil \\ 1";
/// A second pipeline of the namespace, and one that the operator has not come to.
const OTHER: &str = "more";
const LATER: &str = "new";

#[test]
fn a_user_is_exported_and_erased_and_does_not_come_back() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::empty(&kit, "user")?;
    trial.apply(&trial.app(APP))?;
    let pipeline = |metadata: &str| {
        let yaml = trial.pipeline("  ingest: {scaling: {replicas: 1}}\n");
        yaml.replacen(&format!("name: {PIPELINE},"), &format!("{metadata},"), 1)
    };
    trial.apply(&pipeline(&format!("name: {PIPELINE}")))?;
    trial.apply(&pipeline(&format!("name: {OTHER}")))?;
    trial.apply(&pipeline(&format!(
        "name: {LATER}, annotations: {{penstock.dev/paused: 'true'}}"
    )))?;
    trial.ready()?;
    let other = format!("ingestionpipeline/{OTHER}");
    trial.kubectl(&["wait", &other, "--for=condition=Ready", "--timeout=120s"])?;
    let (traffic, table) = (trial.traffic(APP)?, trial.table());
    let app = trial.app_id(APP)?;
    // Into the other one's topic.
    let beside = |number: u32| {
        let user = USER.replace('\\', "\\\\");
        let topic = format!("{}.{OTHER}", trial.namespace());
        produce(&kit, &topic, &(line(&app, number, &user) + "\n"))
    };
    let of = |user: &str, number: usize| {
        let user = Value::from(user);
        format!(r#"{{"event_type":"seen","user_id":{user},"event_data":{{"number":{number}}}}}"#)
    };
    let (database, name) = table.split_once('.').unwrap_or_default();
    let comment = kit.clickhouse(&format!(
        "SELECT comment FROM system.tables WHERE database = '{database}' AND name = '{name}'"
    ))?;
    for number in 0..5 {
        traffic.json(&of(USER, number))?;
        traffic.json(&of("another", number))?;
    }
    for number in 0..3 {
        beside(number)?;
    }
    within(60, "ten rows", || Ok(trial.rows()?.0 == 10))?;
    let left_in = |table: &str, user: &str| -> Result<String> {
        let user = user.replace('\\', "\\\\").replace('\'', "\\'");
        let count = kit.clickhouse(&format!("SELECT count() FROM {table} WHERE user_id = '{user}'"))?;
        Ok(count.trim().to_owned())
    };
    let left = |user: &str| left_in(&table, user);
    let other_table = format!("{database}.{OTHER}");
    within(60, "three rows of the other", || {
        Ok(left_in(&other_table, USER)? == "3")
    })?;
    assert_eq!(left(USER)?, "5");

    // A letter of each, and one that was cut in the middle.
    let letter = |value: &str| {
        let value = value.replace('\\', "\\\\").replace('\'', "\\'");
        kit.clickhouse(&format!(
            "INSERT INTO {table}_dead_letters (failed_at, reason, step, src_group, value) \
             SELECT now64(3), 'TooOld', 'ingest', generateUUIDv4(), '{value}'"
        ))
    };
    let whole = of(USER, 6);
    letter(&whole)?;
    letter(&whole[..whole.len() - 5])?;
    letter(&of("another", 6))?;
    let letters = || -> Result<String> {
        let count = kit.clickhouse(&format!("SELECT count() FROM {table}_dead_letters"))?;
        Ok(count.trim().to_owned())
    };
    assert_eq!(letters()?, "3");

    // All that is stored, line by line.
    let exported = printed(&kit, &trial, &["user", "export", USER])?;
    let events: Vec<Value> = exported
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    let named = |name: &str| events.iter().filter(|event| event["event_name"] == name).count();
    assert_eq!(
        (named("seen"), named("purchase"), events.len()),
        (5, 3, 10),
        "{exported}"
    );
    let (given_up, events): (Vec<_>, Vec<_>) = events.iter().partition(|row| row["event_name"].is_null());
    assert!(
        given_up
            .iter()
            .all(|letter| whole.starts_with(letter["value"].as_str().unwrap_or("?"))),
        "{exported}"
    );
    assert!(events.iter().all(|event| event["user_id"] == USER), "{exported}");
    assert_eq!(over_tls(&kit, &trial, &["user", "export", USER])?, exported);
    let of_app = printed(
        &kit,
        &trial,
        &["user", "export", USER, "--app", APP, "--pipeline", PIPELINE],
    )?;
    assert_eq!(of_app.lines().count(), 5);
    let (code, said) = ended(&kit, &trial, &["user", "export", "nobody"])?;
    assert_eq!(
        (code, said.as_str()),
        (
            Some(0),
            "The pipeline new has no table yet.\n0 rows in 4 tables.\n"
        )
    );
    let (code, said) = ended(&kit, &trial, &["user", "export", USER, "--app", "nothing"])?;
    assert!(
        code == Some(3) && said.contains("no App nothing"),
        "{code:?} {said}"
    );

    // Nobody erases by mistake, least of all what is another's.
    kit.clickhouse(&format!("ALTER TABLE {table} MODIFY COMMENT 'of another team'"))?;
    let (code, said) = ended(
        &kit,
        &trial,
        &["user", "erase", USER, "--yes", "--pipeline", PIPELINE],
    )?;
    assert!(
        code == Some(1) && said.contains("neither made nor adopted"),
        "{code:?} {said}"
    );
    assert_eq!(left(USER)?, "5");
    kit.clickhouse(&format!(
        "ALTER TABLE {table} MODIFY COMMENT '{}'",
        comment.trim()
    ))?;
    let erase = ["user", "erase", USER];
    let (code, said) = ended(&kit, &trial, &erase)?;
    assert!(code == Some(2) && said.contains("--yes"), "{code:?} {said}");
    let would = json(&kit, &trial, &[&erase[..], &["--dry-run"]].concat())?;
    let rows = |outcome: &Value| {
        let tables = outcome["tables"].as_array().cloned().unwrap_or_default();
        let rows = tables
            .iter()
            .map(|one| (one["table"].clone(), one["rows"].as_u64()));
        rows.collect::<Vec<_>>()
    };
    let tables = [&table, &other_table].map(|events| [events.clone(), format!("{events}_dead_letters")]);
    // Events and letters, and those of the other.
    let each = |counts: [u64; 4]| {
        let counted = tables.iter().flatten().zip(counts);
        let counted = counted.map(|(table, count)| (Value::from(table.as_str()), Some(count)));
        counted.collect::<Vec<_>>()
    };
    assert_eq!(rows(&would), each([5, 2, 3, 0]), "{would}");
    assert_eq!(left(USER)?, "5");

    // Others send meanwhile, and what was sent before is stored first, and then erased with the rest.
    let send = || traffic.send(400, 20, 2, Duration::from_millis(50), Duration::from_secs(60));
    let (sent, ()) = Acknowledged::meanwhile(send, || {
        traffic.json(&of(USER, 5))?;
        let done = json(&kit, &trial, &[&erase[..], &["--yes"]].concat())?;
        assert_eq!(rows(&done), each([6, 2, 3, 0]), "{done}");
        assert_eq!(
            (left(USER)?, left_in(&other_table, USER)?, letters()?),
            ("0".into(), "0".into(), "1".into())
        );
        Ok(())
    })?;
    assert_eq!((sent.failed, &sent.errors), (0, &Vec::new()));

    // A consumer that begins anew brings nothing back.
    for pod in trial.pods("consume")? {
        trial.kubectl(&["delete", "pod", &pod.name, "--grace-period=0", "--force"])?;
    }
    let more = traffic.send(20, 5, 1, Duration::ZERO, Duration::from_secs(30))?;
    within(90, "what comes behind is stored", || {
        let stored = trial.stored()?;
        Ok(more.ids.iter().chain(&sent.ids).all(|id| stored.contains(id)))
    })?;
    assert_eq!((left(USER)?, left("another")?), ("0".into(), "5".into()));
    let again = printed(&kit, &trial, &[&erase[..], &["--yes"]].concat())?;
    assert!(
        again.ends_with("0 rows of o'neil \\ 1 deleted; none is left.\n"),
        "{again}"
    );

    // Consumers of the other stand still: the user is erased from the first all the same, and what is not done is said.
    trial.kubectl(&["annotate", &other, "penstock.dev/paused=true"])?;
    let consumers = format!("deployment/{OTHER}-consume");
    trial.kubectl(&["scale", &consumers, "--replicas=0"])?;
    let of_other = format!("{OTHER}-consume-");
    within(90, "no consumer of the other is left", || {
        Ok(!trial.kubectl(&["get", "pods", "-o", "name"])?.contains(&of_other))
    })?;
    traffic.json(&of(USER, 6))?;
    letter(&whole)?;
    beside(3)?;
    let some = run(
        &kit,
        &trial,
        &[&erase[..], &["--yes", "--timeout", "20s", "-o", "json"]].concat(),
    )?;
    let said = String::from_utf8_lossy(&some.stderr).into_owned();
    let done: Value = serde_json::from_slice(&some.stdout).unwrap_or_default();
    assert_eq!(rows(&done), each([1, 1, 0, 0])[..2], "{done} {said}");
    assert_eq!(done["notDone"][0]["pipeline"], OTHER, "{done}");
    assert!(
        some.status.code() == Some(1)
            && said.contains("after 20s 1 records of ")
            && said.contains("1 of 2 pipelines not done: more; run it again to go on"),
        "{said}"
    );
    trial.kubectl(&["annotate", &other, "penstock.dev/paused-"])?;
    trial.kubectl(&["scale", &consumers, "--replicas=1"])?;
    let done = json(&kit, &trial, &[&erase[..], &["--yes"]].concat())?;
    assert_eq!(rows(&done), each([0, 0, 1, 0]), "{done}");
    assert_eq!(
        (left(USER)?, left_in(&other_table, USER)?, letters()?),
        ("0".into(), "0".into(), "1".into())
    );
    Ok(())
}
