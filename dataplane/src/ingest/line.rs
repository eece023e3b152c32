//! The canonical line of docs/record.md, and the lines of one request.
//!
//! Lines are written into a buffer of the shard while the body is scanned, and only copied into a group once the
//! whole request is known to be good; what was written before a fault is thrown away.

use penstock_dataplane_config::record::LINE_VERSION;
use uuid::Uuid;

use super::client::{Sender, Shared, Spoken, push_end};
use super::flaw::{Flaw, Found, Rejection};
use super::identity::{self, Identity};
use super::json::{Kind, Raw};
use super::retention::Retention;
use super::shape::Shape;
use super::text::{push_json_string, push_number};
use super::time::{self, Judged, Stable};

/// What all events of a request share.
#[derive(Debug)]
pub(crate) struct Stamp<'r> {
    pub(crate) app: Uuid,
    /// `{"v":1,"app_id":"…","event_id":"`, made once per App.
    pub(crate) head: &'r [u8],
    pub(crate) received_at: i64,
    pub(crate) shared: &'r Shared,
    /// Who sends, where the key may speak for others: events may then say who their client is.
    pub(crate) on_behalf: Option<Sender<'r>>,
    pub(crate) source: &'static str,
    pub(crate) retention: Retention,
    pub(crate) idempotency_key: Option<&'r str>,
    /// Bytes of one event.
    pub(crate) event_limit: usize,
    pub(crate) batch_limit: usize,
}

/// How a line of this App begins.
pub(crate) fn head_of(app: &Uuid) -> Vec<u8> {
    format!("{{\"v\":{LINE_VERSION},\"app_id\":\"{app}\",\"event_id\":\"").into_bytes()
}

/// Where a line ends, and which event of the request it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) end: usize,
    pub(crate) index: u32,
}

/// An event for the dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) bytes: Vec<u8>,
    pub(crate) reason: &'static str,
    pub(crate) detail: String,
    pub(crate) flaw: Flaw,
}

/// The outcome of scanning one request; reused by the shard.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lines: Vec<Line>,
    pub(crate) rejected: Vec<Rejection>,
    pub(crate) letters: Vec<Letter>,
    /// The id of the last line.
    pub(crate) last_id: Uuid,
    /// Events seen, good or bad.
    pub(crate) seen: u32,
    /// Events whose clock was ahead.
    pub(crate) ahead: u32,
    /// Members that clients may not set, dropped.
    pub(crate) dropped: u32,
    /// Names of the last event's members.
    pub(crate) shape: Shape,
    /// Buffers for an event's `context` and library, taken and given back empty.
    pub(crate) context: Vec<u8>,
    pub(crate) library: String,
    received: Received,
}

/// What is between a line's id and its time, so that it is written once a millisecond.
#[derive(Debug, Default)]
struct Received {
    at: Option<i64>,
    text: Vec<u8>,
}

impl Received {
    fn text(&mut self, at: i64) -> &[u8] {
        if self.at != Some(at) {
            self.at = Some(at);
            self.text.clear();
            self.text.extend_from_slice(b"\",\"received_at\":");
            push_number(&mut self.text, at);
            self.text.extend_from_slice(b",\"timestamp\":");
        }
        &self.text
    }
}

/// Bytes kept between requests; a larger buffer is given back.
const KEPT: usize = 4_000_000;

