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
//! is refused. Nobody's key goes there with an event.

use std::borrow::Cow;
use std::fmt::Write as _;

use uuid::Uuid;

use super::client::Spoken;
use super::flaw::{Flaw, Found};
use super::json::{Fault, Kind, Raw, Scanner};
use super::line::{self, EVENT_TYPE_LIMIT, Given, Lines, Stamp, TEXT_LIMIT};
use super::members::{Known, Members, Protocol};
use super::native::{Refused, each_event, push_member};
use super::text::{each_member, push_json_string, push_raw};

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

const WRITE_KEY: &str = "writeKey";
/// What a dead letter has in the place of a key.
const MASKED: &str = r#""***""#;

/// The key that a body carries at its top level, whatever else is in it. `None` when there is none, or the body is
/// no object.
pub(crate) fn write_key(body: &str) -> Option<String> {
    let mut scanner = Scanner::new(body);
    scanner.object_start().ok()?;
    let mut first = true;
    while let Ok(Some(key)) = scanner.object_next(&mut first) {
        let value = scanner.value().ok()?;
        if key.decoded().is_some_and(|name| name == WRITE_KEY) {
            return value.decoded().map(Cow::into_owned);
        }
    }
    None
}

/// An event as it was sent, with nothing left of a key that it carries.
fn without_key(event: &str) -> Cow<'_, str> {
    let mut scanner = Scanner::new(event);
    let (mut first, mut out, mut copied) = (true, String::new(), 0);
    if scanner.object_start().is_err() {
        return event.into();
    }
    while let Ok(Some(key)) = scanner.object_next(&mut first) {
        let from = scanner.offset();
        if scanner.value().is_err() {
            break;
        }
        if key.decoded().is_some_and(|name| name == WRITE_KEY) {
            out.push_str(&event[copied..from]);
            out.push_str(MASKED);
            copied = scanner.at();
        }
    }
    if copied == 0 {
        return event.into();
    }
    out.push_str(&event[copied..]);
    out.into()
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
        if let Err((original, found)) =
            self.event(&mut scanner, &mut Members::new(&PROTOCOL), Some(call), lines)?
        {
            if found.flaw == Flaw::TooOld {
                lines.quarantine(&without_key(original), &found);
            }
            lines.reject(0, found);
        }
        Ok(scanner.end()?)
    }

    /// `{"batch":[…]}`.
    pub(crate) fn batch(&mut self, body: &str, lines: &mut Lines) -> Result<(), Refused> {
        let mut scanner = Scanner::new(body);
        scanner.object_start()?;
        let (mut first, mut has_batch) = (true, false);
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
            each_event(
                &mut scanner,
                &PROTOCOL,
                self.stamp.batch_limit,
                lines,
                |scanner, members, lines| {
                    if let Err((original, found)) = self.event(scanner, members, None, lines)? {
                        lines.quarantine(&without_key(original), &found);
                    }
                    Ok(())
                },
            )?;
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
        members: &mut Members<'a>,
        call: Option<Call>,
        lines: &mut Lines,
    ) -> Result<Result<(), (&'a str, Found)>, Fault> {
        let index = lines.next();
        let (original, found) = members.read(scanner, &mut lines.shape, self.stamp.event_limit)?;
        let outcome = match found {
            Some(found) => Err(found),
            None => self.checked(members, call, index, lines),
        };
        Ok(outcome.map_err(|found| (original, found)))
    }

    fn checked(
        &mut self,
        members: &Members<'_>,
        call: Option<Call>,
        index: u32,
        lines: &mut Lines,
    ) -> Result<(), Found> {
        let call = match line::text("type", members.get(TYPE), TEXT_LIMIT)?.and_then(|raw| raw.decoded()) {
            Some(name) => Call::of(&name).ok_or(Found::new(
                Flaw::InvalidType,
                "type",
                "is no call of the protocol",
            ))?,
            None => call.ok_or(Found::new(Flaw::MissingField, "type", "is required"))?,
        };
        let mut columns = Columns {
            library: std::mem::take(&mut lines.library),
            ..Columns::default()
        };
        columns.event_type = match call {
            Call::Track => Some(line::required("event", members.get(EVENT), EVENT_TYPE_LIMIT)?),
            other => Some(Raw {
                text: other.quoted(),
                kind: Kind::String,
                ..Raw::NULL
            }),
        };
        columns.user_id = identifier("userId", members.get(USER_ID))?;
        columns.device_id = identifier("anonymousId", members.get(ANONYMOUS_ID))?;
        columns.event_data = match call {
            Call::Identify | Call::Group => line::object("traits", members.get(TRAITS))?,
            _ => line::object("properties", members.get(PROPERTIES))?,
        };
        let context = line::object("context", members.get(CONTEXT))?;
        if let Some(context) = &context {
            from_context(context, self.stamp.on_behalf.is_some(), &mut columns);
        }
        let mut beyond = std::mem::take(&mut lines.context);
        beyond_columns(&mut beyond, call, members, context.as_ref());
        let given = Given {
            id: ("messageId", members.get(MESSAGE_ID)),
            time: ("timestamp", members.get(TIMESTAMP)),
            client: std::mem::take(&mut columns.client),
            library: &columns.library,
        };
        let client = |out: &mut Vec<u8>| {
            columns.push(out);
            line::push_context(out, &beyond);
        };
        let pushed = lines.push(self.stamp, index, &given, client, &mut self.random);
        beyond.clear();
        columns.library.clear();
        (lines.context, lines.library) = (beyond, columns.library);
        pushed
    }
}

