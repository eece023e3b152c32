//! When an event happened: reading the client's time, and the rules that make it a stored one.

use super::retention::Retention;
use crate::utc::midnight;

/// More than this ahead of us is not believed.
const TOO_FAR_AHEAD_MS: i64 = 5 * 60 * 1000;
/// The last moment that the table's DateTime64 can hold: the end of the year 2299.
const LAST_MS: i64 = 10_413_791_999_999;
/// A number below this is seconds; as milliseconds it would lie before 1973-03-03.
const SECONDS_BELOW: f64 = 1e11;

/// So many digits are no more than an i64 holds.
const FEW_DIGITS: usize = 18;

/// The two times of a line, milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// When it happened, as far as we believe the client.
    pub(crate) timestamp: i64,
    /// As the client gave it; the same on every retry.
    pub(crate) client_timestamp: i64,
    /// The client's clock is ahead; `timestamp` is our own.
    pub(crate) ahead: bool,
}

/// What a client's time is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    Stored(Times),
    /// Older than the retention: storing it would only be for the deletion.
    TooOld,
}

/// Applies the rules. `client` is the client's own time, `stable` what stands for it on every retry without one.
pub(crate) fn judge(received_at: i64, client: Option<i64>, stable: Stable, retention: Retention) -> Judged {
    let Some(client) = client else {
        let client_timestamp = match stable {
            Stable::At(at) => at.clamp(0, LAST_MS),
            Stable::Day => midnight(received_at),
            Stable::None => received_at,
        };
        return Judged::Stored(Times {
            timestamp: received_at,
            client_timestamp,
            ahead: false,
        });
    };
    if retention.is_over(client, received_at) {
        return Judged::TooOld;
    }
    let ahead = is_ahead(received_at, client);
    let timestamp = if ahead { received_at } else { client };
    Judged::Stored(Times {
        timestamp,
        client_timestamp: client.min(LAST_MS),
        ahead,
    })
}

/// Whether a client's time is further ahead of us than its clock may be.
pub(crate) fn is_ahead(received_at: i64, client: i64) -> bool {
    client > received_at + TOO_FAR_AHEAD_MS
}

/// What is the same on every retry of an event that has no time of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stable {
    /// The time inside its UUIDv7.
    At(i64),
    /// Its id comes from the client but tells no time: the UTC day of its arrival.
    Day,
    /// Nothing: its id is random, so a retry is another event anyway.
    None,
}

/// A JSON number: seconds below 1e11, else milliseconds. `None` when negative or not finite.
pub(crate) fn from_number(text: &str) -> Option<i64> {
    let whole = match text.len() {
        1..=FEW_DIGITS => digits(text.as_bytes()),
        _ => text.parse().ok(),
    };
    if let Some(whole) = whole {
        return match whole {
            ..0 => None,
            0..100_000_000_000 => Some(whole * 1000),
            _ => Some(whole),
        };
    }
    let number = text
        .parse::<f64>()
        .ok()
        .filter(|number| number.is_finite() && *number >= 0.0)?;
    let milliseconds = if number < SECONDS_BELOW {
        number * 1000.0
    } else {
        number
    };
    // The cast saturates, and the far future is clamped by the rules.
    Some(milliseconds.round() as i64)
}

