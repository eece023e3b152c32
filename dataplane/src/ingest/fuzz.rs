//! The parsers of requests, for [`crate::fuzz`].

use http::{HeaderMap, HeaderValue};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::client::{Proxies, Sender, Shared};
use super::encoding::{self, Encoding};
use super::envelope::Envelope;
use super::json::Scanner;
use super::line::{Lines, Stamp, head_of};
use super::native::{Native, Owner, Refused};
use super::retention::Retention;
use super::segment::{self, Call, Segment};
use crate::consume::line as stored;

const APP: Uuid = Uuid::from_u128(7);
const NOW: i64 = 1_763_730_000_123;

/// Agrees with serde_json on what is JSON, and on where a value ends.
pub fn json(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut scanner = Scanner::new(text);
    let ours = scanner.value().and_then(|raw| scanner.end().map(|()| raw));
    match (ours, serde_json::from_str::<&RawValue>(text)) {
        (Ok(ours), Ok(theirs)) => assert_eq!(ours.text, theirs.get()),
        (Err(_), Err(_)) => {}
        // Both have a limit of nesting, and not the same one.
        (Err(fault), Ok(_)) if fault.expected == "less nesting" => {}
        (Ok(_), Err(error)) if error.to_string().contains("recursion limit") => {}
        (ours, theirs) => panic!("ours {ours:?}, serde_json {theirs:?}"),
    }
}

/// Finds a key or none.
pub fn key(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        headers.insert(http::header::AUTHORIZATION, value.clone());
        let _ = super::key::of_head(&headers, None);
        headers.clear();
        headers.insert("x-api-key", value);
        let _ = super::key::of_head(&headers, None);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = super::key::of_head(&HeaderMap::new(), Some(text));
        let _ = segment::write_key(text);
    }
}

/// What is accepted of a request is what the consumer reads.
pub fn native(bytes: &[u8]) {
    for how in [How::Single, How::Batch, How::Lines] {
        requests(bytes, "native", |text, stamp, lines| {
            let mut native = Native {
                stamp,
                owner: &Anybody,
                random: Uuid::nil,
            };
            match how {
                How::Single => native.single(text, lines),
                How::Batch => native.batch(text, false, lines),
                How::Lines => native.batch(text, true, lines),
            }
        });
    }
}

/// The same, of the replaced platform's envelope.
pub fn envelope(bytes: &[u8]) {
    requests(bytes, "envelope", |text, stamp, lines| {
        let mut envelope = Envelope {
            stamp,
            owner: &Anybody,
            random: Uuid::nil,
        };
        envelope.read(text, lines)
    });
}

/// What is decoded is never more than the limit; the first byte says which encoding it is.
pub fn encoding(bytes: &[u8]) {
    const LIMIT: usize = 100_000;
    let Some((which, compressed)) = bytes.split_first() else {
        return;
    };
    let encoding = match which % 4 {
        0 => Encoding::Gzip,
        1 => Encoding::Deflate,
        2 => Encoding::Zstd,
        _ => Encoding::Brotli,
    };
    let mut largest = 0;
    let decoded = encoding::decode(encoding, compressed, LIMIT, |size| {
        largest = size;
        true
    });
    assert!(largest <= LIMIT);
    if let Ok(whole) = decoded {
        assert_eq!(whole.map(|whole| whole.len()), Some(largest));
    }
}

/// Where a request comes from is its peer, unless that is trusted.
pub fn forwarded(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-for", value);
    let Ok(inside) = "10.0.0.0/8".parse() else { return };
    let proxies = Proxies::new(vec![inside]);
    let (outsider, proxy) = ([198, 51, 100, 1].into(), [10, 0, 0, 1].into());
    assert_eq!(proxies.client(outsider, &headers), outsider);
    let _ = proxies.client(proxy, &headers);
}

/// The same, of Segment's protocol.
pub fn segment(bytes: &[u8]) {
    for call in [None, Some(Call::Track), Some(Call::Identify)] {
        requests(bytes, "segment", |text, stamp, lines| {
            let mut segment = Segment {
                stamp,
                random: Uuid::nil,
            };
            match call {
                None => segment.batch(text, lines),
                Some(call) => segment.single(text, call, lines),
            }
        });
    }
}

#[derive(Clone, Copy)]
enum How {
    Single,
    Batch,
    Lines,
}

/// An App that goes by every name.
struct Anybody;

impl Owner for Anybody {
    fn is(&self, _: &str) -> bool {
        true
    }
}

fn requests(
    bytes: &[u8],
    source: &'static str,
    read: impl FnOnce(&str, &Stamp<'_>, &mut Lines) -> Result<(), Refused>,
) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let sender = Sender {
        ip: "203.0.113.7",
        user_agent: "fuzz/1",
    };
    let (head, shared) = (head_of(&APP), Shared::new(&sender, source, Retention::default()));
    let stamp = Stamp {
        app: APP,
        head: &head,
        received_at: NOW,
        shared: &shared,
        // Of a key that may say who its clients are, so that what it says is read.
        on_behalf: Some(sender),
        source,
        retention: Retention::default(),
        idempotency_key: None,
        event_limit: 100_000,
        batch_limit: 1000,
    };
    let mut lines = Lines::default();
    if read(text, &stamp, &mut lines).is_err() {
        return;
    }
    let mut start = 0;
    for line in &lines.lines {
        let (bytes, last) = (&lines.bytes[start..line.end - 1], lines.bytes[line.end - 1]);
        start = line.end;
        assert!(last == b'\n' && !bytes.contains(&b'\n'), "a line is one line");
        assert!(
            serde_json::from_slice::<&RawValue>(bytes).is_ok(),
            "a line is JSON: {}",
            String::from_utf8_lossy(bytes)
        );
        match stored::parse(bytes) {
            Ok(read) => assert!(
                read.app_id == APP.as_u128()
                    && read.received_at == NOW
                    && read.source.raw == source.as_bytes()
                    && !read.event_type.raw.is_empty()
            ),
            Err(error) => panic!("{error}: {}", String::from_utf8_lossy(bytes)),
        }
    }
    assert_eq!(start, lines.bytes.len());
    let (stored, rejected) = (lines.lines.len(), lines.rejected.len());
    assert!(stored + rejected <= lines.seen as usize);
    assert!(
        stored + rejected + lines.letters.len() >= lines.seen as usize,
        "an event is stored, refused or kept as a dead letter"
    );
}
