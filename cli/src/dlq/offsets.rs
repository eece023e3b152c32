//! Sets of offsets, partition by partition: as a person names letters (`17`, `3..9`, `1/3..9`), and as a receipt keeps
//! those that were replayed (`3..9,17`). A range holds both its ends.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Where a letter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

/// What a person names: one letter, or those between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub partition: i32,
    pub offsets: RangeInclusive<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no letter: write an OFFSET, a range A..B, or either behind a partition as in 1/17")]
pub struct Unreadable(String);

impl Named {
    /// The letter, where one is named and not a range.
    pub fn single(&self) -> Option<Position> {
        (self.offsets.start() == self.offsets.end()).then(|| Position {
            partition: self.partition,
            offset: *self.offsets.start(),
        })
    }

    pub fn contains(&self, position: Position) -> bool {
        self.partition == position.partition && self.offsets.contains(&position.offset)
    }
}

impl FromStr for Named {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let unreadable = || Unreadable(text.to_owned());
        let (partition, offsets) = match text.split_once('/') {
            Some((partition, offsets)) => (number(partition).ok_or_else(unreadable)?, offsets),
            None => (0, text),
        };
        Ok(Self {
            partition: i32::try_from(partition).map_err(|_| unreadable())?,
            offsets: range(offsets).ok_or_else(unreadable)?,
        })
    }
}

fn number(text: &str) -> Option<i64> {
    // `parse` alone would take a sign.
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn range(text: &str) -> Option<RangeInclusive<i64>> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(first..=last)
}

/// Offsets of one partition, as ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets(BTreeMap<i64, i64>);

impl Offsets {
    pub fn add(&mut self, offsets: RangeInclusive<i64>) {
        let (mut first, mut last) = offsets.into_inner();
        while let Some((&start, &end)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            self.0.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.0.insert(first, last);
    }

    pub fn contains(&self, offset: i64) -> bool {
        let found = self.0.range(..=offset).next_back();
        found.is_some_and(|(_, &last)| offset <= last)
    }
}

impl fmt::Display for Offsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}..{last}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Offsets {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let mut offsets = Self::default();
        for part in text.split(',') {
            offsets.add(range(part).ok_or_else(|| Unreadable(text.to_owned()))?);
        }
        Ok(offsets)
    }
}

/// Offsets of all partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions(BTreeMap<i32, Offsets>);

impl Positions {
    pub fn add(&mut self, partition: i32, offsets: &Offsets) {
        let of = self.0.entry(partition).or_default();
        offsets.0.iter().for_each(|(&first, &last)| of.add(first..=last));
    }

    pub fn add_one(&mut self, position: Position) {
        let of = self.0.entry(position.partition).or_default();
        of.add(position.offset..=position.offset);
    }

    pub fn contains(&self, position: Position) -> bool {
        let of = self.0.get(&position.partition);
        of.is_some_and(|offsets| offsets.contains(position.offset))
    }

    pub fn partitions(&self) -> impl Iterator<Item = (i32, &Offsets)> {
        self.0.iter().map(|(&partition, offsets)| (partition, offsets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_named_by_offset_range_and_partition() {
        for (text, partition, first, last) in [
            ("17", 0, 17, 17),
            ("3..9", 0, 3, 9),
            ("2/0", 2, 0, 0),
            ("1/3..9", 1, 3, 9),
        ] {
            let named: Named = text.parse().unwrap();
            assert_eq!(
                (named.partition, named.offsets),
                (partition, first..=last),
                "{text}"
            );
        }
        for text in [
            "",
            "a",
            "-1",
            "+1",
            "9..3",
            "3..",
            "..",
            "1/",
            "/1",
            "1/2/3",
            "3...5",
            "99999999999999999999",
        ] {
            let error = text.parse::<Named>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
        let one: Named = "1/17".parse().unwrap();
        assert_eq!(one.single().map(|at| at.to_string()), Some("1/17".into()));
        assert_eq!("3..9".parse::<Named>().unwrap().single(), None);
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let mut offsets = Offsets::default();
        for (range, expected) in [
            (5..=5, "5"),
            (9..=12, "5,9..12"),
            (7..=7, "5,7,9..12"),
            (6..=6, "5..7,9..12"),
            (10..=11, "5..7,9..12"),
            (8..=20, "5..20"),
            (0..=2, "0..2,5..20"),
            (1..=30, "0..30"),
        ] {
            offsets.add(range);
            assert_eq!(offsets.to_string(), expected);
            assert_eq!(expected.parse(), Ok(offsets.clone()), "reading it back");
        }
        assert!(offsets.contains(0) && offsets.contains(30) && !offsets.contains(31));
        assert!("".parse::<Offsets>().is_err() && "1,,2".parse::<Offsets>().is_err());
    }
}
