//! Consumers die, come and go while events flow.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::consumer::Consumer;
use super::events;
use super::pipeline::Pipeline;

const PATIENCE: Duration = Duration::from_secs(120);
const BROKERS_DECIDE: &str = "groupProtocol: Consumer\n";

/// Pauses that differ from one another, the same in every run.
fn pauses() -> impl Iterator<Item = Duration> {
    let mut state = 0x9E37_79B9_u32;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(Duration::from_millis(u64::from(state >> 16) % 1200 + 50))
    })
}

/// Produces on a thread of its own until all is out.
fn flow(pipeline: &Pipeline, count: u64, over: Duration) {
    let rounds = 50;
    for round in 0..rounds {
        pipeline.produce_events(round * (count / rounds), count / rounds, 100);
        std::thread::sleep(over / rounds as u32);
    }
    pipeline.flush();
}

#[test]
fn a_consumer_killed_again_and_again_stores_each_event_once() {
    let pipeline = Pipeline::new("kill", 3);
    let events = 60_000;
    std::thread::scope(|scope| {
        let producing = scope.spawn(|| flow(&pipeline, events, Duration::from_secs(12)));
        for (kills, pause) in pauses().enumerate() {
            if producing.is_finished() && kills >= 5 {
                break;
            }
            let mut consumer = Consumer::start(&pipeline);
            let before = pipeline.counts().0;
            // Some die before they have joined, some in the middle of a batch.
            if kills % 2 == 0 {
                consumer.wait_for("a row, or the end", Duration::from_secs(60), |_| {
                    let rows = pipeline.counts().0;
                    rows > before || rows == events
                });
            }
            std::thread::sleep(pause);
            consumer.kill();
        }
        producing.join().expect("produced");
    });
    let last = Consumer::start(&pipeline);
    pipeline.expect_rows(events, PATIENCE);
    assert!(last.stop() < Duration::from_secs(30));
}

#[test]
fn consumers_that_come_and_go_share_the_partitions() {
    share("share", "");
}

/// KIP-848: a member that was killed is missed after the brokers' 45 s.
#[test]
fn consumers_share_the_partitions_as_the_brokers_say() {
    share("brokers", BROKERS_DECIDE);
}

fn share(name: &str, settings: &str) {
    let pipeline = Pipeline::new(name, 6);
    let start = || Consumer::start_at(&pipeline, &pipeline.kit.clickhouse_url(), settings);
    let (events, more) = (60_000, 600);
    std::thread::scope(|scope| {
        let producing = scope.spawn(|| flow(&pipeline, events, Duration::from_secs(15)));
        let mut first = start();
        first.wait_for("assignment", PATIENCE, |c| {
            c.metric("penstock_consume_assigned_partitions", "") == 6.0
        });
        let mut second = start();
        second.wait_for("its share", PATIENCE, |c| {
            c.metric("penstock_consume_assigned_partitions", "") == 3.0
        });
        assert!(first.stop() < Duration::from_secs(30), "a graceful leave");
        second.wait_for("all partitions", PATIENCE, |c| {
            c.metric("penstock_consume_assigned_partitions", "") == 6.0
        });
        // It stores nothing of a partition before it has looked at what the one before has left there: no open batch.
        let taken = format!(
            "SELECT uniqExact(src_partition) FROM {} WHERE toUnixTimestamp64Milli(received_at) >= {} FORMAT TSV",
            pipeline.table(),
            events::now_ms()
        );
        pipeline.produce_events(events, more, 100);
        pipeline.flush();
        second.wait_for("a row in each of them", PATIENCE, |_| {
            pipeline.sql(&taken).trim() == "6"
        });
        assert_eq!(
            second.metric("penstock_consume_recovered_total", ""),
            0.0,
            "a batch was left open: {}",
            second.log()
        );
        let third = start();
        std::thread::sleep(Duration::from_secs(2));
        second.kill();
        producing.join().expect("produced");
        pipeline.expect_rows(events + more, PATIENCE);
        drop(third);
    });
    assert_eq!(pipeline.counts(), (events + more, events + more));
}

