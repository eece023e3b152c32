//! The spool: Kafka away, disks full, processes killed. What was acknowledged is in the topic afterwards, once, by its
//! event ids and by the groups' names.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::Value;
use tempfile::TempDir;

use super::broker::Broker;
use super::harness::{Client, Ingest, LETTERS, Reply, TOPIC, apps, binary};

const IMPATIENT: &str = "limits: {requestTimeout: 4s, kafkaTimeout: 1s}";
const EVENT: &str = r#"{"event_type":"a"}"#;
const GROUPS: &str = "penstock_ingest_spool_groups";

fn settings(disk: &Path, more: &str) -> String {
    format!(
        "{IMPATIENT}\nspool: {{dir: {}, maxBytes: 16MB}}\n{more}",
        disk.display()
    )
}

fn cluster() -> Broker {
    let kafka = Broker::new();
    kafka.create_topic(TOPIC, 3, 1).unwrap();
    kafka.create_topic(LETTERS, 1, 1).unwrap();
    kafka
}

/// Ready, with a spool on a disk of its own.
fn start(more: &str) -> (Ingest, TempDir) {
    let disk = tempfile::tempdir().unwrap();
    let ingest = Ingest::start_with(&settings(disk.path(), more), &apps(""));
    (ingest, disk)
}

fn durability(reply: &Reply) -> &str {
    reply
        .headers
        .get("penstock-durability")
        .map_or("", String::as_str)
}

fn drained(ingest: &Ingest, outcome: &str) -> f64 {
    ingest.metric(&format!(
        r#"penstock_ingest_drained_groups_total{{outcome="{outcome}"}}"#
    ))
}

/// What clients were told: event id -> the header `Penstock-Durability`.
#[derive(Debug, Default)]
struct Told {
    stop: AtomicBool,
    acknowledged: Mutex<BTreeMap<String, String>>,
    refused: Mutex<Vec<u16>>,
}

