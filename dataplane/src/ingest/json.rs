//! A strict JSON scanner: one pass, no allocation, no value tree.
//!
//! It walks a text that is already valid UTF-8, checks the grammar of RFC 8259, and yields raw slices of what the
//! caller asks for; what is inside a slice has been checked but not decoded. It accepts exactly what serde_json
//! accepts, except that nesting ends at [`MAX_DEPTH`].
//!
//! ```text
//! object_start  object_next -> key  value -> raw slice  object_next -> key ...  object_next -> None
//! array_start   array_next  -> true value -> raw slice  array_next  -> false
//! ```

use std::borrow::Cow;

/// How deep containers may nest inside one value.
pub(crate) const MAX_DEPTH: u32 = 64;

/// Where a text stops being JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Index of the first byte that does not belong, the length of the text when it ends too early.
    pub(crate) offset: usize,
    pub(crate) expected: &'static str,
}

/// What a raw slice holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

/// One value as the client wrote it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a> {
    /// From the first to the last byte, quotes and braces included.
    pub(crate) text: &'a str,
    pub(crate) kind: Kind,
    /// There are line breaks outside strings.
    pub(crate) breaks: bool,
    /// It is a string with at least one backslash.
    pub(crate) escapes: bool,
}

impl<'a> Raw<'a> {
    /// What is between the quotes of a string, still escaped.
    pub(crate) fn inner(&self) -> &'a str {
        self.text.get(1..self.text.len().saturating_sub(1)).unwrap_or("")
    }

    /// The string's value; `None` when it is no string, or holds half a surrogate pair.
    pub(crate) fn decoded(&self) -> Option<Cow<'a, str>> {
        (self.kind == Kind::String).then(|| unescape(self.inner(), self.escapes))?
    }
}

/// A member's name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    /// Between the quotes, still escaped.
    pub(crate) raw: &'a str,
    pub(crate) escapes: bool,
}

impl<'a> Key<'a> {
    /// The name's value; `None` for half a surrogate pair.
    pub(crate) fn decoded(&self) -> Option<Cow<'a, str>> {
        unescape(self.raw, self.escapes)
    }
}

/// Members of an object whose names are remembered.
const PLACES: usize = 16;

