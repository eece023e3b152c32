//! What is in the topic is not always what it should be.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use penstock_dataplane::consume::native::RowId;
use penstock_dataplane::consume::position::Position;
use penstock_dataplane::consume::target::{SUM, Sum};

use super::consumer::Consumer;
use super::events;
use super::pipeline::Pipeline;
use super::proxy::Proxy;

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn rows_keep_what_was_sent() {
    let pipeline = Pipeline::new("fields", 1);
    let id = "0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f";
    let line = format!(
        r#"{{"v":1,"app_id":"{}","event_id":"{id}","received_at":1763730000123,"timestamp":1763730000000,"client_timestamp":-5,"ip":"2001:db8::1","user_agent":"tab\there \"quoted\" \ud83d\ude00","library":"l/1","source":"native","event_type":"purchase","user_id":"ünïcode","session_id":"","platform":"ios","os_version":"17","app_version":"1.0","attribution":{{"c":"ä"}},"event_data":{{"a":[1,{{"b":"}}"}}]}}}}"#,
        events::APP
    );
    pipeline.produce(0, line.as_bytes());
    pipeline.flush();
    let _consumer = Consumer::start(&pipeline);
    pipeline.expect_rows(1, PATIENCE);
    let row = pipeline.sql(&format!(
        "SELECT event_id, app_id, event_name, user_id, device_id, session_id, toUnixTimestamp64Milli(event_timestamp),
            toUnixTimestamp64Milli(client_timestamp), toUnixTimestamp64Milli(received_at), platform, os_version,
            app_version, attribution, properties, context, ip, user_agent, library, source, src_partition, src_offset,
            src_row, event_date, user_hash = cityHash64('ünïcode') FROM {} FORMAT JSONCompactEachRow",
        pipeline.table()
    ));
    let row: serde_json::Value = serde_json::from_str(&row).expect("a row");
    let expected = serde_json::json!([
        id,
        events::APP,
        "purchase",
        "ünïcode",
        "",
        "",
        1763730000000_i64,
        -5,
        1763730000123_i64,
        "ios",
        "17",
        "1.0",
        r#"{"c":"ä"}"#,
        r#"{"a":[1,{"b":"}"}]}"#,
        "{}",
        "2001:db8::1",
        "tab\there \"quoted\" 😀",
        "l/1",
        "native",
        0,
        0,
        0,
        "2025-11-21",
        1
    ]);
    let plain = |value: &serde_json::Value| -> Vec<String> {
        let fields = value.as_array().expect("fields").iter();
        fields
            .map(|field| field.as_str().map_or_else(|| field.to_string(), str::to_owned))
            .collect()
    };
    assert_eq!(plain(&row), plain(&expected));

    // What ClickHouse says of a range in two numbers is what the consumer makes of the same rows.
    let mut sum = Sum::default();
    sum.add(RowId {
        position: Position::new(9_876_543_210_123, 77),
        event_id: u128::from_str_radix(&id.replace('-', ""), 16).expect("a UUID"),
    });
    let said = pipeline.sql(&format!(
        "SELECT {SUM} FROM (SELECT event_id, toInt64(9876543210123) AS src_offset, toUInt32(77) AS src_row FROM {}) FORMAT TSV",
        pipeline.table()
    ));
    assert_eq!(said.trim(), format!("{}\t{}", sum.rows, sum.digest));
}

#[test]
fn compressed_rows_are_the_same() {
    /// The settings of ClickHouse come last before those that are added.
    const LZ4: &str = "  compression: LZ4\n";
    let (rows, bytes): (Vec<String>, Vec<u64>) = ["", LZ4]
        .map(|settings| {
            let pipeline = Pipeline::new("compressed", 1);
            // Without the time of the run, so that both have the same.
            let line = |number| events::line_at(7, number, "u", 1_763_730_000_000);
            for record in 0..20 {
                let lines: String = (record * 1000..(record + 1) * 1000).map(line).collect();
                pipeline.produce(0, lines.as_bytes());
            }
            pipeline.flush();
            let proxy = Proxy::start(&pipeline.kit.clickhouse_url());
            let consumer = Consumer::start_at(&pipeline, &proxy.url(), settings);
            pipeline.expect_rows(20_000, PATIENCE);
            consumer.stop();
            let rows = pipeline.sql(&format!(
                "SELECT count(), sum(cityHash64(* EXCEPT (expires_on, received_at))) FROM {} FORMAT TSV",
                pipeline.table()
            ));
            (rows, proxy.sent())
        })
        .into_iter()
        .unzip();
    assert_eq!(rows[0], rows[1]);
    assert!(bytes[1] * 3 < bytes[0], "{bytes:?}");
}

