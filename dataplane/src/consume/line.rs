//! One line of the topic as `docs/record.md` defines it, read without building anything: every text is a slice.
//!
//! Ingest writes the server's members first, in a fixed order and without spaces, so those are matched at once;
//! a line that is spelled otherwise is read member by member. The version comes before everything else: a line of
//! another version was written by a newer Penstock and must not be judged by this one's rules.

use std::borrow::Cow;

use penstock_dataplane_config::record::LINE_VERSION;

use super::scan::{eight_digits, nested_end, string_end, unescape, uuid};
use crate::stops::Stops;
use crate::written::Written;

/// Times outside are not representable as `DateTime64(3)`: from 1900 up to 2299.
const TIMES: std::ops::RangeInclusive<i64> = -2_208_988_800_000..=10_413_791_999_999;
/// Times of receipt outside are not representable as `DateTime`, which partitions and TTLs are computed in.
const RECEIPTS: std::ops::RangeInclusive<i64> = 0..=4_294_967_295_000;

/// A JSON string as it stands in the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Text<'a> {
    pub raw: &'a [u8],
    pub escaped: bool,
}

impl<'a> Text<'a> {
    /// What the string says.
    pub fn decoded(self) -> Cow<'a, str> {
        if !self.escaped {
            return String::from_utf8_lossy(self.raw);
        }
        let mut plain = Vec::with_capacity(self.raw.len());
        unescape(self.raw, &mut plain);
        match String::from_utf8(plain) {
            Ok(text) => Cow::Owned(text),
            Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
        }
    }
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub app_id: u128,
    pub event_id: u128,
    /// Milliseconds since 1970, like all times here.
    pub received_at: i64,
    pub timestamp: i64,
    pub client_timestamp: i64,
    pub ip: Text<'a>,
    pub user_agent: Text<'a>,
    pub library: Text<'a>,
    pub source: Text<'a>,
    /// How long the event is kept; absent: for good.
    pub retention_days: Option<u16>,
    pub event_type: Text<'a>,
    pub user_id: Text<'a>,
    pub device_id: Text<'a>,
    pub session_id: Text<'a>,
    pub platform: Text<'a>,
    pub os_version: Text<'a>,
    pub app_version: Text<'a>,
    /// JSON text of an object, like the two below; `{}` where the line has none.
    pub attribution: &'a [u8],
    pub event_data: &'a [u8],
    pub context: &'a [u8],
}

/// Why a line cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("the line is of version {0}, which a newer Penstock wrote")]
    UnknownVersion(u64),
    #[error("{what} at byte {at}")]
    Malformed { what: &'static str, at: usize },
}

/// What lines have of the line before. Events of one program mostly have the same App, and the same members in the same order,
/// which are then compared with those, as they were written, instead of being read and looked up.
#[derive(Clone, Debug, Default)]
pub struct Before {
    app_id: Option<([u8; 36], u128)>,
    names: [(Written, Member); 16],
}

impl Before {
    fn app_id(&mut self, text: &[u8]) -> Option<u128> {
        let text: &[u8; 36] = text.try_into().ok()?;
        match self.app_id {
            Some((before, id)) if before == *text => Some(id),
            _ => {
                let id = uuid(text)?;
                self.app_id = Some((*text, id));
                Some(id)
            }
        }
    }
}

/// Reads one line, without its line break. The bytes must be valid UTF-8.
pub fn parse(line: &[u8]) -> Result<Line<'_>, LineError> {
    parse_next(line, &mut Before::default())
}

/// [`parse`], of a line behind others.
pub fn parse_next<'a>(line: &'a [u8], before: &mut Before) -> Result<Line<'a>, LineError> {
    let mut cursor = Cursor {
        bytes: line,
        at: 0,
        stops: Stops::new(),
    };
    let mut found = Found::default();
    if cursor.server_members(before, &mut found).is_none() {
        cursor.at = 0;
        found = Found::default();
        cursor.version()?;
    }
    cursor.members(&mut before.names, &mut found)?;
    found.line(line.len())
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    stops: Stops,
}

