use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bare(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// Made by Node's zlib, for there is no encoder here: `TEXT`, and 50 MB of `x`.
const BROTLI_TEXT: &[u8] = &[
    0x1b, 0x2b, 0x00, 0xf8, 0x9d, 0x09, 0x76, 0xac, 0x8b, 0xe9, 0x30, 0x24, 0x1c, 0x5e, 0xce, 0xa5, 0x8d,
    0x25, 0x48, 0x1b, 0x5d, 0xbd, 0xd5, 0x25, 0x08, 0x4b, 0x59, 0xa9, 0xb2, 0x4f, 0x99, 0x50, 0x12, 0xda,
    0x3b, 0x77, 0x7a, 0x00,
];
const BROTLI_BOMB: &[u8] = &[
    0xcb, 0xff, 0xff, 0x3f, 0xf8, 0x25, 0xf0, 0xe2, 0xb1, 0x40, 0x20, 0xf7, 0xfe, 0x8f, 0xff, 0xff, 0x7f,
    0xf0, 0x4b, 0x00, 0xc4, 0x61, 0x11, 0x80, 0xee, 0xfd, 0x1f, 0xff, 0xff, 0xff, 0xe0, 0x97, 0x00, 0x88,
    0xc3, 0x02, 0x00, 0xdd, 0xfb, 0x3f, 0xfe, 0xff, 0xff, 0xc1, 0x2f, 0x01, 0x10, 0x87, 0x05, 0x00, 0xba,
    0xf7, 0x7f, 0xfc, 0xff, 0xff, 0x83, 0x5f, 0x02, 0x20, 0x0e, 0x0b, 0x00, 0x74, 0xef, 0xff, 0xf2, 0x0f,
    0x5e, 0x0f, 0xbf, 0x04, 0x40, 0x1c, 0x16, 0x00, 0xe8, 0xa0, 0xeb, 0x01,
];
/// With a window of 1 GB.
const BROTLI_WIDE: &[u8] = &[
    0x11, 0x1e, 0x22, 0x00, 0x02, 0x7b, 0x22, 0x65, 0x76, 0x65, 0x6e, 0x74, 0x5f, 0x74, 0x79, 0x70, 0x65,
    0x22, 0x3a, 0x22, 0x61, 0x22, 0x7d, 0x03,
];
const TEXT: &[u8] = b"some text that is cut, some text that is cut";

fn decoded(encoding: Encoding, bytes: &[u8], limit: usize) -> Result<Vec<u8>, Code> {
    let whole = decode(encoding, bytes, limit, |_| true).map_err(|refusal| refusal.code);
    whole.map(|whole| whole.expect("there was room"))
}

/// The same text in every encoding.
fn texts() -> [(Encoding, Vec<u8>); 5] {
    [
        (Encoding::Gzip, gzip(TEXT)),
        (Encoding::Deflate, zlib(TEXT)),
        (Encoding::Deflate, bare(TEXT)),
        (Encoding::Zstd, zstd(TEXT)),
        (Encoding::Brotli, BROTLI_TEXT.to_vec()),
    ]
}

#[test]
fn each_encoding_is_undone() {
    for (encoding, bytes) in texts() {
        assert_eq!(
            decoded(encoding, &bytes, TEXT.len()).as_deref(),
            Ok(TEXT),
            "{encoding:?}"
        );
        assert_eq!(
            decoded(encoding, &bytes, TEXT.len() - 1),
            Err(Code::BodyTooLarge),
            "{encoding:?}"
        );
    }
    for (encoding, make) in [
        (Encoding::Gzip, gzip as fn(&[u8]) -> Vec<u8>),
        (Encoding::Zstd, zstd),
    ] {
        let two = [make(b"{"), make(b"}")].concat();
        assert_eq!(
            decoded(encoding, &two, 10).as_deref(),
            Ok(&b"{}"[..]),
            "{encoding:?}: members follow one another"
        );
    }
}

#[test]
fn what_is_cut_or_has_more_behind_it_is_invalid() {
    for (encoding, bytes) in texts() {
        for end in 1..bytes.len() {
            assert_eq!(
                decoded(encoding, &bytes[..end], 1000),
                Err(Code::InvalidEncoding),
                "{encoding:?} cut at {end} of {}",
                bytes.len()
            );
        }
        let more = [&bytes[..], b"more"].concat();
        assert_eq!(
            decoded(encoding, &more, 1000),
            Err(Code::InvalidEncoding),
            "{encoding:?}"
        );
        assert_eq!(
            decoded(encoding, b"{\"event_type\":\"a\"}", 1000),
            Err(Code::InvalidEncoding),
            "{encoding:?}"
        );
    }
}

#[test]
fn a_bomb_goes_off_nowhere() {
    let large = vec![b'x'; 5_000_000];
    for (encoding, bomb) in [
        (Encoding::Gzip, gzip(&large)),
        (Encoding::Deflate, zlib(&large)),
        (Encoding::Zstd, zstd(&large)),
        (Encoding::Brotli, BROTLI_BOMB.to_vec()),
    ] {
        assert!(bomb.len() < 100_000);
        let mut most = 0;
        let outcome = decode(encoding, &bomb, 1_000_000, |size| {
            most = most.max(size);
            true
        });
        assert_eq!(
            outcome.map_err(|refusal| refusal.code),
            Err(Code::BodyTooLarge),
            "{encoding:?}"
        );
        assert!(most <= 1_000_000, "{encoding:?} grew to {most}");
        let mut asked = 0;
        let outcome = decode(encoding, &bomb, 1_000_000, |size| {
            asked += 1;
            size < 200_000
        });
        assert!(
            matches!(outcome, Ok(None)) && asked < 10,
            "{encoding:?} stops where there is no room"
        );
    }
    assert_eq!(
        decoded(Encoding::Brotli, BROTLI_WIDE, 1000),
        Err(Code::InvalidEncoding)
    );
    // A window of 128 MB, which a decoder would have to hold.
    let mut wide = zstd::Encoder::new(Vec::new(), 3).unwrap();
    wide.window_log(27).unwrap();
    wide.write_all(&large).unwrap();
    let wide = wide.finish().unwrap();
    assert_eq!(
        decoded(Encoding::Zstd, &wide, 6_000_000),
        Err(Code::InvalidEncoding)
    );
}

#[test]
fn encodings_are_told_apart() {
    for (values, expected) in [
        (&[][..], Ok(Encoding::Plain)),
        (&["gzip"], Ok(Encoding::Gzip)),
        (&["GZIP"], Ok(Encoding::Gzip)),
        (&["x-gzip"], Ok(Encoding::Gzip)),
        (&["deflate"], Ok(Encoding::Deflate)),
        (&["zstd"], Ok(Encoding::Zstd)),
        (&[" br "], Ok(Encoding::Brotli)),
        (&["identity"], Ok(Encoding::Plain)),
        (&["compress"], Err(Code::UnsupportedEncoding)),
        (&["gzip, br"], Err(Code::UnsupportedEncoding)),
        (&["gzip", "br"], Err(Code::UnsupportedEncoding)),
    ] {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_ENCODING, HeaderValue::from_static(value));
        }
        assert_eq!(
            Encoding::of_head(&headers).map_err(|refusal| refusal.code),
            expected,
            "{values:?}"
        );
    }
    assert_eq!(Encoding::Plain.or_evident(&gzip(b"{}")), Encoding::Gzip);
    assert_eq!(Encoding::Plain.or_evident(b"{}"), Encoding::Plain);
    assert_eq!(Encoding::Zstd.or_evident(&gzip(b"{}")), Encoding::Zstd);
}