#[test]
fn each_row_has_its_own_text_of_few_or_many() {
    const ROWS: u64 = 3000;
    let pipeline = Pipeline::new("symbols", 1);
    let platforms = ["ios", "", "größer"];
    for first in (0..ROWS).step_by(500) {
        let lines = (first..first + 500).map(|number| {
            let line = events::line(9, number, &format!("user-{number}"));
            let (name, platform) = (number % 700, platforms[number as usize % 3]);
            let with = |line: &str, member: &str, value: &str| {
                let (before, rest) = line.split_once(&format!("\"{member}\":\"")).expect(member);
                let (_, after) = rest.split_once('"').expect(member);
                format!("{before}\"{member}\":\"{value}\"{after}")
            };
            let line = with(&line, "event_type", &format!("name-{name}"));
            with(&line, "platform", platform)
        });
        pipeline.produce(0, lines.collect::<String>().as_bytes());
    }
    pipeline.flush();
    let _consumer = Consumer::start(&pipeline);
    pipeline.expect_rows(ROWS, PATIENCE);
    let right = pipeline.sql(&format!(
        "SELECT countIf(event_name = concat('name-', toString(number % 700))
            AND platform = ['ios', '', 'größer'][1 + number % 3]) FROM
         (SELECT *, toUInt64(substring(user_id, 6)) AS number FROM {}) FORMAT TSV",
        pipeline.table()
    ));
    assert_eq!(right.trim(), ROWS.to_string());
}