struct Found<'a> {
    app_id: Option<u128>,
    event_id: Option<u128>,
    received_at: Option<i64>,
    timestamp: Option<i64>,
    client_timestamp: Option<i64>,
    retention_days: Option<u16>,
    texts: [Text<'a>; 11],
    objects: [&'a [u8]; 3],
}

impl Default for Found<'_> {
    fn default() -> Self {
        Self {
            app_id: None,
            event_id: None,
            received_at: None,
            timestamp: None,
            client_timestamp: None,
            retention_days: None,
            texts: [Text::default(); 11],
            objects: [b"{}"; 3],
        }
    }
}

const IP: usize = 0;
const USER_AGENT: usize = 1;
const LIBRARY: usize = 2;
const SOURCE: usize = 3;
const EVENT_TYPE: usize = 4;
const USER_ID: usize = 5;
const DEVICE_ID: usize = 6;
const SESSION_ID: usize = 7;
const PLATFORM: usize = 8;
const OS_VERSION: usize = 9;
const APP_VERSION: usize = 10;

const ATTRIBUTION: usize = 0;
const EVENT_DATA: usize = 1;
const CONTEXT: usize = 2;

/// Which member a key names; `Other` is one that this version does not know and passes over.
#[derive(Clone, Copy, Debug, Default)]
enum Member {
    Version,
    AppId,
    EventId,
    ReceivedAt,
    Timestamp,
    ClientTimestamp,
    RetentionDays,
    Text(usize),
    Object(usize),
    #[default]
    Other,
}

fn member(key: &[u8]) -> Member {
    match key {
        b"event_type" => Member::Text(EVENT_TYPE),
        b"user_id" => Member::Text(USER_ID),
        b"device_id" => Member::Text(DEVICE_ID),
        b"session_id" => Member::Text(SESSION_ID),
        b"platform" => Member::Text(PLATFORM),
        b"os_version" => Member::Text(OS_VERSION),
        b"app_version" => Member::Text(APP_VERSION),
        b"attribution" => Member::Object(ATTRIBUTION),
        b"event_data" => Member::Object(EVENT_DATA),
        b"context" => Member::Object(CONTEXT),
        b"v" => Member::Version,
        b"app_id" => Member::AppId,
        b"event_id" => Member::EventId,
        b"received_at" => Member::ReceivedAt,
        b"timestamp" => Member::Timestamp,
        b"client_timestamp" => Member::ClientTimestamp,
        b"retention_days" => Member::RetentionDays,
        b"ip" => Member::Text(IP),
        b"user_agent" => Member::Text(USER_AGENT),
        b"library" => Member::Text(LIBRARY),
        b"source" => Member::Text(SOURCE),
        _ => Member::Other,
    }
}

impl<'a> Cursor<'a> {
    /// The server's members exactly as ingest spells them. `None` where the line does not; nothing is lost then,
    /// because it is read again from its start.
    fn server_members(&mut self, before: &mut Before, found: &mut Found<'a>) -> Option<()> {
        self.literal(b"{\"v\":1,\"app_id\":\"")?;
        found.app_id = Some(before.app_id(self.take(36)?)?);
        self.literal(b"\",\"event_id\":\"")?;
        found.event_id = Some(uuid(self.take(36)?)?);
        self.literal(b"\",\"received_at\":")?;
        found.received_at = Some(self.digits()?);
        self.literal(b",\"timestamp\":")?;
        found.timestamp = Some(self.digits()?);
        self.literal(b",\"client_timestamp\":")?;
        found.client_timestamp = Some(self.digits()?);
        self.literal(b",\"ip\":\"")?;
        found.texts[IP] = self.text()?;
        self.literal(b",\"user_agent\":\"")?;
        found.texts[USER_AGENT] = self.text()?;
        self.literal(b",\"library\":\"")?;
        found.texts[LIBRARY] = self.text()?;
        self.literal(b",\"source\":\"")?;
        found.texts[SOURCE] = self.text()?;
        self.literal(b",")
    }

