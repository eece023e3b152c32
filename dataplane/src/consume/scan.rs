//! Finding the ends of JSON strings and objects, and reading strings back.
//!
//! The bytes are valid UTF-8 already. Strings are checked for control characters and for sound escapes; the inside
//! of an object only for balanced brackets and closed strings, because it is stored as the text it is.

use crate::stops::Stops;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The high bit of each byte that equals `byte`; exact up to and including the lowest one set.
const fn equal(word: u64, byte: u8) -> u64 {
    let x = word ^ (ONES * byte as u64);
    x.wrapping_sub(ONES) & !x & HIGHS
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let chunk = bytes.get(at..at + 8)?;
    chunk.try_into().map(u64::from_le_bytes).ok()
}

/// Where the string that begins at `at` (behind its quote) ends, and whether it has escapes. `None` where it is not
/// closed, holds a control character or a wrong escape.
#[inline]
pub(super) fn string_end(stops: &mut Stops, bytes: &[u8], mut at: usize) -> Option<(usize, bool)> {
    let mut escaped = false;
    loop {
        at = stops.next(bytes, at);
        match *bytes.get(at)? {
            b'"' => return Some((at, escaped)),
            b'\\' => {
                escaped = true;
                at = escape_end(bytes, at + 1)?;
            }
            _ => return None,
        }
    }
}

/// The number that the next eight bytes are, if they are digits: all of them at once.
#[inline]
pub(super) fn eight_digits(bytes: &[u8], at: usize) -> Option<i64> {
    const ZEROS: u64 = ONES * b'0' as u64;
    let word = word(bytes, at)?;
    // A byte below `0` differs in its high half, one above `9` does so when six is added.
    let highs = |word: u64| word & (ONES * 0xf0);
    if highs(word) != ZEROS || highs(word.wrapping_add(ONES * 6)) != ZEROS {
        return None;
    }
    // Ones and tens become pairs, pairs fours, fours eight; the first digit is the lowest byte.
    let pairs = (word & (ONES * 0x0f)).wrapping_mul(10 << 8 | 1) >> 8;
    let fours = (pairs & 0x00ff_00ff_00ff_00ff).wrapping_mul(100 << 16 | 1) >> 16;
    let eight = (fours & 0x0000_ffff_0000_ffff).wrapping_mul(10_000 << 32 | 1) >> 32;
    Some(eight as i64)
}

fn escape_end(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 1),
        b'u' => bytes
            .get(at + 1..at + 5)?
            .iter()
            .all(u8::is_ascii_hexdigit)
            .then_some(at + 5),
        _ => None,
    }
}

/// Where the object or array that begins at `at` ends, its last bracket included.
pub(super) fn nested_end(stops: &mut Stops, bytes: &[u8], at: usize) -> Option<usize> {
    // One bit for each open bracket, the innermost lowest: 1 for an object. Deeper than 128 is nobody's event.
    let (mut open, mut depth) = (0_u128, 0_u32);
    let mut at = at;
    loop {
        at = structure(bytes, at);
        match *bytes.get(at)? {
            b'"' => at = string_end(stops, bytes, at + 1)?.0,
            bracket @ (b'{' | b'[') => {
                if depth == u128::BITS {
                    return None;
                }
                open = open << 1 | u128::from(bracket == b'{');
                depth += 1;
            }
            bracket => {
                if (open & 1 == 1) != (bracket == b'}') {
                    return None;
                }
                open >>= 1;
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
        }
        at += 1;
    }
}

/// The first quote or bracket from `at` on, eight bytes at a time, or the end.
fn structure(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = word(bytes, at) {
        // `[` and `{`, `]` and `}` differ in one bit. So do 0x5b and 0x7b alone among all bytes.
        let folded = word | (ONES * 0x20);
        let found = equal(word, b'"') | equal(folded, b'{') | equal(folded, b'}');
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(byte) = bytes.get(at) {
        if matches!(byte, b'"' | b'{' | b'}' | b'[' | b']') {
            break;
        }
        at += 1;
    }
    at
}

/// Appends what a string with escapes means. A lone surrogate becomes U+FFFD.
pub(super) fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let (escape, tail) = rest[at + 1..].split_first().unwrap_or((&b'\\', &[]));
        rest = tail;
        match escape {
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => rest = unescape_unicode(rest, out),
            same => out.push(*same),
        }
    }
    out.extend_from_slice(rest);
}

fn unescape_unicode<'a>(rest: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let (unit, mut rest) = code_unit(rest);
    let mut code = u32::from(unit);
    if (0xd800..0xdc00).contains(&unit)
        && let Some(low) = rest.strip_prefix(b"\\u")
    {
        let (second, after) = code_unit(low);
        if (0xdc00..0xe000).contains(&second) {
            code = 0x10000 + ((u32::from(unit) - 0xd800) << 10) + (u32::from(second) - 0xdc00);
            rest = after;
        }
    }
    let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    rest
}

