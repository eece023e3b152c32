//! The events that are sent, and the requests that carry them.
//!
//! An event has 377 bytes and the members that the native protocol knows. Events of one request differ in every
//! member that would differ between users; each sender has events of its own, and each event that is sent uncompressed
//! has an id of its own: the last twelve digits are a number that goes up. Compressed requests are made beforehand, a
//! few for each sender, and repeat.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

/// Bytes of one event.
pub const EVENT_BYTES: usize = 377;
/// Digits of an event's id that are a number.
const DIGITS: usize = 12;
/// Compressed requests of one sender.
const COMPRESSED: usize = 4;

/// How a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Encoding {
    Plain,
    Gzip,
}

/// What a body is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Ingest's own.
    Native,
    /// OpenTelemetry's logs as JSON: the same event as a record of six attributes, under four of the resource.
    Otlp,
}

/// What a sender sends, and to what.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'s> {
    pub protocol: Protocol,
    /// Events of one request; 1 goes to the path of single events.
    pub events: usize,
    pub encoding: Encoding,
    pub key: &'s str,
    /// Of the events' clocks, ms since 1970.
    pub now: i64,
}

impl Shape<'_> {
    /// The path of ingest that takes such requests.
    pub fn path(&self) -> &'static str {
        match self.protocol {
            Protocol::Native if self.events == 1 => "/v1/events",
            Protocol::Native => "/v1/events/batch",
            Protocol::Otlp => "/v1/logs",
        }
    }

    /// The requests of sender number `sender`, whole, from the request line on.
    pub fn requests(&self, sender: u64) -> Requests {
        let mut random = StdRng::seed_from_u64(sender);
        match self.encoding {
            Encoding::Plain => {
                let (body, mut ids) = self.body(&mut random);
                let mut bytes = self.head(body.len());
                ids.iter_mut().for_each(|id| *id += bytes.len());
                bytes.extend_from_slice(&body);
                Requests::Numbered { bytes, ids }
            }
            Encoding::Gzip => {
                let made = (0..COMPRESSED as u64).map(|variant| {
                    let (mut body, ids) = self.body(&mut random);
                    let mut number = (sender * COMPRESSED as u64 + variant) * self.events as u64;
                    write_numbers(&mut body, &ids, &mut number);
                    let packed = gzip(&body);
                    let mut bytes = self.head(packed.len());
                    bytes.extend_from_slice(&packed);
                    bytes
                });
                Requests::Repeated {
                    bytes: made.collect(),
                    next: 0,
                }
            }
        }
    }

    fn body(&self, random: &mut StdRng) -> (Vec<u8>, Vec<usize>) {
        match self.protocol {
            Protocol::Native => body(self.events, self.now, random),
            Protocol::Otlp => otlp_body(self.events, self.now, random),
        }
    }

    fn head(&self, length: usize) -> Vec<u8> {
        let encoding = match self.encoding {
            Encoding::Plain => "",
            Encoding::Gzip => "Content-Encoding: gzip\r\n",
        };
        format!(
            "POST {} HTTP/1.1\r\nHost: ingest\r\nUser-Agent: penstock-bench\r\nX-API-Key: {}\r\n\
             Content-Type: application/json\r\n{encoding}Content-Length: {length}\r\n\r\n",
            self.path(),
            self.key
        )
        .into_bytes()
    }
}

/// The requests of one sender.
#[derive(Clone, Debug)]
pub enum Requests {
    /// One, whose events get new ids each time it is sent.
    Numbered { bytes: Vec<u8>, ids: Vec<usize> },
    /// Several, sent by turns.
    Repeated { bytes: Vec<Vec<u8>>, next: usize },
}

impl Requests {
    /// Makes the next request; `number` goes up by its events.
    pub fn advance(&mut self, number: &mut u64) {
        match self {
            Self::Numbered { bytes, ids } => write_numbers(bytes, ids, number),
            Self::Repeated { bytes, next } => *next = (*next + 1) % bytes.len(),
        }
    }

    /// The request that was made last.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Numbered { bytes, .. } => bytes,
            Self::Repeated { bytes, next } => &bytes[*next],
        }
    }
}

