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
use super::json::{Key, Kind, Raw, Scanner};
use super::line::{self, Draft, Given, Lines, Stamp, TEXT_LIMIT};
use super::members::{self, Taken};
use super::native::{Owner, Refused, merge_context};
use super::time;

const USER_ID_LIMIT: usize = 255;

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

    fn event<'a>(
        &mut self,
        scanner: &mut Scanner<'a>,
        unknown: &mut Vec<(Key<'a>, Raw<'a>)>,
        lines: &mut Lines,
    ) -> Result<(), Refused> {
        let index = lines.next();
        let mut fields = Fields::default();
        let take = |name: &[u8], value| fields.take(name, value);
        let (original, found) = members::event(scanner, unknown, self.stamp.event_limit, take)?;
        let outcome = match found {
            Some(found) => Err(found),
            None => self.checked(&fields, unknown, index, lines),
        };
        match outcome {
            Err(found) if found.flaw == Flaw::TooOld => lines.quarantine(original, &found),
            Err(found) => lines.reject(index, found),
            Ok(()) => {}
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
        let event_id = line::required("event_id", fields.event_id, TEXT_LIMIT)?;
        let text = event_id.decoded().unwrap_or_default();
        if Uuid::try_parse(&text).is_err() {
            return Err(Found::new(Flaw::InvalidType, "event_id", "must be a UUID"));
        }
        let event_type = line::event_type("event_name", fields.event_name)?;
        let user_id = line::required("user_id", fields.user_id, USER_ID_LIMIT)?;
        let timestamp = line::required("timestamp", fields.timestamp, TEXT_LIMIT)?;
        let at = timestamp.decoded().and_then(|text| time::from_text(&text));
        match at {
            None => {
                return Err(Found::new(
                    Flaw::InvalidTime,
                    "timestamp",
                    "must be RFC 3339, from 1970 on",
                ));
            }
            Some(at) if time::is_ahead(self.stamp.received_at, at) => {
                return Err(Found::new(
                    Flaw::InvalidTime,
                    "timestamp",
                    "more than 5 minutes in the future",
                ));
            }
            Some(_) => {}
        }
        if let Some(app_id) = line::text("app_id", fields.app_id, TEXT_LIMIT)?
            && !app_id.decoded().is_some_and(|id| self.owner.is(&id))
        {
            return Err(Found::new(Flaw::AppMismatch, "app_id", "is not the key's App"));
        }
        let text = |name, raw| line::text(name, raw, TEXT_LIMIT);
        let mut draft = Draft {
            event_type: Some(event_type),
            user_id: Some(user_id),
            device_id: text("device_id", fields.device_id)?,
            session_id: text("session_id", fields.session_id)?,
            platform: text("platform", fields.platform)?,
            os_version: text("os_version", fields.os_version)?,
            app_version: text("app_version", fields.app_version)?,
            attribution: line::object("attribution", fields.attribution)?,
            event_data: line::object("properties", fields.properties)?,
            context: line::object("context", fields.context)?,
            client: lines.spoken(self.stamp, fields.ip, fields.user_agent)?,
            ..lines.draft()
        };
        if !unknown.is_empty() {
            lines.dropped += merge_context(&mut draft.merged_context, draft.context.take(), unknown);
        }
        let given = Given {
            id: ("event_id", Some(event_id)),
            time: ("timestamp", Some(timestamp)),
        };
        let pushed = lines.push(self.stamp, index, given, &draft, &mut self.random);
        lines.reclaim(draft);
        pushed
    }
}

/// A rule of the envelope itself.
fn broken(flaw: Flaw, field: &'static str, detail: &'static str) -> Refused {
    Refused::Envelope(Found::new(flaw, field, detail))
}

/// The members that the protocol knows, as written.
#[derive(Debug, Default)]
struct Fields<'a> {
    event_id: Option<Raw<'a>>,
    event_name: Option<Raw<'a>>,
    user_id: Option<Raw<'a>>,
    timestamp: Option<Raw<'a>>,
    properties: Option<Raw<'a>>,
    app_id: Option<Raw<'a>>,
    device_id: Option<Raw<'a>>,
    session_id: Option<Raw<'a>>,
    platform: Option<Raw<'a>>,
    os_version: Option<Raw<'a>>,
    app_version: Option<Raw<'a>>,
    attribution: Option<Raw<'a>>,
    context: Option<Raw<'a>>,
    ip: Option<Raw<'a>>,
    user_agent: Option<Raw<'a>>,
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &[u8], value: Raw<'a>) -> Taken {
        let (bit, field) = match name {
            b"event_id" => (0, &mut self.event_id),
            b"event_name" => (1, &mut self.event_name),
            b"user_id" => (2, &mut self.user_id),
            b"timestamp" => (3, &mut self.timestamp),
            b"properties" => (4, &mut self.properties),
            b"app_id" => (5, &mut self.app_id),
            b"device_id" => (6, &mut self.device_id),
            b"session_id" => (7, &mut self.session_id),
            b"platform" => (8, &mut self.platform),
            b"os_version" => (9, &mut self.os_version),
            b"app_version" => (10, &mut self.app_version),
            b"attribution" => (11, &mut self.attribution),
            b"context" => (12, &mut self.context),
            b"ip" => (13, &mut self.ip),
            b"user_agent" => (14, &mut self.user_agent),
            _ => return Taken::No,
        };
        *field = Some(value);
        Taken::As(bit)
    }
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
