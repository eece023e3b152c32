//! Kafka dies, stands still, and ingest dies with it: with a spool, or a table to go to instead, clients are answered
//! on, and what they were told is there afterwards, once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use penstock_dataplane_config::table::{EventTable, dedup_window};
use penstock_e2e::Result;
use penstock_e2e::trial::{SpareKafka, Turn, at_length, meanwhile};
use uuid::Uuid;

use super::setup::{Client, Ingest, Setup, Stored, batch, wait_for};

/// With Kafka. A client waits as long as a busy machine needs.
const IMPATIENT: &str = "limits: {requestTimeout: 20s, kafkaTimeout: 2s}\n";
const GROUPS: &str = "penstock_ingest_spool_groups";

/// What clients were told: event id -> the header `Penstock-Durability`.
#[derive(Default)]
struct Told {
    acknowledged: Mutex<BTreeMap<String, String>>,
    refused: AtomicU64,
    /// Attempts that got no answer: a process was killed.
    unanswered: AtomicU64,
}

impl Told {
    /// New ids for every attempt: one that was not acknowledged may be stored or not. Paced: senders as fast as
    /// they can be take the machine from the broker that is to start beside them, and from all other tests.
    fn send(&self, client: &Client) {
        let ids: Vec<_> = (0..20).map(|_| Uuid::new_v4().to_string()).collect();
        match client.send(&batch(&ids)) {
            (200, told) => {
                let ids = ids.into_iter().map(|id| (id, told.clone()));
                self.acknowledged.lock().unwrap().extend(ids);
            }
            // 408: this machine was so busy that the request came too slowly.
            (503 | 408, _) => {
                self.refused.fetch_add(1, Relaxed);
            }
            (0, _) => {
                self.unanswered.fetch_add(1, Relaxed);
            }
            (status, _) => panic!("{status}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }

    fn count(&self, durability: &str) -> usize {
        let acknowledged = self.acknowledged.lock().unwrap();
        acknowledged.values().filter(|told| *told == durability).count()
    }

    /// Waits for so many more answers of this kind.
    fn wait_for_more(&self, durability: &str, events: usize) {
        let before = self.count(durability);
        wait_for(&format!("events answered `{durability}`"), || {
            self.count(durability) >= before + events
        });
    }
}

/// How long an outage lasts when there is time, beside what is waited for in it.
fn lasting() {
    if at_length() {
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// A topic of three partitions there, and an App without limits.
fn on<'a>(kit: &'a Turn, kafka: &SpareKafka<'_>) -> Setup<'a> {
    let setup = Setup::on(kit, kafka.bootstrap());
    setup.create_topics(3);
    setup.write_apps("");
    setup
}

/// Holds the promise against the topic; what is in it.
fn each_is_stored_once(setup: &Setup<'_>, acknowledged: &BTreeMap<String, String>) -> Stored {
    let stored = setup.stored();
    let distinct: BTreeSet<_> = stored.ids.iter().collect();
    assert_eq!(stored.ids.len(), distinct.len(), "an event is stored twice");
    let missing = acknowledged.keys().filter(|id| !distinct.contains(id)).count();
    assert_eq!(missing, 0, "acknowledged events are not stored");
    stored
}

/// Four senders, each to one of the clients.
fn under_load(clients: &[Client], scenario: impl FnOnce(&Told)) -> Result<Told> {
    let told = Told::default();
    let send = |number: usize| {
        told.send(&clients[number % clients.len()]);
        Ok(())
    };
    meanwhile(4, send, || {
        scenario(&told);
        Ok(())
    })?;
    Ok(told)
}

#[test]
fn what_was_acknowledged_survives_a_broker_that_is_killed() -> Result<()> {
    let (kit, kafka) = SpareKafka::turn()?;
    let kafka = kafka.start(&kit)?;
    let setup = on(&kit, &kafka);
    let pods = [setup.start(), setup.start()];
    pods.iter().for_each(Ingest::wait_ready);
    let clients = [pods[0].client(), pods[1].client()];
    let told = under_load(&clients, |told| {
        told.wait_for_more("", 2000);
        kafka.kill().unwrap();
        let killed = Instant::now();
        let refuses_at_once = |pod: &Ingest| {
            let before = Instant::now();
            let (status, _) = pod.send(&batch(&[Uuid::new_v4().to_string()]));
            status == 503 && before.elapsed() < Duration::from_secs(1)
        };
        let all_refuse_at_once = || pods.iter().all(refuses_at_once);
        wait_for("refusals at once", all_refuse_at_once);
        println!("refused at once {:?} after the kill", killed.elapsed());
        lasting();
        wait_for("refusals at once, however long it lasts", all_refuse_at_once);
        kafka.start().unwrap();
        let back = Instant::now();
        told.wait_for_more("", 2000);
        println!("2000 more {:?} after the start", back.elapsed());
    })?;
    assert_eq!(told.unanswered.into_inner(), 0, "ingest was there all the time");
    let acknowledged = told.acknowledged.into_inner().unwrap();
    println!(
        "{} acknowledged, {} attempts refused",
        acknowledged.len(),
        told.refused.into_inner()
    );
    each_is_stored_once(&setup, &acknowledged);
    Ok(())
}

/// Every partition has a leader, which takes nothing: a producer is told so and tries again, and nobody else is.
#[test]
fn too_few_copies_in_sync_are_an_outage() -> Result<()> {
    let kit = Turn::alone()?;
    let kafka = SpareKafka::three().start(&kit)?;
    let setup = Setup::on(&kit, kafka.bootstrap());
    setup.create_copied_topics(3, 3);
    setup.write_apps("");
    let disk = tempfile::tempdir().unwrap();
    let spool = format!("spool: {{dir: {}, maxBytes: 500MB}}", disk.path().display());
    let refusing = setup.start_with(IMPATIENT);
    let spooling = setup.start_with(&format!("{IMPATIENT}{spool}"));
    [&refusing, &spooling].into_iter().for_each(Ingest::wait_ready);
    let told = under_load(&[refusing.client(), spooling.client()], |told| {
        told.wait_for_more("", 1000);
        let broker = kafka.components().next().expect("there are brokers");
        kit.kill(broker).unwrap();
        let killed = Instant::now();
        told.wait_for_more("spooled", 1000);
        let answer = || {
            let before = Instant::now();
            let (status, _) = refusing.send(&batch(&[Uuid::new_v4().to_string()]));
            (status, before.elapsed())
        };
        let refuses_at_once = || {
            let (status, took) = answer();
            status == 503 && took < Duration::from_secs(1)
        };
        wait_for("refusals at once", || (0..20).all(|_| refuses_at_once()));
        println!("refused at once {:?} after the kill", killed.elapsed());
        kit.start(broker).unwrap();
        wait_for("events to be taken again", || answer().0 == 200);
        wait_for("the spool to be drained", || spooling.metric(GROUPS) == 0.0);
        told.wait_for_more("", 1000);
    })?;
    wait_for("the spool to be drained", || spooling.metric(GROUPS) == 0.0);
    each_is_stored_once(&setup, &told.acknowledged.into_inner().unwrap());
    Ok(())
}

#[test]
fn a_spool_bridges_outages_and_the_crashes_in_them() -> Result<()> {
    let stored = bridged(3, "")?;
    assert_eq!(stored.keyed, 0);
    Ok(())
}

#[test]
fn a_spool_bridges_outages_for_single_records_and_their_keys() -> Result<()> {
    let stored = bridged(1, "recordFormat: Single\nrecordKey: EventId\n")?;
    assert_eq!(
        (stored.records, stored.keyed),
        (stored.ids.len(), stored.ids.len())
    );
    Ok(())
}

/// A broker that dies, and one that stands still so often while ingest dies; what is in the topic then.
fn bridged(rounds: usize, format: &str) -> Result<Stored> {
    let (kit, kafka) = SpareKafka::turn()?;
    let kafka = kafka.start(&kit)?;
    let setup = on(&kit, &kafka);
    let disk = tempfile::tempdir().unwrap();
    let mut pod = setup.start_with(&format!(
        "{IMPATIENT}{format}spool: {{dir: {}, maxBytes: 500MB}}",
        disk.path().display()
    ));
    pod.wait_ready();
    let mut found = 0.0;
    let told = under_load(&[pod.client()], |told| {
        told.wait_for_more("", 1000);
        kafka.kill().unwrap();
        told.wait_for_more("spooled", 2000);
        lasting();
        kafka.start().unwrap();
        wait_for("the spool to be drained", || pod.metric(GROUPS) == 0.0);
        assert_eq!(told.refused.load(Relaxed), 0, "nobody noticed the outage");
        for _ in 0..rounds {
            told.wait_for_more("", 1000);
            // It has what was sent in its sockets, and works it off when it wakes.
            kafka.signal(Signal::SIGSTOP).unwrap();
            told.wait_for_more("spooled", 1000);
            pod.replace();
            told.wait_for_more("spooled", 1000);
            lasting();
            kafka.signal(Signal::SIGCONT).unwrap();
            wait_for("the spool to be drained", || pod.metric(GROUPS) == 0.0);
            found += pod.metric("penstock_ingest_drained_groups_total{outcome=\"already_stored\"}");
        }
    })?;
    wait_for("the spool to be drained", || pod.metric(GROUPS) == 0.0);
    let acknowledged = told.acknowledged.into_inner().unwrap();
    let stored = each_is_stored_once(&setup, &acknowledged);
    println!(
        "{} acknowledged, {} in the topic; {found} groups were found there",
        acknowledged.len(),
        stored.ids.len()
    );
    assert!(found > 0.0, "no group was in doubt: this has shown nothing");
    Ok(stored)
}

#[test]
fn without_kafka_events_go_into_the_table_once() -> Result<()> {
    let (kit, kafka) = SpareKafka::turn()?;
    let kafka = kafka.start(&kit)?;
    let setup = on(&kit, &kafka);
    let database = setup.topic.replace('-', "_");
    setup.kit.clickhouse(&format!("CREATE DATABASE {database}"))?;
    let table = EventTable {
        database: &database,
        table: "events",
        cluster: None,
        comment: "test",
        dedup_window: dedup_window(3),
    };
    setup.kit.clickhouse(&table.create_statement())?;
    let secrets = tempfile::tempdir().unwrap();
    let users = setup.kit.clickhouse_users()?;
    let file = |name: &str, content: &str| {
        let path = secrets.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (username, password) = (
        file("username", &users.consumer.user),
        file("password", &users.consumer.password),
    );
    let pod = setup.start_with(&format!(
        "{IMPATIENT}onKafkaOutage: Direct\nclickhouse: {{url: '{}', database: {database}, table: events, \
         usernameFile: {username}, passwordFile: {password}}}",
        setup.kit.clickhouse_url()
    ));
    pod.wait_ready();
    let told = under_load(&[pod.client()], |told| {
        told.wait_for_more("", 1000);
        kafka.kill().unwrap();
        told.wait_for_more("direct", 1000);
        lasting();
        told.wait_for_more("direct", 1000);
        kafka.start().unwrap();
        told.wait_for_more("", 1000);
    })?;
    let acknowledged = told.acknowledged.into_inner().unwrap();
    let rows = setup
        .kit
        .clickhouse(&format!("SELECT event_id FROM {database}.events FORMAT TSVRaw"))?;
    let in_table: Vec<&str> = rows.lines().collect();
    let direct: BTreeSet<&str> = in_table.iter().copied().collect();
    assert_eq!(in_table.len(), direct.len(), "a row is there twice");
    let in_topic: BTreeSet<String> = setup.stored().ids.into_iter().collect();
    for (id, told) in &acknowledged {
        let held = match told.as_str() {
            "direct" => direct.contains(id.as_str()),
            _ => in_topic.contains(id),
        };
        assert!(held, "{id} was answered `{told}`");
    }
    let both = direct.iter().filter(|id| in_topic.contains(**id)).count();
    assert_eq!(both, 0, "events are in the topic and in the table");
    println!("{} rows past Kafka", in_table.len());
    setup.kit.clickhouse(&format!("DROP DATABASE {database}"))?;
    Ok(())
}