const TYPE: usize = PROTOCOL.index("type");
const EVENT: usize = PROTOCOL.index("event");
const MESSAGE_ID: usize = PROTOCOL.index("messageId");
const USER_ID: usize = PROTOCOL.index("userId");
const ANONYMOUS_ID: usize = PROTOCOL.index("anonymousId");
const TIMESTAMP: usize = PROTOCOL.index("timestamp");
const PROPERTIES: usize = PROTOCOL.index("properties");
const TRAITS: usize = PROTOCOL.index("traits");
const CONTEXT: usize = PROTOCOL.index("context");

/// The members that have a place of their own; which, depends on the call.
static PROTOCOL: Protocol = Protocol::new(&[
    Known::own("type"),
    Known::own("event"),
    Known::own("messageId"),
    Known::own("userId"),
    Known::own("anonymousId"),
    Known::own("timestamp"),
    Known::own("properties"),
    Known::own("traits"),
    Known::own("context"),
    // A single call carries its key in the event; it is no part of it.
    Known::own(WRITE_KEY),
]);

/// What the line has of an event, as written.
#[derive(Debug, Default)]
struct Columns<'a> {
    // Strings; a number, which some of them may be, is written as a string.
    event_type: Option<Raw<'a>>,
    user_id: Option<Raw<'a>>,
    device_id: Option<Raw<'a>>,
    session_id: Option<Raw<'a>>,
    platform: Option<Raw<'a>>,
    os_version: Option<Raw<'a>>,
    app_version: Option<Raw<'a>>,
    // Objects.
    attribution: Option<Raw<'a>>,
    event_data: Option<Raw<'a>>,
    // Members that the line has before these.
    library: String,
    client: Spoken<'a>,
}

impl Columns<'_> {
    fn push(&self, out: &mut Vec<u8>) {
        for (name, raw) in [
            (&b",\"event_type\":"[..], self.event_type),
            (b",\"user_id\":", self.user_id),
            (b",\"device_id\":", self.device_id),
            (b",\"session_id\":", self.session_id),
            (b",\"platform\":", self.platform),
            (b",\"os_version\":", self.os_version),
            (b",\"app_version\":", self.app_version),
            (b",\"attribution\":", self.attribution),
            (b",\"event_data\":", self.event_data),
        ] {
            let Some(raw) = raw else { continue };
            out.extend_from_slice(name);
            if raw.kind == Kind::Number {
                push_json_string(out, raw.text);
            } else {
                push_raw(out, &raw);
            }
        }
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
fn from_context<'a>(context: &Raw<'a>, on_behalf: bool, columns: &mut Columns<'a>) {
    let short = |raw: Raw<'a>| line::text("context", Some(raw), TEXT_LIMIT).ok().flatten();
    each_member(context, |name, value| match name {
        "library" => {
            let (mut library, mut version) = (None, None);
            each_member(&value, |name, value| match name {
                "name" => library = short(value).and_then(|raw| raw.decoded()),
                "version" => version = short(value).and_then(|raw| raw.decoded()),
                _ => {}
            });
            columns.library.clear();
            columns.library.push_str(&library.unwrap_or_default());
            if let Some(version) = version.filter(|_| !columns.library.is_empty()) {
                // Writing to a String cannot fail.
                let _ = write!(columns.library, "/{version}");
            }
        }
        "os" => each_member(&value, |name, value| match name {
            "name" => columns.platform = short(value),
            "version" => columns.os_version = short(value),
            _ => {}
        }),
        "app" => each_member(&value, |name, value| {
            if name == "version" {
                columns.app_version = short(value);
            }
        }),
        "sessionId" => columns.session_id = short(value),
        "ip" if on_behalf => columns.client.ip = Spoken::read(Some(value), None).unwrap_or_default().ip,
        "userAgent" if on_behalf => {
            columns.client.user_agent = Spoken::read(None, Some(value)).unwrap_or_default().user_agent;
        }
        "campaign" if value.kind == Kind::Object => columns.attribution = Some(value),
        _ => {}
    });
}

/// `context`: `segment` with what has no column, then the client's own members.
fn beyond_columns(out: &mut Vec<u8>, call: Call, members: &Members<'_>, context: Option<&Raw<'_>>) {
    out.extend_from_slice(b"{\"segment\":{\"type\":\"");
    out.extend_from_slice(call.name().as_bytes());
    out.push(b'"');
    if let Some(message_id) = members.get(MESSAGE_ID) {
        push_member(out, "messageId", &message_id);
    }
    // Whichever of the two is not event_data.
    let other = match call {
        Call::Identify | Call::Group => members.get(PROPERTIES).map(|raw| ("properties", raw)),
        _ => members.get(TRAITS).map(|raw| ("traits", raw)),
    };
    if let Some((name, raw)) = other {
        push_member(out, name, &raw);
    }
    if let Some(event) = members.get(EVENT).filter(|_| call != Call::Track) {
        push_member(out, "event", &event);
    }
    for (key, value) in &members.unknown {
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
