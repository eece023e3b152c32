//! Clients that are too large, too slow, or too many.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::harness::{Ingest, apps, parse, read_all};

const SMALL: &str = "limits: {body: 100kB, event: 50kB, memory: 400kB}";

#[test]
fn a_body_over_the_limit_is_refused_however_it_comes() {
    let ingest = Ingest::start_with(SMALL, &apps(""));
    let large = vec![b' '; 120_000];
    let reply = ingest.write("/v1/events", &large);
    assert_eq!(
        (reply.status, reply.body["code"].as_str()),
        (413, Some("body_too_large"))
    );
    assert_eq!(reply.body["details"]["limit"], 100_000);

    let mut chunked = format!("{:x}\r\n", large.len()).into_bytes();
    chunked.extend_from_slice(&large);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let headers = [("x-api-key", "writer"), ("transfer-encoding", "chunked")];
    assert_eq!(ingest.post("/v1/events", &headers, chunked).status, 413);

    let event = format!(
        r#"{{"event_type":"a","event_data":{{"x":"{}"}}}}"#,
        "y".repeat(60_000)
    );
    let reply = ingest.write("/v1/events", event);
    assert_eq!(reply.body["details"]["rejected"][0]["code"], "event_too_large");
}

#[test]
fn without_room_a_request_is_refused_after_a_second() {
    let ingest = Ingest::start_with(SMALL, &apps(""));
    // Takes 300 kB of the 400 and says no more.
    let mut greedy = ingest.connect();
    greedy
        .write_all(
            b"POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: writer\r\ncontent-length: 100000\r\n\r\n{",
        )
        .unwrap();
    ingest.wait_for("the memory to be taken", || {
        ingest.metric("penstock_ingest_memory_used_bytes") > 300_000.0
    });
    let before = Instant::now();
    let reply = ingest.write("/v1/events", vec![b' '; 60_000]);
    assert_eq!(
        (reply.status, reply.body["code"].as_str()),
        (503, Some("overloaded"))
    );
    assert_eq!(
        (
            reply.headers["retry-after"].as_str(),
            reply.headers["connection"].as_str()
        ),
        ("1", "close")
    );
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(4)).contains(&before.elapsed()),
        "{:?}",
        before.elapsed()
    );
    assert_eq!(
        ingest.write("/v1/events", r#"{"event_type":"a"}"#).status,
        200,
        "small ones still find room"
    );
    drop(greedy);
    ingest.wait_for("the memory to come back", || {
        ingest.metric("penstock_ingest_memory_used_bytes") == 0.0
    });
}

#[test]
fn who_is_too_slow_is_cut_with_408() {
    let ingest = Ingest::start_with("limits: {requestTimeout: 3s, kafkaTimeout: 2s}", &apps(""));
    let client = *ingest;
    let cut = |sent: &[u8]| {
        let mut stream = client.connect();
        stream.write_all(sent).unwrap();
        let before = Instant::now();
        let reply = parse(&read_all(&mut stream).unwrap()).unwrap();
        (reply, before.elapsed())
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (reply, after) = cut(b"POST /v1/events HTTP/1.1\r\nhost: x\r\n");
            assert_eq!(
                (reply.status, reply.body["code"].as_str()),
                (408, Some("timeout"))
            );
            assert!(
                (Duration::from_secs(5)..Duration::from_secs(12)).contains(&after),
                "{after:?}"
            );
        });
        scope.spawn(|| {
            let (reply, after) = cut(
                b"POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: writer\r\ncontent-length: 100\r\n\r\n{",
            );
            assert_eq!(
                (reply.status, reply.body["code"].as_str()),
                (408, Some("timeout"))
            );
            assert_eq!(reply.headers["connection"], "close");
            assert!(after < Duration::from_secs(8), "{after:?}");
        });
    });
}
