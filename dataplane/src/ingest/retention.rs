//! How long an App's events are kept: what is older is not stored, and every line says it, so that what the consumer
//! writes into the table follows from the line alone.

use super::text::push_number;
use crate::utc::DAY_MS;

/// Older events of an App without a retention are a client's mistake more often than its past.
const TOO_OLD_DAYS: u32 = 730;

/// An App's retention, or none: then its events are kept for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retention {
    days: Option<u32>,
}

impl Retention {
    pub(crate) fn days(days: u32) -> Self {
        Self { days: Some(days) }
    }

    /// How old an event may be, in days.
    pub(crate) fn oldest_days(self) -> u32 {
        self.days.unwrap_or(TOO_OLD_DAYS)
    }

    /// Whether what happened at `at` is too old at `now`; milliseconds since 1970.
    pub(crate) fn is_over(self, at: i64, now: i64) -> bool {
        at < now - i64::from(self.oldest_days()) * DAY_MS
    }

    /// The line's member; nothing where there is none.
    pub(crate) fn push(self, out: &mut Vec<u8>) {
        if let Some(days) = self.days {
            out.extend_from_slice(b",\"retention_days\":");
            push_number(out, i64::from(days));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_too_old_when_its_retention_is_over() {
        let now = 2_000_000_000_000;
        for (retention, days) in [
            (Retention::default(), 730),
            (Retention::days(30), 30),
            (Retention::days(3650), 3650),
        ] {
            let last = now - days * DAY_MS;
            assert!(
                !retention.is_over(last, now) && retention.is_over(last - 1, now),
                "{days}"
            );
        }
    }

    #[test]
    fn a_line_says_what_is_set() {
        let written = |retention: Retention| {
            let mut out = Vec::new();
            retention.push(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Retention::default()), "");
        assert_eq!(written(Retention::days(400)), ",\"retention_days\":400");
    }
}
