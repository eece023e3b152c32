//! ClickHouse is away, slow, killed, full, overloaded or another than before, or its answers are lost.

use std::time::Duration;

use nix::sys::signal::Signal;
use penstock_e2e::Component;

use super::consumer::Consumer;
use super::events;
use super::pipeline::Pipeline;
use super::proxy::{Mode, Proxy};

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn lost_answers_store_nothing_twice() {
    let pipeline = Pipeline::new("answers", 3);
    let proxy = Proxy::start(&pipeline.kit.clickhouse_url());
    let mut consumer = Consumer::start_at(&pipeline, &proxy.url(), "batch: {maxAge: 200ms}\n");
    consumer.wait_for("readiness", PATIENCE, |c| c.readyz().0 == 200);
    proxy.set(Mode::LoseAnswers);
    for round in 0..30 {
        pipeline.produce_events(round * 1000, 1000, 50);
        std::thread::sleep(Duration::from_millis(200));
    }
    pipeline.flush();
    pipeline.expect_rows(30_000, PATIENCE);
    assert!(
        proxy.lost.load(std::sync::atomic::Ordering::SeqCst) > 5,
        "answers were lost"
    );
    assert!(consumer.metric("penstock_consume_insert_retries_total", "unreachable") >= 1.0);
}

#[test]
fn cut_requests_store_no_part_of_a_batch() {
    let pipeline = Pipeline::new("cut", 3);
    let proxy = Proxy::start(&pipeline.kit.clickhouse_url());
    let mut consumer = Consumer::start_at(&pipeline, &proxy.url(), "batch: {maxAge: 200ms}\n");
    consumer.wait_for("readiness", PATIENCE, |c| c.readyz().0 == 200);
    for round in 0..10 {
        // Large requests pass in pieces of 64 kB and would hardly ever get through whole, so it is not always on.
        proxy.set(if round % 2 == 0 {
            Mode::CutRequests
        } else {
            Mode::Pass
        });
        pipeline.produce_events(round * 3000, 3000, 100);
        std::thread::sleep(Duration::from_millis(500));
    }
    proxy.set(Mode::Pass);
    pipeline.flush();
    pipeline.expect_rows(30_000, PATIENCE);
    assert!(
        proxy.lost.load(std::sync::atomic::Ordering::SeqCst) > 0,
        "requests were cut"
    );
}

#[test]
fn while_clickhouse_is_away_the_group_is_kept_and_memory_bounded() {
    let pipeline = Pipeline::new("away", 3);
    let proxy = Proxy::start(&pipeline.kit.clickhouse_url());
    let mut consumer = Consumer::start_at(&pipeline, &proxy.url(), "");
    consumer.wait_for("assignment", PATIENCE, |c| {
        c.metric("penstock_consume_assigned_partitions", "") == 3.0
    });
    proxy.set(Mode::Refuse);
    // More than fits into memory.
    pipeline.produce_events(0, 400_000, 1000);
    pipeline.flush();
    consumer.wait_for("the loss to be seen", PATIENCE, |c| {
        c.readyz().1.contains("unreachable") && c.metric("penstock_dependency_up", "clickhouse") == 0.0
    });
    // Also of what nobody reads while memory is full.
    consumer.wait_for("the whole lag to be known", PATIENCE, |c| {
        c.metric("penstock_consume_lag_records", "") == 400.0
    });
    consumer.wait_for("what waits to grow old", PATIENCE, |c| {
        c.metric("penstock_consume_lag_seconds", "") > 3.0 * 10.0
    });
    consumer.wait_for("all of them to be waiting", PATIENCE, |c| {
        c.metric("penstock_consume_waiting_partitions", "") == 3.0
    });
    assert_eq!(consumer.metric("penstock_consume_assigned_partitions", ""), 3.0);
    assert_eq!(
        consumer.metric("penstock_consume_rebalanced_partitions_total", "revoked"),
        0.0
    );
    proxy.set(Mode::Pass);
    pipeline.expect_rows(400_000, PATIENCE);
    consumer.wait_for("no lag", PATIENCE, |c| {
        c.metric("penstock_consume_lag_records", "") == 0.0
            && c.metric("penstock_consume_waiting_partitions", "") == 0.0
            && c.metric("penstock_consume_lag_seconds", "") == 0.0
    });
    let (_, peak) = consumer.usage();
    assert!(peak < 150_000_000, "{} MB at most", peak / 1_000_000);
    assert!(consumer.log().contains("dependency lost") && consumer.log().contains("dependency found"));
}

