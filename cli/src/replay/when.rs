//! A moment, as a person names it.

use std::str::FromStr;

use crate::exit::Result;
use crate::kafka::Topic;

/// Milliseconds since 1970, or what is oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Beginning,
    At(i64),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no moment: write a time as 2026-11-28T10:00:00Z, so long ago as 30m, 2h or 3d, or beginning"
)]
pub struct Unreadable(String);

impl FromStr for When {
    type Err = Unreadable;

    fn from_str(text: &str) -> std::result::Result<Self, Unreadable> {
        if text == "beginning" {
            return Ok(Self::Beginning);
        }
        if let Ok(ago) = text.parse::<penstock_dataplane_config::Duration>() {
            let ago = i64::try_from(ago.get().as_millis()).unwrap_or(i64::MAX);
            let now = jiff::Timestamp::now().as_millisecond();
            return Ok(Self::At(now.saturating_sub(ago).max(0)));
        }
        let time: jiff::Timestamp = text.parse().map_err(|_| Unreadable(text.to_owned()))?;
        Ok(Self::At(time.as_millisecond().max(0)))
    }
}

impl When {
    /// The first offsets of what was written from then on.
    pub fn offsets(self, topic: &Topic) -> Result<Vec<(i32, i64)>> {
        match self {
            Self::Beginning => Ok(topic.beginning()),
            Self::At(time) => topic.at(time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_times_ages_and_the_beginning() {
        assert_eq!("beginning".parse(), Ok(When::Beginning));
        assert_eq!("2026-11-28T10:00:00Z".parse(), Ok(When::At(1_795_860_000_000)));
        let now = jiff::Timestamp::now().as_millisecond();
        let Ok(When::At(ago)) = "2h".parse() else {
            panic!("2h");
        };
        assert!((now - ago - 7_200_000).abs() < 10_000, "{ago}");
        for text in ["", "yesterday", "2026-11-28", "-2h"] {
            let error = text.parse::<When>().unwrap_err().to_string();
            assert!(error.contains("beginning"), "{error}");
        }
    }
}