impl Told {
    /// Sends until it is stopped, or the process is gone.
    fn send(&self, client: Client) {
        while !self.stop.load(Relaxed) {
            let id = uuid::Uuid::new_v4().to_string();
            match client.try_write(&format!(r#"{{"event_type":"a","event_id":"{id}"}}"#)) {
                Ok(reply) if reply.status < 300 => {
                    let durability = durability(&reply).to_owned();
                    self.acknowledged.lock().unwrap().insert(id, durability);
                }
                Ok(reply) => {
                    self.refused.lock().unwrap().push(reply.status);
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn count(&self, durability: &str) -> usize {
        let acknowledged = self.acknowledged.lock().unwrap();
        acknowledged.values().filter(|told| *told == durability).count()
    }

    /// Everything acknowledged is in the topic, and nothing is there twice.
    fn check(&self, ingest: &Ingest) {
        let acknowledged = self.acknowledged.lock().unwrap();
        let mut stored: BTreeMap<String, usize> = BTreeMap::new();
        for event in ingest.stored(acknowledged.len()) {
            *stored
                .entry(event["event_id"].as_str().unwrap().to_owned())
                .or_default() += 1;
        }
        let twice: Vec<_> = stored.iter().filter(|(_, count)| **count > 1).collect();
        assert!(
            twice.is_empty(),
            "{} events are there twice: {twice:?}",
            twice.len()
        );
        let missing: Vec<_> = acknowledged
            .iter()
            .filter(|(id, _)| !stored.contains_key(*id))
            .collect();
        assert!(
            missing.is_empty(),
            "{} acknowledged events are not stored: {missing:?}",
            missing.len()
        );
    }
}

/// Runs `scenario` while four clients send.
fn under_load(client: Client, scenario: impl FnOnce(&Told)) -> Told {
    let told = Told::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| told.send(client));
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(&told)));
        told.stop.store(true, Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    told
}

#[test]
fn while_kafka_is_away_events_are_spooled_and_stored_once_when_it_is_back() {
    let (ingest, _disk) = start("");
    let told = under_load(*ingest, |told| {
        ingest.wait_for("events to be stored", || told.count("") > 50);
        ingest.kafka.down();
        ingest.wait_for("events to be spooled", || told.count("spooled") > 200);
        let readyz = ingest.readyz();
        assert_eq!(
            (readyz.status, &readyz.body["status"]),
            (200, &Value::from("degraded"))
        );
        assert!(ingest.metric(GROUPS) > 1.0 && ingest.metric("penstock_ingest_spool_bytes") > 1000.0);
        ingest.wait_for("the oldest group to have an age", || {
            ingest.metric("penstock_ingest_spool_oldest_seconds") >= 1.0
        });
        ingest.kafka.up();
        ingest.wait_for("the spool to be drained", || ingest.metric(GROUPS) == 0.0);
        let before = told.count("");
        ingest.wait_for("events to be stored again", || told.count("") > before + 50);
    });
    // Other work may keep a disk for seconds, which is an outage of its own.
    if !ingest
        .log()
        .contains(r#""message":"dependency lost","dependency":"spool""#)
    {
        assert_eq!(
            *told.refused.lock().unwrap(),
            Vec::<u16>::new(),
            "the outage was not noticed by any client"
        );
    }
    told.check(&ingest);
    assert!(drained(&ingest, "stored") > 1.0);
    assert_eq!(ingest.metric("penstock_ingest_spool_oldest_seconds"), 0.0);
    let log = ingest.log();
    assert!(log.contains("spooling begins") && log.contains("spooling ends"));
}

#[test]
fn killed_again_and_again_while_spooling_it_loses_and_repeats_nothing() {
    let (mut ingest, _disk) = start("");
    let client = *ingest;
    let told = under_load(client, |told| {
        ingest.wait_for("events to be stored", || told.count("") > 50);
        ingest.kafka.down();
        for round in 1..4 {
            let before = told.count("spooled");
            ingest.wait_for("events to be spooled", || told.count("spooled") > before + 50);
            if round == 3 {
                ingest.kafka.up();
                ingest.wait_for("the drain to begin", || drained(&ingest, "stored") > 0.0);
            }
            ingest.kill();
            ingest.start_again();
            if round < 3 {
                ingest.wait_for("readiness without Kafka", || ingest.readyz().status == 200);
            }
        }
        ingest.wait_for("the spool to be drained", || {
            ingest.readyz().status == 200 && ingest.metric(GROUPS) == 0.0
        });
    });
    told.check(&ingest);
}

/// The broker stores what it gets, and does not answer.
fn with_a_group_that_kafka_may_hold() -> (Ingest, TempDir) {
    let (ingest, disk) = start("shards: 1");
    assert_eq!(ingest.write("/v1/events", EVENT).status, 200);
    ingest
        .kafka
        .broker_round_trip_time(1, Duration::from_secs(20))
        .unwrap();
    let reply = ingest.write("/v1/events", r#"{"event_type":"slow"}"#);
    assert_eq!((reply.status, durability(&reply)), (200, "spooled"), "{reply:?}");
    assert_eq!(ingest.metric(GROUPS), 1.0);
    (ingest, disk)
}

#[test]
fn a_late_acknowledgement_deletes_what_was_spooled() {
    let (ingest, _disk) = start("shards: 1");
    assert_eq!(ingest.write("/v1/events", EVENT).status, 200);
    // Gone, but for a moment nobody knows: the producer gets the group.
    ingest.kafka.down();
    let before = Instant::now();
    let reply = ingest.write("/v1/events", EVENT);
    assert_eq!((reply.status, durability(&reply)), (200, "spooled"));
    let waited = before.elapsed();
    assert!(
        waited > Duration::from_millis(900),
        "it never was the producer's: {waited:?}"
    );
    ingest.kafka.up();
    ingest.wait_for("the acknowledgement", || ingest.metric(GROUPS) == 0.0);
    assert_eq!(ingest.stored(2).len(), 2);
    assert_eq!(
        (drained(&ingest, "stored"), drained(&ingest, "already_stored")),
        (0.0, 0.0)
    );
}

#[test]
fn after_a_crash_a_group_that_kafka_holds_is_found_there_and_not_stored_again() {
    let (mut ingest, _disk) = with_a_group_that_kafka_may_hold();
    ingest.kill();
    ingest.kafka.broker_round_trip_time(1, Duration::ZERO).unwrap();
    ingest.start_again();
    ingest.wait_for("the look into the topic", || {
        ingest.readyz().status == 200 && drained(&ingest, "already_stored") == 1.0
    });
    assert_eq!(ingest.metric(GROUPS), 0.0);
    assert_eq!(ingest.stored(2).len(), 2);
}

#[test]
fn what_the_broker_did_not_take_is_spooled_looked_for_and_stored() {
    let (ingest, _disk) = start("shards: 1");
    ingest.kafka.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED],
    );
    let reply = ingest.write("/v1/events", EVENT);
    assert_eq!((reply.status, durability(&reply)), (200, "spooled"));
    ingest.wait_for("the drain", || drained(&ingest, "stored") == 1.0);
    assert_eq!(ingest.stored(1).len(), 1);
}

#[test]
fn dead_letters_are_spooled_as_events_are() {
    let (mut ingest, _disk) = start("");
    let batch =
        r#"{"batch":[{"type":"track","event":"a","messageId":"m-1"},{"type":"nonsense","messageId":"m-2"}]}"#;
    let send = |ingest: &Ingest| ingest.write("/segment/v1/batch", batch);
    assert_eq!(send(&ingest).status, 200);
    ingest.kafka.down();
    ingest.wait_for("spooling", || durability(&send(&ingest)) == "spooled");
    let sent = ingest.metric(GROUPS);
    assert!(sent >= 2.0);
    ingest.kill();
    ingest.start_again();
    ingest.kafka.up();
    ingest.wait_for("the drain", || {
        ingest.readyz().status == 200 && ingest.metric(GROUPS) == 0.0
    });
    let letters = ingest.letters(2);
    let (value, headers) = letters.last().unwrap();
    assert!(value.contains("m-2"), "{value}");
    assert_eq!(
        (
            headers["penstock-reason"].as_str(),
            headers["penstock-step"].as_str()
        ),
        ("Malformed", "ingest")
    );
    let names: std::collections::BTreeSet<_> = letters
        .iter()
        .map(|(_, headers)| &headers["penstock-group"])
        .collect();
    assert_eq!(names.len(), letters.len());
}

/// More dead letters than Kafka is given at once.
fn many_letters() -> (String, usize) {
    let nonsense = format!(r#"{{"type":"nonsense","x":"{}"}}"#, "y".repeat(20_000));
    (
        format!(r#"{{"batch":[{}]}}"#, [nonsense.as_str(); 15].join(",")),
        15,
    )
}

const SMALL: &str =
    "shards: 1\nlimits: {body: 1MB, event: 200kB, memory: 8MB, requestTimeout: 4s, kafkaTimeout: 1s}\n";

/// The partition of the dead letters has no leader; those of the events have.
#[test]
fn dead_letters_that_kafka_does_not_take_leave_events_their_room() {
    let disk = tempfile::tempdir().unwrap();
    let spool = format!("spool: {{dir: {}, maxBytes: 32MB}}", disk.path().display());
    let ingest = Ingest::start_with(&format!("{SMALL}{spool}"), &apps(""));
    // Before anything was produced there: the mock ends the process where it has to name a leader that is no more.
    ingest.kafka.partition_leader(LETTERS, 0, None).unwrap();
    let (batch, letters) = many_letters();
    for round in 0..20 {
        let reply = ingest.write("/segment/v1/batch", &batch);
        assert_eq!((reply.status, durability(&reply)), (200, "spooled"), "{round}");
    }
    let held = ingest.metric("penstock_ingest_memory_used_bytes");
    assert!(held < 4e6, "{held} of 8 MB are held by letters");
    let reply = ingest.write("/v1/events", EVENT);
    assert_eq!((reply.status, durability(&reply)), (200, ""));
    ingest.kafka.partition_leader(LETTERS, 0, Some(1)).unwrap();
    ingest.wait_for("the drain", || ingest.metric(GROUPS) == 0.0);
    assert_eq!(ingest.letters(20 * letters).len(), 20 * letters);
}

#[test]
fn without_a_spool_more_dead_letters_than_that_are_refused_and_events_are_not() {
    let patient = SMALL.replace(
        "requestTimeout: 4s, kafkaTimeout: 1s",
        "requestTimeout: 12s, kafkaTimeout: 9s",
    );
    let ingest = Ingest::start_with(&patient, &apps(""));
    ingest.kafka.partition_leader(LETTERS, 0, None).unwrap();
    let (batch, _) = many_letters();
    let client = *ingest;
    let timed = || {
        let began = Instant::now();
        (client.write("/segment/v1/batch", &batch).status, began.elapsed())
    };
    std::thread::scope(|scope| {
        let requests = [1.0, 2.0, 3.0, 4.0].map(|number| {
            let request = scope.spawn(timed);
            // Letters take twice their bytes, and bodies more, as long as they are read.
            let taken = number * 2.0 * batch.len() as f64;
            ingest.wait_for("letters on their way", || {
                let used = ingest.metric("penstock_ingest_memory_used_bytes");
                (taken * 0.99..taken * 1.01).contains(&used)
            });
            request
        });
        let (status, after) = timed();
        assert!(
            status == 503 && after < Duration::from_secs(2),
            "{status} after {after:?}"
        );
        assert_eq!(ingest.write("/v1/events", EVENT).status, 200);
        for request in requests {
            let (status, after) = request.join().unwrap();
            assert!(
                status == 503 && after > Duration::from_secs(2),
                "{status} after {after:?}"
            );
        }
    });
    ingest.kafka.partition_leader(LETTERS, 0, Some(1)).unwrap();
    ingest.wait_for("letters to be taken", || {
        ingest.write("/segment/v1/batch", &batch).status == 200
    });
}

#[test]
fn with_durability_spooled_every_event_goes_by_the_disk() {
    let (mut ingest, _disk) = start("durability: Spooled");
    let client = *ingest;
    let told = under_load(client, |told| {
        ingest.wait_for("events to be spooled", || told.count("spooled") > 200);
        ingest.kill();
        ingest.start_again();
        ingest.wait_for("readiness", || ingest.readyz().status == 200);
        let before = told.count("spooled");
        ingest.wait_for("events to be spooled again", || {
            told.count("spooled") > before + 200
        });
    });
    assert_eq!(told.count(""), 0);
    ingest.wait_for("the drain", || ingest.metric(GROUPS) == 0.0);
    told.check(&ingest);
    assert!(!ingest.log().contains("spooling begins"), "that is no outage");
    ingest.signal("TERM");
    assert!(ingest.ended(Duration::from_secs(20)).success());
}

#[test]
fn with_durability_memory_the_answer_says_so_and_a_stop_loses_nothing() {
    let mut ingest = Ingest::start_with("durability: Memory", &apps(""));
    for _ in 0..200 {
        let reply = ingest.write("/v1/events", EVENT);
        assert_eq!((reply.status, durability(&reply)), (202, "memory"));
    }
    let reply = ingest.write("/segment/v1/track", r#"{"event":"a","userId":"u"}"#);
    assert_eq!(
        (reply.status, durability(&reply)),
        (200, "memory"),
        "Segment's SDKs know no 202"
    );
    ingest.signal("TERM");
    assert!(ingest.ended(Duration::from_secs(20)).success());
    assert_eq!(ingest.stored(201).len(), 201);
}

#[test]
fn a_stopping_process_drains_its_spool() {
    let (mut ingest, disk) = start("");
    ingest.kafka.down();
    let mut sent = 0;
    ingest.wait_for("spooling", || {
        durability(&ingest.write("/v1/events", EVENT)) == "spooled"
    });
    while sent < 20 {
        assert_eq!(ingest.write("/v1/events", EVENT).status, 200);
        sent += 1;
    }
    ingest.kafka.up();
    ingest.wait_for("Kafka to be found", || ingest.readyz().body["status"] == "ready");
    ingest.signal("TERM");
    assert!(ingest.ended(Duration::from_secs(30)).success());
    assert!(ingest.stored(21).len() >= 21);
    assert_eq!(segments(disk.path()).len(), 0, "nothing is left behind");
}

fn segments(disk: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(disk)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|ending| ending == "spool"))
        .collect()
}

#[test]
fn a_torn_tail_is_cut_and_told_and_the_rest_is_drained() {
    let (mut ingest, disk) = start("");
    let told = under_load(*ingest, |told| {
        ingest.kafka.down();
        ingest.wait_for("events to be spooled", || told.count("spooled") > 100);
    });
    ingest.kill();
    let last = segments(disk.path()).into_iter().max().unwrap();
    let mut bytes = std::fs::read(&last).unwrap();
    // The first half of a frame that looks like the others.
    bytes.extend_from_within(16..60);
    std::fs::write(&last, bytes).unwrap();
    ingest.kafka.up();
    ingest.start_again();
    ingest.wait_for("the drain", || {
        ingest.readyz().status == 200 && ingest.metric(GROUPS) == 0.0
    });
    assert!(ingest.log().contains("torn end"));
    told.check(&ingest);
}

#[test]
fn two_processes_never_share_a_spool() {
    let (ingest, disk) = start("");
    let mut second = Ingest::start_on(cluster(), &settings(disk.path(), ""), &apps(""));
    assert!(!second.ended(Duration::from_secs(10)).success());
    assert!(
        second.log().contains("another process has the spool"),
        "{}",
        second.log()
    );
    assert_eq!(ingest.write("/v1/events", EVENT).status, 200);
}

/// Fills what keeps events; the events that were acknowledged.
fn fill(ingest: &Ingest) -> usize {
    ingest.kafka.down();
    let large = format!(
        r#"{{"event_type":"a","event_data":{{"x":"{}"}}}}"#,
        "y".repeat(200_000)
    );
    let mut acknowledged = 0;
    let refused = loop {
        let reply = ingest.write("/v1/events", &large);
        if reply.status != 200 {
            break reply;
        }
        acknowledged += 1;
    };
    assert_eq!(
        (refused.status, refused.body["code"].as_str()),
        (503, Some("not_stored")),
        "{refused:?}"
    );
    assert_eq!(refused.headers["retry-after"], "1");
    acknowledged
}

fn empties_and_works_again(ingest: &Ingest, acknowledged: usize) {
    ingest.kafka.up();
    ingest.wait_for("the drain", || ingest.metric(GROUPS) == 0.0);
    ingest.wait_for("readiness", || ingest.readyz().status == 200);
    assert_eq!(ingest.write("/v1/events", EVENT).status, 200);
    let stored = ingest.stored(acknowledged + 1).len();
    assert!(stored > acknowledged, "{stored} of {acknowledged}");
}

#[test]
fn a_full_spool_refuses_and_says_so_until_it_is_drained() {
    let (ingest, _disk) = start("");
    let acknowledged = fill(&ingest);
    assert!(acknowledged > 60, "{acknowledged}");
    ingest.wait_for("readiness to go", || ingest.readyz().status == 503);
    let limit = ingest.metric("penstock_ingest_spool_limit_bytes");
    assert!(ingest.metric("penstock_ingest_spool_disk_bytes") <= limit);
    empties_and_works_again(&ingest, acknowledged);
}

#[test]
fn a_full_disk_refuses_and_hurts_nothing_else() {
    let disk = tempfile::tempdir().unwrap();
    // A disk of 4 MB under a spool that may have 16; only this process sees it.
    let inner = binary();
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs -o size=4m tmpfs \"$0\" && exec \"$@\"";
    command
        .args(["--mount", "--map-root-user", "sh", "-c", script])
        .arg(disk.path());
    command
        .arg(inner.get_program())
        .args(inner.get_args())
        .env("RUST_LOG", "debug");
    let ingest = Ingest::start_as(command, cluster(), &settings(disk.path(), ""), &apps(""));
    ingest.wait_for("readiness", || ingest.readyz().status == 200);
    let acknowledged = fill(&ingest);
    assert!((10..22).contains(&acknowledged), "{acknowledged}");
    let refused = r#"penstock_ingest_spooled_groups_total{outcome="refused"}"#;
    assert!(ingest.metric(refused) >= 1.0);
    assert_eq!(ingest.request("GET", "/health", &[], b"").status, 200);
    assert!(ingest.log().contains("No space left"), "the cause is told");
    assert_eq!(ingest.metric("penstock_panics_total"), 0.0);
    empties_and_works_again(&ingest, acknowledged);
}

/// In place of libc's: hangs as long as there is a file of this name.
const HANGING_SYNC: &str = r"
#include <unistd.h>
#include <sys/syscall.h>
int fdatasync(int file) {
    while (access(HANGS, F_OK) == 0) usleep(10000);
    return syscall(SYS_fdatasync, file);
}
";

#[test]
fn a_disk_that_hangs_holds_nobody_up_for_longer_than_a_request_may_take() {
    let disk = tempfile::tempdir().unwrap();
    let [source, library, hangs] = ["sync.c", "sync.so", "hangs"].map(|name| disk.path().join(name));
    std::fs::write(&source, HANGING_SYNC).unwrap();
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", &format!("-DHANGS=\"{}\"", hangs.display())])
        .args(["-o".as_ref(), library.as_os_str(), source.as_os_str()])
        .status();
    assert!(made.unwrap().success());
    let mut command = binary();
    command.env("LD_PRELOAD", &library);
    let settings = settings(&disk.path().join("spool"), "durability: Spooled\nshards: 1");
    let ingest = Ingest::start_as(command, cluster(), &settings, &apps(""));
    ingest.wait_for("readiness", || ingest.readyz().status == 200);
    assert_eq!(ingest.write("/v1/events", EVENT).status, 200);

    std::fs::write(&hangs, "").unwrap();
    let client = *ingest;
    let timed = || {
        let began = Instant::now();
        let reply = client.write("/v1/events", EVENT);
        assert_eq!((reply.status, reply.headers["retry-after"].as_str()), (503, "1"));
        began.elapsed()
    };
    std::thread::scope(|scope| {
        // The first two are groups on their way to the disk, the others gather.
        let requests = [(); 5].map(|()| {
            std::thread::sleep(Duration::from_millis(200));
            scope.spawn(timed)
        });
        for request in requests {
            let after = request.join().unwrap();
            assert!(after < Duration::from_secs(5), "{after:?}");
        }
    });
    ingest.wait_for("readiness to go", || ingest.readyz().status == 503);
    let after = timed();
    assert!(after < Duration::from_millis(500), "{after:?}");

    std::fs::remove_file(&hangs).unwrap();
    ingest.wait_for("readiness", || ingest.readyz().status == 200);
    assert_eq!(ingest.write("/v1/events", EVENT).status, 200);
    assert!(ingest.stored(2).len() >= 2);
}
