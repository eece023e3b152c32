//! Dead letters in their table: of both that write them, each once, and never in the way of an event.

use std::time::{Duration, Instant};

use penstock_dataplane_config::Duration as Retention;
use penstock_dataplane_config::letters::{LetterTable, letter_group};
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::consumer::Consumer;
use super::events;
use super::pipeline::Pipeline;
use crate::ingest::setup::Setup;

const PATIENCE: Duration = Duration::from_secs(120);
const SETTINGS: &str = "deadLetterTable: events_dead_letters\n";

fn create_table(pipeline: &Pipeline) {
    let statement = LetterTable {
        database: &pipeline.database,
        table: "events_dead_letters",
        cluster: None,
        comment: "test",
        retention: Retention::from_days(30),
    }
    .create_statement();
    pipeline.sql(&statement);
}

/// One answer about the table; `FINAL` is written out by those who mean it.
fn ask(pipeline: &Pipeline, what: &str) -> String {
    let question = what.replace("TABLE", &format!("{}.events_dead_letters", pipeline.database));
    pipeline.sql(&question).trim().to_owned()
}

/// Step, reason, origin and bytes of every letter, as a question with FINAL says.
fn letters(pipeline: &Pipeline) -> Vec<String> {
    let rows = ask(
        pipeline,
        "SELECT step, reason, if(src_topic = '', '', concat(src_topic, '/', toString(src_partition), '/', \
         toString(src_offset), '/', toString(src_row))), hex(value) FROM TABLE FINAL \
         ORDER BY step, src_offset, src_row, value FORMAT TSV",
    );
    rows.lines().map(str::to_owned).collect()
}

fn expect_letters(pipeline: &Pipeline, expected: &[(&str, &str, String, &[u8])]) {
    let mut expected: Vec<String> = expected
        .iter()
        .map(|(step, reason, origin, value)| {
            let hex: String = value.iter().map(|byte| format!("{byte:02X}")).collect();
            format!("{step}\t{reason}\t{origin}\t{hex}")
        })
        .collect();
    expected.sort();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut found = letters(pipeline);
        found.sort();
        if found == expected {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{found:#?} and not {expected:#?}; logs in {}",
            pipeline.keep().display()
        );
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// Has every letter read again. The group must have forgotten its dead first.
fn read_again(pipeline: &Pipeline) {
    let group = pipeline.reader_in(&letter_group(&format!("penstock.test.{}", pipeline.topic)));
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&pipeline.letters_topic(), 0, Offset::Offset(0))
        .expect("a list");
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = group.commit(&list, CommitMode::Sync) {
        assert!(Instant::now() < deadline, "cannot set the offset back: {error}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn letters_of_ingest_and_of_consumers_are_stored_once_whatever_dies() {
    let pipeline = Pipeline::new("letters", 1);
    create_table(&pipeline);
    // Merges would hide whether a question without FINAL sees a letter twice.
    ask(&pipeline, "SYSTEM STOP MERGES TABLE");
    let mut setup = Setup::new(&pipeline.kit).expect("Kafka runs");
    setup.topic.clone_from(&pipeline.topic);
    setup.write_apps("");
    let ingest = setup.start();
    ingest.wait_ready();
    let too_old = |user: &str| format!(r#"{{"event_type":"a","timestamp":1,"user_id":"{user}"}}"#);
    let consumer = Consumer::start_at(&pipeline, &pipeline.kit.clickhouse_url(), SETTINGS);

    let raw = b"\x00\xff not UTF-8\t\\";
    pipeline.produce(0, raw);
    pipeline.flush();
    let old = too_old("u-1");
    ingest.send(&format!("[{old}]"));
    let origin = |offset, row| format!("{}/0/{offset}/{row}", pipeline.topic);
    let first: [(&str, &str, String, &[u8]); 2] = [
        ("consume", "Malformed", origin(0, 0), raw),
        ("ingest", "TooOld", String::new(), old.as_bytes()),
    ];
    expect_letters(&pipeline, &first);
    let filled = "SELECT count() FROM TABLE FINAL WHERE app_id != toUUID('00000000-0000-0000-0000-000000000000') \
         AND step = 'ingest' AND src_group != '' AND detail LIKE '%older than%' AND failed_at > now() - 3600 FORMAT TSV";
    assert_eq!(ask(&pipeline, filled), "1");

    // It dies, and the next one begins at the first letter again, as one that dies between INSERT and commit does.
    consumer.kill();
    let line = events::line(pipeline.run, 0, "u-2");
    let cut = &line.as_bytes()[..line.len() / 2];
    pipeline.produce(0, &[line.as_bytes(), cut].concat());
    pipeline.flush();
    let older = too_old("u-3");
    ingest.send(&format!("[{older}]"));
    read_again(&pipeline);
    let mut consumer = Consumer::start_at(&pipeline, &pipeline.kit.clickhouse_url(), SETTINGS);
    expect_letters(
        &pipeline,
        &[
            &first[..],
            &[
                ("consume", "Malformed", origin(1, 1), cut),
                ("ingest", "TooOld", String::new(), older.as_bytes()),
            ],
        ]
        .concat(),
    );
    consumer.wait_for("all letters to be stored", PATIENCE, |c| {
        c.metric("penstock_consume_dead_letters_stored_total", "") >= 4.0
    });
    assert!(
        ask(&pipeline, "SELECT count() FROM TABLE FORMAT TSV")
            .parse::<u64>()
            .expect("a number")
            >= 6,
        "they were stored twice, and are one row each all the same"
    );
    pipeline.expect_rows(1, PATIENCE);
    assert_eq!(
        consumer.metric("penstock_consume_dead_letter_table_failures_total", ""),
        0.0
    );
    consumer.stop();
}

#[test]
fn a_missing_table_of_dead_letters_is_counted_and_holds_no_event() {
    let pipeline = Pipeline::new("unlettered", 1);
    pipeline.produce(0, b"no line");
    pipeline.produce_events(0, 100, 10);
    pipeline.flush();
    let mut consumer = Consumer::start_at(&pipeline, &pipeline.kit.clickhouse_url(), SETTINGS);
    consumer.wait_for("failures to store letters", PATIENCE, |c| {
        c.metric("penstock_consume_dead_letter_table_failures_total", "") >= 2.0
    });
    pipeline.produce_events(100, 100, 10);
    pipeline.flush();
    pipeline.expect_rows(200, PATIENCE);
    assert!(
        consumer
            .log()
            .contains("dead letters are not stored in their table")
    );
    assert_eq!(
        consumer.metric("penstock_consume_dead_letters_stored_total", ""),
        0.0
    );
    // What failed before is stored once the table is there.
    create_table(&pipeline);
    let origin = format!("{}/0/0/0", pipeline.topic);
    expect_letters(&pipeline, &[("consume", "Malformed", origin, b"no line")]);
}