#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// A line break was passed outside a string.
    breaks: bool,
    /// Names as written, quotes and colon included, by their place in the object read by [`Self::object_next_at`] before.
    names: [&'a str; PLACES],
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            breaks: false,
            names: [""; PLACES],
        }
    }

    /// Index of the next byte that is not white space.
    pub(crate) fn offset(&mut self) -> usize {
        self.white_space();
        self.at
    }

    /// The text from `start` to here.
    pub(crate) fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or("")
    }

    /// What the next value is, judged by its first byte; nothing is consumed but white space.
    #[inline]
    pub(crate) fn peek(&mut self) -> Result<Kind, Fault> {
        self.white_space();
        match self.byte() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(self.fault("a value")),
        }
    }

    pub(crate) fn object_start(&mut self) -> Result<(), Fault> {
        self.take(b'{', "`{`")
    }

    /// The next member's name, with its colon consumed; `None` at the object's end.
    #[inline]
    pub(crate) fn object_next(&mut self, first: &mut bool) -> Result<Option<Key<'a>>, Fault> {
        if self.another_member(first)? {
            self.key().map(Some)
        } else {
            Ok(None)
        }
    }

    /// The same for the member at `place` of one of many like objects. They mostly name the same members in the same
    /// order, and what was checked once needs only be compared.
    #[inline]
    pub(crate) fn object_next_at(
        &mut self,
        first: &mut bool,
        place: usize,
    ) -> Result<Option<Key<'a>>, Fault> {
        if !self.another_member(first)? {
            return Ok(None);
        }
        let start = self.at;
        if let Some(name) = self.names.get(place).copied()
            && name.len() > 3
            && self.text.as_bytes()[start..].starts_with(name.as_bytes())
        {
            self.at += name.len();
            let raw = name.get(1..name.len() - 2).unwrap_or("");
            return Ok(Some(Key { raw, escapes: false }));
        }
        let key = self.key()?;
        // Only what is as short as it can be: with white space or escapes the same name may be written otherwise.
        if !key.escapes && self.at - start == key.raw.len() + 3 {
            let written = self.text.get(start..self.at).unwrap_or("");
            if let Some(name) = self.names.get_mut(place) {
                *name = written;
            }
        }
        Ok(Some(key))
    }

    /// Passes what is before a member's name; false at the object's end, which is passed too.
    #[inline]
    fn another_member(&mut self, first: &mut bool) -> Result<bool, Fault> {
        self.white_space();
        match self.byte() {
            Some(b'}') => {
                self.at += 1;
                return Ok(false);
            }
            Some(b',') if !*first => {
                self.at += 1;
                self.white_space();
            }
            _ if *first => {}
            _ => return Err(self.fault("`,` or `}`")),
        }
        *first = false;
        Ok(true)
    }

    pub(crate) fn array_start(&mut self) -> Result<(), Fault> {
        self.take(b'[', "`[`")
    }

    /// Whether an element follows.
    pub(crate) fn array_next(&mut self, first: &mut bool) -> Result<bool, Fault> {
        self.white_space();
        match self.byte() {
            Some(b']') => {
                self.at += 1;
                return Ok(false);
            }
            Some(b',') if !*first => {
                self.at += 1;
                self.white_space();
                // A value must follow; `]` here would be a trailing comma, which the value's check refuses.
            }
            _ if *first => {}
            _ => return Err(self.fault("`,` or `]`")),
        }
        *first = false;
        Ok(true)
    }

    /// The next value, whatever it is.
    #[inline]
    pub(crate) fn value(&mut self) -> Result<Raw<'a>, Fault> {
        self.white_space();
        let start = self.at;
        // Most values are strings, and need no stack.
        if self.byte() == Some(b'"') {
            let escapes = self.string()?;
            let text = self.text.get(start..self.at).unwrap_or("");
            return Ok(Raw {
                text,
                kind: Kind::String,
                breaks: false,
                escapes,
            });
        }
        let outer_breaks = std::mem::replace(&mut self.breaks, false);
        let (kind, escapes) = self.skip()?;
        let breaks = std::mem::replace(&mut self.breaks, outer_breaks);
        let text = self.text.get(start..self.at).unwrap_or("");
        Ok(Raw {
            text,
            kind,
            breaks,
            escapes,
        })
    }

    /// Nothing but white space may be left.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        self.white_space();
        if self.at == self.text.len() {
            Ok(())
        } else {
            Err(self.fault("the end of the text"))
        }
    }

    fn fault(&self, expected: &'static str) -> Fault {
        Fault {
            offset: self.at,
            expected,
        }
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn take(&mut self, byte: u8, expected: &'static str) -> Result<(), Fault> {
        self.white_space();
        if self.byte() != Some(byte) {
            return Err(self.fault(expected));
        }
        self.at += 1;
        Ok(())
    }

    #[inline]
    fn white_space(&mut self) {
        // Mostly there is none.
        if self.byte().is_some_and(|byte| byte <= b' ') {
            self.skip_white_space();
        }
    }

    fn skip_white_space(&mut self) {
        while let Some(byte) = self.byte() {
            match byte {
                b' ' | b'\t' => {}
                b'\n' | b'\r' => self.breaks = true,
                _ => return,
            }
            self.at += 1;
        }
    }

    #[inline]
    fn key(&mut self) -> Result<Key<'a>, Fault> {
        if self.byte() != Some(b'"') {
            return Err(self.fault("a member's name"));
        }
        let start = self.at + 1;
        let escapes = self.string()?;
        let raw = self.text.get(start..self.at - 1).unwrap_or("");
        self.take(b':', "`:`")?;
        Ok(Key { raw, escapes })
    }

    /// Passes one value. Containers are kept on a stack of bits: 1 is an object, 0 an array.
    fn skip(&mut self) -> Result<(Kind, bool), Fault> {
        let mut stack = 0u64;
        let mut depth = 0u32;
        let first = self.peek()?;
        let mut escapes = false;
        'value: loop {
            match self.peek()? {
                kind @ (Kind::Object | Kind::Array) => {
                    if depth == MAX_DEPTH {
                        return Err(self.fault("less nesting"));
                    }
                    self.at += 1;
                    self.white_space();
                    let object = kind == Kind::Object;
                    let close = if object { b'}' } else { b']' };
                    if self.byte() == Some(close) {
                        self.at += 1;
                    } else {
                        depth += 1;
                        stack = stack << 1 | u64::from(object);
                        if object {
                            self.key()?;
                        }
                        continue 'value;
                    }
                }
                Kind::String => escapes = self.string()?,
                Kind::Number => self.number()?,
                Kind::Bool | Kind::Null => self.literal()?,
            }
            loop {
                if depth == 0 {
                    return Ok((first, escapes && first == Kind::String));
                }
                self.white_space();
                let object = stack & 1 == 1;
                match self.byte() {
                    Some(b',') => {
                        self.at += 1;
                        if object {
                            self.white_space();
                            self.key()?;
                        }
                        continue 'value;
                    }
                    Some(b'}') if object => {}
                    Some(b']') if !object => {}
                    _ => return Err(self.fault(if object { "`,` or `}`" } else { "`,` or `]`" })),
                }
                self.at += 1;
                depth -= 1;
                stack >>= 1;
            }
        }
    }

    /// Passes a string from its opening to behind its closing quote; true when it has escapes.
    #[inline]
    fn string(&mut self) -> Result<bool, Fault> {
        let bytes = self.text.as_bytes();
        let mut at = self.at + 1;
        let mut escapes = false;
        loop {
            // Eight bytes at a time up to the first quote, backslash or control character.
            while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
                let stops = special(u64::from_le_bytes(*word));
                if stops != 0 {
                    at += (stops.trailing_zeros() / 8) as usize;
                    break;
                }
                at += 8;
            }
            match bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(escapes);
                }
                Some(b'\\') => {
                    escapes = true;
                    at = self.escape(at)?;
                }
                Some(0..=0x1f) => {
                    return Err(Fault {
                        offset: at,
                        expected: "no control character",
                    });
                }
                Some(_) => at += 1,
                None => {
                    return Err(Fault {
                        offset: at,
                        expected: "`\"`",
                    });
                }
            }
        }
    }

    /// Checks the escape at `at`; the index behind it.
    fn escape(&self, at: usize) -> Result<usize, Fault> {
        let bytes = self.text.as_bytes();
        match bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => {
                for digit in at + 2..at + 6 {
                    if !bytes.get(digit).is_some_and(u8::is_ascii_hexdigit) {
                        return Err(Fault {
                            offset: digit.min(bytes.len()),
                            expected: "a hexadecimal digit",
                        });
                    }
                }
                Ok(at + 6)
            }
            _ => Err(Fault {
                offset: (at + 1).min(bytes.len()),
                expected: "an escape",
            }),
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        match self.byte() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.fault("a digit")),
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start {
            Err(self.fault("a digit"))
        } else {
            Ok(())
        }
    }

    fn literal(&mut self) -> Result<(), Fault> {
        let word: &[u8] = match self.byte() {
            Some(b't') => b"true",
            Some(b'f') => b"false",
            _ => b"null",
        };
        for letter in word {
            if self.byte() != Some(*letter) {
                return Err(self.fault("`true`, `false` or `null`"));
            }
            self.at += 1;
        }
        Ok(())
    }
}