/// The protocol is changed as a rollout does it, one consumer after the other, there and back.
#[test]
fn a_group_changes_its_protocol_while_events_flow() {
    let pipeline = Pipeline::new("protocol", 3);
    let url = pipeline.kit.clickhouse_url();
    let events = 60_000;
    std::thread::scope(|scope| {
        let producing = scope.spawn(|| flow(&pipeline, events, Duration::from_secs(15)));
        let mut before = Consumer::start(&pipeline);
        before.wait_for("assignment", PATIENCE, |c| {
            c.metric("penstock_consume_assigned_partitions", "") == 3.0
        });
        for settings in [BROKERS_DECIDE, ""] {
            let mut next = Consumer::start_at(&pipeline, &url, settings);
            next.wait_for("its share", PATIENCE, |c| {
                c.metric("penstock_consume_assigned_partitions", "") > 0.0
            });
            assert!(before.stop() < Duration::from_secs(30), "a graceful leave");
            next.wait_for("all partitions", PATIENCE, |c| {
                c.metric("penstock_consume_assigned_partitions", "") == 3.0
            });
            before = next;
        }
        producing.join().expect("produced");
        pipeline.expect_rows(events, PATIENCE);
    });
    assert_eq!(pipeline.counts(), (events, events));
}

/// Kafka lets a topic grow under its consumers, and tells none of them.
#[test]
fn partitions_that_are_added_are_read_from_their_beginning() {
    grow("grow", "");
}

#[test]
fn partitions_that_are_added_are_given_away_by_the_brokers() {
    grow("growbrokers", BROKERS_DECIDE);
}

fn grow(name: &str, settings: &str) {
    let mut pipeline = Pipeline::new(name, 1);
    let url = pipeline.kit.clickhouse_url();
    let mut consumer = Consumer::start_at(&pipeline, &url, settings);
    consumer.wait_for("assignment", PATIENCE, |c| {
        c.metric("penstock_consume_assigned_partitions", "") == 1.0
    });
    let (events, before) = (30_000, 10_000);
    pipeline.produce_events(events, before, 100);
    pipeline.grow(3);
    let grown = Instant::now();
    std::thread::scope(|scope| {
        let producing = scope.spawn(|| flow(&pipeline, events, Duration::from_secs(12)));
        consumer.wait_for("its new partitions", Duration::from_secs(60), |c| {
            c.metric("penstock_consume_assigned_partitions", "") == 3.0
        });
        println!("it has the new partitions after {:.1?}", grown.elapsed());
        producing.join().expect("produced");
    });
    pipeline.expect_rows(events + before, PATIENCE);
    let each = format!(
        "SELECT count(), min(src_offset) FROM {} GROUP BY src_partition ORDER BY src_partition FORMAT TSV",
        pipeline.table()
    );
    assert_eq!(pipeline.sql(&each), "20000\t0\n10000\t0\n10000\t0\n");
    consumer.wait_for("no lag", PATIENCE, |c| {
        c.metric("penstock_consume_lag_records", "") == 0.0
    });
    assert_eq!(pipeline.letter_count(), 0);
}

/// A process that sleeps through its session: the group gives its partitions away, and when it wakes up in the
/// middle of whatever it was doing, it must store nothing of it.
#[test]
fn a_frozen_consumer_wakes_up_to_nothing() {
    let pipeline = Pipeline::new("frozen", 3);
    let events = 40_000;
    let mut frozen = Consumer::start(&pipeline);
    frozen.wait_for("assignment", PATIENCE, |c| {
        c.metric("penstock_consume_assigned_partitions", "") == 3.0
    });
    let frozen_at = OnceLock::new();
    std::thread::scope(|scope| {
        let producing = scope.spawn(|| flow(&pipeline, events, Duration::from_secs(4)));
        std::thread::sleep(Duration::from_millis(1700));
        frozen.signal(Signal::SIGSTOP);
        let _ = frozen_at.set(Instant::now());
        producing.join().expect("produced");
    });
    let other = Consumer::start(&pipeline);
    pipeline.expect_rows(events, PATIENCE);
    assert!(
        frozen_at
            .get()
            .is_some_and(|at: &Instant| at.elapsed() > Duration::from_secs(14)),
        "the group waits out the session"
    );
    frozen.signal(Signal::SIGCONT);
    std::thread::sleep(Duration::from_secs(3));
    pipeline.produce_events(events, 1000, 100);
    pipeline.flush();
    pipeline.expect_rows(events + 1000, PATIENCE);
    drop(other);
}
