//! Where a JSON string may stop: the quotes, backslashes and control characters of a text, 64 bytes at a time.
//!
//! A reader goes forward, and each block is looked at once, so that the strings in it, mostly shorter than a vector,
//! cost a shift and a count of zeros each.

use wide::u8x16;

/// Bytes of a block: one bit each in a word.
const BLOCK: usize = 64;

/// The stops of a text, one block remembered.
#[derive(Debug)]
pub(crate) struct Stops {
    /// Number of the block in `bits`.
    block: usize,
    /// Bit n: byte n of the block is a stop.
    bits: u64,
}

impl Stops {
    pub(crate) const fn new() -> Self {
        Self {
            block: usize::MAX,
            bits: 0,
        }
    }

    /// The first stop from `at` on, or the end. Always of the same text.
    #[inline]
    pub(crate) fn next(&mut self, text: &[u8], mut at: usize) -> usize {
        loop {
            let block = at / BLOCK;
            if block != self.block {
                self.look_at(text, block);
            }
            let left = self.bits >> (at % BLOCK);
            if left != 0 {
                return at + left.trailing_zeros() as usize;
            }
            at = (block + 1) * BLOCK;
            if at >= text.len() {
                return text.len();
            }
        }
    }

    /// Behind the end nothing stops.
    #[inline(never)]
    fn look_at(&mut self, text: &[u8], block: usize) {
        let rest = text.get(block * BLOCK..).unwrap_or_default();
        self.block = block;
        self.bits = if let Some(bytes) = rest.first_chunk() {
            stops_in(bytes)
        } else {
            let mut bytes = [b' '; BLOCK];
            bytes[..rest.len()].copy_from_slice(rest);
            stops_in(&bytes)
        };
    }
}

#[inline]
fn stops_in(bytes: &[u8; BLOCK]) -> u64 {
    let (quarters, _) = bytes.as_chunks::<16>();
    quarters.iter().rev().fold(0, |bits, quarter| {
        let bytes = u8x16::new(*quarter);
        let is_control = bytes.min(u8x16::splat(0x1f)).simd_eq(bytes);
        let is_mark = bytes.simd_eq(u8x16::splat(b'"')) | bytes.simd_eq(u8x16::splat(b'\\'));
        bits << 16 | u64::from((is_control | is_mark).to_bitmask())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_stop_is_found_and_nothing_else(
            text in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'"'), Just(b'\\'), any::<u8>()], 0..300),
        ) {
            let is_stop = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
            let mut stops = Stops::new();
            for at in 0..=text.len() {
                let expected = text[at..].iter().position(is_stop).map_or(text.len(), |from| at + from);
                prop_assert_eq!(stops.next(&text, at), expected);
            }
            // Also when it is asked for what lies before.
            prop_assert_eq!(stops.next(&text, 0), text.iter().position(is_stop).unwrap_or(text.len()));
        }
    }
}