    fn literal(&mut self, literal: &[u8]) -> Option<()> {
        let end = self.at + literal.len();
        (self.bytes.get(self.at..end)? == literal).then(|| self.at = end)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at + length)?;
        self.at += length;
        Some(taken)
    }

    /// A whole number of at most 18 digits, which no `i64` overflows.
    fn digits(&mut self) -> Option<i64> {
        let start = self.at + usize::from(self.bytes.get(self.at) == Some(&b'-'));
        let mut at = start;
        let mut number = 0_i64;
        while at - start + 8 <= 18
            && let Some(eight) = eight_digits(self.bytes, at)
        {
            number = number * 100_000_000 + eight;
            at += 8;
        }
        while let Some(digit) = self
            .bytes
            .get(at)
            .map(|b| b.wrapping_sub(b'0'))
            .filter(|d| *d < 10)
        {
            if at - start == 18 {
                return None;
            }
            number = number * 10 + i64::from(digit);
            at += 1;
        }
        if at == start {
            return None;
        }
        let negative = start > self.at;
        self.at = at;
        Some(if negative { -number } else { number })
    }

    /// The rest of a string whose opening quote was read.
    fn text(&mut self) -> Option<Text<'a>> {
        let (end, escaped) = string_end(&mut self.stops, self.bytes, self.at)?;
        let raw = &self.bytes[self.at..end];
        self.at = end + 1;
        Some(Text { raw, escaped })
    }

    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    fn wrong<T>(&self, what: &'static str) -> Result<T, LineError> {
        Err(LineError::Malformed { what, at: self.at })
    }

    fn require(&mut self, byte: u8, what: &'static str) -> Result<(), LineError> {
        self.space();
        if self.bytes.get(self.at) != Some(&byte) {
            return self.wrong(what);
        }
        self.at += 1;
        Ok(())
    }

    /// Reads `{` and the first member, which must be the version.
    fn version(&mut self) -> Result<(), LineError> {
        self.require(b'{', "the line is no JSON object")?;
        self.space();
        if self.literal(b"\"v\"").is_none() {
            return self.wrong("the line does not begin with its version `v`");
        }
        self.require(b':', "no `:` after the key")?;
        self.space();
        match self.digits() {
            Some(version) if version == LINE_VERSION as i64 => {}
            Some(version) if version > 0 => return Err(LineError::UnknownVersion(version as u64)),
            _ => return self.wrong("`v` is no version"),
        }
        self.require(b',', "no `,` after the version")
    }

    /// Members up to the end of the line.
    fn members(&mut self, names: &mut [(Written, Member)], found: &mut Found<'a>) -> Result<(), LineError> {
        for place in 0.. {
            let expected = names.get(place).and_then(|(written, member)| {
                let length = written.at(self.bytes.get(self.at..)?)?;
                Some((length, *member))
            });
            let member = match expected {
                Some((length, member)) => {
                    self.at += length;
                    member
                }
                None => self.name(place, names)?,
            };
            self.space();
            self.value(member, found)?;
            self.space();
            match self.bytes.get(self.at) {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return self.wrong("neither `,` nor `}` after a member"),
            }
        }
        self.at += 1;
        self.space();
        if self.at < self.bytes.len() {
            return self.wrong("more after the end of the object");
        }
        Ok(())
    }

    /// A name that is not the expected one, and its colon.
    #[inline(never)]
    fn name(&mut self, place: usize, names: &mut [(Written, Member)]) -> Result<Member, LineError> {
        let from = self.at;
        self.require(b'"', "no key where a member begins")?;
        let Some(key) = self.text() else {
            return self.wrong("a key does not end");
        };
        self.require(b':', "no `:` after the key")?;
        let member = member(key.raw);
        if let Some(remembered) = names.get_mut(place) {
            let written = Written::new(&self.bytes[from..self.at]).unwrap_or_default();
            *remembered = (written, member);
        }
        Ok(member)
    }

    fn value(&mut self, member: Member, found: &mut Found<'a>) -> Result<(), LineError> {
        match member {
            Member::Text(index) => found.texts[index] = self.string()?,
            Member::Object(index) => {
                if self.bytes.get(self.at) != Some(&b'{') {
                    return self.wrong("no object where one belongs");
                }
                found.objects[index] = self.nested()?;
            }
            Member::AppId => found.app_id = Some(self.id()?),
            Member::EventId => found.event_id = Some(self.id()?),
            Member::ReceivedAt => found.received_at = Some(self.number()?),
            Member::Timestamp => found.timestamp = Some(self.number()?),
            Member::ClientTimestamp => found.client_timestamp = Some(self.number()?),
            Member::RetentionDays => found.retention_days = Some(self.days()?),
            Member::Version => return self.wrong("a second version"),
            Member::Other => self.skip()?,
        }
        Ok(())
    }

    fn string(&mut self) -> Result<Text<'a>, LineError> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return self.wrong("no string where one belongs");
        }
        self.at += 1;
        match self.text() {
            Some(text) => Ok(text),
            None => self.wrong("a string does not end, or holds what no string may"),
        }
    }

    fn nested(&mut self) -> Result<&'a [u8], LineError> {
        let Some(end) = nested_end(&mut self.stops, self.bytes, self.at) else {
            return self.wrong("an object or array does not end");
        };
        let nested = &self.bytes[self.at..end];
        self.at = end;
        Ok(nested)
    }

    fn id(&mut self) -> Result<u128, LineError> {
        let text = self.string()?;
        match uuid(text.raw) {
            Some(id) => Ok(id),
            None => self.wrong("no UUID before here"),
        }
    }

    fn number(&mut self) -> Result<i64, LineError> {
        match self.digits() {
            Some(number) => Ok(number),
            None => self.wrong("no whole number where one belongs"),
        }
    }

    fn days(&mut self) -> Result<u16, LineError> {
        match u16::try_from(self.number()?) {
            Ok(days) if days > 0 => Ok(days),
            _ => self.wrong("no number of days before here"),
        }
    }

    fn skip(&mut self) -> Result<(), LineError> {
        match self.bytes.get(self.at) {
            Some(b'"') => self.string().map(drop),
            Some(b'{' | b'[') => self.nested().map(drop),
            _ => {
                let scalar = self.bytes[self.at..]
                    .iter()
                    .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.'))
                    .count();
                if scalar == 0 {
                    return self.wrong("no value where one belongs");
                }
                self.at += scalar;
                Ok(())
            }
        }
    }
}

