//! What a body may be compressed with, and undoing it within a cap.
//!
//! A decoder has working memory of its own, up to 16 MB (the largest window of brotli; zstd is held to 8 MB, as
//! RFC 9659 has it). It lives within one call of [`decode`], so a shard has one at a time, however many bodies wait.

use std::io::{self, Read};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::bufread::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use libdeflater::Decompressor;
use memchr::memmem;
use zstd::stream::read::Decoder as Zstd;

use super::answer::{Code, Refusal};

/// The `Accept-Encoding` header of a refusal.
pub(crate) const ACCEPTED: &str = "gzip, deflate, zstd, br";
/// Bytes that are decoded at once.
const STEP: usize = 64 * 1024;
/// How a member of gzip begins: its two bytes, and the one method that there is.
const GZIP_MEMBER: &[u8] = &[0x1f, 0x8b, 8];
/// A body that says to be more than so many times larger than what came is read step by step. Events shrink to a fifth.
const USUAL_RATIO: usize = 64;
/// 8 MB.
const ZSTD_WINDOW_LOG: u32 = 23;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    Gzip,
    Deflate,
    Zstd,
    Brotli,
}

impl Encoding {
    /// What the head says. One encoding, for no client of events uses two.
    pub(crate) fn of_head(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        let Some(value) = values.next() else {
            return Ok(Self::Plain);
        };
        let name = value.to_str().unwrap_or("?").trim();
        let known = [
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("deflate", Self::Deflate),
            ("zstd", Self::Zstd),
            ("br", Self::Brotli),
            ("identity", Self::Plain),
            ("", Self::Plain),
        ];
        let found = known.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
        match (found, values.next()) {
            (Some((_, encoding)), None) => Ok(*encoding),
            _ => Err(Code::UnsupportedEncoding.into()),
        }
    }

    /// Some browsers' SDKs send gzip without saying so.
    pub(crate) fn or_evident(self, body: &[u8]) -> Self {
        if self == Self::Plain && body.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else {
            self
        }
    }
}

/// The whole body decoded; `None` when `room` has said no. `room` is asked before the output grows to so many bytes.
pub(crate) fn decode(
    encoding: Encoding,
    compressed: &[u8],
    limit: usize,
    mut room: impl FnMut(usize) -> bool,
) -> Result<Option<Vec<u8>>, Refusal> {
    if encoding == Encoding::Gzip
        && let Some(size) = told_size(compressed).filter(|size| *size <= limit)
    {
        if !room(size) {
            return Ok(None);
        }
        if let Some(whole) = at_once(compressed, size) {
            return Ok(Some(whole));
        }
    }
    let invalid = |_: io::Error| Refusal::from(Code::InvalidEncoding);
    let mut decoder: Box<dyn Read + '_> = match encoding {
        Encoding::Plain => Box::new(compressed),
        Encoding::Gzip => Box::new(MultiGzDecoder::new(compressed)),
        Encoding::Deflate => Box::new(Inflate::new(compressed)),
        Encoding::Zstd => {
            let mut decoder = Zstd::with_buffer(compressed).map_err(invalid)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(invalid)?;
            Box::new(decoder)
        }
        Encoding::Brotli => Box::new(Brotli::new(compressed)),
    };
    let mut out = Vec::with_capacity(STEP);
    let mut buffer = vec![0u8; STEP];
    loop {
        let read = decoder.read(&mut buffer).map_err(invalid)?;
        if read == 0 {
            return Ok(Some(out));
        }
        if out.len() + read > limit {
            return Err(Refusal::over(Code::BodyTooLarge, limit as u64));
        }
        if !room(out.len() + read) {
            return Ok(None);
        }
        out.extend_from_slice(&buffer[..read]);
    }
}

/// What gzip of a single member says that it holds: the size modulo 2^32 are its last bytes. `None` where that is not to be
/// believed, or where a second member may follow, whose beginning is then somewhere in the bytes.
fn told_size(compressed: &[u8]) -> Option<usize> {
    let size = u32::from_le_bytes(*compressed.last_chunk()?) as usize;
    let is_usual = size > 0 && size <= compressed.len().saturating_mul(USUAL_RATIO);
    let rest = compressed.strip_prefix(GZIP_MEMBER)?;
    (is_usual && memmem::find(rest, GZIP_MEMBER).is_none()).then_some(size)
}

/// Gzip of that size in one step, which takes half the time of many. `None` for anything else, which the other way judges.
fn at_once(compressed: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut out = vec![0u8; size];
    let written = Decompressor::new().gzip_decompress(compressed, &mut out).ok()?;
    (written == size).then_some(out)
}

/// `deflate`: zlib, as the standard has it, or the bare stream that some clients send instead. Unlike flate2's own
/// reader it does not take a stream that ends too early for a whole one.
struct Inflate<'b> {
    stream: Decompress,
    rest: &'b [u8],
    ended: bool,
}

impl<'b> Inflate<'b> {
    fn new(compressed: &'b [u8]) -> Self {
        // The two bytes of zlib's header: method 8, and a multiple of 31.
        let zlib = compressed.first_chunk::<2>().is_some_and(|[first, second]| {
            first & 0x0f == 8 && u16::from_be_bytes([*first, *second]) % 31 == 0
        });
        Self {
            stream: Decompress::new(zlib),
            rest: compressed,
            ended: false,
        }
    }
}

impl Read for Inflate<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !self.ended {
            let (read, written) = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.decompress(self.rest, out, FlushDecompress::None)?;
            let read = (self.stream.total_in() - read) as usize;
            let written = (self.stream.total_out() - written) as usize;
            self.rest = &self.rest[read..];
            self.ended = status == Status::StreamEnd;
            if self.ended && !self.rest.is_empty() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if written > 0 {
                return Ok(written);
            }
            if read == 0 && !self.ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}

/// `br`, of windows up to 16 MB: the library's own reader takes ones of 1 GB, and what lies behind the stream.
struct Brotli<'b> {
    stream: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    rest: &'b [u8],
    ended: bool,
}

impl<'b> Brotli<'b> {
    fn new(compressed: &'b [u8]) -> Self {
        let alloc = StandardAlloc::default;
        Self {
            stream: BrotliState::new_strict(alloc(), alloc(), alloc()),
            rest: compressed,
            ended: false,
        }
    }
}

impl Read for Brotli<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !self.ended {
            let (mut left, mut read) = (self.rest.len(), 0);
            let (mut room, mut written) = (out.len(), 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut read,
                self.rest,
                &mut room,
                &mut written,
                out,
                &mut 0,
                &mut self.stream,
            );
            self.rest = &self.rest[read..];
            match result {
                BrotliResult::ResultFailure => return Err(io::ErrorKind::InvalidData.into()),
                BrotliResult::ResultSuccess => {
                    self.ended = true;
                    if !self.rest.is_empty() {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                }
                BrotliResult::NeedsMoreInput if written == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                _ => {}
            }
            if written > 0 {
                return Ok(written);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
#[path = "encoding_tests.rs"]
mod tests;
