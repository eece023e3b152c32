//! The Segment protocol: `batch` and the single calls, as the SDKs send them.
//!
//! ```text
//! type, event, name        -> event_type      userId      -> user_id
//! properties | traits      -> event_data      anonymousId -> device_id
//! context.library          -> library         context.os.{name,version}  -> platform, os_version
//! context.campaign         -> attribution     context.app.version        -> app_version
//! context.{ip,userAgent}   -> ip, user_agent  of a key that may speak for others
//! timestamp                -> timestamp       messageId                  -> event_id
//! everything else          -> context.segment, beside the client's own context
//! ```
//!
//! The protocol answers for a batch as a whole, so a bad event in one goes to the dead-letter topic; a single call
//! is refused.

use std::fmt::Write as _;

use uuid::Uuid;

use super::client::Spoken;
use super::flaw::{Flaw, Found};
use super::json::{Fault, Key, Kind, Raw, Scanner};
use super::line::{self, Draft, Given, Lines, Stamp, TEXT_LIMIT};
use super::members::{self, Taken};
use super::native::{Refused, push_member};
use super::text::each_member;

/// A call of the protocol, by its path or by an event's `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Track,
    Identify,
    Page,
    Screen,
    Group,
    Alias,
}

impl Call {
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "track" => Self::Track,
            "identify" => Self::Identify,
            "page" => Self::Page,
            "screen" => Self::Screen,
            "group" => Self::Group,
            "alias" => Self::Alias,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Identify => "identify",
            Self::Page => "page",
            Self::Screen => "screen",
            Self::Group => "group",
            Self::Alias => "alias",
        }
    }

    /// The call's name as a JSON string, for a line.
    fn quoted(self) -> &'static str {
        match self {
            Self::Track => "\"track\"",
            Self::Identify => "\"identify\"",
            Self::Page => "\"page\"",
            Self::Screen => "\"screen\"",
            Self::Group => "\"group\"",
            Self::Alias => "\"alias\"",
        }
    }
}

/// The key that a body carries at its top level, whatever else is in it. `None` when there is none, or the body is
/// no object.
pub(crate) fn write_key(body: &str) -> Option<String> {
    let mut scanner = Scanner::new(body);
    scanner.object_start().ok()?;
    let mut first = true;
    while let Ok(Some(key)) = scanner.object_next(&mut first) {
        let value = scanner.value().ok()?;
        if key.decoded().is_some_and(|name| name == "writeKey") {
            return value.decoded().map(std::borrow::Cow::into_owned);
        }
    }
    None
}

/// Reads requests of the Segment protocol.
pub(crate) struct Segment<'r, R> {
    pub(crate) stamp: &'r Stamp<'r>,
    pub(crate) random: R,
}

