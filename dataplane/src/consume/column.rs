//! The values of one column, in pieces of one size.
//!
//! A column that grew as one piece would be copied again and again and leave holes of every size behind, more than
//! twice its own in the end. Pieces of one size are never copied, and the next batch takes those of the last.
//!
//! Invariant: no value lies in two pieces.

/// Bytes of a piece. A multiple of every fixed width, so that fixed values fill pieces exactly. A longer value gets
/// a piece of its own.
const PIECE: usize = 128 << 10;
/// What a piece begins with: most batches of a quiet pipeline are small.
const SMALL: usize = 4 << 10;

#[derive(Clone, Debug, Default)]
pub(super) struct Column {
    full: Vec<Vec<u8>>,
    open: Vec<u8>,
}

/// Where a column stood.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    full: usize,
    open: usize,
}

impl Column {
    /// Room for a value of `length` bytes.
    fn room(&mut self, length: usize) -> &mut Vec<u8> {
        let wanted = self.open.len() + length;
        if wanted > self.open.capacity() {
            self.grow(length, wanted);
        }
        &mut self.open
    }

    #[cold]
    fn grow(&mut self, length: usize, wanted: usize) {
        if wanted <= PIECE || self.open.is_empty() {
            // Four steps from small to whole, and none after that.
            let capacity = (self.open.capacity() * 4).clamp(SMALL, PIECE).max(wanted);
            self.open.reserve_exact(capacity - self.open.len());
        } else {
            let next = Vec::with_capacity(PIECE.max(length));
            self.full.push(std::mem::replace(&mut self.open, next));
        }
    }

    pub(super) fn push_fixed(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).extend_from_slice(bytes);
    }

    /// A length and the bytes; returns how many bytes that took.
    pub(super) fn push_string(&mut self, value: &[u8]) -> usize {
        let mut head = [0; 10];
        let used = varint(&mut head, value.len());
        let out = self.room(used + value.len());
        out.extend_from_slice(&head[..used]);
        out.extend_from_slice(value);
        used + value.len()
    }

    /// The pieces, in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.full
            .iter()
            .chain(std::iter::once(&self.open))
            .map(Vec::as_slice)
    }

    /// How many pieces there are.
    pub(super) fn count(&self) -> usize {
        self.full.len() + 1
    }

    pub(super) fn piece(&self, index: usize) -> &[u8] {
        self.full.get(index).unwrap_or(&self.open)
    }

    pub(super) fn place(&self) -> Place {
        Place {
            full: self.full.len(),
            open: self.open.len(),
        }
    }

    /// Forgets what was added since `place`.
    pub(super) fn go_back(&mut self, place: Place) {
        if self.full.len() > place.full {
            self.full.truncate(place.full + 1);
            self.open = self.full.pop().unwrap_or_default();
        }
        self.open.truncate(place.open);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.pieces().flatten().copied().collect()
    }
}

/// Writes a length as ClickHouse does; returns how many bytes that took.
fn varint(out: &mut [u8; 10], mut value: usize) -> usize {
    let mut used = 0;
    while value >= 0x80 {
        out[used] = value as u8 | 0x80;
        value >>= 7;
        used += 1;
    }
    out[used] = value as u8;
    used + 1
}

/// Appends a length to a head.
pub(super) fn push_varint(out: &mut Vec<u8>, value: usize) {
    let mut head = [0; 10];
    let used = varint(&mut head, value);
    out.extend_from_slice(&head[..used]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_whole_in_pieces_that_do_not_grow() {
        let mut column = Column::default();
        let mut expected = Vec::new();
        for length in (0..2000).chain([PIECE - 3, PIECE - 2, PIECE, 3 * PIECE, 5]) {
            let value = vec![length as u8; length];
            let taken = column.push_string(&value);
            let mut head = [0; 10];
            let used = varint(&mut head, length);
            assert_eq!(taken, used + length);
            expected.extend_from_slice(&head[..used]);
            expected.extend_from_slice(&value);
        }
        assert_eq!(column.bytes(), expected);
        assert!(column.full.iter().all(|piece| piece.capacity() <= 3 * PIECE + 4));
        let total: usize = column.full.iter().map(Vec::capacity).sum::<usize>() + column.open.capacity();
        assert!(
            total < expected.len() + expected.len() / 4 + 2 * PIECE,
            "{total} for {}",
            expected.len()
        );
    }

    #[test]
    fn fixed_values_fill_pieces_and_going_back_crosses_them() {
        let mut column = Column::default();
        let value = |number: u64| [number.to_le_bytes(), (!number).to_le_bytes()].concat();
        let many = 3 * PIECE as u64 / 16 + 5;
        for number in 0..100 {
            column.push_fixed(&value(number));
        }
        let place = column.place();
        for number in 100..many {
            column.push_fixed(&value(number));
        }
        assert_eq!(column.count(), 4);
        assert!((0..3).all(|index| column.piece(index).len() == PIECE));
        assert_eq!(column.bytes(), (0..many).flat_map(value).collect::<Vec<u8>>());
        column.go_back(place);
        assert_eq!(column.bytes(), (0..100).flat_map(value).collect::<Vec<u8>>());
        column.push_fixed(&value(7));
        assert_eq!(column.bytes().len(), 101 * 16);
    }
}
