//! The role `drain`: a spool whose process is gone, brought to Kafka. Its end says whether the disk may be deleted.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::harness::{Ingest, LETTERS, TOPIC, apps, free_port, wait_for};

const EVENT: &str = r#"{"event_type":"a"}"#;

/// A process in the role.
struct Drain {
    child: Child,
    directory: TempDir,
}

impl Drain {
    fn start(bootstrap: &str, topic: &str, disk: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "version: 1\npipeline: {{namespace: growth, name: events}}\nadmin: 127.0.0.1:{}\nkafkaTimeout: 1s\n\
             kafka: {{bootstrap: '{bootstrap}', topic: {topic}, deadLetterTopic: {LETTERS}}}\ndir: {}\n",
            free_port(),
            disk.display()
        );
        let file = directory.path().join("config.yaml");
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(directory.path().join("log.json")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_penstock-dataplane"))
            .args(["drain", "--config"])
            .arg(file)
            .env_clear()
            .stdout(log)
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log.json")).unwrap()
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn ended(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "still running after {within:?}:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kafka away, a process that has spooled events and was killed, and how many of them there are.
fn left_behind() -> (Ingest, TempDir, usize) {
    let disk = tempfile::tempdir().unwrap();
    let settings = format!(
        "limits: {{requestTimeout: 4s, kafkaTimeout: 1s}}\nspool: {{dir: {}, maxBytes: 16MB}}",
        disk.path().display()
    );
    let mut ingest = Ingest::start_with(&settings, &apps(""));
    ingest.kafka.down();
    wait_for("20 spooled events", || {
        let reply = ingest.write("/v1/events", EVENT);
        assert_eq!(reply.status, 200, "{reply:?}");
        ingest.metric("penstock_ingest_spool_groups") >= 20.0
    });
    let spooled = ingest.metric("penstock_ingest_spool_groups") as usize;
    ingest.kill();
    (ingest, disk, spooled)
}

fn segments(disk: &Path) -> usize {
    std::fs::read_dir(disk)
        .unwrap()
        .filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            path.extension().is_some_and(|ending| ending == "spool")
        })
        .count()
}

#[test]
fn it_waits_for_kafka_and_ends_well_when_nothing_is_left() {
    let (ingest, disk, spooled) = left_behind();
    let mut drain = Drain::start(&ingest.kafka.bootstrap_servers(), TOPIC, disk.path());
    wait_for("the start", || drain.log().contains("draining a spool"));
    std::thread::sleep(Duration::from_secs(2));
    assert!(drain.runs(), "Kafka is away: {}", drain.log());
    ingest.kafka.up();
    assert!(drain.ended(Duration::from_secs(30)).success(), "{}", drain.log());
    assert!(drain.log().contains("the spool is empty"));
    assert_eq!(segments(disk.path()), 0);
    // Each group once; the reader checks their names.
    assert!(ingest.stored(spooled).len() >= spooled);
}

#[test]
fn told_to_stop_before_the_end_it_fails_and_leaves_the_rest() {
    let (ingest, disk, spooled) = left_behind();
    let mut drain = Drain::start(&ingest.kafka.bootstrap_servers(), TOPIC, disk.path());
    wait_for("the start", || drain.log().contains("draining a spool"));
    let told = Command::new("kill")
        .args(["-s", "TERM", &drain.child.id().to_string()])
        .status();
    assert!(told.unwrap().success());
    assert!(!drain.ended(Duration::from_secs(30)).success());
    assert!(
        drain.log().contains("groups are left in the spool"),
        "{}",
        drain.log()
    );

    ingest.kafka.up();
    let mut again = Drain::start(&ingest.kafka.bootstrap_servers(), TOPIC, disk.path());
    assert!(again.ended(Duration::from_secs(30)).success(), "{}", again.log());
    assert!(ingest.stored(spooled).len() >= spooled);
}

#[test]
fn what_is_for_another_topic_is_left_alone() {
    let (ingest, disk, _) = left_behind();
    ingest.kafka.up();
    let mut drain = Drain::start(&ingest.kafka.bootstrap_servers(), "other", disk.path());
    assert!(!drain.ended(Duration::from_secs(10)).success());
    assert!(drain.log().contains("holds records for topic"), "{}", drain.log());
    assert!(segments(disk.path()) > 0);
}

#[test]
fn an_empty_spool_needs_no_kafka() {
    let disk = tempfile::tempdir().unwrap();
    let mut drain = Drain::start("127.0.0.1:1", TOPIC, disk.path());
    assert!(drain.ended(Duration::from_secs(10)).success(), "{}", drain.log());
}