/// A body of `events` events, and where in it the numbers of their ids are.
pub fn body(events: usize, now: i64, random: &mut StdRng) -> (Vec<u8>, Vec<usize>) {
    let (mut body, mut ids) = (Vec::with_capacity(events * (EVENT_BYTES + 1) + 16), Vec::new());
    if events != 1 {
        body.extend_from_slice(b"{\"events\":[");
    }
    for index in 0..events {
        if index > 0 {
            body.push(b',');
        }
        let start = body.len();
        let event = event(now, random);
        let id = event.find("\"event_id\":\"").unwrap_or(0) + "\"event_id\":\"".len() + 24;
        ids.push(start + id);
        body.extend_from_slice(event.as_bytes());
    }
    if events != 1 {
        body.extend_from_slice(b"]}");
    }
    (body, ids)
}

/// The same for OpenTelemetry's protocol.
fn otlp_body(events: usize, now: i64, random: &mut StdRng) -> (Vec<u8>, Vec<usize>) {
    let attribute =
        |key: &str, value: &str| format!("{{\"key\":\"{key}\",\"value\":{{\"stringValue\":\"{value}\"}}}}");
    let resource = [
        attribute("service.name", "shop"),
        attribute("service.version", "3.12.0"),
        attribute("host.name", "web-7"),
        attribute("deployment.environment", "production"),
    ];
    let mut text = format!(
        "{{\"resourceLogs\":[{{\"resource\":{{\"attributes\":[{}]}},\"scopeLogs\":[{{\"scope\":{{}},\"logRecords\":[",
        resource.join(",")
    );
    let mut ids = Vec::with_capacity(events);
    for index in 0..events {
        if index > 0 {
            text.push(',');
        }
        let user = format!("user-{}", random.random_range(0..10_000_000));
        let attributes = [
            attribute("user_id", &user),
            attribute("device_id", &format!("{:016x}", random.random::<u64>())),
            attribute(
                "session_id",
                &format!("{:012x}", random.random_range(0..1u64 << 48)),
            ),
            attribute("platform", "ios"),
            attribute("app_version", "3.12.0"),
        ];
        text.push_str(&format!(
            "{{\"timeUnixNano\":\"{now}000000\",\"severityNumber\":9,\"body\":{{\"stringValue\":\"purchase\"}},\"traceId\":\"{:032x}\",\
             \"spanId\":\"{:016x}\",\"attributes\":[{},",
            random.random::<u128>(),
            random.random::<u64>(),
            attributes.join(",")
        ));
        let id = attribute("event_id", "0193f1c2-7b3e-4c31-a3c9-000000000000");
        ids.push(text.len() + id.len() - "000000000000\"}}".len());
        text.push_str(&id);
        text.push_str("]}");
    }
    text.push_str("]}]}]}");
    (text.into_bytes(), ids)
}

/// One event of [`EVENT_BYTES`].
fn event(now: i64, random: &mut StdRng) -> String {
    const TYPES: [&str; 5] = [
        "purchase",
        "page_view",
        "session_start",
        "add_to_cart",
        "level_completed",
    ];
    const PLATFORMS: [(&str, &str); 4] = [
        ("ios", "18.1.1"),
        ("android", "15"),
        ("web", "131.0"),
        ("ios", "17.7.2"),
    ];
    const SOURCES: [&str; 4] = ["google", "newsletter", "facebook", "partner"];
    let (platform, version) = PLATFORMS[random.random_range(0..PLATFORMS.len())];
    let mut text = format!(
        "{{\"event_type\":\"{}\",\"event_id\":\"{:08x}-{:04x}-4{:03x}-a{:03x}-000000000000\",\"user_id\":\"user-{}\",\
         \"device_id\":\"{:016x}\",\"session_id\":\"{:012x}\",\"timestamp\":{},\"platform\":\"{platform}\",\
         \"os_version\":\"{version}\",\"app_version\":\"3.{}.{}\",\"attribution\":{{\"utm_source\":\"{}\"}},\
         \"event_data\":{{\"amount\":{}.{:02},\"item\":\"sku-{}\",\"note\":\"",
        TYPES[random.random_range(0..TYPES.len())],
        random.random::<u32>(),
        random.random::<u16>(),
        random.random_range(0..0x1000),
        random.random_range(0..0x1000),
        random.random_range(0..10_000_000),
        random.random::<u64>(),
        random.random_range(0..1u64 << 48),
        now - random.random_range(0..60_000),
        random.random_range(0..20),
        random.random_range(0..10),
        SOURCES[random.random_range(0..SOURCES.len())],
        random.random_range(1..500),
        random.random_range(0..100),
        random.random_range(0..100_000),
    );
    while text.len() < EVENT_BYTES - 3 {
        text.push(char::from(b'a' + random.random_range(0..26)));
    }
    text.push_str("\"}}");
    text
}

