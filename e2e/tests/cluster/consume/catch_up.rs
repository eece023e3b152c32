//! What a row costs when there is much to catch up with, and what a quiet pipeline costs.
//!
//! The first is a measurement, run by hand in the release profile:
//! `./e2e/kit exec -- cargo test --workspace --release --test cluster catch_up -- --ignored --nocapture`

use std::time::{Duration, Instant};

use super::consumer::Consumer;
use super::events;
use super::pipeline::Pipeline;

const PATIENCE: Duration = Duration::from_secs(300);

#[test]
#[ignore = "a measurement, to be run alone and in the release profile"]
fn a_million_rows() {
    catch_up("million", |_| String::new());
}

#[test]
#[ignore = "a measurement, to be run alone and in the release profile"]
fn a_million_rows_with_live_figures() {
    catch_up("millionhot", |pipeline| {
        let (address, topic) = (pipeline.kit.redis_address(), &pipeline.topic);
        format!("redis: {{address: '{address}', prefix: {topic}}}\n")
    });
}

fn catch_up(name: &str, settings: fn(&Pipeline) -> String) {
    let pipeline = Pipeline::new(name, 3);
    let events = 1_000_000;
    pipeline.produce_events(0, events, 1000);
    pipeline.flush();
    let begun = Instant::now();
    let url = pipeline.kit.clickhouse_url();
    let mut consumer = Consumer::start_at(&pipeline, &url, &settings(&pipeline));
    consumer.wait_for("rows", PATIENCE, |c| {
        c.metric("penstock_consume_rows_total", "") > 0.0
    });
    consumer.wait_for("all rows", PATIENCE, |c| {
        c.metric("penstock_consume_rows_total", "") >= events as f64
    });
    let took = begun.elapsed();
    let (cpu, peak) = consumer.usage();
    let batches = consumer.metric("penstock_consume_batches_total", "");
    let bytes = consumer.metric("penstock_consume_bytes_total", "");
    println!(
        "{events} rows in {took:.2?} from the start of the process: {:.0} rows/s, {:.2} us CPU/row, {:.0} MB at most, {batches} INSERTs, {:.0} bytes/row",
        events as f64 / took.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / events as f64,
        peak as f64 / 1e6,
        bytes / events as f64,
    );
    pipeline.expect_rows(events, PATIENCE);
    assert!(peak < 150_000_000, "{} MB", peak / 1_000_000);
    let parts = pipeline.sql(&format!(
        "SELECT column, round(sum(column_data_compressed_bytes) / sum(rows), 2) AS bytes FROM system.parts_columns
         WHERE active AND database = '{}' GROUP BY column ORDER BY bytes DESC FORMAT TSV",
        pipeline.database
    ));
    println!("compressed bytes per row:\n{parts}");
}

/// Few events make few INSERTs, even where each partition has some.
#[test]
fn a_quiet_pipeline_makes_few_inserts() {
    // Others would make it late.
    let pipeline = Pipeline::in_quiet("quiet", 3);
    let mut consumer = Consumer::start(&pipeline);
    consumer.wait_for("assignment", PATIENCE, |c| {
        c.metric("penstock_consume_assigned_partitions", "") == 3.0
    });
    let seconds = 15;
    let mut before = 0.0;
    for tenth in 0..10 * seconds {
        if tenth == 30 {
            before = consumer.metric("penstock_consume_batches_total", "");
        }
        pipeline.produce_events(tenth * 100, 100, 25);
        std::thread::sleep(Duration::from_millis(100));
    }
    let inserts = consumer.metric("penstock_consume_batches_total", "") - before;
    let each_second = inserts / (seconds - 3) as f64;
    assert!(each_second <= 2.2, "{each_second} INSERTs a second");
    pipeline.flush();
    pipeline.expect_rows(seconds * 1000, PATIENCE);
    let newest = consumer.metric("penstock_consume_newest_received_timestamp_seconds", "");
    let age = events::now_ms() as f64 / 1000.0 - newest;
    assert!(
        (0.0..10.0).contains(&age),
        "the newest stored event is {age} s old"
    );
    let late = consumer.metric("penstock_consume_freshness_seconds_count", "")
        - consumer.metric("penstock_consume_freshness_seconds_bucket", "le=\"3.0\"");
    assert_eq!(
        late, 0.0,
        "batches that were older than 3 s when they were stored"
    );
}