impl Lines {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.lines.clear();
        self.rejected.clear();
        self.letters.clear();
        (self.last_id, self.seen, self.ahead, self.dropped) = (Uuid::nil(), 0, 0, 0);
    }

    /// Counts the next event; its index.
    pub(crate) fn next(&mut self) -> u32 {
        self.seen += 1;
        self.seen - 1
    }

    pub(crate) fn reject(&mut self, index: u32, found: Found) {
        self.rejected.push(Rejection { index, found });
    }

    /// What an event says of its client: taken from a key that may speak for others, else dropped and counted.
    #[inline]
    pub(crate) fn spoken<'a>(
        &mut self,
        stamp: &Stamp<'_>,
        ip: Option<Raw<'a>>,
        user_agent: Option<Raw<'a>>,
    ) -> Result<Spoken<'a>, Found> {
        if stamp.on_behalf.is_some() {
            return Spoken::read(ip, user_agent);
        }
        self.dropped += u32::from(ip.is_some()) + u32::from(user_agent.is_some());
        Ok(Spoken::default())
    }

    /// Keeps an event for the dead-letter topic.
    pub(crate) fn quarantine(&mut self, original: &str, found: &Found) {
        let Some(reason) = found.flaw.dead_letter_reason() else {
            return;
        };
        let mut detail = String::new();
        if !found.field.is_empty() {
            detail = format!("{}: ", found.field);
        }
        detail.push_str(&found.detail);
        let mut bytes = original.as_bytes();
        if bytes.len() > LARGEST_LETTER {
            detail = format!("{detail} (cut from {} bytes)", bytes.len());
            bytes = &bytes[..LARGEST_LETTER];
        }
        self.letters.push(Letter {
            bytes: bytes.to_vec(),
            reason,
            detail,
            flaw: found.flaw,
        });
    }

    /// Writes one line, which `client` ends with the members that the client gave; they have been checked. What may
    /// still be wrong is the client's id or time, or that the line has become larger than a record.
    #[inline]
    pub(crate) fn push(
        &mut self,
        stamp: &Stamp<'_>,
        index: u32,
        given: &Given<'_>,
        client: impl FnOnce(&mut Vec<u8>),
        random: impl FnOnce() -> Uuid,
    ) -> Result<(), Found> {
        let (name, id) = given.id;
        let id = text(name, id, TEXT_LIMIT)?.and_then(|raw| raw.decoded());
        let (name, at) = given.time;
        let (identity, times) = place(stamp, id.as_deref(), client_time(name, at)?, index, random)?;
        let start = self.bytes.len();
        let out = &mut self.bytes;
        out.extend_from_slice(stamp.head);
        let mut id = [0u8; uuid::fmt::Hyphenated::LENGTH];
        out.extend_from_slice(identity.id.hyphenated().encode_lower(&mut id).as_bytes());
        out.extend_from_slice(self.received.text(stamp.received_at));
        let written = out.len();
        push_number(out, times.timestamp);
        let written = written..out.len();
        out.extend_from_slice(b",\"client_timestamp\":");
        // Mostly the two are one.
        if times.client_timestamp == times.timestamp {
            out.extend_from_within(written);
        } else {
            push_number(out, times.client_timestamp);
        }
        given.push_shared(stamp, out);
        client(out);
        out.extend_from_slice(b"}\n");
        if out.len() - start > LARGEST_LINE {
            out.truncate(start);
            return Err(Found::new(Flaw::EventTooLarge, "", "larger than a record may be"));
        }
        self.ahead += u32::from(times.ahead);
        self.last_id = identity.id;
        self.lines.push(Line {
            end: self.bytes.len(),
            index,
        });
        Ok(())
    }
}

/// What an event says of itself, each member with its name in the protocol.
#[derive(Debug)]
pub(crate) struct Given<'a> {
    pub(crate) id: (&'static str, Option<Raw<'a>>),
    pub(crate) time: (&'static str, Option<Raw<'a>>),
    /// Who its client is.
    pub(crate) client: Spoken<'a>,
    /// Name and version of the SDK, or nothing.
    pub(crate) library: &'a str,
}

impl Given<'_> {
    /// The members from the client's address to the retention.
    #[inline]
    fn push_shared(&self, stamp: &Stamp<'_>, out: &mut Vec<u8>) {
        let sender = stamp.on_behalf.as_ref().filter(|_| !self.client.is_empty());
        match (sender, self.library) {
            (None, "") => return out.extend_from_slice(stamp.shared.whole()),
            (None, _) => out.extend_from_slice(stamp.shared.before_library()),
            (Some(sender), _) => self.client.push(out, sender),
        }
        push_json_string(out, self.library);
        push_end(out, stamp.source, stamp.retention);
    }
}

/// Appends a `context` that was made of several parts; empty for none.
pub(crate) fn push_context(out: &mut Vec<u8>, context: &[u8]) {
    if !context.is_empty() {
        out.extend_from_slice(b",\"context\":");
        out.extend_from_slice(context);
    }
}

/// Brokers refuse records over 1 MB, and no retry would help.
const LARGEST_LINE: usize = 950_000;
/// Larger events are cut before they become dead letters, or no broker would take them.
const LARGEST_LETTER: usize = 900_000;

