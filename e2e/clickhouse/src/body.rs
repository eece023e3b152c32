//! Bodies: read whole before anything is done with them, and decoded from what the client says they are in.
//!
//! Invariant: rows reach the engine only from a body that has arrived whole, so a cut connection stores none.

use std::io::Read;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::failure::{Code, Failure};

/// The encodings of HTTP that are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Gzip,
    Lz4,
    Zstd,
}

impl Encoding {
    /// `None` for a body that is not encoded.
    pub(crate) fn of_content(header: &str) -> Result<Option<Self>, Failure> {
        match header.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip)),
            "lz4" => Ok(Some(Self::Lz4)),
            "zstd" => Ok(Some(Self::Zstd)),
            other => Err(Failure::new(
                Code::NotImplemented,
                format_args!("Unknown Content-Encoding: {other}"),
            )),
        }
    }

    /// The best encoding that a client accepts, by the order of this program; one with `q=0` is not accepted.
    pub(crate) fn of_accept(header: &str) -> Option<Self> {
        let accepts = |wanted: &str| {
            header.split(',').any(|entry| {
                let mut parts = entry.split(';').map(str::trim);
                let refused = |part: &str| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
                parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted)) && !parts.any(refused)
            })
        };
        [("gzip", Self::Gzip), ("lz4", Self::Lz4), ("zstd", Self::Zstd)]
            .into_iter()
            .find_map(|(name, encoding)| accepts(name).then_some(encoding))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Decodes a whole body; fails when it is cut short, damaged, or more than `limit` bytes come out.
    pub(crate) fn decode(self, body: &[u8], limit: usize) -> Result<Bytes, Failure> {
        let mut decoded = Vec::new();
        let read =
            |reader: &mut dyn Read, decoded: &mut Vec<u8>| reader.take(limit as u64 + 1).read_to_end(decoded);
        let outcome = match self {
            Self::Gzip => read(&mut flate2::read::MultiGzDecoder::new(body), &mut decoded),
            Self::Zstd => {
                zstd::stream::read::Decoder::new(body).and_then(|mut reader| read(&mut reader, &mut decoded))
            }
            Self::Lz4 => decode_lz4_frames(body, limit, &mut decoded),
        };
        outcome.map_err(|error| {
            Failure::new(
                Code::CannotDecompress,
                format_args!("Cannot decompress a {} body: {error}", self.name()),
            )
        })?;
        if decoded.len() > limit {
            return Err(too_large(limit));
        }
        Ok(decoded.into())
    }

    pub(crate) fn encode(self, data: &[u8]) -> std::io::Result<Vec<u8>> {
        use std::io::Write;
        match self {
            Self::Gzip => {
                let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                writer.write_all(data)?;
                writer.finish()
            }
            Self::Zstd => zstd::stream::encode_all(data, 1),
            Self::Lz4 => {
                let mut writer = lz4_flex::frame::FrameEncoder::new(Vec::new());
                writer.write_all(data)?;
                writer.finish().map_err(std::io::Error::other)
            }
        }
    }
}

/// The library's reader takes the end of input in the middle of a frame for the end of the data, so whether the frames
/// are whole is checked first.
fn decode_lz4_frames(body: &[u8], limit: usize, decoded: &mut Vec<u8>) -> std::io::Result<usize> {
    if !lz4_frames_are_whole(body) {
        return Err(std::io::Error::other("a frame is cut short"));
    }
    lz4_flex::frame::FrameDecoder::new(body)
        .take(limit as u64 + 1)
        .read_to_end(decoded)
}

/// Walks over frames of the LZ4 frame format 1.6: magic, descriptor, blocks, end mark, checksum of the content.
fn lz4_frames_are_whole(mut rest: &[u8]) -> bool {
    fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
        let (taken, left) = rest.split_at_checked(length)?;
        *rest = left;
        Some(taken)
    }
    fn frame(rest: &mut &[u8]) -> Option<()> {
        take(rest, 4)?;
        let flags = take(rest, 2)?[0];
        let bit = |bit: u8, length: usize| if flags & (1 << bit) == 0 { 0 } else { length };
        // Content size, dictionary id, and the descriptor's own checksum.
        take(rest, bit(3, 8) + bit(0, 4) + 1)?;
        loop {
            let size = take(rest, 4)?;
            let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]) & 0x7fff_ffff;
            if size == 0 {
                return take(rest, bit(2, 4)).map(|_| ());
            }
            take(rest, size as usize + bit(4, 4))?;
        }
    }
    while !rest.is_empty() {
        if frame(&mut rest).is_none() {
            return false;
        }
    }
    true
}

/// Reads a whole body. A connection that ends before the length it announced, or inside a chunk, is an error.
pub(crate) async fn read_whole(mut body: Incoming, limit: usize) -> Result<Bytes, Failure> {
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large(limit));
    }
    let mut chunks: Vec<Bytes> = Vec::new();
    let mut total = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure::new(
                Code::CannotReadAllData,
                format_args!("Cannot read all data: the body is cut short: {error}"),
            )
        })?;
        if let Ok(data) = frame.into_data() {
            total += data.len();
            if total > limit {
                return Err(too_large(limit));
            }
            chunks.push(data);
        }
    }
    Ok(match chunks.len() {
        0 => Bytes::new(),
        1 => chunks.remove(0),
        _ => chunks.concat().into(),
    })
}

pub(crate) fn too_large(limit: usize) -> Failure {
    Failure::new(
        Code::QueryIsTooLarge,
        format_args!("The body is larger than {limit} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Encoding; 3] = [Encoding::Gzip, Encoding::Lz4, Encoding::Zstd];

    #[test]
    fn encodings_come_back_and_are_bounded() {
        let data: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
        for encoding in ALL {
            let encoded = encoding.encode(&data).expect("encodes");
            assert_eq!(
                encoding.decode(&encoded, data.len()).expect("decodes"),
                data,
                "{encoding:?}"
            );
            assert_eq!(
                encoding
                    .decode(&encoded, data.len() - 1)
                    .expect_err("too large")
                    .number(),
                229,
                "{encoding:?}"
            );
        }
    }

    #[test]
    fn a_cut_body_is_refused() {
        let data: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
        for encoding in ALL {
            let encoded = encoding.encode(&data).expect("encodes");
            for cut in [1, 5, 20, encoded.len() / 2, encoded.len() - 1] {
                let outcome = encoding.decode(&encoded[..cut], data.len()).map(|_| ());
                assert_eq!(
                    outcome.expect_err("refused").number(),
                    271,
                    "{encoding:?} cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn headers_are_read() {
        assert_eq!(
            Encoding::of_accept("deflate, zstd;q=0.5, lz4;q=0"),
            Some(Encoding::Zstd)
        );
        assert_eq!(Encoding::of_accept("br"), None);
        assert_eq!(Encoding::of_content("GZIP"), Ok(Some(Encoding::Gzip)));
        assert_eq!(Encoding::of_content(""), Ok(None));
        assert_eq!(Encoding::of_content("br").expect_err("refused").number(), 48);
    }
}