/// The high bit of each byte that is a quote, a backslash or below 0x20. Only the lowest set bit is exact: a borrow
/// may set higher ones.
fn special(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let quote = zeros(word ^ (ONES * b'"' as u64));
    let backslash = zeros(word ^ (ONES * b'\\' as u64));
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (quote | backslash | control) & HIGH
}

/// Decodes the inside of a checked string; `None` for half a surrogate pair.
pub(crate) fn unescape(raw: &str, escapes: bool) -> Option<Cow<'_, str>> {
    if !escapes {
        return Some(Cow::Borrowed(raw));
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.push_str(plain);
        let (letter, after) = escaped.split_at_checked(1)?;
        rest = after;
        match letter {
            "b" => out.push('\u{8}'),
            "f" => out.push('\u{c}'),
            "n" => out.push('\n'),
            "r" => out.push('\r'),
            "t" => out.push('\t'),
            "u" => {
                let (high, after) = hexadecimal(after)?;
                rest = after;
                let code = if (0xd800..0xdc00).contains(&high) {
                    let (low, after) = hexadecimal(after.strip_prefix("\\u")?)?;
                    rest = after;
                    if !(0xdc00..0xe000).contains(&low) {
                        return None;
                    }
                    0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    high
                };
                out.push(char::from_u32(code)?);
            }
            plain => out.push_str(plain),
        }
    }
    out.push_str(rest);
    Some(Cow::Owned(out))
}

fn hexadecimal(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    Some((u32::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
