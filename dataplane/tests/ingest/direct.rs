//! `onKafkaOutage: Direct`: while Kafka is away events go into ClickHouse, once, and nothing that was in Kafka does.
//!
//! The server here keeps what an INSERT brings by its token, as ClickHouse does, and can lose an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use penstock_dataplane::consume::native::RowId;
use penstock_dataplane::consume::position::Position;
use penstock_dataplane::consume::target::{SUM, Sum};

use super::harness::{Ingest, apps};

const EVENTS: &str = "INSERT%20INTO%20%60growth%60.%60events%60";

#[derive(Debug, Default)]
struct Held {
    /// Token -> the event ids of its block.
    tokens: BTreeMap<String, Vec<uuid::Uuid>>,
    /// INSERTs received.
    inserts: usize,
    /// INSERTs that are to be stored without an answer.
    lose: usize,
    /// INSERTs whose token is to be noted without rows, and without an answer.
    forget: usize,
    refuse: bool,
}

/// What answers as ClickHouse does, on a port of its own.
struct Table {
    held: Arc<Mutex<Held>>,
    port: u16,
}

impl Table {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let held = Arc::<Mutex<Held>>::default();
        let shared = Arc::clone(&held);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, held) = (stream.unwrap(), Arc::clone(&shared));
                std::thread::spawn(move || while serve(&stream, &held).is_some() {});
            }
        });
        Self { held, port }
    }

    fn settings(&self) -> String {
        format!(
            "limits: {{requestTimeout: 6s, kafkaTimeout: 4s}}\nonKafkaOutage: Direct\n\
             clickhouse: {{url: 'http://127.0.0.1:{}', database: growth, table: events}}",
            self.port
        )
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        change(&mut self.held.lock().unwrap());
    }

    /// Every event, each once.
    fn events(&self) -> BTreeSet<String> {
        let held = self.held.lock().unwrap();
        let mut events = BTreeSet::new();
        for id in held.tokens.values().flatten() {
            assert!(events.insert(id.to_string()), "{id} is there twice");
        }
        events
    }
}

/// Answers one request; `None` at the end of the connection.
fn serve(stream: &TcpStream, held: &Mutex<Held>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let uri = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header == "\r\n" {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut held = held.lock().unwrap();
    let answer = if uri.contains(EVENTS) {
        assert!(
            uri.contains("async_insert=0") && uri.contains("insert_deduplicate=1"),
            "{uri}"
        );
        let token = uri
            .split('&')
            .find_map(|one| one.strip_prefix("insert_deduplication_token="))?;
        held.inserts += 1;
        if held.refuse {
            respond(stream, "503 Service Unavailable", b"Code: 242. read only");
            return Some(());
        }
        if held.forget > 0 {
            held.forget -= 1;
            held.tokens.insert(token.to_owned(), Vec::new());
            return None;
        }
        let ids = event_ids(&body);
        held.tokens.entry(token.to_owned()).or_insert(ids);
        if held.lose > 0 {
            held.lose -= 1;
            return None;
        }
        Vec::new()
    } else {
        positions(&String::from_utf8(body).unwrap(), &held)
    };
    respond(stream, "200 OK", &answer);
    Some(())
}

fn respond(mut stream: &TcpStream, status: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
}

/// The first column of a Native block.
fn event_ids(block: &[u8]) -> Vec<uuid::Uuid> {
    let (rows, rest) = match block {
        [23, rows, rest @ ..] if *rows < 128 => (usize::from(*rows), rest),
        [23, low, high, rest @ ..] => (usize::from(low & 127) + (usize::from(*high) << 7), rest),
        _ => panic!("no block of 23 columns"),
    };
    let values = rest.strip_prefix(b"\x08event_id\x04UUID").unwrap();
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let ids = values[..rows * 16].chunks(16);
    ids.map(|id| uuid::Uuid::from_u64_pair(number(&id[..8]), number(&id[8..])))
        .collect()
}

/// Which rows of partition -1 the table has at the offset asked for, or their sum: with one group only, all of them or none.
fn positions(query: &str, held: &Held) -> Vec<u8> {
    assert!(query.contains("src_partition = -1"), "{query}");
    let between = query.split("src_offset BETWEEN ").nth(1).unwrap();
    let offset: i64 = between.split(' ').next().unwrap().parse().unwrap();
    let (mut out, mut sum) = (Vec::new(), Sum::default());
    for ids in held.tokens.values() {
        for (row, id) in (0u32..).zip(ids) {
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&row.to_le_bytes());
            let (high, low) = id.as_u64_pair();
            out.extend_from_slice(&high.to_le_bytes());
            out.extend_from_slice(&low.to_le_bytes());
            sum.add(RowId {
                position: Position::new(offset, row),
                event_id: id.as_u128(),
            });
        }
    }
    match query.contains(SUM) {
        true => [sum.rows.to_le_bytes(), sum.digest.to_le_bytes()].concat(),
        false => out,
    }
}

