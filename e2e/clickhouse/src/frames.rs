//! ClickHouse's own compressed blocks, which `decompress=1` bodies and `compress=1` replies are made of.
//!
//! ```text
//! checksum (16) │ method (1) │ size with this header of 9 bytes (4, LE) │ size decompressed (4, LE) │ data
//!                └───────────────── CityHash128 1.0.2 over all of this ─────────────────────────────┘
//! ```

use bytes::Bytes;

use crate::failure::{Code, Failure};

const CHECKSUM: usize = 16;
const HEADER: usize = 9;
const LZ4: u8 = 0x82;
const ZSTD: u8 = 0x90;
const NONE: u8 = 0x02;
/// No block of the server or of a client is larger; a size beyond it is damage, not data.
const MAX_BLOCK: usize = 1 << 30;
/// How much of a reply goes into one block.
const REPLY_BLOCK: usize = 1 << 20;

/// Decompresses a whole body, whatever its chunks; fails on the first block that is short, damaged or too large.
/// `limit` bounds the bytes that come out.
pub(crate) fn decode(body: &[u8], limit: usize) -> Result<Vec<Bytes>, Failure> {
    let mut blocks = Vec::new();
    let mut total = 0usize;
    let mut rest = body;
    while !rest.is_empty() {
        if rest.len() < CHECKSUM + HEADER {
            return Err(short());
        }
        let (checksum, framed) = rest.split_at(CHECKSUM);
        let size = length(&framed[1..5]);
        let decompressed = length(&framed[5..9]);
        if !(HEADER..=MAX_BLOCK).contains(&size) || decompressed > MAX_BLOCK {
            return Err(Failure::new(
                Code::CannotDecompress,
                format_args!("a compressed block says {size} bytes, {decompressed} decompressed"),
            ));
        }
        if framed.len() < size {
            return Err(short());
        }
        let block = &framed[..size];
        if checksum != digest(block) {
            return Err(Failure::new(
                Code::ChecksumDoesntMatch,
                "Checksum doesn't match: corrupted data in a compressed block",
            ));
        }
        total += decompressed;
        if total > limit {
            return Err(crate::body::too_large(limit));
        }
        blocks.push(expand(block[0], &block[HEADER..], decompressed)?);
        rest = &framed[size..];
    }
    Ok(blocks)
}

fn expand(method: u8, data: &[u8], size: usize) -> Result<Bytes, Failure> {
    let bytes = match method {
        LZ4 => lz4_flex::block::decompress(data, size).map_err(broken)?,
        ZSTD => zstd::bulk::decompress(data, size).map_err(broken)?,
        NONE => data.to_vec(),
        other => {
            return Err(Failure::new(
                Code::UnknownCompressionMethod,
                format_args!("Unknown compression method byte: 0x{other:02x}"),
            ));
        }
    };
    if bytes.len() != size {
        return Err(broken(format_args!(
            "a block holds {} bytes instead of {size}",
            bytes.len()
        )));
    }
    Ok(bytes.into())
}

/// Compresses a reply into LZ4 blocks.
pub(crate) fn encode(data: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(data.len() / 2 + CHECKSUM + HEADER);
    for part in data.chunks(REPLY_BLOCK) {
        push_block(&mut framed, LZ4, &lz4_flex::block::compress(part), part.len());
    }
    framed
}

fn push_block(framed: &mut Vec<u8>, method: u8, data: &[u8], decompressed: usize) {
    let mut block = Vec::with_capacity(HEADER + data.len());
    block.push(method);
    block.extend_from_slice(&((HEADER + data.len()) as u32).to_le_bytes());
    block.extend_from_slice(&(decompressed as u32).to_le_bytes());
    block.extend_from_slice(data);
    framed.extend_from_slice(&digest(&block));
    framed.extend_from_slice(&block);
}

/// ClickHouse writes the two halves of the hash high half first, each little-endian.
fn digest(block: &[u8]) -> [u8; CHECKSUM] {
    let hash = cityhash_rs::cityhash_102_128(block);
    let mut bytes = [0; CHECKSUM];
    bytes[..8].copy_from_slice(&((hash >> 64) as u64).to_le_bytes());
    bytes[8..].copy_from_slice(&(hash as u64).to_le_bytes());
    bytes
}

fn length(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rev()
        .fold(0, |length, byte| length << 8 | usize::from(*byte))
}

fn short() -> Failure {
    Failure::new(
        Code::CannotReadAllData,
        "Cannot read all data: a compressed block is cut short",
    )
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::new(Code::CannotDecompress, format_args!("Cannot decompress: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(blocks: Vec<Bytes>) -> Vec<u8> {
        blocks.concat()
    }

    fn framed(method: u8, data: &[u8]) -> Vec<u8> {
        let compressed = match method {
            LZ4 => lz4_flex::block::compress(data),
            ZSTD => zstd::bulk::compress(data, 1).expect("compresses"),
            _ => data.to_vec(),
        };
        let mut bytes = Vec::new();
        push_block(&mut bytes, method, &compressed, data.len());
        bytes
    }

    #[test]
    fn every_method_comes_back() {
        let data: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for method in [LZ4, ZSTD, NONE] {
            let mut body = framed(method, &data);
            body.extend(framed(method, b"second"));
            assert_eq!(
                joined(decode(&body, 1 << 20).expect("decodes")),
                [&data[..], b"second"].concat(),
                "{method}"
            );
        }
        let large = vec![7u8; REPLY_BLOCK * 2 + 3];
        assert_eq!(
            joined(decode(&encode(&large), large.len()).expect("decodes")),
            large
        );
        assert!(decode(&[], 0).expect("an empty body is no block").is_empty());
    }

    #[test]
    fn damage_is_named() {
        let good = framed(LZ4, b"some rows, some rows, some rows");
        let code = |body: &[u8]| decode(body, 1 << 20).expect_err("refused").number();
        for at in [0, 15, 20, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let number = code(&bad);
            assert!([40, 33, 271].contains(&number), "byte {at}: {number}");
        }
        let mut flipped = good.clone();
        flipped[CHECKSUM + HEADER] ^= 1;
        assert_eq!(code(&flipped), 40);
        for cut in 1..good.len() {
            assert_eq!(code(&good[..cut]), 33, "cut at {cut}");
        }
        assert_eq!(code(&framed(0x55, b"x")), 89);
        assert_eq!(
            decode(&framed(NONE, &[0; 100]), 99)
                .expect_err("too large")
                .number(),
            229
        );
        let mut lying = Vec::new();
        push_block(&mut lying, NONE, b"abc", 4);
        assert_eq!(code(&lying), 271);
    }
}
