//! Clients that are too large, too slow, or too many.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::ZlibEncoder;

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

/// A client that takes 300 kB of the 400 and says no more.
fn greedy(ingest: &Ingest) -> TcpStream {
    let mut greedy = ingest.connect();
    greedy
        .write_all(
            b"POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: writer\r\ncontent-length: 100000\r\n\r\n{",
        )
        .unwrap();
    ingest.wait_for("the memory to be taken", || {
        ingest.metric("penstock_ingest_memory_used_bytes") > 300_000.0
    });
    greedy
}

#[test]
fn without_room_a_request_is_refused_after_a_second() {
    let ingest = Ingest::start_with(SMALL, &apps(""));
    let greedy = greedy(&ingest);
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
    let before = Instant::now();
    assert_eq!(ingest.write("/v1/events", vec![b' '; 60_000]).status, 503);
    assert!(
        before.elapsed() < Duration::from_millis(500),
        "while others are refused nobody waits"
    );
    drop(greedy);
    ingest.wait_for("the memory to come back", || {
        ingest.metric("penstock_ingest_memory_used_bytes") == 0.0
    });
}

#[test]
fn nobody_waits_for_room_beyond_the_time_of_his_request() {
    const TIME: Duration = Duration::from_secs(3);
    let limits = "limits: {body: 100kB, event: 50kB, memory: 400kB, requestTimeout: 3s, kafkaTimeout: 2s}";
    let ingest = Ingest::start_with(limits, &apps(""));
    let mut unsure = ingest.connect();
    let began = Instant::now();
    // Half of the memory, which its first chunk fits into.
    let head =
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: writer\r\ntransfer-encoding: chunked\r\n\r\n";
    unsure.write_all(head.as_bytes()).unwrap();
    let mut chunk = |bytes: usize| {
        let chunk = format!("{bytes:x}\r\n{}\r\n", " ".repeat(bytes));
        unsure.write_all(chunk.as_bytes()).unwrap();
    };
    chunk(60_000);
    ingest.wait_for("its room to be taken", || {
        ingest.metric("penstock_ingest_memory_used_bytes") > 190_000.0
    });
    // Most of the rest, for longer than the other has time.
    std::thread::sleep((TIME / 5).saturating_sub(began.elapsed()));
    let mut other = ingest.connect();
    let head = "POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: writer\r\ncontent-length: 60000\r\n\r\n{";
    other.write_all(head.as_bytes()).unwrap();
    std::thread::sleep((TIME - TIME / 10).saturating_sub(began.elapsed()));
    chunk(10_000);
    let mut answer = [0; 2000];
    let read = unsure.read(&mut answer).unwrap();
    let after = began.elapsed();
    let reply = parse(&answer[..read]).unwrap();
    assert_eq!(
        (reply.status, reply.body["code"].as_str()),
        (503, Some("overloaded"))
    );
    assert!((TIME - TIME / 20..TIME + TIME / 6).contains(&after), "{after:?}");
}

