//! The native protocol: `/v1/events` takes one event, `/v1/events/batch` an object with `events`, an array, or
//! NDJSON.

use std::collections::HashSet;

use uuid::Uuid;

use super::flaw::{Flaw, Found};
use super::json::{Fault, Key, Kind, Raw, Scanner};
use super::line::{self, Draft, Given, Lines, Stamp, TEXT_LIMIT};
use super::members::{self, Taken};
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
        self.event(&mut scanner, &mut Vec::new(), lines)?;
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
        scanner.array_start()?;
        let (mut first, mut unknown) = (true, Vec::new());
        while scanner.array_next(&mut first)? {
            if lines.seen as usize >= self.stamp.batch_limit {
                return Err(Refused::TooManyEvents(self.stamp.batch_limit));
            }
            self.event(scanner, &mut unknown, lines)?;
        }
        Ok(())
    }

    /// One event a line. A line that is no JSON is refused alone, for the next one begins anew.
    fn ndjson(&mut self, body: &str, lines: &mut Lines) -> Result<(), Refused> {
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
                .event(&mut scanner, &mut Vec::new(), lines)
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
        unknown: &mut Vec<(Key<'a>, Raw<'a>)>,
        lines: &mut Lines,
    ) -> Result<(), Fault> {
        let index = lines.next();
        let mut fields = Fields::default();
        let take = |name: &[u8], value| fields.take(name, value);
        let (original, found) = members::event(scanner, unknown, self.stamp.event_limit, take)?;
        let outcome = match found {
            Some(found) => Err(found),
            None => self.checked(&fields, unknown, index, lines),
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

    fn checked<'a>(
        &mut self,
        fields: &Fields<'a>,
        unknown: &[(Key<'a>, Raw<'a>)],
        index: u32,
        lines: &mut Lines,
    ) -> Result<(), Found> {
        let event_type = line::event_type("event_type", fields.event_type)?;
        if let Some(app_id) = line::text("app_id", fields.app_id, TEXT_LIMIT)?
            && !app_id.decoded().is_some_and(|id| self.owner.is(&id))
        {
            return Err(Found::new(Flaw::AppMismatch, "app_id", "is not the key's App"));
        }
        let text = |name, raw| line::text(name, raw, TEXT_LIMIT);
        let mut draft = Draft {
            event_type: Some(event_type),
            user_id: text("user_id", fields.user_id)?,
            device_id: text("device_id", fields.device_id)?,
            session_id: text("session_id", fields.session_id)?,
            platform: text("platform", fields.platform)?,
            os_version: text("os_version", fields.os_version)?,
            app_version: text("app_version", fields.app_version)?,
            attribution: line::object("attribution", fields.attribution)?,
            event_data: line::object("event_data", fields.event_data)?,
            context: line::object("context", fields.context)?,
            client: lines.spoken(self.stamp, fields.ip, fields.user_agent)?,
            ..lines.draft()
        };
        if !unknown.is_empty() {
            lines.dropped += merge_context(&mut draft.merged_context, draft.context.take(), unknown);
        }
        let given = Given {
            id: ("event_id", fields.event_id),
            time: ("timestamp", fields.timestamp),
        };
        let pushed = lines.push(self.stamp, index, given, &draft, &mut self.random);
        lines.reclaim(draft);
        pushed
    }
}

/// The members that the protocol knows, as written.
#[derive(Debug, Default)]
struct Fields<'a> {
    event_type: Option<Raw<'a>>,
    event_id: Option<Raw<'a>>,
    app_id: Option<Raw<'a>>,
    timestamp: Option<Raw<'a>>,
    user_id: Option<Raw<'a>>,
    device_id: Option<Raw<'a>>,
    session_id: Option<Raw<'a>>,
    platform: Option<Raw<'a>>,
    os_version: Option<Raw<'a>>,
    app_version: Option<Raw<'a>>,
    attribution: Option<Raw<'a>>,
    event_data: Option<Raw<'a>>,
    context: Option<Raw<'a>>,
    ip: Option<Raw<'a>>,
    user_agent: Option<Raw<'a>>,
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &[u8], value: Raw<'a>) -> Taken {
        let (bit, field) = match name {
            b"event_type" => (0, &mut self.event_type),
            b"event_id" => (1, &mut self.event_id),
            b"app_id" => (2, &mut self.app_id),
            b"timestamp" => (3, &mut self.timestamp),
            b"user_id" => (4, &mut self.user_id),
            b"device_id" => (5, &mut self.device_id),
            b"session_id" => (6, &mut self.session_id),
            b"platform" => (7, &mut self.platform),
            b"os_version" => (8, &mut self.os_version),
            b"app_version" => (9, &mut self.app_version),
            b"attribution" => (10, &mut self.attribution),
            b"event_data" => (11, &mut self.event_data),
            b"context" => (12, &mut self.context),
            b"ip" => (13, &mut self.ip),
            b"user_agent" => (14, &mut self.user_agent),
            _ => return Taken::No,
        };
        *field = Some(value);
        Taken::As(bit)
    }
}

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
