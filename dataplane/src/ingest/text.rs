//! Writing JSON text into a byte buffer.

use std::io::Write;

use super::json::{Raw, Scanner};

/// `text` with quotes and the escapes that JSON needs.
pub(crate) fn push_json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut from = 0;
    let bytes = text.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..=0x1f => {
                out.extend_from_slice(&bytes[from..index]);
                // Writing to a Vec cannot fail.
                let _ = write!(out, "\\u{byte:04x}");
                from = index + 1;
                continue;
            }
            _ => continue,
        };
        out.extend_from_slice(&bytes[from..index]);
        out.extend_from_slice(escape);
        from = index + 1;
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

/// `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// A whole number in decimal, two digits at a time.
pub(crate) fn push_number(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    while rest >= 100 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[(rest % 100) as usize]);
        rest /= 100;
    }
    let [tens, ones] = PAIRS[rest as usize];
    at -= 1;
    digits[at] = ones;
    if tens != b'0' {
        at -= 1;
        digits[at] = tens;
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// A value as the client wrote it, less the line breaks outside strings, which would end an NDJSON line.
pub(crate) fn push_raw(out: &mut Vec<u8>, raw: &Raw<'_>) {
    if !raw.breaks {
        out.extend_from_slice(raw.text.as_bytes());
        return;
    }
    push_without_breaks(out, raw.text);
}

/// Line breaks cannot occur inside a checked string, so whatever is one is outside.
fn push_without_breaks(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// The members of an object that was checked before, by name; `f` gets the name decoded.
pub(crate) fn each_member<'a>(object: &Raw<'a>, mut f: impl FnMut(&str, Raw<'a>)) {
    let mut scanner = Scanner::new(object.text);
    if scanner.object_start().is_err() {
        return;
    }
    let mut first = true;
    while let Ok(Some(key)) = scanner.object_next(&mut first) {
        let Ok(value) = scanner.value() else { return };
        if let Some(name) = key.decoded() {
            f(&name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(text in any::<String>(), number in any::<i64>()) {
            let mut out = Vec::new();
            push_json_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            out.clear();
            push_number(&mut out, number);
            prop_assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }

    #[test]
    fn line_breaks_go_and_nothing_else() {
        let text = "{\r\n \"a\\n\": [1,\n2],\t\"b\" : \"c\\r\"\n}";
        let raw = Scanner::new(text).value().unwrap();
        let mut out = Vec::new();
        push_raw(&mut out, &raw);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{ \"a\\n\": [1,2],\t\"b\" : \"c\\r\"}"
        );
    }
}
