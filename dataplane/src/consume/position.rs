//! Where a line lies in a partition: the record's offset and the line's number within the record.
//!
//! Rows store their position, dead letters name it, and a batch is split by it. It depends on the topic's bytes
//! alone, so it means the same to every version of this program.

use std::fmt;

/// One line of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub offset: i64,
    pub row: u32,
}

impl Position {
    pub const fn new(offset: i64, row: u32) -> Self {
        Self { offset, row }
    }

    /// The nearest position after this one.
    pub const fn after(self) -> Self {
        match self.row.checked_add(1) {
            Some(row) => Self::new(self.offset, row),
            None => Self::new(self.offset + 1, 0),
        }
    }

    /// The nearest position before this one.
    pub const fn before(self) -> Self {
        match self.row.checked_sub(1) {
            Some(row) => Self::new(self.offset, row),
            None => Self::new(self.offset - 1, u32::MAX),
        }
    }
}

/// The Kafka offsets of a batch, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub first: i64,
    pub last: i64,
}

impl Span {
    pub const fn new(first: i64, last: i64) -> Self {
        Self { first, last }
    }

    /// The part that is the whole span.
    pub const fn whole(self) -> Part {
        Part {
            from: Position::new(self.first, 0),
            to: Position::new(self.last, u32::MAX),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// A stretch of a span, both ends included. A batch that ClickHouse refuses is halved into parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub from: Position,
    pub to: Position,
}

impl Part {
    pub fn contains(&self, position: Position) -> bool {
        self.from <= position && position <= self.to
    }

    /// The two parts on either side of `middle`, which begins the second.
    pub const fn split(self, middle: Position) -> (Self, Self) {
        let first = Self {
            from: self.from,
            to: middle.before(),
        };
        let second = Self {
            from: middle,
            to: self.to,
        };
        (first, second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_meet_across_records() {
        for (position, after) in [
            (Position::new(5, 0), Position::new(5, 1)),
            (Position::new(5, u32::MAX), Position::new(6, 0)),
        ] {
            assert_eq!(position.after(), after);
            assert_eq!(after.before(), position);
        }
    }

    #[test]
    fn halves_cover_the_part_and_do_not_overlap() {
        let whole = Span::new(10, 12).whole();
        for middle in [Position::new(10, 1), Position::new(11, 0), Position::new(12, 7)] {
            let (first, second) = whole.split(middle);
            assert_eq!((first.from, second.to), (whole.from, whole.to));
            assert_eq!(first.to.after(), second.from);
            for offset in 10..=12 {
                for row in [0, 1, 6, 7, 8, u32::MAX] {
                    let position = Position::new(offset, row);
                    assert!(
                        first.contains(position) ^ second.contains(position),
                        "{position:?}"
                    );
                }
            }
        }
    }
}