#[test]
fn who_shows_no_key_holds_no_room_that_others_need() {
    // Three times what their heads promise is more than there is.
    let ingest = Ingest::start_with("limits: {body: 100kB, event: 50kB, memory: 1200kB}", &apps(""));
    let keyless: Vec<_> = (0..5)
        .map(|_| {
            let mut stream = ingest.connect();
            let head = "POST /v1/batch HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{";
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let reply = ingest.write("/v1/events", r#"{"event_type":"a"}"#);
    assert_eq!(reply.status, 200, "{reply:?}");
    drop(keyless);
}

#[test]
fn a_pod_that_stays_full_is_taken_out_of_the_service() {
    let ingest = Ingest::start_with(SMALL, &apps(""));
    assert_eq!(ingest.readyz().status, 200);
    let mut greedy = greedy(&ingest);
    // Refused over and over, as from a client that does not give up.
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end && ingest.readyz().status == 200 {
        assert_eq!(ingest.write("/v1/events", vec![b' '; 60_000]).status, 503);
        greedy.write_all(b" ").unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    let readyz = ingest.readyz();
    assert_eq!(readyz.status, 503, "{readyz:?}");
    assert!(
        readyz.body.to_string().contains("limits.memory is used up"),
        "{readyz:?}"
    );
    drop(greedy);
    ingest.wait_for("readiness", || ingest.readyz().status == 200);
}

#[test]
fn dead_letters_have_their_part_of_the_memory_until_kafka_has_them() {
    let ingest = Ingest::start_with(&format!("shards: 1\n{SMALL}"), &apps(""));
    let client = *ingest;
    let nonsense = format!(r#"{{"type":"nonsense","x":"{}"}}"#, "y".repeat(30_000));
    let batch = format!(r#"{{"batch":[{nonsense},{nonsense}]}}"#);
    // Afterwards the producer knows where letters go.
    assert_eq!(client.write("/segment/v1/batch", &batch).status, 200);
    ingest
        .kafka
        .broker_round_trip_time(1, Duration::from_secs(3))
        .unwrap();
    std::thread::scope(|scope| {
        // On their way two of them hold 240 kB of the 400; to be read a third would need 180.
        let two = [(); 2].map(|()| scope.spawn(|| client.write("/segment/v1/batch", &batch).status));
        ingest.wait_for("letters to be on their way", || {
            ingest.metric("penstock_ingest_memory_used_bytes") >= 240_000.0
        });
        let reply = client.write("/segment/v1/batch", &batch);
        assert_eq!(
            (reply.status, reply.body["code"].as_str()),
            (503, Some("overloaded"))
        );
        assert_eq!(two.map(|one| one.join().unwrap()), [200, 200]);
    });
    ingest.wait_for("the memory to come back", || {
        ingest.metric("penstock_ingest_memory_used_bytes") == 0.0
    });
    // Who reads them shall not wait for each.
    let fast = ingest.kafka.broker_round_trip_time(1, Duration::ZERO);
    fast.unwrap();
    assert_eq!(ingest.letters(6).len(), 6);
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

#[test]
fn a_body_may_be_slow_but_not_stand_still() {
    const EVENT: &[u8] = br#"{"event_type":"a"}"#;
    // So long that only standing still is cut.
    let ingest = Ingest::start_with("limits: {requestTimeout: 60s}", &apps(""));
    let client = *ingest;
    let begun = || {
        let mut stream = client.connect();
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: writer\r\ncontent-length: {}\r\n\r\n",
            EVENT.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut still = begun();
            still.write_all(&EVENT[..5]).unwrap();
            let before = Instant::now();
            let reply = parse(&read_all(&mut still).unwrap()).unwrap();
            assert_eq!(
                (reply.status, reply.body["code"].as_str()),
                (408, Some("timeout"))
            );
            assert!(
                (Duration::from_secs(5)..Duration::from_secs(20)).contains(&before.elapsed()),
                "{:?}",
                before.elapsed()
            );
        });
        scope.spawn(|| {
            let mut slow = begun();
            let before = Instant::now();
            for byte in EVENT {
                slow.write_all(&[*byte]).unwrap();
                std::thread::sleep(Duration::from_millis(500));
            }
            assert!(before.elapsed() > Duration::from_secs(6));
            assert_eq!(parse(&read_all(&mut slow).unwrap()).unwrap().status, 200);
        });
    });
}

#[test]
fn a_body_that_nobody_wants_is_read_for_a_moment() {
    let ingest = Ingest::start();
    // Refused for want of a key, before anything of its body has come.
    let refused = |more: &str, length: usize| {
        format!("POST /v1/events HTTP/1.1\r\nhost: x\r\n{more}content-length: {length}\r\n\r\n")
    };
    let answered = |stream: &mut TcpStream| {
        let mut answer = [0; 2000];
        let read = stream.read(&mut answer).unwrap();
        assert_eq!(parse(&answer[..read]).unwrap().status, 401);
    };
    // What comes soon and is not much does not cost the connection.
    let mut brief = ingest.connect();
    brief.write_all(refused("", 50_000).as_bytes()).unwrap();
    answered(&mut brief);
    brief.write_all(&[b' '; 50_000]).unwrap();
    brief
        .write_all(refused("connection: close\r\n", 0).as_bytes())
        .unwrap();
    answered(&mut brief);
    assert_eq!(read_all(&mut brief).unwrap(), b"");

    // Nor is it taken for the head of a request that never ends.
    let mut idle = ingest.connect();
    idle.write_all(refused("", 5_000).as_bytes()).unwrap();
    answered(&mut idle);
    idle.write_all(&[b' '; 5_000]).unwrap();
    std::thread::sleep(Duration::from_secs(8));
    idle.write_all(refused("connection: close\r\n", 0).as_bytes())
        .unwrap();
    answered(&mut idle);

    // Of a large one no more is taken than what sockets hold.
    let mut large = ingest.connect();
    large.write_all(refused("", 1_000_000_000).as_bytes()).unwrap();
    answered(&mut large);
    large.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut taken = 0;
    let ended = loop {
        match large.write(&[b' '; 64 * 1024]) {
            Ok(written) => taken += written,
            Err(error) => break error.kind(),
        }
        assert!(taken < 20_000_000, "{taken} bytes");
    };
    assert!(
        [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&ended),
        "{ended:?}"
    );

    let mut silent = ingest.connect();
    silent.write_all(refused("", 50_000).as_bytes()).unwrap();
    answered(&mut silent);
    let before = Instant::now();
    assert_eq!(read_all(&mut silent).unwrap(), b"");
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(4)).contains(&before.elapsed()),
        "{:?}",
        before.elapsed()
    );
}

#[test]
fn a_body_that_is_cut_short_or_malformed_is_refused_as_bad() {
    let ingest = Ingest::start();
    let length = "content-length: 100\r\n\r\n{\"event_type\"";
    let chunks = "transfer-encoding: chunked\r\n\r\n";
    for (path, code) in [
        ("/v1/events", "invalid_body"),
        ("/segment/v1/track", "invalid_body"),
        ("/api/v1/events", "INVALID_REQUEST"),
    ] {
        for (body, ends) in [
            (length.to_owned(), true),
            (format!("{chunks}8\r\n{{\"event"), true),
            (format!("{chunks}xyz\r\n{{}}\r\n0\r\n\r\n"), false),
        ] {
            let mut stream = ingest.connect();
            let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: writer\r\n");
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            if ends {
                stream.shutdown(Shutdown::Write).unwrap();
            }
            let reply = parse(&read_all(&mut stream).unwrap()).unwrap();
            assert_eq!(
                (reply.status, reply.body["code"].as_str()),
                (400, Some(code)),
                "{path} {body:?}"
            );
            assert_eq!(reply.headers["connection"], "close");
        }
    }
    assert!(ingest.stored(0).is_empty());
}

/// 50 MB of `x` in 80 bytes, made by Node's zlib.
const BROTLI_BOMB: &[u8] = &[
    0xcb, 0xff, 0xff, 0x3f, 0xf8, 0x25, 0xf0, 0xe2, 0xb1, 0x40, 0x20, 0xf7, 0xfe, 0x8f, 0xff, 0xff, 0x7f,
    0xf0, 0x4b, 0x00, 0xc4, 0x61, 0x11, 0x80, 0xee, 0xfd, 0x1f, 0xff, 0xff, 0xff, 0xe0, 0x97, 0x00, 0x88,
    0xc3, 0x02, 0x00, 0xdd, 0xfb, 0x3f, 0xfe, 0xff, 0xff, 0xc1, 0x2f, 0x01, 0x10, 0x87, 0x05, 0x00, 0xba,
    0xf7, 0x7f, 0xfc, 0xff, 0xff, 0x83, 0x5f, 0x02, 0x20, 0x0e, 0x0b, 0x00, 0x74, 0xef, 0xff, 0xf2, 0x0f,
    0x5e, 0x0f, 0xbf, 0x04, 0x40, 0x1c, 0x16, 0x00, 0xe8, 0xa0, 0xeb, 0x01,
];
/// `{"event_type":"a"}`
const BROTLI_EVENT: &[u8] = &[
    0x8b, 0x08, 0x80, 0x7b, 0x22, 0x65, 0x76, 0x65, 0x6e, 0x74, 0x5f, 0x74, 0x79, 0x70, 0x65, 0x22, 0x3a,
    0x22, 0x61, 0x22, 0x7d, 0x03,
];

#[test]
fn every_encoding_is_taken_and_no_bomb_goes_off() {
    let ingest = Ingest::start_with(SMALL, &apps(""));
    let deflate = |bytes: &[u8]| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let event = br#"{"event_type":"a"}"#;
    let large = vec![b'x'; 5_000_000];
    for (encoding, good, bomb) in [
        ("deflate", deflate(event), deflate(&large)),
        ("zstd", zstd(event), zstd(&large)),
        ("br", BROTLI_EVENT.to_vec(), BROTLI_BOMB.to_vec()),
    ] {
        let post = |body: &[u8]| {
            let headers = [("x-api-key", "writer"), ("content-encoding", encoding)];
            ingest.post("/v1/events", &headers, body)
        };
        assert_eq!(post(&good).status, 200, "{encoding}");
        let reply = post(&bomb);
        assert_eq!(
            (reply.status, reply.body["code"].as_str()),
            (413, Some("body_too_large")),
            "{encoding}"
        );
        let reply = post(&good[..good.len() - 1]);
        assert_eq!(
            (reply.status, reply.body["code"].as_str()),
            (400, Some("invalid_encoding")),
            "{encoding}"
        );
    }
    let headers = [("x-api-key", "writer"), ("content-encoding", "compress")];
    let reply = ingest.post("/v1/events", &headers, event);
    assert_eq!(
        (reply.status, reply.headers["accept-encoding"].as_str()),
        (415, "gzip, deflate, zstd, br")
    );
    assert_eq!(ingest.stored(3).len(), 3);
    ingest.wait_for("the memory to come back", || {
        ingest.metric("penstock_ingest_memory_used_bytes") == 0.0
    });
}

#[test]
fn a_request_has_one_time_for_its_body_and_for_kafka() {
    let ingest = Ingest::start_with("limits: {requestTimeout: 3s, kafkaTimeout: 2s}", &apps(""));
    let event = r#"{"event_type":"a"}"#;
    let mut stream = ingest.connect();
    let began = Instant::now();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: writer\r\ncontent-length: {}\r\n\r\n{{",
        event.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    ingest
        .kafka
        .broker_round_trip_time(1, Duration::from_secs(30))
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    stream.write_all(&event.as_bytes()[1..]).unwrap();
    let reply = parse(&read_all(&mut stream).unwrap()).unwrap();
    assert_eq!(
        (reply.status, reply.body["code"].as_str()),
        (503, Some("not_stored"))
    );
    // Kafka alone would have had until 4.5 s.
    let after = began.elapsed();
    assert!(
        (Duration::from_millis(2900)..Duration::from_secs(4)).contains(&after),
        "{after:?}"
    );
}
