//! The native protocol: `/v1/events` takes one event, `/v1/events/batch` an object with `events`, an array, or
//! NDJSON.

use std::collections::HashSet;

use uuid::Uuid;

use super::flaw::{Flaw, Found};
use super::json::{Fault, Key, Kind, Raw, Scanner};
use super::line::{self, EVENT_TYPE_LIMIT, Given, Lines, Stamp, TEXT_LIMIT};
use super::members::{Known, Members, Protocol, Rule};
use super::text::{each_member, push_json_string, push_raw};

/// Why a whole request was refused while its body was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Json(Fault),
    /// More than this.
    TooManyEvents(usize),
    NoEvents,
    AppMismatch,
    /// A rule about the request as a whole, where its protocol has such.
    Envelope(Found),
}

impl Refused {
    /// What the events that have been read by then are counted as.
    pub(crate) fn flaw(&self) -> Flaw {
        match self {
            Self::Json(_) => Flaw::InvalidJson,
            Self::TooManyEvents(_) | Self::NoEvents => Flaw::Envelope,
            Self::AppMismatch => Flaw::AppMismatch,
            Self::Envelope(found) => found.flaw,
        }
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Json(fault)
    }
}

/// Who may be named by `app_id`.
pub(crate) trait Owner {
    /// Whether the text is the App's id or one of its aliases.
    fn is(&self, id: &str) -> bool;
}

/// Reads requests of the native protocol.
pub(crate) struct Native<'r, O, R> {
    pub(crate) stamp: &'r Stamp<'r>,
    pub(crate) owner: &'r O,
    pub(crate) random: R,
}