/// An RFC 3339 date and time. `None` for anything else, and for a time before 1970.
pub(crate) fn from_text(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let (date_time, mut rest) = bytes.split_at_checked(19)?;
    let [
        y1,
        y2,
        y3,
        y4,
        b'-',
        m1,
        m2,
        b'-',
        d1,
        d2,
        b'T' | b't' | b' ',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
    ] = *date_time
    else {
        return None;
    };
    let year = digits(&[y1, y2, y3, y4])?;
    let (month, day) = (digits(&[m1, m2])?, digits(&[d1, d2])?);
    let (hour, minute, second) = (digits(&[h1, h2])?, digits(&[n1, n2])?, digits(&[s1, s2])?);
    if !(1..=12).contains(&month)
        || day < 1
        || day > days_in(year, month)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let mut milliseconds = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if length == 0 {
            return None;
        }
        let (digits, after) = fraction.split_at(length);
        rest = after;
        for place in 0..3 {
            milliseconds = milliseconds * 10 + i64::from(digits.get(place).map_or(0, |digit| digit - b'0'));
        }
    }
    let offset_minutes = match *rest {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[h1, h2])?, digits(&[m1, m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let days = days_before(year, month, day);
    let seconds = ((days * 24 + hour) * 60 + minute - offset_minutes) * 60 + second;
    let at = seconds * 1000 + milliseconds;
    (at >= 0).then_some(at)
}

/// The milliseconds inside a UUIDv7.
pub(crate) fn of_uuid(id: &uuid::Uuid) -> Option<i64> {
    (id.get_version_num() == 7).then(|| (id.as_u128() >> 80) as i64)
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + i64::from(byte - b'0'))
    })
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar; years begin in March, so that the leap day comes last.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    use super::*;
    use crate::utc::DAY_MS;

    const NOW: i64 = 1_763_730_000_123;
    const OLDEST_MS: i64 = 730 * DAY_MS;

    #[test]
    fn numbers_are_seconds_or_milliseconds() {
        for (text, expected) in [
            ("1763730000", Some(1_763_730_000_000)),
            ("1763730000.5", Some(1_763_730_000_500)),
            ("1763730000123", Some(1_763_730_000_123)),
            ("99999999999", Some(99_999_999_999_000)),
            ("100000000000", Some(100_000_000_000)),
            ("1.763730000123e12", Some(1_763_730_000_123)),
            ("0", Some(0)),
            ("-1", None),
            ("-0.5", None),
            ("1e999", None),
        ] {
            assert_eq!(from_number(text), expected, "{text}");
        }
    }

    #[test]
    fn texts_are_rfc_3339() {
        for (text, expected) in [
            ("2025-11-21T13:00:00Z", Some(1_763_730_000_000)),
            ("2025-11-21T13:00:00.123456+00:00", Some(1_763_730_000_123)),
            ("2025-11-21t15:00:00.1+02:00", Some(1_763_730_000_100)),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800_000)),
            ("2025-02-29T00:00:00Z", None),
            ("2025-11-21T13:00:00", None),
            ("2025-11-21", None),
            ("2025-13-21T13:00:00Z", None),
            ("2025-11-21T24:00:00Z", None),
            ("2025-11-21T13:00:00.Z", None),
            ("2025-11-21T13:00:00+0100", None),
            ("1969-12-31T23:59:59Z", None),
            ("1763730000", None),
            ("", None),
            ("é025-11-21T13:00:00Z", None),
        ] {
            assert_eq!(from_text(text), expected, "{text}");
        }
    }

    #[test]
    fn the_rules_of_time() {
        let stored = |timestamp, client_timestamp, ahead| {
            Judged::Stored(Times {
                timestamp,
                client_timestamp,
                ahead,
            })
        };
        let day = NOW - NOW.rem_euclid(DAY_MS);
        for (client, stable, expected) in [
            (None, Stable::None, stored(NOW, NOW, false)),
            (None, Stable::Day, stored(NOW, day, false)),
            (None, Stable::At(NOW - 5), stored(NOW, NOW - 5, false)),
            (
                Some(NOW - 1000),
                Stable::Day,
                stored(NOW - 1000, NOW - 1000, false),
            ),
            (
                Some(NOW + 300_000),
                Stable::None,
                stored(NOW + 300_000, NOW + 300_000, false),
            ),
            (
                Some(NOW + 300_001),
                Stable::None,
                stored(NOW, NOW + 300_001, true),
            ),
            (Some(i64::MAX), Stable::None, stored(NOW, LAST_MS, true)),
            (
                Some(NOW - OLDEST_MS),
                Stable::None,
                stored(NOW - OLDEST_MS, NOW - OLDEST_MS, false),
            ),
            (Some(NOW - OLDEST_MS - 1), Stable::None, Judged::TooOld),
            (Some(0), Stable::None, Judged::TooOld),
        ] {
            assert_eq!(
                judge(NOW, client, stable, Retention::default()),
                expected,
                "{client:?} {stable:?}"
            );
        }
    }

    #[test]
    fn a_uuid_of_version_7_tells_its_time() {
        let id = "0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f".parse().unwrap();
        assert_eq!(of_uuid(&id), Some(0x0193_f1c2_7b3e));
        assert_eq!(of_uuid(&uuid::Uuid::new_v4()), None);
    }

    proptest! {
        #[test]
        fn any_time_reads_back(ms in 0..4_102_444_800_000i64, offset in -1439..=1439i32) {
            let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap();
            let at = at.to_offset(time::UtcOffset::from_whole_seconds(offset * 60).unwrap());
            prop_assert_eq!(from_text(&at.format(&Rfc3339).unwrap()), Some(ms));
        }

        #[test]
        fn no_text_makes_it_stumble(text in any::<String>(), digits in "[0-9:TZ+. -]{0,40}") {
            from_text(&text);
            from_text(&digits);
            from_number(&digits);
        }
    }
}