impl<R: FnMut() -> Uuid> Segment<'_, R> {
    /// A single call: the body is the event, `call` says which where the event does not.
    pub(crate) fn single(&mut self, body: &str, call: Call, lines: &mut Lines) -> Result<(), Refused> {
        let mut scanner = Scanner::new(body);
        let index = lines.next();
        match self.event(&mut scanner, &mut Vec::new(), Some(call), index, lines)? {
            Ok(()) => {}
            Err((original, found)) => {
                if found.flaw == Flaw::TooOld {
                    lines.quarantine(original, &found);
                }
                lines.reject(index, found);
            }
        }
        Ok(scanner.end()?)
    }

    /// `{"batch":[…]}`.
    pub(crate) fn batch(&mut self, body: &str, lines: &mut Lines) -> Result<(), Refused> {
        let mut scanner = Scanner::new(body);
        scanner.object_start()?;
        let (mut first, mut has_batch) = (true, false);
        let mut unknown = Vec::new();
        while let Some(key) = scanner.object_next(&mut first)? {
            if key.decoded().is_none_or(|name| name != "batch") {
                scanner.value()?;
                continue;
            }
            if has_batch || scanner.peek()? != Kind::Array {
                return Err(Fault {
                    offset: scanner.offset(),
                    expected: "one array `batch`",
                }
                .into());
            }
            has_batch = true;
            scanner.array_start()?;
            let mut first = true;
            while scanner.array_next(&mut first)? {
                if lines.seen as usize >= self.stamp.batch_limit {
                    return Err(Refused::TooManyEvents(self.stamp.batch_limit));
                }
                let index = lines.next();
                if let Err((original, found)) = self.event(&mut scanner, &mut unknown, None, index, lines)? {
                    lines.quarantine(original, &found);
                }
            }
        }
        scanner.end()?;
        if lines.seen == 0 {
            Err(Refused::NoEvents)
        } else {
            Ok(())
        }
    }

    fn event<'a>(
        &mut self,
        scanner: &mut Scanner<'a>,
        unknown: &mut Vec<(Key<'a>, Raw<'a>)>,
        call: Option<Call>,
        index: u32,
        lines: &mut Lines,
    ) -> Result<Result<(), (&'a str, Found)>, Fault> {
        let mut fields = Fields::default();
        let take = |name: &[u8], value| fields.take(name, value);
        let (original, found) = members::event(scanner, unknown, self.stamp.event_limit, take)?;
        let outcome = match found {
            Some(found) => Err(found),
            None => self.checked(&fields, unknown, call, index, lines),
        };
        Ok(outcome.map_err(|found| (original, found)))
    }

    fn checked<'a>(
        &mut self,
        fields: &Fields<'a>,
        unknown: &[(Key<'a>, Raw<'a>)],
        call: Option<Call>,
        index: u32,
        lines: &mut Lines,
    ) -> Result<(), Found> {
        let call = match line::text("type", fields.kind, TEXT_LIMIT)?.and_then(|raw| raw.decoded()) {
            Some(name) => Call::of(&name).ok_or(Found::new(
                Flaw::InvalidType,
                "type",
                "is no call of the protocol",
            ))?,
            None => call.ok_or(Found::new(Flaw::MissingField, "type", "is required"))?,
        };
        let mut draft = lines.draft();
        let event = match call {
            Call::Track => line::event_type("event", fields.event)?,
            other => Raw {
                text: other.quoted(),
                kind: Kind::String,
                breaks: false,
                escapes: false,
            },
        };
        draft.event_type = Some(event);
        draft.user_id = identifier("userId", fields.user_id)?;
        draft.device_id = identifier("anonymousId", fields.anonymous_id)?;
        let data = match call {
            Call::Identify | Call::Group => line::object("traits", fields.traits)?,
            _ => line::object("properties", fields.properties)?,
        };
        draft.event_data = data;
        let context = line::object("context", fields.context)?;
        if let Some(context) = &context {
            from_context(context, self.stamp.on_behalf.is_some(), &mut draft);
        }
        beyond_columns(&mut draft.merged_context, call, fields, unknown, context.as_ref());
        let given = Given {
            id: ("messageId", fields.message_id),
            time: ("timestamp", fields.timestamp),
        };
        let pushed = lines.push(self.stamp, index, given, &draft, &mut self.random);
        lines.reclaim(draft);
        pushed
    }
}

/// The members that have a place of their own, as written.
#[derive(Debug, Default)]
struct Fields<'a> {
    kind: Option<Raw<'a>>,
    event: Option<Raw<'a>>,
    message_id: Option<Raw<'a>>,
    user_id: Option<Raw<'a>>,
    anonymous_id: Option<Raw<'a>>,
    timestamp: Option<Raw<'a>>,
    properties: Option<Raw<'a>>,
    traits: Option<Raw<'a>>,
    context: Option<Raw<'a>>,
    /// A single call carries its key in the event; it is no part of it.
    write_key: Option<Raw<'a>>,
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &[u8], value: Raw<'a>) -> Taken {
        let (bit, field) = match name {
            b"type" => (0, &mut self.kind),
            b"event" => (1, &mut self.event),
            b"messageId" => (2, &mut self.message_id),
            b"userId" => (3, &mut self.user_id),
            b"anonymousId" => (4, &mut self.anonymous_id),
            b"timestamp" => (5, &mut self.timestamp),
            b"properties" => (6, &mut self.properties),
            b"traits" => (7, &mut self.traits),
            b"context" => (8, &mut self.context),
            b"writeKey" => (9, &mut self.write_key),
            _ => return Taken::No,
        };
        *field = Some(value);
        Taken::As(bit)
    }
}