fn event(id: &str) -> String {
    format!(r#"{{"event_type":"a","event_id":"{id}"}}"#)
}

/// Sends one event with an id of its own: the id, the status, and the header `Penstock-Durability`.
fn send(ingest: &Ingest) -> (String, u16, String) {
    let id = uuid::Uuid::new_v4().to_string();
    let reply = ingest.write("/v1/events", event(&id));
    let durability = reply
        .headers
        .get("penstock-durability")
        .cloned()
        .unwrap_or_default();
    (id, reply.status, durability)
}

/// Kafka is away, and ingest knows it.
fn away(table: &Table) -> Ingest {
    let ingest = Ingest::start_with(&format!("shards: 1\n{}", table.settings()), &apps(""));
    ingest.kafka.down();
    ingest.wait_for("events to go to the table", || send(&ingest).2 == "direct");
    ingest
}

#[test]
fn while_kafka_is_away_events_go_into_the_table_and_never_into_both() {
    let table = Table::start();
    let ingest = Ingest::start_with(&table.settings(), &apps(""));
    let client = *ingest;
    let acknowledged = Mutex::new(BTreeMap::new());
    let round = |wanted: &str, count: usize| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let enough = || {
                        let acknowledged = acknowledged.lock().unwrap();
                        acknowledged.values().filter(|told| *told == wanted).count() >= count
                    };
                    while !enough() {
                        let id = uuid::Uuid::new_v4().to_string();
                        let reply = client.write("/v1/events", event(&id));
                        let told = reply
                            .headers
                            .get("penstock-durability")
                            .cloned()
                            .unwrap_or_default();
                        if reply.status == 200 {
                            acknowledged.lock().unwrap().insert(id, told);
                        }
                    }
                });
            }
        });
    };
    round("", 50);
    ingest.kafka.down();
    round("direct", 50);
    ingest.kafka.up();
    round("", 100);
    let acknowledged = acknowledged.into_inner().unwrap();
    let in_table = table.events();
    let in_topic: Vec<String> = ingest
        .stored(acknowledged.values().filter(|told| told.is_empty()).count())
        .iter()
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect();
    let distinct: BTreeSet<_> = in_topic.iter().cloned().collect();
    assert_eq!(distinct.len(), in_topic.len());
    let both: Vec<_> = in_table.intersection(&distinct).collect();
    assert!(both.is_empty(), "{both:?}");
    for (id, told) in &acknowledged {
        let place = if told == "direct" { &in_table } else { &distinct };
        assert!(place.contains(id), "{id} was acknowledged as `{told}`");
    }
    let held = table.held.lock().unwrap();
    assert!(
        held.inserts <= acknowledged.len(),
        "groups, not events, are inserted"
    );
}

#[test]
fn an_insert_of_unknown_outcome_is_repeated_under_its_token() {
    let table = Table::start();
    let ingest = away(&table);
    let before = table.held.lock().unwrap().inserts;
    table.change(|held| held.lose = 2);
    let (id, status, told) = send(&ingest);
    assert_eq!((status, told.as_str()), (200, "direct"));
    assert!(table.events().contains(&id), "once, or this panics");
    assert!(table.held.lock().unwrap().inserts >= before + 3);
}

#[test]
fn a_token_without_its_rows_is_not_believed() {
    let table = Table::start();
    let ingest = away(&table);
    table.change(|held| held.forget = 1);
    let (id, status, _) = send(&ingest);
    assert_eq!(status, 503, "the server says yes for ever, and has nothing");
    assert!(!table.events().contains(&id));
}

#[test]
fn with_both_away_the_answer_is_503() {
    let table = Table::start();
    let ingest = away(&table);
    table.change(|held| held.refuse = true);
    let reply = ingest.write("/v1/events", event(&uuid::Uuid::new_v4().to_string()));
    assert_eq!(
        (reply.status, reply.body["error"].as_str()),
        (503, Some("failed to store events"))
    );
    assert_eq!(reply.headers["retry-after"], "1");
    let failed = r#"penstock_ingest_direct_groups_total{outcome="failed"}"#;
    assert!(ingest.metric(failed) >= 1.0);
    table.change(|held| held.refuse = false);
    assert_eq!(send(&ingest).1, 200);
}

#[test]
fn behind_a_table_that_refuses_each_group_is_answered_in_its_time_and_then_at_once() {
    let table = Table::start();
    let ingest = away(&table);
    table.change(|held| held.refuse = true);
    let tried = || table.held.lock().unwrap().inserts;
    let (client, before) = (*ingest, tried());
    let timed = || {
        let began = Instant::now();
        let reply = client.write("/v1/events", event(&uuid::Uuid::new_v4().to_string()));
        assert_eq!((reply.status, reply.headers["retry-after"].as_str()), (503, "1"));
        began.elapsed()
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(timed);
        ingest.wait_for("the first group to be tried", || tried() > before);
        // It gathers until the first has been given up.
        for request in [first, scope.spawn(timed)] {
            let after = request.join().unwrap();
            assert!(after < Duration::from_millis(6500), "{after:?}");
        }
        // One of them shows how the table is.
        let requests = [(); 4].map(|()| scope.spawn(timed));
        let after = requests.map(|request| request.join().unwrap());
        let at_once = after.iter().any(|one| *one < Duration::from_millis(500));
        assert!(at_once, "{after:?}");
    });
    table.change(|held| held.refuse = false);
    ingest.wait_for("the table to be found", || send(&ingest).1 == 200);
}

#[test]
fn a_request_that_is_refused_is_not_the_one_that_finds_the_table() {
    let table = Table::start();
    let ingest = away(&table);
    table.change(|held| held.refuse = true);
    assert_eq!(send(&ingest).1, 503, "given up, six seconds after it was tried");
    table.change(|held| held.refuse = false);
    for nothing in ["no JSON", r#"{"event_type":""}"#] {
        assert_eq!(ingest.write("/v1/events", nothing).status, 400);
    }
    assert_eq!(send(&ingest).1, 200);
}
