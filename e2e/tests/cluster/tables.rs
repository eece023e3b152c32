//! What a team adds to its table: columns of its own, counts, a retention; and how that changes while events arrive.

use std::time::Duration;

use penstock_e2e::Result;
use penstock_e2e::trial::{APP, Acknowledged, Trial, Turn, within};

const PLAIN: &str = "  ingest: {scaling: {replicas: 1}}\n";

/// A pipeline with a `clickhouse` section.
fn spec(clickhouse: &str) -> String {
    format!("{PLAIN}  clickhouse: {{{clickhouse}}}\n")
}

const COLUMNS: &str = "columns: [{name: amount, type: Float64, from: properties.cart.amount}, \
                       {name: country, type: Symbol, from: context.country, nullable: true}, \
                       {name: plan, type: Symbol, from: properties.plan}, \
                       {name: cart, type: Json, from: properties.cart}]";
const ROLLUPS: &str = "rollups: [{name: per_minute, count: Events, every: Minute, by: [event_name]}, \
                       {name: per_plan, count: Events, every: Hour, by: [plan]}, \
                       {name: users_per_day, count: Users, every: Day, by: [country], retention: 400d}]";

/// What ClickHouse answers to one question.
fn ask(kit: &penstock_e2e::Instance, question: &str) -> Result<String> {
    Ok(kit.clickhouse(question)?.trim().to_owned())
}