#[test]
fn malformed_records_are_dead_letters_and_their_neighbours_are_stored() {
    let pipeline = Pipeline::new("malformed", 1);
    let good = |number| events::line(pipeline.run, number, "u");
    let cut = good(9);
    let mixed = format!("{}not ours at all\n{}{}", good(0), good(1), &cut[..cut.len() / 2]);
    // Members of another type, and a time that its column cannot hold.
    let number = cut.replace(r#""user_id":"u""#, r#""user_id":7"#);
    let (head, _) = cut.split_once(r#""event_data":"#).expect("its properties");
    let list = format!("{head}\"event_data\":[1]}}\n");
    let large = cut.replace(r#""timestamp":"#, r#""timestamp":9"#);
    let unfit = [
        good(4),
        number.clone(),
        list.clone(),
        good(5),
        large.clone(),
        good(6),
    ]
    .concat();
    for value in [
        good(2).as_bytes(),
        mixed.as_bytes(),
        b"\x00\xff\xfe",
        b"\n",
        // A barrier, which is nothing.
        b"",
        unfit.as_bytes(),
        good(3).as_bytes(),
    ] {
        pipeline.produce(0, value);
    }
    pipeline.flush();
    let consumer = Consumer::start(&pipeline);
    pipeline.expect_rows(7, PATIENCE);
    let letters = pipeline.letters(7, PATIENCE);
    let value = |line: &str| line.trim_end().as_bytes().to_vec();
    let origin = |offset, row| format!("{}/0/{offset}/{row}", pipeline.topic);
    for (letter, (origin, detail, value)) in letters.iter().zip([
        (origin(1, 1), "no JSON object", b"not ours at all".to_vec()),
        (origin(1, 3), "at byte", cut.as_bytes()[..cut.len() / 2].to_vec()),
        (origin(2, 0), "not UTF-8", b"\x00\xff\xfe".to_vec()),
        (origin(3, 0), "no JSON object", Vec::new()),
        (origin(5, 1), "no string", value(&number)),
        (origin(5, 2), "no object", value(&list)),
        (origin(5, 4), "a time is out of range", value(&large)),
    ]) {
        assert_eq!(
            (letter.reason.as_str(), letter.step.as_str()),
            ("Malformed", "consume")
        );
        assert_eq!((&letter.origin, &letter.value), (&origin, &value));
        assert!(letter.detail.contains(detail), "{}", letter.detail);
    }
    assert_eq!(
        consumer.metric("penstock_consume_dead_letters_total", "Malformed"),
        7.0
    );
    consumer.stop();
    let _again = Consumer::start(&pipeline);
    pipeline.expect_rows(7, PATIENCE);
    assert_eq!(
        pipeline.letter_count(),
        7,
        "what is committed is not gone through again"
    );
}

/// Somebody else writes to the topic, more than fits into memory.
#[test]
fn records_of_others_are_dead_letters_within_the_memory_of_batches() {
    let pipeline = Pipeline::new("others", 3);
    let records = 400_usize;
    let mut produced = 0;
    for record in 0..records {
        // Lines that hardly shrink: what librdkafka unpacks at once is bounded by what it fetches at once.
        let numbers = (0..50_000_u64).map(|line| (line + record as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let dead: String = numbers.map(|number| format!("{number:016x}\n")).collect();
        pipeline.produce(record as i32 % 3, dead.as_bytes());
        produced += dead.len() as u64;
    }
    pipeline.produce_events(0, 3000, 100);
    pipeline.flush();
    let mut consumer = Consumer::start(&pipeline);
    pipeline.expect_rows(3000, PATIENCE);
    // A thousand lines of each are letters of their own, and the rest of it is one.
    let letters = records * 1001;
    consumer.wait_for("the letters", PATIENCE, |c| {
        c.metric("penstock_consume_dead_letters_total", "Malformed") == letters as f64
    });
    assert_eq!(pipeline.letter_count(), letters as i64);
    let (_, peak) = consumer.usage();
    println!("{} MB at most, of {}", peak / 1_000_000, produced / 1_000_000);
    // 75 MB of batches, some 20 read ahead, 30 of letters being written and 30 of those being read, and 25 without any:
    // 150 to 196 MB, however much is sent.
    assert!(produced > 300_000_000 && peak < 250_000_000);
}

#[test]
fn a_row_that_clickhouse_refuses_is_found_and_its_neighbours_are_stored() {
    let pipeline = Pipeline::new("poison", 1);
    let table = pipeline.table();
    pipeline.sql(&format!(
        "ALTER TABLE {table} ADD CONSTRAINT sane CHECK user_id NOT LIKE 'poison%'"
    ));
    let mut poison = Vec::new();
    for record in 0..20_u64 {
        let lines: String = (record * 50..record * 50 + 50)
            .map(|number| {
                let bad = [3, 4, 517, 999].contains(&number);
                let line = events::line(
                    pipeline.run,
                    number,
                    &format!("{}-{number}", if bad { "poison" } else { "u" }),
                );
                if bad {
                    poison.push((
                        format!("{}/0/{record}/{}", pipeline.topic, number % 50),
                        line.trim_end().to_owned(),
                    ));
                }
                line
            })
            .collect();
        pipeline.produce(0, lines.as_bytes());
    }
    pipeline.flush();
    // Killed in the middle of the search for the poison, twice.
    for _ in 0..2 {
        let mut consumer = Consumer::start(&pipeline);
        consumer.wait_for("a refusal", PATIENCE, |c| {
            c.metric("penstock_consume_insert_retries_total", "data") >= 3.0
        });
        consumer.kill();
    }
    let _consumer = Consumer::start(&pipeline);
    pipeline.expect_rows(996, PATIENCE);
    // The last row may be stored before the last letter is written.
    let deadline = Instant::now() + PATIENCE;
    let letters = loop {
        let letters = pipeline.letters(pipeline.letter_count() as usize, PATIENCE);
        let all = poison
            .iter()
            .all(|(origin, _)| letters.iter().any(|letter| letter.origin == *origin));
        if all || Instant::now() > deadline {
            break letters;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    for (origin, value) in &poison {
        let letter = letters.iter().find(|letter| letter.origin == *origin);
        let letter = letter.unwrap_or_else(|| panic!("no dead letter for {origin}: {letters:?}"));
        assert_eq!(
            (letter.reason.as_str(), letter.step.as_str()),
            ("Refused", "consume")
        );
        assert_eq!(std::str::from_utf8(&letter.value), Ok(value.as_str()));
        assert!(letter.detail.contains("sane"), "{}", letter.detail);
    }
    assert!(
        letters
            .iter()
            .all(|letter| poison.iter().any(|(origin, _)| *origin == letter.origin))
    );
}

#[test]
fn a_record_of_a_newer_version_stops_its_partition_only() {
    let pipeline = Pipeline::new("newer", 2);
    pipeline.produce(0, events::record(pipeline.run, 0, 10).as_bytes());
    pipeline.produce(0, b"{\"v\":2,\"something\":\"new\"}\n");
    pipeline.produce(0, events::record(pipeline.run, 10, 10).as_bytes());
    pipeline.produce(1, events::record(pipeline.run, 20, 10).as_bytes());
    pipeline.flush();
    let mut consumer = Consumer::start(&pipeline);
    pipeline.expect_rows(20, PATIENCE);
    consumer.wait_for("the metric", PATIENCE, |c| {
        c.metric("penstock_consume_blocked_partitions", "") == 1.0
            && c.metric("penstock_consume_lag_seconds", "partition=\"0\"") > 1.0
    });
    pipeline.produce(1, events::record(pipeline.run, 30, 10).as_bytes());
    pipeline.flush();
    pipeline.expect_rows(30, PATIENCE);
    assert!(
        consumer.log().contains("upgrade the consumer"),
        "{}",
        consumer.log()
    );
    assert_eq!(pipeline.letter_count(), 0, "nothing is thrown away");
    assert!(consumer.stop() < Duration::from_secs(10));
}

/// The topic is deleted and made again; offsets begin at 0, the table keeps what it holds, and what the new topic
/// brings under the old offsets is stored.
#[test]
fn a_topic_made_anew_under_a_retained_table() {
    let pipeline = Pipeline::new("anew", 2);
    let consumer = Consumer::start(&pipeline);
    pipeline.produce_events(0, 4000, 100);
    pipeline.flush();
    pipeline.expect_rows(4000, PATIENCE);
    consumer.stop();
    pipeline.recreate_topic();
    pipeline.produce_events(4000, 3000, 100);
    pipeline.flush();
    let mut consumer = Consumer::start(&pipeline);
    pipeline.expect_rows(7000, PATIENCE);
    // And under a consumer that runs.
    pipeline.recreate_topic();
    pipeline.produce_events(7000, 9000, 100);
    pipeline.flush();
    pipeline.expect_rows(16_000, PATIENCE);
    assert!(consumer.is_running());
}

/// Retention overtakes a consumer that runs: what is gone is counted and told of, and what is left is stored.
#[test]
fn what_the_log_lost_before_it_was_read_is_counted() {
    let pipeline = Pipeline::new("overtaken", 1);
    let consumer = Consumer::start(&pipeline);
    pipeline.produce_events(0, 1000, 100);
    pipeline.flush();
    pipeline.expect_rows(1000, PATIENCE);
    // Shorter than the session, so that it stays the owner; longer than a read that waits at the broker.
    consumer.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(500));
    pipeline.produce_events(1000, 2000, 100);
    pipeline.flush();
    pipeline.delete_records_before(0, 20);
    consumer.signal(Signal::SIGCONT);
    pipeline.expect_rows(2000, PATIENCE);
    assert_eq!(
        consumer.metric("penstock_consume_lost_offsets_total", ""),
        10.0,
        "{}",
        consumer.log()
    );
    assert!(consumer.log().contains("DataLost"), "{}", consumer.log());
}

/// Other programs may write to the topic too, and in transactions. The mark of one is no record, so at the log's end it
/// looks as if one did not come.
#[test]
fn a_log_that_ends_in_the_mark_of_a_transaction() {
    let pipeline = Pipeline::new("marks", 1);
    let consumer = Consumer::start(&pipeline);
    pipeline.produce_in_a_transaction(events::record(pipeline.run, 0, 100).as_bytes());
    pipeline.expect_rows(100, PATIENCE);
    let deadline = Instant::now() + PATIENCE;
    while consumer.metric("penstock_consume_read_again_total", "") == 0.0 {
        assert!(
            Instant::now() < deadline,
            "it was not read again: {}",
            consumer.log()
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    pipeline.produce_events(100, 100, 50);
    pipeline.flush();
    pipeline.expect_rows(200, PATIENCE);
    assert_eq!(
        consumer.metric("penstock_consume_members_replaced_total", ""),
        0.0
    );
}
