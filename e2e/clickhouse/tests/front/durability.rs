//! What is left after the process ends, by its own will or not.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::server::{ADMIN, Server, WRITER, command, native_block};

const CREATE: &str = "CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a \
                      SETTINGS non_replicated_deduplication_window = 10000";

fn block(batch: u64) -> Vec<u8> {
    let rows: Vec<(u64, &str)> = (0..50).map(|row| (batch * 50 + row, "x")).collect();
    native_block(&rows)
}

fn insert(url: &str, batch: u64) -> Result<(), String> {
    let query = "query=INSERT+INTO+t+FORMAT+Native&async_insert=0";
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(10)))
        .build()
        .into();
    agent
        .post(format!("{url}/?{query}&insert_deduplication_token=batch-{batch}"))
        .header("X-ClickHouse-User", WRITER.0)
        .header("X-ClickHouse-Key", WRITER.1)
        .send(&block(batch)[..])
        .map(|_| ())
        .map_err(|error| error.to_string())
}

#[test]
fn kill_9_loses_no_row_and_keeps_the_deduplication_window() {
    let mut server = Server::start();
    server.must(CREATE);
    let (writers, batches) = (4u64, 60u64);
    let url = server.url();
    let done = AtomicU64::new(0);
    let running = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let (url, done, running) = (&url, &done, &running);
            scope.spawn(move || {
                for batch in 0..batches {
                    // Unknown outcomes are sent again, as a consumer does.
                    while insert(url, writer * batches + batch).is_err() {
                        assert!(running.load(Ordering::Relaxed), "the server is gone for good");
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for share in 1..=3 {
            while done.load(Ordering::Relaxed) < writers * batches * share / 5 {
                std::thread::sleep(Duration::from_millis(5));
            }
            server.kill();
            server.restart();
        }
    });
    running.store(false, Ordering::Relaxed);
    let expected = writers * batches * 50;
    assert_eq!(
        server.must("SELECT count(), uniqExact(a) FROM t"),
        format!("{expected}\t{expected}")
    );
    server.kill();
    server.restart();
    for batch in [0, 100, writers * batches - 1] {
        insert(&url, batch).expect("accepts");
    }
    assert_eq!(
        server.count("t"),
        expected,
        "a batch of before the kill is known after it"
    );
}

#[test]
fn a_signal_lets_requests_end() {
    let mut server = Server::start();
    server.must(CREATE);
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| server.send(ADMIN, "", &[], b"SELECT sleep(3), 'slept' FORMAT TSV"));
        server.wait_until_running("slept");
        server.signal("-TERM");
        assert_eq!(slow.join().expect("an answer").text(), "0\tslept");
    });
    assert_eq!(server.wait().code(), Some(0));
    server.restart();
    assert_eq!(server.count("t"), 0);
}

#[test]
fn a_data_directory_has_one_process() {
    let server = Server::start();
    let second = command(&server.data())
        .args(["--listen", "127.0.0.1:0"])
        .output()
        .expect("runs");
    assert_eq!(
        second.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&second.stderr)
    );
    assert_eq!(server.must("SELECT 1"), "1");
}
