//! A column of few distinct texts: each text once, and for each row the number of its text.
//!
//! So ClickHouse's Native format has `LowCardinality(String)`:
//! ```text
//! u64 version, u64 flags, u64 texts, the texts, u64 rows, for each row a u32
//! ```
//! Of a column of strings the server would find this out by itself, with a hash and a copy for every row.
//!
//! Invariant: every number is that of a text.

use std::ops::Range;

use ahash::RandomState;
use hashbrown::HashTable;

use super::column::{Column, Place as PlaceOfNumbers, push_varint};

/// Of the layout.
const VERSION: u64 = 1;
/// The texts come with the block, they are all of them, and a number has four bytes.
const FLAGS: u64 = 1 << 9 | 1 << 10 | 2;
const WIDTH: usize = 4;
/// What is kept of a text beside itself, at most: where it lies, and its number to be found by.
const BESIDE: usize = 24;

#[derive(Clone, Debug, Default)]
pub(super) struct Symbols {
    /// As they are sent: each a length and its bytes, in the order of their numbers.
    texts: Vec<u8>,
    /// Where each text's bytes lie.
    places: Vec<Range<u32>>,
    /// The numbers, to be found by their texts, which lie nowhere else.
    known: HashTable<u32>,
    hasher: RandomState,
    numbers: Column,
    /// Of the last row: most have the text of the row before.
    last: u32,
}

/// Where a column stood.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    numbers: PlaceOfNumbers,
    texts: usize,
    distinct: usize,
}

impl Symbols {
    /// Adds a row; returns how many bytes that took, with what is kept beside a new text: a column that after all has as
    /// many texts as rows must not take more memory than it says.
    pub(super) fn push(&mut self, text: &[u8]) -> usize {
        let mut taken = WIDTH;
        if self.text(self.last) != Some(text) {
            let before = self.texts.len() + self.beside();
            self.last = self.number(text);
            taken += self.texts.len() + self.beside() - before;
        }
        self.numbers.push_fixed(&self.last.to_le_bytes());
        taken
    }

    /// Bytes that are kept and not sent.
    pub(super) fn beside(&self) -> usize {
        BESIDE * self.places.len()
    }

    fn text(&self, number: u32) -> Option<&[u8]> {
        let place = self.places.get(number as usize)?;
        self.texts.get(place.start as usize..place.end as usize)
    }

    fn number(&mut self, text: &[u8]) -> u32 {
        let hash = self.hasher.hash_one(text);
        let known = self.known.find(hash, |&number| self.text(number) == Some(text));
        if let Some(&number) = known {
            return number;
        }
        let number = self.places.len() as u32;
        push_varint(&mut self.texts, text.len());
        let start = self.texts.len() as u32;
        self.texts.extend_from_slice(text);
        self.places.push(start..self.texts.len() as u32);
        let (texts, places, hasher) = (&self.texts, &self.places, &self.hasher);
        self.known.insert_unique(hash, number, |&number| {
            let place = &places[number as usize];
            hasher.hash_one(&texts[place.start as usize..place.end as usize])
        });
        number
    }

    /// The text of each row.
    pub(super) fn rows(&self) -> impl Iterator<Item = &[u8]> {
        let numbers = self
            .numbers
            .pieces()
            .flat_map(|piece| piece.as_chunks::<WIDTH>().0);
        numbers.map(|number| self.text(u32::from_le_bytes(*number)).unwrap_or_default())
    }

    /// What comes before the numbers when they are sent.
    pub(super) fn push_head(&self, out: &mut Vec<u8>, rows: u32) {
        for number in [VERSION, FLAGS, self.places.len() as u64] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.texts);
        out.extend_from_slice(&u64::from(rows).to_le_bytes());
    }

    pub(super) fn numbers(&self) -> &Column {
        &self.numbers
    }

    pub(super) fn place(&self) -> Place {
        Place {
            numbers: self.numbers.place(),
            texts: self.texts.len(),
            distinct: self.places.len(),
        }
    }

    /// Forgets what was added since `place`.
    pub(super) fn go_back(&mut self, place: Place) {
        self.numbers.go_back(place.numbers);
        self.texts.truncate(place.texts);
        self.places.truncate(place.distinct);
        self.known
            .retain(|&mut number| (number as usize) < place.distinct);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(symbols: &Symbols, rows: u32) -> Vec<u8> {
        let mut out = Vec::new();
        symbols.push_head(&mut out, rows);
        out.extend(symbols.numbers.bytes());
        out
    }

    #[test]
    fn each_text_is_sent_once() {
        let mut symbols = Symbols::default();
        let texts: [&[u8]; 6] = [b"", b"ab", b"ab", b"", b"c", b"ab"];
        let taken: Vec<usize> = texts.iter().map(|text| symbols.push(text)).collect();
        assert_eq!(taken, [5 + BESIDE, 7 + BESIDE, 4, 4, 6 + BESIDE, 4]);
        assert!(symbols.rows().eq(texts));
        let mut expected = vec![
            1, 0, 0, 0, 0, 0, 0, 0, 2, 6, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
        ];
        expected.extend(b"\0\x02ab\x01c");
        expected.extend([6, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend(
            [0u32, 1, 1, 0, 2, 1]
                .iter()
                .flat_map(|number| number.to_le_bytes()),
        );
        assert_eq!(sent(&symbols, 6), expected);
    }

    #[test]
    fn what_it_says_it_takes_is_what_it_takes() {
        let (mut symbols, mut said) = (Symbols::default(), 0);
        for number in 0..100_000u32 {
            said += symbols.push(format!("{number:06}").as_bytes());
        }
        let table = symbols.known.allocation_size();
        let places = symbols.places.capacity() * size_of::<Range<u32>>();
        let kept = symbols.texts.capacity() + places + table + symbols.numbers.bytes().len();
        assert!(kept < said + said / 2, "{kept} bytes, said to be {said}");
        assert!(
            symbols
                .rows()
                .enumerate()
                .all(|(row, text)| text == format!("{row:06}").as_bytes())
        );
    }

    #[test]
    fn going_back_forgets_texts_too() {
        let mut symbols = Symbols::default();
        symbols.push(b"a");
        let (place, before) = (symbols.place(), sent(&symbols, 1));
        // Numbers of many rows lie in several pieces.
        for number in 0..70_000 {
            symbols.push(if number % 3 == 0 { b"a" } else { b"b" });
        }
        symbols.go_back(place);
        assert_eq!(sent(&symbols, 1), before);
        symbols.push(b"c");
        symbols.push(b"b");
        assert!(symbols.rows().eq([b"a", b"c", b"b"]));
        symbols.go_back(Place::default());
        symbols.push(b"x");
        assert!(symbols.rows().eq([b"x"]));
    }
}
