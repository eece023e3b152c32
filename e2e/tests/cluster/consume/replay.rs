//! Dead letters that are sent again, by processes that are killed and by several at once: each line is stored once.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::consumer::Consumer;
use super::events;
use super::pipeline::Pipeline;

const PATIENCE: Duration = Duration::from_secs(120);
/// Six transactions.
const LETTERS: u64 = 3000;

/// Letters of lines that could be stored by now, as consumers write them. Some are there twice.
fn write_letters(pipeline: &Pipeline) {
    let producer: BaseProducer = ClientConfig::new()
        .set(
            "bootstrap.servers",
            pipeline.kit.kafka_bootstrap().expect("Kafka runs"),
        )
        .create()
        .expect("a producer");
    for number in 0..LETTERS {
        let line = events::line(pipeline.run, number, "u");
        let origin = format!("{}/0/{number}/0", pipeline.topic);
        for _ in 0..if number % 100 == 0 { 2 } else { 1 } {
            let mut headers = OwnedHeaders::new();
            for (key, value) in [
                ("penstock-reason", "Refused"),
                ("penstock-step", "consume"),
                ("penstock-detail", "a constraint is violated"),
                ("penstock-origin", &origin),
            ] {
                headers = headers.insert(Header {
                    key,
                    value: Some(value),
                });
            }
            let topic = pipeline.letters_topic();
            let record = BaseRecord::<(), [u8]>::to(&topic).payload(line.trim_end().as_bytes());
            producer.send(record.headers(headers)).expect("queued");
        }
    }
    producer.flush(PATIENCE).expect("letters are written");
}

/// `penstock dlq replay`, without a cluster to ask.
fn replay(pipeline: &Pipeline) -> Command {
    let mut command = Command::new(pipeline.kit.program("penstock"));
    command
        .args(["dlq", "replay", "any", "-o", "json", "--topic", &pipeline.topic])
        .args(["--kafka", &pipeline.kit.kafka_bootstrap().expect("Kafka runs")])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs one to its end; how many letters it replayed, and how many were replayed before.
fn whole(pipeline: &Pipeline) -> (u64, u64) {
    let output = replay(pipeline).output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).expect("an outcome");
    let number = |name: &str| outcome[name].as_u64().expect("a number");
    (number("replayed"), number("replayedBefore"))
}

#[test]
fn letters_are_replayed_once_whoever_is_killed_or_runs_at_once() {
    let pipeline = Pipeline::new("replay", 2);
    pipeline.produce_events(LETTERS, 10, 1);
    pipeline.flush();
    write_letters(&pipeline);
    let _consumer = Consumer::start(&pipeline);
    let begun = Instant::now();
    let first = {
        // How long one takes until it has sent something tells when to kill the others.
        let mut child = replay(&pipeline).spawn().expect("it starts");
        while pipeline.counts().0 < 11 && matches!(child.try_wait(), Ok(None)) {
            assert!(begun.elapsed() < PATIENCE, "no letter was stored");
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        begun.elapsed()
    };
    println!("the first replay was killed after {first:?}");
    for round in 0..6_u32 {
        let mut two: Vec<Child> = (0..2)
            .map(|_| replay(&pipeline).spawn().expect("it starts"))
            .collect();
        std::thread::sleep(first / 8 * (round + 1));
        for child in &mut two {
            let ended = child.try_wait().expect("asked");
            println!("round {round}: {ended:?}");
            let _ = child.kill();
            let _ = child.wait();
        }
    }
    let (replayed, before) = whole(&pipeline);
    println!("the last replay sent {replayed} letters; {before} had been sent before");
    assert_eq!(whole(&pipeline).0, 0, "all were replayed");
    pipeline.expect_rows(LETTERS + 10, PATIENCE);
    // Marks of transactions hold up nothing that comes behind them.
    pipeline.produce_events(LETTERS + 10, 10, 1);
    pipeline.flush();
    pipeline.expect_rows(LETTERS + 20, PATIENCE);
}