/// Who did it: a string, or a number, which some SDKs send.
fn identifier<'a>(name: &'static str, raw: Option<Raw<'a>>) -> Result<Option<Raw<'a>>, Found> {
    match raw {
        Some(number) if number.kind == Kind::Number && number.text.len() <= TEXT_LIMIT => Ok(raw),
        _ => line::text(name, raw, TEXT_LIMIT),
    }
}

/// Columns that the protocol keeps inside `context`. What has an unfit type stays in the context only.
fn from_context<'a>(context: &Raw<'a>, on_behalf: bool, draft: &mut Draft<'a>) {
    let short = |raw: Raw<'a>| line::text("context", Some(raw), TEXT_LIMIT).ok().flatten();
    each_member(context, |name, value| match name {
        "library" => {
            let (mut library, mut version) = (None, None);
            each_member(&value, |name, value| match name {
                "name" => library = short(value).and_then(|raw| raw.decoded()),
                "version" => version = short(value).and_then(|raw| raw.decoded()),
                _ => {}
            });
            draft.library.clear();
            draft.library.push_str(&library.unwrap_or_default());
            if let Some(version) = version.filter(|_| !draft.library.is_empty()) {
                // Writing to a String cannot fail.
                let _ = write!(draft.library, "/{version}");
            }
        }
        "os" => each_member(&value, |name, value| match name {
            "name" => draft.platform = short(value),
            "version" => draft.os_version = short(value),
            _ => {}
        }),
        "app" => each_member(&value, |name, value| {
            if name == "version" {
                draft.app_version = short(value);
            }
        }),
        "sessionId" => draft.session_id = short(value),
        "ip" if on_behalf => draft.client.ip = Spoken::read(Some(value), None).unwrap_or_default().ip,
        "userAgent" if on_behalf => {
            draft.client.user_agent = Spoken::read(None, Some(value)).unwrap_or_default().user_agent;
        }
        "campaign" if value.kind == Kind::Object => draft.attribution = Some(value),
        _ => {}
    });
}

/// `context`: `segment` with what has no column, then the client's own members.
fn beyond_columns(
    out: &mut Vec<u8>,
    call: Call,
    fields: &Fields<'_>,
    unknown: &[(Key<'_>, Raw<'_>)],
    context: Option<&Raw<'_>>,
) {
    out.extend_from_slice(b"{\"segment\":{\"type\":\"");
    out.extend_from_slice(call.name().as_bytes());
    out.push(b'"');
    if let Some(message_id) = &fields.message_id {
        push_member(out, "messageId", message_id);
    }
    // Whichever of the two is not event_data.
    let other = match call {
        Call::Identify | Call::Group => fields.properties.map(|raw| ("properties", raw)),
        _ => fields.traits.map(|raw| ("traits", raw)),
    };
    if let Some((name, raw)) = other {
        push_member(out, name, &raw);
    }
    if let Some(event) = fields.event.filter(|_| call != Call::Track) {
        push_member(out, "event", &event);
    }
    for (key, value) in unknown {
        push_member(out, &key.decoded().unwrap_or_default(), value);
    }
    out.push(b'}');
    if let Some(context) = context {
        each_member(context, |name, value| {
            if name != "segment" {
                push_member(out, name, &value);
            }
        });
    }
    out.push(b'}');
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
