//! What happens to a pipeline in its life: rolled, deleted, made again, given Apps and keys, cut off from what it needs.

use std::time::Duration;

use penstock_e2e::Result;
use penstock_e2e::trial::{APP, Acknowledged, PIPELINE, Trial, Turn, within};

const SPEC: &str = "  ingest: {scaling: {replicas: 2}}\n";

#[test]
fn a_rolling_restart_under_load_fails_no_request() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "rolling", SPEC)?;
    let traffic = trial.traffic(APP)?;
    let send = || traffic.send(200, 10, 4, Duration::from_millis(80), Duration::from_secs(60));
    let (sent, ()) = Acknowledged::meanwhile(send, || {
        std::thread::sleep(Duration::from_secs(2));
        let deployment = format!("deployment/{PIPELINE}-ingest");
        trial.kubectl(&["rollout", "restart", &deployment])?;
        trial.kubectl(&["rollout", "status", &deployment, "--timeout=120s"])?;
        // What goes away serves on until everyone has heard of it.
        within(60, "the former pods are gone", || {
            Ok(trial.pods("ingest")?.len() == 2)
        })?;
        Ok(())
    })?;
    assert_eq!((sent.failed, &sent.errors), (0, &Vec::new()));
    trial.settle(&sent, Duration::from_secs(60))
}

#[test]
fn a_pipeline_that_is_made_again_goes_on_where_it_was() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "again", SPEC)?;
    let mut sent = trial
        .traffic(APP)?
        .send(2_000, 50, 2, Duration::ZERO, Duration::from_secs(60))?;
    // Some of them are still in the topic when the consumer goes away.
    trial.kubectl(&["delete", "ingestionpipeline", PIPELINE, "--timeout=60s"])?;
    within(60, "the pods of a deleted pipeline are gone", || {
        Ok(trial.pods("ingest")?.is_empty() && trial.pods("consume")?.is_empty())
    })?;
    trial.apply(&trial.pipeline(SPEC))?;
    trial.ready()?;
    sent.merge(
        trial
            .traffic(APP)?
            .send(2_000, 50, 2, Duration::ZERO, Duration::from_secs(60))?,
    );
    trial.settle(&sent, Duration::from_secs(60))
}

#[test]
fn deleting_with_delete_removes_topic_and_table_and_with_retain_neither() -> Result<()> {
    let kit = Turn::beside_others()?;
    for (policy, stays) in [("Retain", true), ("Delete", false)] {
        let trial = Trial::start(&kit, "policy", &format!("{SPEC}  deletionPolicy: {policy}\n"))?;
        let sent = trial
            .traffic(APP)?
            .send(100, 10, 1, Duration::ZERO, Duration::from_secs(30))?;
        trial.settle(&sent, Duration::from_secs(30))?;
        trial.kubectl(&["delete", "ingestionpipeline", PIPELINE, "--timeout=90s"])?;
        let (database, table) = trial
            .table()
            .split_once('.')
            .map(|(d, t)| (d.to_owned(), t.to_owned()))
            .unwrap_or_default();
        let tables = kit.clickhouse(&format!(
            "SELECT count() FROM system.tables WHERE database = '{database}' AND name = '{table}'"
        ))?;
        assert_eq!(tables.trim() == "1", stays, "{policy}: the table");
        // A topic that stays is taken back by the same pipeline, which finds nothing new to store in it.
        trial.apply(&trial.pipeline(SPEC))?;
        trial.ready()?;
        let (rows, distinct) = trial.rows()?;
        assert_eq!(
            (rows, distinct),
            if stays { (100, 100) } else { (0, 0) },
            "{policy}: the rows"
        );
    }
    Ok(())
}

#[test]
fn apps_and_keys_change_within_five_seconds_and_without_a_restart() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "keys", SPEC)?;
    let before = trial.pods("ingest")?;
    // A new App.
    trial.apply(&trial.app("blog"))?;
    within(10, "the new App has a key", || {
        Ok(trial.key("blog").is_ok_and(|key| key.starts_with("psk_")))
    })?;
    let blog = trial.traffic("blog")?;
    // Each of the pods has to know: ten answers in a row.
    let all = |status: u16| {
        let blog = &blog;
        move || {
            for _ in 0..10 {
                if blog.once()? != status {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    };
    let took = within(5, "a new App is accepted", all(200))?;
    println!("a new App is accepted after {took:?}");
    // Its key is revoked: the App has another one now.
    trial.apply(
        &trial
            .app("blog")
            .replace("displayName: Trial", "keys: [{name: other}]"),
    )?;
    let took = within(5, "a revoked key is refused", all(401))?;
    println!("a revoked key is refused after {took:?}");
    let after = trial.pods("ingest")?;
    assert_eq!(before, after, "pods were restarted or replaced");
    assert!(after.iter().all(|pod| pod.restarts == 0), "{after:?}");
    Ok(())
}

#[test]
fn a_dependency_that_is_away_is_a_condition_and_comes_back_by_itself() -> Result<()> {
    let kit = Turn::beside_others()?;
    let nowhere = "10.240.0.1:9";
    for (spec, condition, reason) in [
        (
            format!("  kafka: {{bootstrap: '{nowhere}'}}\n"),
            "TopicsReady",
            "KafkaUnavailable",
        ),
        (
            format!("  clickhouse: {{url: 'http://{nowhere}'}}\n"),
            "TablesReady",
            "ClickHouseUnavailable",
        ),
    ] {
        let trial = Trial::empty(&kit, "away")?;
        trial.apply(&trial.app(APP))?;
        trial.apply(&trial.pipeline(&spec))?;
        let (said, took) = trial.condition(condition, "False", Duration::from_secs(15))?;
        assert_eq!(said, reason, "{condition}");
        println!("{condition}=False/{said} after {took:?}");
        trial.condition("Ready", "False", Duration::from_secs(5))?;
        trial.apply(&trial.pipeline(""))?;
        trial.ready()?;
    }
    Ok(())
}

#[test]
fn what_an_app_has_used_today_is_in_its_status() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "usage", SPEC)?;
    let sent = trial
        .traffic(APP)?
        .send(500, 50, 1, Duration::ZERO, Duration::from_secs(60))?;
    trial.settle(&sent, Duration::from_secs(60))?;
    // Counts are absolute in Redis, so an attempt that failed halfway is in them only if it was stored.
    within(100, "the events are counted", || {
        let path = "jsonpath={.status.usage.events}";
        let events = trial.kubectl(&["get", "app", APP, "-o", path])?;
        Ok(events.trim() == sent.ids.len().to_string())
    })?;
    let bytes = trial.kubectl(&["get", "app", APP, "-o", "jsonpath={.status.usage.bytes}"])?;
    assert!(
        bytes.trim().parse::<u64>().is_ok_and(|bytes| bytes > 500 * 100),
        "{bytes}"
    );
    Ok(())
}
