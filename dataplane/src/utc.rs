//! Days and minutes of UTC, by milliseconds since 1970: what keys of Redis are named by and what ends at midnight.

pub(crate) const MINUTE_MS: i64 = 60_000;
pub(crate) const DAY_MS: i64 = 86_400_000;

/// Milliseconds since 1970, now.
pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// When the day of `ms` began.
pub(crate) fn midnight(ms: i64) -> i64 {
    ms - ms.rem_euclid(DAY_MS)
}

/// Milliseconds until the day ends.
pub(crate) fn until_midnight(ms: i64) -> i64 {
    DAY_MS - ms.rem_euclid(DAY_MS)
}

/// The day as `YYYYMMDD`.
pub(crate) fn day_name(ms: i64) -> String {
    let (year, month, day) = civil(ms.div_euclid(DAY_MS));
    format!("{year:04}{month:02}{day:02}")
}

/// The minute as `YYYYMMDDHHMM`.
pub(crate) fn minute_name(ms: i64) -> String {
    let minutes = ms.rem_euclid(DAY_MS) / MINUTE_MS;
    format!("{}{:02}{:02}", day_name(ms), minutes / 60, minutes % 60)
}

/// Year, month and day of a day counted from 1970; years begin in March, so that the leap day comes last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::OffsetDateTime;

    use super::*;

    proptest! {
        #[test]
        fn days_and_minutes_have_the_calendar_s_names(ms in 0..4_102_444_800_000i64) {
            let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap();
            let day = format!("{:04}{:02}{:02}", at.year(), u8::from(at.month()), at.day());
            prop_assert_eq!(minute_name(ms), format!("{day}{:02}{:02}", at.hour(), at.minute()));
            prop_assert_eq!(&day_name(midnight(ms)), &day);
            prop_assert_eq!(day_name(ms), day);
            prop_assert_eq!(midnight(ms) + DAY_MS, ms + until_midnight(ms));
        }
    }
}