/// What is decoded at once is what is decoded step by step, and what is no single member goes the other way.
#[test]
fn gzip_at_once_is_gzip_step_by_step() {
    let members = [gzip(TEXT), gzip(TEXT)].concat();
    assert_eq!(told_size(&gzip(TEXT)), Some(TEXT.len()));
    assert_eq!(told_size(&members), None, "the same twice would look whole");
    assert_eq!(decoded(Encoding::Gzip, &members, 1000), Ok([TEXT, TEXT].concat()));

    let small = gzip(b"{}");
    for wrong in [1_u32, 3, 500] {
        let mut lying = small.clone();
        let end = lying.len() - 4;
        lying[end..].copy_from_slice(&wrong.to_le_bytes());
        assert_eq!(
            decoded(Encoding::Gzip, &lying, 1000),
            Err(Code::InvalidEncoding),
            "{wrong}"
        );
    }
    let bomb = gzip(&vec![b' '; 50_000_000]);
    assert_eq!(told_size(&bomb), None, "it is read step by step");
    assert_eq!(decoded(Encoding::Gzip, &bomb, 1_000_000), Err(Code::BodyTooLarge));
}

proptest! {
    #[test]
    fn no_bytes_make_it_stumble(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd, Encoding::Brotli] {
            let _ = decoded(encoding, &bytes, 1000);
        }
        for (encoding, compressed) in [
            (Encoding::Gzip, gzip(&bytes)),
            (Encoding::Deflate, zlib(&bytes)),
            (Encoding::Deflate, bare(&bytes)),
            (Encoding::Zstd, zstd(&bytes)),
        ] {
            prop_assert_eq!(decoded(encoding, &compressed, 1000), Ok(bytes.clone()));
        }
    }
}