impl<'a> Found<'a> {
    fn line(self, at: usize) -> Result<Line<'a>, LineError> {
        let missing = |what| LineError::Malformed { what, at };
        let line = Line {
            app_id: self.app_id.ok_or(missing("no `app_id`"))?,
            event_id: self.event_id.ok_or(missing("no `event_id`"))?,
            received_at: self.received_at.ok_or(missing("no `received_at`"))?,
            timestamp: self.timestamp.ok_or(missing("no `timestamp`"))?,
            client_timestamp: self.client_timestamp.ok_or(missing("no `client_timestamp`"))?,
            ip: self.texts[IP],
            user_agent: self.texts[USER_AGENT],
            library: self.texts[LIBRARY],
            source: self.texts[SOURCE],
            retention_days: self.retention_days,
            event_type: self.texts[EVENT_TYPE],
            user_id: self.texts[USER_ID],
            device_id: self.texts[DEVICE_ID],
            session_id: self.texts[SESSION_ID],
            platform: self.texts[PLATFORM],
            os_version: self.texts[OS_VERSION],
            app_version: self.texts[APP_VERSION],
            attribution: self.objects[ATTRIBUTION],
            event_data: self.objects[EVENT_DATA],
            context: self.objects[CONTEXT],
        };
        if line.event_type.raw.is_empty() {
            return Err(missing("no `event_type`"));
        }
        if !RECEIPTS.contains(&line.received_at) {
            return Err(missing("`received_at` is out of range"));
        }
        if !TIMES.contains(&line.timestamp) || !TIMES.contains(&line.client_timestamp) {
            return Err(missing("a time is out of range"));
        }
        Ok(line)
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