/// The first partition has more than it may hold in memory and stores nothing of it.
#[test]
fn one_slow_partition_does_not_hold_the_others() {
    let pipeline = Pipeline::new("slow", 3);
    let proxy = Proxy::start(&pipeline.kit.clickhouse_url());
    let mut consumer = Consumer::start_at(&pipeline, &proxy.url(), "");
    consumer.wait_for("assignment", PATIENCE, |c| {
        c.metric("penstock_consume_assigned_partitions", "") == 3.0
    });
    proxy.set(Mode::HoldFirst);
    let backlog = 300_000;
    for first in (0..backlog).step_by(1000) {
        pipeline.produce(0, events::record(pipeline.run, first, 1000).as_bytes());
    }
    pipeline.flush();
    // A batch that is full waits behind the one that is held, which may be small.
    consumer.wait_for("as much in memory as a partition may have", PATIENCE, |c| {
        c.metric("penstock_consume_memory_bytes", "") > 24e6
    });
    for (partition, first) in [(1, backlog), (2, backlog + 20_000)] {
        for first in (first..first + 20_000).step_by(1000) {
            pipeline.produce(partition, events::record(pipeline.run, first, 1000).as_bytes());
        }
    }
    pipeline.flush();
    pipeline.expect_rows(40_000, Duration::from_secs(60));
    let first = format!("SELECT count() FROM {} WHERE src_partition = 0", pipeline.table());
    assert_eq!(pipeline.sql(&first).trim(), "0");
    proxy.set(Mode::Pass);
    pipeline.expect_rows(backlog + 40_000, PATIENCE);
}

#[test]
fn a_stalled_answer_is_waited_for_and_asked_about_again() {
    let pipeline = Pipeline::new("stall", 1);
    let proxy = Proxy::start(&pipeline.kit.clickhouse_url());
    let mut consumer = Consumer::start_at(&pipeline, &proxy.url(), "");
    consumer.wait_for("assignment", PATIENCE, |c| {
        c.metric("penstock_consume_assigned_partitions", "") == 1.0
    });
    proxy.set(Mode::Stall);
    pipeline.produce_events(0, 5000, 100);
    pipeline.flush();
    consumer.wait_for("a timeout", PATIENCE, |c| {
        c.metric("penstock_consume_insert_retries_total", "timeout") >= 1.0
    });
    proxy.set(Mode::Pass);
    pipeline.expect_rows(5000, PATIENCE);
    // A shutdown in the middle of a stall leaves the intent to the next one.
    proxy.set(Mode::Stall);
    pipeline.produce_events(5000, 5000, 100);
    pipeline.flush();
    consumer.wait_for("an open intent", PATIENCE, |c| {
        c.metric("penstock_consume_open_intents", "") == 1.0
    });
    assert!(consumer.stop() < Duration::from_secs(30));
    proxy.set(Mode::Pass);
    let next = Consumer::start(&pipeline);
    pipeline.expect_rows(10_000, PATIENCE);
    assert!(next.metric("penstock_consume_recovered_total", "") <= 1.0);
}

#[test]
fn clickhouse_killed_in_the_middle_of_inserts() {
    let pipeline = Pipeline::alone("server", 3);
    let mut consumer = Consumer::start_at(
        &pipeline,
        &pipeline.kit.clickhouse_url(),
        "batch: {maxAge: 100ms}\n",
    );
    consumer.wait_for("assignment", PATIENCE, |c| {
        c.metric("penstock_consume_assigned_partitions", "") == 3.0
    });
    for round in 0..3_u64 {
        for step in 0..10 {
            pipeline.produce_events(round * 20_000 + step * 2000, 2000, 50);
            std::thread::sleep(Duration::from_millis(70));
        }
        let server = pipeline
            .kit
            .process(Component::ClickHouse)
            .expect("ClickHouse runs");
        server.signal(Signal::SIGKILL).expect("killed");
        std::thread::sleep(Duration::from_millis(500));
        pipeline
            .kit
            .start(Component::ClickHouse)
            .expect("ClickHouse starts again");
    }
    pipeline.flush();
    pipeline.expect_rows(60_000, PATIENCE);
    assert!(consumer.is_running());
}

