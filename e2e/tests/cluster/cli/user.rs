//! `penstock user`: one user's events and dead letters, out of the tables and out of the world.

use std::time::Duration;

use penstock_e2e::Result;
use penstock_e2e::trial::{APP, Acknowledged, PIPELINE, Trial, Turn, within};
use serde_json::Value;

use super::{ended, json, printed};

/// Ids are anybody's text.
const USER: &str = "o'neil \\ 1";

#[test]
fn a_user_is_exported_and_erased_and_does_not_come_back() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "user", "  ingest: {scaling: {replicas: 1}}\n")?;
    let (traffic, table) = (trial.traffic(APP)?, trial.table());
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
    within(60, "ten rows", || Ok(trial.rows()?.0 == 10))?;
    let left = |user: &str| -> Result<String> {
        let user = user.replace('\\', "\\\\").replace('\'', "\\'");
        let count = kit.clickhouse(&format!("SELECT count() FROM {table} WHERE user_id = '{user}'"))?;
        Ok(count.trim().to_owned())
    };
    assert_eq!(left(USER)?, "5");

    // A letter of each, and one that was cut in the middle.
    let letter = |value: &str| {
        let value = value.replace('\\', "\\\\").replace('\'', "\\'");
        kit.clickhouse(&format!(
            "INSERT INTO {table}_dead_letters (failed_at, reason, step, src_group, value) \
             SELECT now(), 'TooOld', 'ingest', generateUUIDv4(), '{value}'"
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
    assert_eq!(events.len(), 7, "{exported}");
    let (events, given_up) = events.split_at(5);
    assert!(
        given_up
            .iter()
            .all(|letter| whole.starts_with(letter["value"].as_str().unwrap_or("?"))),
        "{exported}"
    );
    assert!(
        events
            .iter()
            .all(|event| event["user_id"] == USER && event["event_name"] == "seen"),
        "{exported}"
    );
    let of_app = printed(
        &kit,
        &trial,
        &["user", "export", USER, "--app", APP, "--pipeline", PIPELINE],
    )?;
    assert_eq!(of_app.lines().count(), 5);
    assert_eq!(printed(&kit, &trial, &["user", "export", "nobody"])?, "");
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
    assert_eq!(would["tables"][0]["rows"], 5, "{would}");
    assert_eq!(would["tables"][1]["rows"], 2, "{would}");
    assert_eq!(left(USER)?, "5");

    // Others send meanwhile, and what was sent before is stored first, and then erased with the rest.
    let send = || traffic.send(400, 20, 2, Duration::from_millis(50), Duration::from_secs(60));
    let (sent, ()) = Acknowledged::meanwhile(send, || {
        traffic.json(&of(USER, 5))?;
        let done = json(&kit, &trial, &[&erase[..], &["--yes"]].concat())?;
        assert_eq!(done["tables"][0]["rows"], 6, "{done}");
        assert_eq!(done["tables"][1]["rows"], 2, "{done}");
        assert_eq!((left(USER)?, letters()?), ("0".into(), "1".into()));
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
    Ok(())
}
