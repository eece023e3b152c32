//! `penstock replay`: a table that has lost rows gets them back, and no others.

use std::time::Duration;

use penstock_e2e::Result;
use penstock_e2e::trial::{APP, PIPELINE, Trial, Turn, within};

use super::{ended, json, printed};

#[test]
fn what_a_table_has_lost_comes_back_out_of_the_topic_once() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "replay", "  ingest: {scaling: {replicas: 1}}\n")?;
    let (traffic, table) = (trial.traffic(APP)?, trial.table());
    let sent = traffic.send(3000, 100, 2, Duration::ZERO, Duration::from_secs(60))?;
    within(90, "all is stored", || Ok(trial.rows()?.0 == 3000))?;
    let missing = |arguments: &[&str]| -> Result<(u64, u64)> {
        let mut all = vec!["replay", PIPELINE, "--from", "beginning"];
        all.extend(arguments);
        let outcome = json(&kit, &trial, &all)?;
        let number = |name: &str| outcome[name].as_u64().unwrap_or(u64::MAX);
        Ok((number("events"), number("missing")))
    };
    within(30, "consumers have committed it", || {
        Ok(missing(&["--dry-run"])? == (3000, 0))
    })?;

    // A third is lost, in every partition.
    kit.clickhouse(&format!(
        "ALTER TABLE {table} DELETE WHERE cityHash64(event_id) % 3 = 0 SETTINGS mutations_sync = 1"
    ))?;
    let lost = 3000 - trial.rows()?.0;
    assert!(lost > 500, "{lost}");
    let would = printed(&kit, &trial, &["replay", PIPELINE, "--from", "1h", "--dry-run"])?;
    assert!(
        would.contains(&format!("{lost} of 3000 events of")) && would.contains("are missing in"),
        "{would}"
    );
    assert_eq!(trial.rows()?.0, 3000 - lost, "nothing was done");
    let nothing = printed(
        &kit,
        &trial,
        &["replay", PIPELINE, "--from", "beginning", "--to", "1h"],
    )?;
    assert!(
        nothing.starts_with("Nothing is missing: of 0 events"),
        "{nothing}"
    );

    // It comes back while others are sent.
    let done = printed(&kit, &trial, &["replay", PIPELINE, "--from", "1h"])?;
    assert!(
        done.contains("were missing in") && done.contains("are there now"),
        "{done}"
    );
    assert_eq!(trial.rows()?, (3000, 3000));
    let stored = trial.stored()?;
    assert!(sent.ids.iter().all(|id| stored.contains(id)));
    assert_eq!(missing(&[])?, (3000, 0), "there is nothing to do any more");

    // The pipeline goes on as before.
    trial.ready()?;
    let paused = trial.kubectl(&[
        "get",
        "ingestionpipelines",
        PIPELINE,
        "-o",
        "jsonpath={.metadata.annotations}",
    ])?;
    assert!(!paused.contains("paused"), "{paused}");
    let more = traffic.send(100, 10, 1, Duration::ZERO, Duration::from_secs(30))?;
    within(60, "what comes behind is stored", || {
        let stored = trial.stored()?;
        Ok(more.ids.iter().all(|id| stored.contains(id)))
    })?;
    assert_eq!(trial.rows()?, (3100, 3100));
    let (code, said) = ended(&kit, &trial, &["replay", PIPELINE, "--from", "yesterday"])?;
    assert!(
        code == Some(2) && said.contains("is no moment"),
        "{code:?} {said}"
    );
    Ok(())
}
