//! Durations and sizes as people write them: `250ms`, `10s`, `5m`, `8MB`, `64MiB`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A span of time: a whole number and `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

impl Duration {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(std::time::Duration::from_millis(milliseconds))
    }

    pub const fn from_days(days: u64) -> Self {
        Self::from_secs(days * 86_400)
    }

    pub const fn get(self) -> std::time::Duration {
        self.0
    }

    /// Whole days; what is left is dropped.
    pub const fn days(self) -> u64 {
        self.0.as_secs() / 86_400
    }
}

/// A number of bytes: a whole number and nothing, `kB`, `MB`, `GB` (powers of 1000) or `KiB`, `MiB`, `GiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl ByteSize {
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    pub const fn kb(kilobytes: u64) -> Self {
        Self(kilobytes * 1000)
    }

    pub const fn mb(megabytes: u64) -> Self {
        Self(megabytes * 1_000_000)
    }

    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Why a duration or a size was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a {kind}: write a whole number and one of {units}")]
pub struct UnitError {
    given: String,
    kind: &'static str,
    units: &'static str,
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    Some((number.parse().ok()?, unit.trim_start()))
}

impl FromStr for Duration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refused = || UnitError {
            given: text.into(),
            kind: "duration",
            units: "ms, s, m, h, d",
        };
        let (number, unit) = number_and_unit(text.trim()).ok_or_else(refused)?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(refused()),
        };
        number
            .checked_mul(milliseconds)
            .map(Self::from_millis)
            .ok_or_else(refused)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        match milliseconds {
            0 => f.write_str("0s"),
            n if n % 86_400_000 == 0 => write!(f, "{}d", n / 86_400_000),
            n if n % 3_600_000 == 0 => write!(f, "{}h", n / 3_600_000),
            n if n % 60_000 == 0 => write!(f, "{}m", n / 60_000),
            n if n % 1000 == 0 => write!(f, "{}s", n / 1000),
            n => write!(f, "{n}ms"),
        }
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refused = || UnitError {
            given: text.into(),
            kind: "size",
            units: "B, kB, MB, GB, KiB, MiB, GiB",
        };
        let (number, unit) = number_and_unit(text.trim()).ok_or_else(refused)?;
        let bytes = match unit {
            "" | "B" => 1,
            "kB" | "KB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" | "Ki" => 1 << 10,
            "MiB" | "Mi" => 1 << 20,
            "GiB" | "Gi" => 1 << 30,
            _ => return Err(refused()),
        };
        number.checked_mul(bytes).map(Self).ok_or_else(refused)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0B"),
            n if n % 1_000_000_000 == 0 => write!(f, "{}GB", n / 1_000_000_000),
            n if n % 1_000_000 == 0 => write!(f, "{}MB", n / 1_000_000),
            n if n % 1000 == 0 => write!(f, "{}kB", n / 1000),
            n => write!(f, "{n}B"),
        }
    }
}

macro_rules! as_text {
    ($unit:ty) => {
        impl fmt::Debug for $unit {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $unit {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $unit {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(Duration);
as_text!(ByteSize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip() {
        for (text, milliseconds) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("400d", 34_560_000_000),
        ] {
            let parsed: Duration = text.parse().unwrap();
            assert_eq!(parsed, Duration::from_millis(milliseconds));
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn sizes_round_trip() {
        for (text, bytes) in [
            ("8MB", 8_000_000),
            ("256kB", 256_000),
            ("1GB", 1_000_000_000),
            ("7B", 7),
        ] {
            let parsed: ByteSize = text.parse().unwrap();
            assert_eq!(parsed, ByteSize::bytes(bytes));
            assert_eq!(parsed.to_string(), text);
        }
        assert_eq!("64Mi".parse(), Ok(ByteSize::bytes(64 << 20)));
    }

    #[test]
    fn nonsense_is_refused_with_the_units() {
        for text in [
            "",
            "s",
            "10",
            "1.5s",
            "-1s",
            "99999999999999999999d",
            "10 parsecs",
        ] {
            let refused = text.parse::<Duration>().unwrap_err().to_string();
            assert!(refused.contains("ms, s, m, h, d"), "{refused}");
        }
        assert!("8 megabytes".parse::<ByteSize>().is_err());
        assert!("99999999999GB".parse::<ByteSize>().is_err());
    }
}