fn code_unit(digits: &[u8]) -> (u16, &[u8]) {
    let (digits, rest) = digits.split_at(digits.len().min(4));
    let unit = digits
        .iter()
        .fold(0, |unit, digit| unit << 4 | u16::from(hex_digit(*digit)));
    (unit, rest)
}

const fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0xff,
    }
}

const HEX: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = hex_digit(byte as u8);
        byte += 1;
    }
    table
};

/// Reads `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
pub(super) fn uuid(text: &[u8]) -> Option<u128> {
    let text: &[u8; 36] = text.try_into().ok()?;
    if [text[8], text[13], text[18], text[23]] != [b'-'; 4] {
        return None;
    }
    const PAIRS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut bytes = [0; 16];
    let mut wrong = 0;
    for (byte, at) in bytes.iter_mut().zip(PAIRS) {
        let (high, low) = (HEX[text[at] as usize], HEX[text[at + 1] as usize]);
        wrong |= high | low;
        *byte = high << 4 | low & 0xf;
    }
    (wrong & 0xf0 == 0).then(|| u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn brackets_must_balance_in_kind() {
        for (text, end) in [
            ("{}", Some(2)),
            (r#"{"a":[1,{"b":"}]"}],"c":"\"{"} tail"#, Some(30)),
            ("[1,2]x", Some(5)),
            ("{]", None),
            ("{[}]", None),
            (r#"{"a":"b}"#, None),
            ("{", None),
            ("{\"a\u{1}\":1}", None),
            (r#"{"a":"\x"}"#, None),
            (r#"{"a":"\u12"}"#, None),
        ] {
            assert_eq!(nested_end(&mut Stops::new(), text.as_bytes(), 0), end, "{text}");
        }
        assert_eq!(nested_end(&mut Stops::new(), "[".repeat(129).as_bytes(), 0), None);
        let deep = "[".repeat(128) + &"]".repeat(128);
        assert_eq!(nested_end(&mut Stops::new(), deep.as_bytes(), 0), Some(256));
    }

    #[test]
    fn surrogates_pair_up() {
        for (raw, text) in [
            (r"\ud83d\ude00", "😀"),
            (r"a\ud83d", "a\u{fffd}"),
            (r"\ud83d\u0041", "\u{fffd}A"),
            (r"\ude00b", "\u{fffd}b"),
            (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
        ] {
            let mut out = Vec::new();
            unescape(raw.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text, "{raw}");
        }
    }

    #[test]
    fn uuids_are_read_strictly() {
        assert_eq!(
            uuid(b"0193f1c2-7B3e-7c31-a3c9-4b1f0a1d2e3f"),
            Some(0x0193_f1c2_7b3e_7c31_a3c9_4b1f_0a1d_2e3f)
        );
        for wrong in [
            "0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3",
            "0193f1c2x7b3e-7c31-a3c9-4b1f0a1d2e3f",
            "0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3g",
            "0193f1c27b3e7c31a3c94b1f0a1d2e3f0000",
        ] {
            assert_eq!(uuid(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn eight_digits_are_a_number_and_nothing_else_is() {
        for number in [0, 1, 12_345_678, 99_999_999, 90_000_000, 10_203_040] {
            assert_eq!(eight_digits(format!("x{number:08},").as_bytes(), 1), Some(number));
        }
        for at in 0..8 {
            for byte in (0..=u8::MAX).filter(|byte| !byte.is_ascii_digit()) {
                let mut text = *b"12345678";
                text[at] = byte;
                assert_eq!(eight_digits(&text, 0), None, "{text:?}");
            }
        }
        assert_eq!(eight_digits(b"1234567", 0), None);
    }

    proptest! {
        #[test]
        fn a_string_reads_back_as_serde_json_wrote_it(text in ".*", tail in ".{0,9}") {
            let written = serde_json::to_string(&text).unwrap();
            let all = format!("{written}{tail}");
            let (end, escaped) = string_end(&mut Stops::new(), all.as_bytes(), 1).unwrap();
            prop_assert_eq!(end, written.len() - 1);
            let raw = &all.as_bytes()[1..end];
            let mut out = Vec::new();
            unescape(raw, &mut out);
            prop_assert_eq!(std::str::from_utf8(&out).unwrap(), &text);
            prop_assert!(escaped || raw == text.as_bytes());
        }

        #[test]
        fn strings_end_where_serde_json_says(text in r#"["\\a-z\x00-\x20u0-9😀]{0,24}"#) {
            let quoted = format!("\"{text}\"");
            let theirs = serde_json::Deserializer::from_str(&quoted).into_iter::<String>().next().unwrap();
            let lone_surrogate = theirs.as_ref().is_err_and(|e| e.to_string().contains("surrogate")
                || e.to_string().contains("end of hex escape"));
            let ours = string_end(&mut Stops::new(), quoted.as_bytes(), 1);
            prop_assert!(ours.is_some() == theirs.is_ok() || lone_surrogate, "{} {:?} {:?}", quoted, ours, theirs);
        }
    }
}
