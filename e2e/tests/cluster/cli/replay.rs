//! `penstock replay`: a table that has lost rows gets them back, and no others.

use std::time::Duration;

use penstock_e2e::trial::{APP, Acknowledged, PIPELINE, Traffic, Trial, Turn, within};
use penstock_e2e::{Error, Result};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{ended, json, over_tls, printed};

/// The group of the pipeline's consumers reads from the beginning, as soon as the last of its members is known to be gone.
fn set_back(kit: &Turn, namespace: &str) -> Result<()> {
    let failed = |error: rdkafka::error::KafkaError| Error::new(error.to_string());
    let group: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kit.kafka_bootstrap()?)
        .set("group.id", format!("penstock.{namespace}.{PIPELINE}"))
        .create()
        .map_err(failed)?;
    let mut list = TopicPartitionList::new();
    for partition in 0..3 {
        list.add_partition_offset(&format!("{namespace}.{PIPELINE}"), partition, Offset::Offset(0))
            .map_err(failed)?;
    }
    within(90, "the group has no members", || {
        match group.commit(&list, CommitMode::Sync) {
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownMemberId) => Ok(false),
            committed => committed.map(|()| true).map_err(failed),
        }
    })
    .map(drop)
}

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
    // Who knows the topic need not know the pipeline, but must not mistake one for another.
    let topic = format!("{}.{PIPELINE}", trial.namespace());
    let by_topic = ["replay", "--topic", &topic, "--from", "1h", "--dry-run"];
    assert_eq!(over_tls(&kit, &trial, &by_topic)?, would);
    for (arguments, wrong, why) in [
        (&["--topic", "elsewhere"][..], 3, "has the topic elsewhere"),
        (&[PIPELINE, "--topic", "elsewhere"], 2, "not elsewhere"),
    ] {
        let (code, said) = ended(
            &kit,
            &trial,
            &[&["replay", "--from", "1h"][..], arguments].concat(),
        )?;
        assert!(code == Some(wrong) && said.contains(why), "{code:?} {said}");
    }
    let nothing = printed(
        &kit,
        &trial,
        &["replay", PIPELINE, "--from", "beginning", "--to", "1h"],
    )?;
    assert!(
        nothing.starts_with("Nothing is missing: of 0 events"),
        "{nothing}"
    );

    // What a person has paused stays so.
    let pipeline = format!("ingestionpipeline/{PIPELINE}");
    trial.kubectl(&["annotate", &pipeline, "penstock.dev/paused=true"])?;
    let (code, said) = ended(&kit, &trial, &["replay", PIPELINE, "--from", "1h"])?;
    assert!(code == Some(1) && said.contains("is paused"), "{code:?} {said}");
    assert_eq!(trial.rows()?.0, 3000 - lost);

    trial.kubectl(&["annotate", &pipeline, "penstock.dev/paused-"])?;

    // It comes back while others are sent, and they are refused nothing.
    let meanwhile = replayed_meanwhile(&kit, &trial, &traffic)?;
    let all = 3000 + meanwhile.ids.len() as u64;
    let complete = || Ok(trial.rows()? == (all, all));
    within(60, "all is there, once", complete)?;
    let stored = trial.stored()?;
    assert!(sent.ids.iter().all(|id| stored.contains(id)));
    within(30, "there is nothing to do any more", || {
        Ok(missing(&[])? == (all, 0))
    })?;

    // One that was killed has left it like this: paused, without consumers, the group set back. The next one goes on.
    kit.clickhouse(&format!(
        "ALTER TABLE {table} DELETE WHERE cityHash64(event_id) % 3 = 1 SETTINGS mutations_sync = 1"
    ))?;
    let annotations = [
        "penstock.dev/paused=true",
        "penstock.dev/paused-by=penstock-replay",
    ];
    trial.kubectl(&["annotate", &pipeline, annotations[0], annotations[1]])?;
    trial.kubectl(&["scale", "deployment/events-consume", "--replicas=0"])?;
    within(90, "no consumer is left", || {
        Ok(trial.pods("consume")?.is_empty())
    })?;
    set_back(&kit, trial.namespace())?;
    let done = printed(&kit, &trial, &["replay", PIPELINE, "--from", "1h"])?;
    assert!(done.starts_with("Nothing is missing"), "{done}");
    within(30, "all is there again, once", complete)?;

    // The pipeline goes on as before.
    trial.ready()?;
    let paused = trial.kubectl(&["get", &pipeline, "-o", "jsonpath={.metadata.annotations}"])?;
    assert!(!paused.contains("paused"), "{paused}");
    let more = traffic.send(100, 10, 1, Duration::ZERO, Duration::from_secs(30))?;
    within(60, "what comes behind is stored", || {
        let stored = trial.stored()?;
        Ok(more.ids.iter().all(|id| stored.contains(id)))
    })?;
    assert_eq!(trial.rows()?, (all + 100, all + 100));
    let (code, said) = ended(&kit, &trial, &["replay", PIPELINE, "--from", "yesterday"])?;
    assert!(
        code == Some(2) && said.contains("is no moment"),
        "{code:?} {said}"
    );
    Ok(())
}

/// What was sent, and refused to nobody, while what is missing was brought back.
fn replayed_meanwhile(kit: &Turn, trial: &Trial<'_>, traffic: &Traffic) -> Result<Acknowledged> {
    let send = || traffic.send(400, 20, 2, Duration::from_millis(50), Duration::from_secs(60));
    let (meanwhile, done) = Acknowledged::meanwhile(send, || {
        printed(kit, trial, &["replay", PIPELINE, "--from", "1h"])
    })?;
    assert!(
        done.contains("were missing in") && done.contains("are there now"),
        "{done}"
    );
    assert_eq!((meanwhile.failed, &meanwhile.errors), (0, &Vec::new()));
    Ok(meanwhile)
}

/// KIP-848: Kafka lists no members of such a group, and lets nobody else set it back while it has some.
#[test]
fn a_group_of_the_newer_protocol_is_set_back_too() -> Result<()> {
    let kit = Turn::beside_others()?;
    let spec = "  ingest: {scaling: {replicas: 1}}\n  consume: {groupProtocol: Consumer}\n";
    let trial = Trial::start(&kit, "replaynew", spec)?;
    let (traffic, table) = (trial.traffic(APP)?, trial.table());
    let mut sent = traffic.send(3000, 100, 2, Duration::ZERO, Duration::from_secs(60))?;
    within(90, "all is stored", || Ok(trial.rows()?.0 == 3000))?;
    let dry = ["replay", PIPELINE, "--from", "1h", "--dry-run"];
    within(30, "consumers have committed it", || {
        Ok(json(&kit, &trial, &dry)?["events"] == 3000)
    })?;
    kit.clickhouse(&format!(
        "ALTER TABLE {table} DELETE WHERE cityHash64(event_id) % 3 = 0 SETTINGS mutations_sync = 1"
    ))?;
    let meanwhile = replayed_meanwhile(&kit, &trial, &traffic)?;
    sent.merge(meanwhile);
    trial.settle(&sent, Duration::from_secs(90))?;
    trial.ready()
}
