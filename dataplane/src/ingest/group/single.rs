//! `recordFormat: Single`: each line of a group as a record of its own, for readers that know one event a record.
//!
//! The key, and with it the partition, follows from the line alone, so events of one user stay in one partition as
//! long as the topic has as many. An event without what the key is made of has none, and goes where the group goes.

use std::borrow::Cow;
use std::rc::Rc;

use penstock_dataplane_config::{RecordKey, record};

use super::gathering::Part;
use crate::consume::line::{Line, parse};
use crate::ingest::fate::Outcome;
use crate::ingest::spool::{Record, Topic};
use crate::utc::now_ms;

/// A line that becomes a record.
#[derive(Debug)]
pub(super) struct Event<'g> {
    pub(super) key: Option<Cow<'g, str>>,
    app: &'g str,
    event_type: Cow<'g, str>,
    /// Without the line break.
    pub(super) value: &'g [u8],
    /// Of the request that it came with.
    pub(super) outcome: &'g Rc<Outcome>,
    /// Which of the group's parts that is.
    pub(super) part: usize,
}

impl<'g> Event<'g> {
    fn new(value: &'g [u8], key: RecordKey, part: usize, outcome: &'g Rc<Outcome>) -> Self {
        // Ingest wrote the line, so it can be read.
        let line = parse(value).ok();
        let ids = Ids::of(value).unwrap_or_default();
        Self {
            key: line.as_ref().and_then(|line| key_of(line, ids, key)),
            app: ids.app,
            event_type: line.map_or(Cow::Borrowed(""), |line| line.event_type.decoded()),
            value,
            outcome,
            part,
        }
    }

    /// The headers, beside the one that names it.
    pub(super) fn headers(&self) -> [(&'static str, &str); 2] {
        [(record::APP, self.app), (record::EVENT_TYPE, &self.event_type)]
    }

    /// As the spool keeps it.
    pub(super) fn record(&self, name: String) -> Record {
        let headers = self.headers();
        Record {
            created: now_ms(),
            topic: Topic::Events,
            name,
            key: self.key.as_deref().map(str::to_owned),
            headers: headers
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            value: self.value.to_vec(),
        }
    }
}

/// What a line calls its App and its event.
#[derive(Clone, Copy, Default)]
struct Ids<'g> {
    app: &'g str,
    event: &'g str,
}

impl<'g> Ids<'g> {
    /// Each is the text of a UUID already, and they stand where [`head_of`](crate::ingest::line::head_of) puts them.
    fn of(line: &'g [u8]) -> Option<Self> {
        // `{"v":1,"app_id":"…","event_id":"…"`
        let mut texts = line.split(|byte| *byte == b'"');
        let mut text = |after| std::str::from_utf8(texts.nth(after)?).ok();
        Some(Self {
            app: text(5)?,
            event: text(3)?,
        })
    }
}

fn key_of<'g>(line: &Line<'g>, ids: Ids<'g>, key: RecordKey) -> Option<Cow<'g, str>> {
    let text = match key {
        RecordKey::UserId => line.user_id.decoded(),
        RecordKey::DeviceId => line.device_id.decoded(),
        RecordKey::SessionId => line.session_id.decoded(),
        RecordKey::EventId => Cow::Borrowed(ids.event),
        RecordKey::AppId => Cow::Borrowed(ids.app),
    };
    (!text.is_empty()).then_some(text)
}

/// The lines of a group, in order. Each request's outcome expects as many records as it has lines.
pub(super) fn events<'g>(bytes: &'g [u8], parts: &'g [Part], key: RecordKey) -> Vec<Event<'g>> {
    let mut events = Vec::with_capacity(bytes.len() / 256 + 1);
    let mut start = 0;
    for (index, part) in parts.iter().enumerate() {
        let before = events.len();
        let lines = bytes[start..part.end].split_inclusive(|byte| *byte == b'\n');
        events.extend(lines.map(|line| {
            let value = line.strip_suffix(b"\n").unwrap_or(line);
            Event::new(value, key, index, &part.outcome)
        }));
        part.outcome.expect(events.len() - before);
        start = part.end;
    }
    events
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::ingest::fate::{Fate, Settled};

    const LINE: &str = r#"{"v":1,"app_id":"6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11","event_id":"0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f","received_at":1,"timestamp":2,"client_timestamp":3,"ip":"","user_agent":"","library":"","source":"native","event_type":"sign up","user_id":"u-\u00e9\"1","session_id":"s"}"#;

    #[test]
    fn a_line_has_its_key_and_its_headers() {
        let outcome = Outcome::of(1);
        for (key, expected) in [
            (RecordKey::UserId, Some("u-é\"1")),
            (RecordKey::DeviceId, None),
            (RecordKey::SessionId, Some("s")),
            (RecordKey::EventId, Some("0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f")),
            (RecordKey::AppId, Some("6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11")),
        ] {
            let event = Event::new(LINE.as_bytes(), key, 0, &outcome);
            assert_eq!(event.key.as_deref(), expected, "{key:?}");
            assert_eq!(
                event.headers(),
                [
                    ("penstock-app", "6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11"),
                    ("penstock-event-type", "sign up"),
                ]
            );
            let record = event.record("name".into());
            assert_eq!(
                (record.key.as_deref(), record.value.as_slice()),
                (expected, LINE.as_bytes())
            );
        }
    }

    #[test]
    fn each_line_is_a_record_and_each_request_waits_for_its_own() {
        let bytes = format!("{LINE}\n{LINE}\n{LINE}\n").into_bytes();
        let part = |lines: usize| Part {
            end: lines * (LINE.len() + 1),
            outcome: Outcome::of(1),
        };
        let parts = [part(1), part(3)];
        let events = events(&bytes, &parts, RecordKey::UserId);
        let of: Vec<_> = events.iter().map(|event| event.part).collect();
        assert_eq!(of, [0, 1, 1]);
        assert!(events.iter().all(|event| event.value == LINE.as_bytes()));
        // A request is answered when the last of its events is.
        let mut settled = parts.each_ref().map(|part| Settled(Rc::clone(&part.outcome)));
        for (event, waits) in events.iter().zip([[false, true], [false, true], [false, false]]) {
            event.outcome.settle(Fate::Stored);
            let now = settled.each_mut().map(|one| one.now_or_never().is_none());
            assert_eq!(now, waits);
        }
    }
}