impl<O: Owner, R: FnMut() -> Uuid> Native<'_, O, R> {
    /// `POST /v1/events`.
    pub(crate) fn single(&mut self, body: &str, lines: &mut Lines) -> Result<(), Refused> {
        let mut scanner = Scanner::new(body);
        self.event(&mut scanner, &mut Members::new(&PROTOCOL), lines)?;
        Ok(scanner.end()?)
    }

    /// `POST /v1/events/batch`.
    pub(crate) fn batch(&mut self, body: &str, ndjson: bool, lines: &mut Lines) -> Result<(), Refused> {
        let mut scanner = Scanner::new(body);
        if ndjson {
            self.ndjson(body, lines)?;
        } else {
            match scanner.peek()? {
                Kind::Array => {
                    self.array(&mut scanner, lines)?;
                    scanner.end()?;
                }
                _ => self.object(body, scanner, lines)?,
            }
        }
        if lines.seen == 0 {
            Err(Refused::NoEvents)
        } else {
            Ok(())
        }
    }

    fn object<'a>(
        &mut self,
        body: &'a str,
        mut scanner: Scanner<'a>,
        lines: &mut Lines,
    ) -> Result<(), Refused> {
        scanner.object_start()?;
        let (mut first, mut has_events, mut is_event) = (true, false, false);
        let mut mismatch = false;
        while let Some(key) = scanner.object_next(&mut first)? {
            let name = key.decoded().unwrap_or_default();
            match &*name {
                "events" if !has_events && scanner.peek()? == Kind::Array => {
                    has_events = true;
                    self.array(&mut scanner, lines)?;
                }
                "events" => {
                    return Err(Fault {
                        offset: scanner.offset(),
                        expected: "one array `events`",
                    }
                    .into());
                }
                "app_id" => {
                    let value = scanner.value()?;
                    mismatch |=
                        value.kind != Kind::Null && !value.decoded().is_some_and(|id| self.owner.is(&id));
                }
                name => {
                    is_event |= name == "event_type";
                    scanner.value()?;
                }
            }
        }
        let more = scanner.offset() < body.len();
        if !has_events && (more || is_event) {
            return self.ndjson(body, lines);
        }
        scanner.end()?;
        if mismatch {
            Err(Refused::AppMismatch)
        } else {
            Ok(())
        }
    }

    fn array(&mut self, scanner: &mut Scanner<'_>, lines: &mut Lines) -> Result<(), Refused> {
        each_event(
            scanner,
            &PROTOCOL,
            self.stamp.batch_limit,
            lines,
            |scanner, members, lines| self.event(scanner, members, lines),
        )
    }

    /// One event a line. A line that is no JSON is refused alone, for the next one begins anew.
    fn ndjson(&mut self, body: &str, lines: &mut Lines) -> Result<(), Refused> {
        let mut members = Members::new(&PROTOCOL);
        let mut start = 0;
        for text in body.split('\n') {
            let offset = start;
            start += text.len() + 1;
            if text.trim_ascii().is_empty() {
                continue;
            }
            if lines.seen as usize >= self.stamp.batch_limit {
                return Err(Refused::TooManyEvents(self.stamp.batch_limit));
            }
            // What the line has left behind when it turns out to be no JSON.
            let before = (
                lines.bytes.len(),
                lines.lines.len(),
                lines.rejected.len(),
                lines.letters.len(),
                lines.ahead,
            );
            let index = lines.seen;
            let mut scanner = Scanner::new(text);
            let read = self
                .event(&mut scanner, &mut members, lines)
                .and_then(|()| scanner.end());
            if let Err(fault) = read {
                lines.bytes.truncate(before.0);
                lines.lines.truncate(before.1);
                lines.rejected.truncate(before.2);
                lines.letters.truncate(before.3);
                lines.ahead = before.4;
                lines.seen = index + 1;
                let detail = format!("byte {}: expected {}", offset + fault.offset, fault.expected);
                lines.reject(
                    index,
                    Found {
                        flaw: Flaw::InvalidJson,
                        field: "".into(),
                        detail: detail.into(),
                    },
                );
            }
        }
        Ok(())
    }

    fn event<'a>(
        &mut self,
        scanner: &mut Scanner<'a>,
        members: &mut Members<'a>,
        lines: &mut Lines,
    ) -> Result<(), Fault> {
        let index = lines.next();
        let (original, found) = members.read(scanner, &mut lines.shape, self.stamp.event_limit)?;
        let outcome = match found {
            Some(found) => Err(found),
            None => self.checked(members, index, lines),
        };
        if let Err(found) = outcome {
            // Quarantined as well as listed: what is too old may still be wanted, and the client cannot make it younger.
            if found.flaw == Flaw::TooOld {
                lines.quarantine(original, &found);
            }
            lines.reject(index, found);
        }
        Ok(())
    }

    fn checked(&mut self, members: &Members<'_>, index: u32, lines: &mut Lines) -> Result<(), Found> {
        let slots = members.check()?;
        owned(members.get(APP_ID), self.owner)?;
        let given = Given {
            id: ("event_id", members.get(EVENT_ID)),
            time: ("timestamp", members.get(TIMESTAMP)),
            client: lines.spoken(self.stamp, members.get(IP), members.get(USER_AGENT))?,
            library: "",
        };
        push_with_context(
            self.stamp,
            index,
            &given,
            members,
            (slots, CONTEXT),
            &mut self.random,
            lines,
        )
    }
}

/// Reads the array that is next, event by event, up to `limit` of them.
pub(crate) fn each_event<'a>(
    scanner: &mut Scanner<'a>,
    protocol: &'static Protocol,
    limit: usize,
    lines: &mut Lines,
    mut event: impl FnMut(&mut Scanner<'a>, &mut Members<'a>, &mut Lines) -> Result<(), Fault>,
) -> Result<(), Refused> {
    scanner.array_start()?;
    let (mut first, mut members) = (true, Members::new(protocol));
    while scanner.array_next(&mut first)? {
        if lines.seen as usize >= limit {
            return Err(Refused::TooManyEvents(limit));
        }
        event(scanner, &mut members, lines)?;
    }
    Ok(())
}