#[test]
fn columns_and_rollups_are_filled_while_events_arrive() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "tables", PLAIN)?;
    let (traffic, table) = (trial.traffic(APP)?, trial.table());
    let bought = |user: &str, country: &str| {
        format!(
            r#"{{"event_type":"bought","user_id":"{user}","event_data":{{"cart":{{"amount":2.5}}}},"context":{{"country":"{country}"}}}}"#
        )
    };
    traffic.json(&bought("before", "NL"))?;
    within(30, "the first event is stored", || Ok(trial.rows()?.0 == 1))?;
    let pods = |role: &str| -> Result<Vec<String>> {
        let mut names: Vec<String> = trial.pods(role)?.iter().map(|pod| pod.name.clone()).collect();
        names.sort();
        Ok(names)
    };
    let before = (pods("ingest")?, pods("consume")?);

    // A schema that grows is no reason to restart anything, and fails no request.
    let send = || traffic.send(200, 10, 2, Duration::from_millis(50), Duration::from_secs(60));
    let (sent, ()) = Acknowledged::meanwhile(send, || {
        trial.apply(&trial.pipeline(&spec(&format!("{COLUMNS}, {ROLLUPS}"))))?;
        trial.ready()?;
        within(30, "the rollups are there", || {
            let question = format!("EXISTS TABLE {table}_users_per_day_view");
            Ok(ask(&kit, &question)? == "1")
        })?;
        Ok(())
    })?;
    assert_eq!((sent.failed, &sent.errors), (0, &Vec::new()));
    assert_eq!((pods("ingest")?, pods("consume")?), before, "pods were restarted");

    for (user, country) in [("a", "NL"), ("b", "NL"), ("a", "NL"), ("", "BE")] {
        traffic.json(&bought(user, country))?;
    }
    // What is no object, and one that names a path twice, refuse no row.
    for cart in [r#""none""#, r#"{"size":1,"size":2}"#] {
        traffic.json(&format!(
            r#"{{"event_type":"odd","context":{{"country":"DE"}},"event_data":{{"cart":{cart}}}}}"#
        ))?;
    }
    let all = sent.ids.len() as u64 + 7;
    within(60, "everything is stored", || Ok(trial.rows()?.0 == all))?;

    let question = format!("SELECT sum(cart.amount.:Float64), toTypeName(any(cart)) FROM {table}");
    assert_eq!(ask(&kit, &question)?, "12.5\tJSON", "a path of an object");
    let question = format!("SELECT DISTINCT toString(cart) FROM {table} WHERE event_name = 'odd'");
    assert_eq!(ask(&kit, &question)?, "{}");
    kit.clickhouse(&format!(
        "ALTER TABLE {table} MATERIALIZE COLUMN cart SETTINGS mutations_sync = 1"
    ))?;
    let question = format!("SELECT sum(cart.amount.:Float64) FROM {table}");
    assert_eq!(ask(&kit, &question)?, "12.5", "written into old rows, too");
    let question =
        format!("SELECT sum(amount), countIf(country = 'NL'), countIf(country IS NULL) FROM {table}");
    assert_eq!(
        ask(&kit, &question)?,
        format!("12.5\t4\t{}", all - 7),
        "rows of before have them too"
    );
    let question = format!(
        "SELECT country, uniqCombined64Merge(14)(counted) FROM {table}_users_per_day WHERE country != '' GROUP BY country"
    );
    assert_eq!(
        ask(&kit, &question)?,
        "NL\t2",
        "users with an id, counted from then on"
    );
    let question =
        format!("SELECT uniqCombined64Merge(counted) FROM {table}_per_minute WHERE event_name = 'bought'");
    assert_eq!(ask(&kit, &question)?, "4");

    // What rewrites rows waits for a person, and says how.
    let other = COLUMNS
        .replace("Float64", "Int64")
        .replace("properties.plan}", "properties.plan, nullable: true}");
    trial.apply(&trial.pipeline(&spec(&format!("{other}, {ROLLUPS}"))))?;
    let (reason, _) = trial.condition("TablesReady", "False", Duration::from_secs(90))?;
    assert_eq!(reason, "SchemaConflict");
    let path = "jsonpath={.status.conditions[?(@.type==\"TablesReady\")].message}";
    let message = trial.kubectl(&["get", "ingestionpipelines", "events", "-o", path])?;
    assert!(message.contains("MODIFY COLUMN `amount` Int64"), "{message}");
    // Meanwhile events are stored as before.
    traffic.json(&bought("c", "NL"))?;
    within(30, "an event of meanwhile is stored", || {
        Ok(trial.rows()?.0 == all + 1)
    })?;
    trial.condition("TablesReady", "False", Duration::ZERO)?;
    let fingerprint = message.trim().rsplit(' ').next().unwrap_or_default();
    let agreed = format!("penstock.dev/apply-schema={fingerprint}");
    trial.kubectl(&["annotate", "ingestionpipelines", "events", &agreed])?;
    trial.condition("TablesReady", "True", Duration::from_secs(90))?;
    let question = format!("SELECT toTypeName(any(amount)) FROM {table}");
    within(30, "the column is another", || {
        Ok(ask(&kit, &question)? == "Int64")
    })?;
    // What counts by a column that may be NULL now takes rows without it as before.
    traffic.json(&bought("d", "NL"))?;
    within(30, "an event without the value is stored", || {
        Ok(trial.rows()?.0 == all + 2)
    })?;
    assert_eq!(
        ask(&kit, &format!("SELECT countIf(plan IS NULL) > 0 FROM {table}"))?,
        "1"
    );

    // A rollup that is taken off the list counts no longer, and keeps what it has.
    trial.apply(&trial.pipeline(&spec(&other)))?;
    within(30, "the view is gone", || {
        Ok(ask(&kit, &format!("EXISTS TABLE {table}_per_minute_view"))? == "0")
    })?;
    assert_eq!(ask(&kit, &format!("EXISTS TABLE {table}_per_minute"))?, "1");
    Ok(())
}

#[test]
fn the_examples_of_the_page_are_taken() -> Result<()> {
    let kit = Turn::beside_others()?;
    let page = std::fs::read_to_string(kit.repository().join("docs/tables.md"))
        .map_err(|error| penstock_e2e::Error::new(error.to_string()))?;
    let blocks = super::docs::blocks(&page);
    let of = |language: &'static str| blocks.iter().filter(move |(own, _)| own == language);
    // What comes after the first needs more servers than there are.
    let spec: String = of("yaml")
        .take(1)
        .flat_map(|(_, text)| text.lines())
        .map(|line| format!("  {line}\n"))
        .collect();
    let trial = Trial::start(&kit, "page", &format!("{PLAIN}{spec}"))?;
    assert!(of("sql").count() >= 2);
    for (_, statement) in of("sql") {
        kit.clickhouse(&statement.replace("growth.events", &trial.table()))?;
    }
    Ok(())
}

