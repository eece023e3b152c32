//! The envelope of the replaced platform: `POST /api/v1/events`.
//!
//! ```text
//! {"app_id":…,"events":[{"event_id":…,"event_name":…,"user_id":…,"timestamp":…,"properties":{…}},…]}
//!
//! event_name -> event_type     properties -> event_data     the rest as in the native protocol
//! ```
//!
//! Its clients know no answer about one event, so an envelope is taken or refused as a whole: every broken rule is
//! listed, and nothing of such an envelope is stored. Only an event that is older than the retention breaks no rule
//! of this contract; it goes to the dead-letter topic, and its envelope succeeds.

use uuid::Uuid;

use super::flaw::{Flaw, Found};
use super::json::{Fault, Kind, Scanner};
use super::line::{self, EVENT_TYPE_LIMIT, Given, Lines, Stamp, TEXT_LIMIT};
use super::members::{Known, Members, Protocol, Rule};
use super::native::{Owner, Refused, each_event, owned, push_with_context};
use super::time;

const USER_ID_LIMIT: usize = 255;
/// Its clients count on it, so a larger limit of the pipeline's is for the other routes.
const MOST_EVENTS: usize = 1000;

/// Reads requests of the envelope protocol.
pub(crate) struct Envelope<'r, O, R> {
    pub(crate) stamp: &'r Stamp<'r>,
    pub(crate) owner: &'r O,
    pub(crate) random: R,
}

impl<O: Owner, R: FnMut() -> Uuid> Envelope<'_, O, R> {
    /// Reads the whole envelope. What is wrong with events is in `lines.rejected`, and then nothing may be stored.
    pub(crate) fn read(&mut self, body: &str, lines: &mut Lines) -> Result<(), Refused> {
        let mut scanner = Scanner::new(body);
        if scanner.peek()? != Kind::Object {
            scanner.value()?;
            scanner.end()?;
            return Err(broken(Flaw::InvalidType, "", "the body must be an object"));
        }
        scanner.object_start()?;
        let (mut first, mut app_id, mut has_events) = (true, None, false);
        // The scan goes on behind a broken rule, for what is no JSON at all is answered as such.
        let mut found: Option<Refused> = None;
        while let Some(key) = scanner.object_next(&mut first)? {
            let name = key.decoded().unwrap_or_default();
            match &*name {
                "events" if has_events => {
                    scanner.value()?;
                    found.get_or_insert(broken(Flaw::DuplicateMember, "events", "given more than once"));
                }
                "events" => {
                    has_events = true;
                    match scanner.peek()? {
                        Kind::Array => self.events(&mut scanner, lines)?,
                        kind => {
                            scanner.value()?;
                            let refused = if kind == Kind::Null {
                                broken(Flaw::MissingField, "events", "is required")
                            } else {
                                broken(Flaw::InvalidType, "events", "must be an array")
                            };
                            found.get_or_insert(refused);
                        }
                    }
                }
                "app_id" => {
                    let value = scanner.value()?;
                    if app_id.replace(value).is_some() {
                        found.get_or_insert(broken(Flaw::DuplicateMember, "app_id", "given more than once"));
                    }
                }
                _ => {
                    scanner.value()?;
                }
            }
        }
        scanner.end()?;
        if let Some(refused) = found {
            return Err(refused);
        }
        let app_id = line::required("app_id", app_id, TEXT_LIMIT).map_err(Refused::Envelope)?;
        if !app_id.decoded().is_some_and(|id| self.owner.is(&id)) {
            return Err(Refused::AppMismatch);
        }
        match (has_events, lines.seen) {
            (false, _) => Err(broken(Flaw::MissingField, "events", "is required")),
            (true, 0) => Err(Refused::NoEvents),
            _ => Ok(()),
        }
    }

    fn events(&mut self, scanner: &mut Scanner<'_>, lines: &mut Lines) -> Result<(), Refused> {
        each_event(
            scanner,
            &PROTOCOL,
            self.stamp.batch_limit.min(MOST_EVENTS),
            lines,
            |scanner, members, lines| self.event(scanner, members, lines),
        )
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
        match outcome {
            Err(found) if found.flaw == Flaw::TooOld => lines.quarantine(original, &found),
            Err(found) => lines.reject(index, found),
            Ok(()) => {}
        }
        Ok(())
    }

    fn checked(&mut self, members: &Members<'_>, index: u32, lines: &mut Lines) -> Result<(), Found> {
        let slots = members.check()?;
        let (id, at) = (members.get(EVENT_ID), members.get(TIMESTAMP));
        let text = id.and_then(|raw| raw.decoded()).unwrap_or_default();
        if Uuid::try_parse(&text).is_err() {
            return Err(Found::new(Flaw::InvalidType, "event_id", "must be a UUID"));
        }
        let time = at
            .and_then(|raw| raw.decoded())
            .and_then(|text| time::from_text(&text));
        let detail = match time {
            None => "must be RFC 3339, from 1970 on",
            Some(at) if time::is_ahead(self.stamp.received_at, at) => "more than 5 minutes in the future",
            Some(_) => "",
        };
        if !detail.is_empty() {
            return Err(Found::new(Flaw::InvalidTime, "timestamp", detail));
        }
        owned(members.get(APP_ID), self.owner)?;
        let given = Given {
            id: ("event_id", id),
            time: ("timestamp", at),
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

/// A rule of the envelope itself.
fn broken(flaw: Flaw, field: &'static str, detail: &'static str) -> Refused {
    Refused::Envelope(Found::new(flaw, field, detail))
}

const EVENT_ID: usize = PROTOCOL.index("event_id");
const TIMESTAMP: usize = PROTOCOL.index("timestamp");
const APP_ID: usize = PROTOCOL.index("app_id");
const CONTEXT: usize = PROTOCOL.index("context");
const IP: usize = PROTOCOL.index("ip");
const USER_AGENT: usize = PROTOCOL.index("user_agent");

/// The members that the protocol knows.
static PROTOCOL: Protocol = {
    const fn required(name: &'static str) -> Known {
        Known::column(name, Rule::Required(TEXT_LIMIT), "")
    }
    Protocol::new(&[
        required("event_id"),
        Known::column("event_name", Rule::Required(EVENT_TYPE_LIMIT), "event_type"),
        Known::same("user_id", Rule::Required(USER_ID_LIMIT)),
        required("timestamp"),
        Known::column("properties", Rule::Object, "event_data"),
        Known::own("app_id"),
        Known::text("device_id"),
        Known::text("session_id"),
        Known::text("platform"),
        Known::text("os_version"),
        Known::text("app_version"),
        Known::same("attribution", Rule::Object),
        Known::same("context", Rule::Object),
        Known::own("ip"),
        Known::own("user_agent"),
    ])
};

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