/// The `app_id` of an event, where it has one, is its key's App.
pub(crate) fn owned(app_id: Option<Raw<'_>>, owner: &impl Owner) -> Result<(), Found> {
    match line::text("app_id", app_id, TEXT_LIMIT)? {
        Some(id) if !id.decoded().is_some_and(|id| owner.is(&id)) => {
            Err(Found::new(Flaw::AppMismatch, "app_id", "is not the key's App"))
        }
        _ => Ok(()),
    }
}

/// Writes the line of an event whose unknown members go into its `context`, which is at the given slot.
#[inline]
pub(crate) fn push_with_context(
    stamp: &Stamp<'_>,
    index: u32,
    given: &Given<'_>,
    members: &Members<'_>,
    (slots, context): (u32, usize),
    random: impl FnOnce() -> Uuid,
    lines: &mut Lines,
) -> Result<(), Found> {
    if members.unknown.is_empty() {
        return lines.push(stamp, index, given, |out| members.push(slots, out), random);
    }
    let mut merged = std::mem::take(&mut lines.context);
    let own = members.get(context).filter(|_| slots & 1 << context != 0);
    lines.dropped += merge_context(&mut merged, own, &members.unknown);
    let client = |out: &mut Vec<u8>| {
        members.push(slots & !(1 << context), out);
        line::push_context(out, &merged);
    };
    let pushed = lines.push(stamp, index, given, client, random);
    merged.clear();
    lines.context = merged;
    pushed
}

const EVENT_ID: usize = PROTOCOL.index("event_id");
const APP_ID: usize = PROTOCOL.index("app_id");
const TIMESTAMP: usize = PROTOCOL.index("timestamp");
const CONTEXT: usize = PROTOCOL.index("context");
const IP: usize = PROTOCOL.index("ip");
const USER_AGENT: usize = PROTOCOL.index("user_agent");

/// The members that the protocol knows.
static PROTOCOL: Protocol = {
    Protocol::new(&[
        Known::same("event_type", Rule::Required(EVENT_TYPE_LIMIT)),
        Known::own("event_id"),
        Known::own("app_id"),
        Known::own("timestamp"),
        Known::text("user_id"),
        Known::text("device_id"),
        Known::text("session_id"),
        Known::text("platform"),
        Known::text("os_version"),
        Known::text("app_version"),
        Known::same("attribution", Rule::Object),
        Known::same("event_data", Rule::Object),
        Known::same("context", Rule::Object),
        Known::own("ip"),
        Known::own("user_agent"),
    ])
};

/// Members that only the server sets; a client's are dropped.
const RESERVED: [&str; 5] = ["v", "received_at", "client_timestamp", "library", "source"];

/// Up to so many names are compared one by one.
const FEW: usize = 8;

/// `context` made of the members that have no column and, behind them, what the client put there. How many members
/// were dropped.
pub(crate) fn merge_context(
    out: &mut Vec<u8>,
    context: Option<Raw<'_>>,
    unknown: &[(Key<'_>, Raw<'_>)],
) -> u32 {
    let mut dropped = 0;
    out.push(b'{');
    for (key, value) in unknown {
        let name = key.decoded().unwrap_or_default();
        if RESERVED.contains(&&*name) {
            dropped += 1;
            continue;
        }
        push_member(out, &name, value);
    }
    if let Some(context) = context {
        let named = || unknown.iter().map(|(key, _)| key.decoded().unwrap_or_default());
        // Only an event of many members is worth a set.
        let many: Option<HashSet<_>> = (unknown.len() > FEW).then(|| named().collect());
        let is_taken = |name: &str| match &many {
            Some(names) => names.contains(name),
            None => named().any(|known| known == name),
        };
        each_member(&context, |name, value| {
            if RESERVED.contains(&name) || !is_taken(name) {
                push_member(out, name, &value);
            }
        });
    }
    out.push(b'}');
    if out.len() == 2 {
        out.clear();
    }
    dropped
}

/// Appends a member to an object that is open.
pub(crate) fn push_member(out: &mut Vec<u8>, name: &str, value: &Raw<'_>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    push_json_string(out, name);
    out.push(b':');
    push_raw(out, value);
}

#[cfg(test)]
#[path = "native_tests.rs"]
mod tests;