#[test]
fn events_are_kept_as_long_as_their_app_says() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "retention", PLAIN)?;
    let (traffic, table) = (trial.traffic(APP)?, trial.table());
    let aged = |days: i64| {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let at = now.as_secs() as i64 - days * 86_400;
        format!(r#"{{"event_type":"aged","timestamp":{at}}}"#)
    };
    traffic.json(&aged(40))?;
    let app = trial
        .app(APP)
        .replace("{displayName: Trial}", "{displayName: Trial, retention: 30d}");
    trial.apply(&app)?;
    within(30, "the retention is in force", || {
        Ok(traffic.json(&aged(31))?.contains("too_old"))
    })?;
    within(60, "what was too old is in the table of dead letters", || {
        let question = format!(
            "SELECT count() > 0 FROM {table}_dead_letters FINAL WHERE reason = 'TooOld' AND step = 'ingest'"
        );
        Ok(ask(&kit, &question)? == "1")
    })?;
    traffic.json(&aged(2))?;
    let question = format!(
        "SELECT countIf(expires_on = '2106-01-01'), countIf(expires_on = toDate(event_timestamp) + 31) FROM {table}"
    );
    within(30, "both are stored, each with its end", || {
        let answer = ask(&kit, &question)?;
        Ok(answer.ends_with("\t1") && !answer.starts_with("0\t"))
    })?;

    // Rows go when their day has come, and only they.
    // Those that were sent until the retention was in force may still be coming.
    let kept = || -> Result<u64> {
        let count = ask(&kit, &format!("SELECT countIf(event_name = 'aged') FROM {table}"))?;
        count.parse().map_err(|_| penstock_e2e::Error::new(count))
    };
    let before = kept()?;
    let names = "event_id, app_id, event_name, event_timestamp, received_at";
    kit.clickhouse(&format!(
        "INSERT INTO {table} ({names}, expires_on) SELECT generateUUIDv4(), generateUUIDv4(), 'ended', now(), now(), today() - 1"
    ))?;
    kit.clickhouse(&format!("OPTIMIZE TABLE {table} FINAL"))?;
    assert!(kept()? >= before, "{table}");
    assert_eq!(
        ask(
            &kit,
            &format!("SELECT countIf(event_name = 'ended') FROM {table}")
        )?,
        "0"
    );
    Ok(())
}

#[test]
fn what_is_a_day_old_is_packed_tightly() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "packed", PLAIN)?;
    let table = trial.table();
    let (database, name) = table.split_once('.').unwrap_or_default();
    let packed = |day: &str| {
        let question = format!(
            "SELECT DISTINCT part_type, default_compression_codec FROM system.parts
             WHERE active AND database = '{database}' AND table = '{name}' AND partition = toString(toYYYYMM({day}))"
        );
        ask(&kit, &question)
    };
    let store = |at: &str| {
        kit.clickhouse(&format!(
            "INSERT INTO {table} (event_id, app_id, event_name, event_timestamp, received_at, properties)
             SELECT generateUUIDv4(), generateUUIDv4(), 'packed', {at}, {at}, '{{}}' FROM numbers(1000)"
        ))
    };
    store("now()")?;
    assert_eq!(packed("today()")?, "Compact\tLZ4");
    store("now() - INTERVAL 40 DAY")?;
    within(60, "old rows are packed once more", || {
        Ok(packed("today() - 40")? == "Compact\tZSTD(1)")
    })?;
    assert_eq!(packed("today()")?, "Compact\tLZ4");

    // A table that has lost its rules is given them again.
    kit.clickhouse(&format!("ALTER TABLE {table} REMOVE TTL"))?;
    trial.apply(&trial.pipeline(&spec(
        "columns: [{name: amount, type: Float64, from: properties.amount}]",
    )))?;
    within(60, "rows go and are packed again", || {
        let question = format!(
            "SELECT engine_full FROM system.tables WHERE database = '{database}' AND name = '{name}'"
        );
        Ok(ask(&kit, &question)?
            .contains("TTL expires_on, toDateTime(received_at) + toIntervalDay(1) RECOMPRESS"))
    })?;
    Ok(())
}
