//! ClickHouse's own compressed blocks, which the body of a request with `decompress=1` is made of.
//!
//! ```text
//! checksum (16) │ method (1) │ size with this header of 9 bytes (4, LE) │ size decompressed (4, LE) │ data
//!                └───────────────── CityHash128 1.0.2 over all of this ─────────────────────────────┘
//! ```
//!
//! Not `Content-Encoding: lz4`, whose frames keep a copy of what was last compressed and sum it up twice.

use lz4_flex::block::{compress_into, get_maximum_output_size};

const CHECKSUM: usize = 16;
const HEADER: usize = 9;
const LZ4: u8 = 0x82;
/// What goes into one block, as the server's own have it.
const BLOCK: usize = 1 << 20;

/// What was given, in blocks.
#[derive(Debug, Default)]
pub(super) struct Compressed {
    blocks: Vec<Vec<u8>>,
    gathered: Vec<u8>,
    room: Vec<u8>,
}

impl Compressed {
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.gathered.is_empty() && bytes.len() >= BLOCK {
                let (block, rest) = bytes.split_at(BLOCK);
                self.blocks.push(compress(block, &mut self.room));
                bytes = rest;
                continue;
            }
            let (first, rest) = bytes.split_at(bytes.len().min(BLOCK - self.gathered.len()));
            self.gathered.extend_from_slice(first);
            bytes = rest;
            if self.gathered.len() == BLOCK {
                self.end_block();
            }
        }
    }

    /// Nothing more comes.
    pub(super) fn finish(mut self) -> Vec<Vec<u8>> {
        if !self.gathered.is_empty() {
            self.end_block();
        }
        self.blocks
    }

    fn end_block(&mut self) {
        let block = compress(&self.gathered, &mut self.room);
        self.blocks.push(block);
        self.gathered.clear();
    }
}

/// One block. `room` is kept for the next, so that a block takes no more memory than it has bytes.
fn compress(data: &[u8], room: &mut Vec<u8>) -> Vec<u8> {
    const HEAD: usize = CHECKSUM + HEADER;
    room.resize(HEAD + get_maximum_output_size(data.len()), 0);
    // It is as large as the function asks for.
    let written = compress_into(data, &mut room[HEAD..]).unwrap_or(0);
    let block = &mut room[..HEAD + written];
    let size = (HEADER + written) as u32;
    block[CHECKSUM] = LZ4;
    block[CHECKSUM + 1..][..4].copy_from_slice(&size.to_le_bytes());
    block[CHECKSUM + 5..][..4].copy_from_slice(&(data.len() as u32).to_le_bytes());
    let checksum = checksum(&block[CHECKSUM..]);
    block[..CHECKSUM].copy_from_slice(&checksum);
    block.to_vec()
}

/// ClickHouse writes the two halves of the hash high half first, each little-endian.
fn checksum(block: &[u8]) -> [u8; CHECKSUM] {
    cityhash_rs::cityhash_102_128(block).rotate_left(64).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the blocks hold, each with its checksum looked at.
    fn decompressed(blocks: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for block in blocks {
            let (sum, framed) = block.split_at(CHECKSUM);
            assert_eq!(sum, checksum(framed));
            let size = |at: usize| u32::from_le_bytes(framed[at..at + 4].try_into().unwrap()) as usize;
            assert_eq!((framed[0], size(1)), (LZ4, framed.len()));
            out.extend(lz4_flex::block::decompress(&framed[HEADER..], size(5)).unwrap());
        }
        out
    }

    #[test]
    fn whatever_the_stretches_the_blocks_hold_all_bytes_in_order() {
        let noise: Vec<u8> = (0..3_500_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for lengths in [
            &[0, 1, 0][..],
            &[1_048_576],
            &[3, 1_048_576, 9],
            &[1_048_573, 3, 1, 2_400_000],
        ] {
            let (mut compressed, mut rest, mut all) = (Compressed::default(), &noise[..], Vec::new());
            for length in lengths {
                let (one, after) = rest.split_at(*length);
                compressed.push(one);
                all.extend_from_slice(one);
                rest = after;
            }
            let blocks = compressed.finish();
            assert_eq!(blocks.len(), all.len().div_ceil(BLOCK), "{lengths:?}");
            assert_eq!(decompressed(&blocks), all, "{lengths:?}");
        }
    }

    #[test]
    fn a_text_that_repeats_is_small() {
        let mut compressed = Compressed::default();
        compressed.push(&b"penstock ".repeat(1000));
        let blocks = compressed.finish();
        assert!(blocks[0].len() < 120, "{}", blocks[0].len());
    }
}