/// Event types are short, for they are a column of few distinct values.
pub(crate) const EVENT_TYPE_LIMIT: usize = 100;
/// Every other string.
pub(crate) const TEXT_LIMIT: usize = 1000;

/// A string member: present, text, and not too long. `null` and the empty string count as absent.
pub(crate) fn text<'a>(
    name: &'static str,
    raw: Option<Raw<'a>>,
    limit: usize,
) -> Result<Option<Raw<'a>>, Found> {
    let Some(raw) = raw else { return Ok(None) };
    match raw.kind {
        Kind::Null => Ok(None),
        Kind::String => {
            let inner = raw.inner();
            if raw.escapes {
                let Some(decoded) = raw.decoded() else {
                    return Err(Found::new(
                        Flaw::InvalidType,
                        name,
                        "holds half of a surrogate pair",
                    ));
                };
                if decoded.len() > limit {
                    return Err(too_long(name, limit));
                }
            } else if inner.len() > limit {
                return Err(too_long(name, limit));
            }
            Ok((!inner.is_empty()).then_some(raw))
        }
        _ => Err(Found::new(Flaw::InvalidType, name, "must be a string")),
    }
}

fn too_long(name: &'static str, limit: usize) -> Found {
    Found {
        flaw: Flaw::TooLong,
        field: name.into(),
        detail: format!("longer than {limit} bytes").into(),
    }
}

/// A string that must be there, and not be empty.
pub(crate) fn required<'a>(name: &'static str, raw: Option<Raw<'a>>, limit: usize) -> Result<Raw<'a>, Found> {
    match text(name, raw, limit)? {
        Some(raw) => Ok(raw),
        None if raw.is_some_and(|raw| raw.kind == Kind::String) => {
            Err(Found::new(Flaw::TooShort, name, "must not be empty"))
        }
        None => Err(Found::new(Flaw::MissingField, name, "is required")),
    }
}

/// An object member. `null` counts as absent.
pub(crate) fn object<'a>(name: &'static str, raw: Option<Raw<'a>>) -> Result<Option<Raw<'a>>, Found> {
    match raw {
        Some(Raw {
            kind: Kind::Object, ..
        }) => Ok(raw),
        None | Some(Raw { kind: Kind::Null, .. }) => Ok(None),
        Some(_) => Err(Found::new(Flaw::InvalidType, name, "must be an object")),
    }
}

/// The client's time, if it gave one.
fn client_time(name: &'static str, raw: Option<Raw<'_>>) -> Result<Option<i64>, Found> {
    let Some(raw) = raw else { return Ok(None) };
    let (at, detail) = match raw.kind {
        Kind::Null => return Ok(None),
        Kind::Number => (
            time::from_number(raw.text),
            "must be seconds or milliseconds since 1970",
        ),
        Kind::String => (
            raw.decoded().and_then(|text| time::from_text(&text)),
            "must be RFC 3339, from 1970 on",
        ),
        _ => {
            return Err(Found::new(
                Flaw::InvalidType,
                name,
                "must be a number or a string",
            ));
        }
    };
    at.map(Some)
        .ok_or_else(|| Found::new(Flaw::InvalidTime, name, detail))
}

/// Identity and times of an event: the rules that its id and its clock share.
fn place(
    stamp: &Stamp<'_>,
    client_id: Option<&str>,
    client_time: Option<i64>,
    index: u32,
    random: impl FnOnce() -> Uuid,
) -> Result<(Identity, time::Times), Found> {
    let identity = identity::of(
        &stamp.app,
        stamp.source,
        client_id,
        stamp.idempotency_key,
        index as usize,
        random,
    );
    let stable = match (identity.from_client, time::of_uuid(&identity.id)) {
        (true, Some(at)) => Stable::At(at),
        (true, None) => Stable::Day,
        (false, _) => Stable::None,
    };
    match time::judge(stamp.received_at, client_time, stable, stamp.retention) {
        Judged::Stored(times) => Ok((identity, times)),
        Judged::TooOld => Err(Found {
            flaw: Flaw::TooOld,
            field: "timestamp".into(),
            // Not that it is a dead letter now: the quota may have no room for one.
            detail: format!("older than {} days", stamp.retention.oldest_days()).into(),
        }),
    }
}