fn write_numbers(bytes: &mut [u8], ids: &[usize], number: &mut u64) {
    const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";
    for id in ids {
        let mut rest = *number;
        for digit in bytes[*id..*id + DIGITS].iter_mut().rev() {
            *digit = HEXADECIMAL[(rest & 15) as usize];
            rest >>= 4;
        }
        *number += 1;
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to a Vec cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};
    use std::io::Read as _;

    use serde_json::value::RawValue;

    use super::*;

    fn split(request: &[u8]) -> (&str, &[u8]) {
        let end = request.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        (std::str::from_utf8(&request[..end]).unwrap(), &request[end + 4..])
    }

    fn shape(events: usize, encoding: Encoding) -> Shape<'static> {
        Shape {
            protocol: Protocol::Native,
            events,
            encoding,
            key: "k",
            now: 1_763_740_000_000,
        }
    }

    #[test]
    fn every_event_has_its_size_and_an_id_of_its_own() {
        let mut ids = BTreeSet::new();
        let mut number = 0;
        for sender in 0..3 {
            let mut requests = shape(10, Encoding::Plain).requests(sender);
            for _ in 0..4 {
                requests.advance(&mut number);
                let (head, body) = split(requests.bytes());
                assert!(
                    head.contains(&format!("Content-Length: {}", body.len())),
                    "{head}"
                );
                let parsed: HashMap<&str, Vec<&RawValue>> = serde_json::from_slice(body).unwrap();
                for event in &parsed["events"] {
                    assert_eq!(event.get().len(), EVENT_BYTES);
                    let event: serde_json::Value = serde_json::from_str(event.get()).unwrap();
                    ids.insert(event["event_id"].as_str().unwrap().to_owned());
                }
            }
        }
        assert_eq!((ids.len(), number), (120, 120));
    }

    #[test]
    fn compressed_requests_hold_the_same_kind_of_events() {
        let mut requests = shape(100, Encoding::Gzip).requests(7);
        let mut seen = BTreeSet::new();
        for _ in 0..8 {
            requests.advance(&mut 0);
            let (head, body) = split(requests.bytes());
            assert!(head.contains("gzip"));
            let mut text = Vec::new();
            flate2::read::GzDecoder::new(body).read_to_end(&mut text).unwrap();
            let parsed: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let events = parsed["events"].as_array().unwrap();
            assert_eq!(events.len(), 100);
            seen.extend(
                events
                    .iter()
                    .map(|event| event["event_id"].as_str().unwrap().to_owned()),
            );
        }
        assert_eq!(seen.len(), 100 * COMPRESSED);
    }

    #[test]
    fn records_of_opentelemetry_have_ids_too() {
        let otlp = Shape {
            protocol: Protocol::Otlp,
            ..shape(3, Encoding::Plain)
        };
        let mut requests = otlp.requests(0);
        requests.advance(&mut 1);
        let (head, body) = split(requests.bytes());
        assert!(head.starts_with("POST /v1/logs "));
        let parsed: serde_json::Value = serde_json::from_slice(body).unwrap();
        let records = parsed["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
            .as_array()
            .unwrap();
        let ids: Vec<_> = records
            .iter()
            .map(|record| record["attributes"][5]["value"]["stringValue"].clone())
            .collect();
        let expected = [1, 2, 3].map(|number| format!("0193f1c2-7b3e-4c31-a3c9-{number:012x}"));
        assert_eq!(ids, expected);
    }

    #[test]
    fn a_single_event_goes_alone() {
        let mut requests = shape(1, Encoding::Plain).requests(1);
        requests.advance(&mut 255);
        let (head, body) = split(requests.bytes());
        assert!(head.starts_with("POST /v1/events HTTP/1.1\r\n"));
        assert_eq!(body.len(), EVENT_BYTES);
        let event: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert!(event["event_id"].as_str().unwrap().ends_with("-0000000000ff"));
    }
}