#[test]
fn a_table_that_is_not_fit_is_waited_for() {
    let pipeline = Pipeline::new("unfit", 2);
    let table = pipeline.table();
    pipeline.sql(&format!(
        "ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 100"
    ));
    pipeline.produce_events(0, 1000, 100);
    pipeline.flush();
    let mut consumer = Consumer::start(&pipeline);
    consumer.wait_for("the reason", PATIENCE, |c| {
        let (status, body) = c.readyz();
        status == 503 && body.contains("DedupWindowTooSmall")
    });
    pipeline.sql(&format!("RENAME TABLE {table} TO {table}_away"));
    consumer.wait_for("the other reason", PATIENCE, |c| {
        c.readyz().1.contains("there is no table")
    });
    assert_eq!(
        consumer.metric("penstock_consume_assigned_partitions", ""),
        0.0,
        "nothing is consumed"
    );
    pipeline.sql(&format!("RENAME TABLE {table}_away TO {table}"));
    pipeline.sql(&format!(
        "ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 10000"
    ));
    pipeline.expect_rows(1000, PATIENCE);
    assert_eq!(consumer.readyz().0, 200);
}

/// How an outage begins or ends.
enum Turns<'a> {
    Proxy(Mode),
    /// A statement about the table, whose name stands for `{}`.
    Table(&'a str),
}

#[test]
fn whatever_the_server_refuses_is_named_waited_for_and_stored_then() {
    use Turns::{Proxy as On, Table};
    let pipeline = Pipeline::new("refusals", 1);
    let proxy = Proxy::start(&pipeline.kit.clickhouse_url());
    let mut consumer = Consumer::start_at(&pipeline, &proxy.url(), "batch: {maxAge: 200ms}\n");
    pipeline.produce_events(0, 1000, 100);
    pipeline.flush();
    pipeline.expect_rows(1000, PATIENCE);
    let turn = |turns: &Turns<'_>| match turns {
        On(mode) => proxy.set(*mode),
        Table(statement) => {
            pipeline.sql(&statement.replace("{}", &pipeline.table()));
        }
    };
    let outages = [
        ("overloaded", On(Mode::NoMemory), On(Mode::Pass)),
        ("read_only", On(Mode::ReadOnly), On(Mode::Pass)),
        (
            "overloaded",
            Table("ALTER TABLE {} MODIFY SETTING parts_to_throw_insert = 1"),
            Table("ALTER TABLE {} RESET SETTING parts_to_throw_insert"),
        ),
        (
            "disk_full",
            Table(
                "ALTER TABLE {} MODIFY SETTING min_free_disk_bytes_to_perform_insert = 1000000000000000000",
            ),
            Table("ALTER TABLE {} RESET SETTING min_free_disk_bytes_to_perform_insert"),
        ),
        (
            "schema",
            Table("ALTER TABLE {} RENAME COLUMN library TO library_away"),
            Table("ALTER TABLE {} RENAME COLUMN library_away TO library"),
        ),
        (
            "schema",
            Table("RENAME TABLE {} TO {}_away"),
            Table("RENAME TABLE {}_away TO {}"),
        ),
    ];
    for (round, (class, begin, end)) in (1..).zip(&outages) {
        let before = consumer.metric("penstock_consume_insert_retries_total", class);
        turn(begin);
        pipeline.produce_events(round * 1000, 1000, 100);
        pipeline.flush();
        consumer.wait_for(
            &format!("refusal {round}, `{class}`, to be counted"),
            PATIENCE,
            |c| c.metric("penstock_consume_insert_retries_total", class) >= before + 1.0,
        );
        let (_, said) = consumer.readyz();
        assert!(said.contains(class), "{class}: {said}");
        assert_eq!(
            consumer.metric("penstock_dependency_up", "clickhouse"),
            0.0,
            "{class}"
        );
        turn(end);
        pipeline.expect_rows((round + 1) * 1000, PATIENCE);
        consumer.wait_for("the server to be back", PATIENCE, |c| {
            c.metric("penstock_dependency_up", "clickhouse") == 1.0
        });
    }
    assert_eq!(
        consumer.metric("penstock_consume_rebalanced_partitions_total", "revoked"),
        0.0,
        "the group is kept"
    );
    assert_eq!(pipeline.letter_count(), 0, "no event was to blame");
}
