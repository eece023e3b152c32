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

use crate::stops::Stops;

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
    pub(crate) const NULL: Self = Self {
        text: "null",
        kind: Kind::Null,
        breaks: false,
        escapes: false,
    };

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

/// The text stops being JSON; where and why is in the scanner. It fits into a register beside what it stands in for,
/// which a [`Fault`] does not, and values are many.
#[derive(Debug)]
pub(crate) struct Broken;

/// What a value is, without its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) kind: Kind,
    pub(crate) breaks: bool,
    pub(crate) escapes: bool,
}

/// Methods that yield what callers ask for say what is wrong themselves; those that only pass it are for who reads
/// many values, and leave that to [`Scanner::fault`].
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// A line break was passed outside a string.
    breaks: bool,
    stops: Stops,
    fault: Fault,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            breaks: false,
            stops: Stops::new(),
            fault: Fault {
                offset: 0,
                expected: "JSON",
            },
        }
    }

    /// The whole text.
    pub(crate) fn text(&self) -> &'a str {
        self.text
    }

    /// Index of the next byte.
    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Index of the next byte that is not white space.
    #[inline]
    pub(crate) fn offset(&mut self) -> usize {
        self.at = self.space_end(self.at);
        self.at
    }

    /// Goes to an index that was returned.
    #[inline]
    pub(crate) fn go_to(&mut self, at: usize) {
        self.at = at;
    }

    /// The text from `start` to here.
    pub(crate) fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or("")
    }

    /// Where and why the text turned out to be broken.
    pub(crate) fn fault(&self, Broken: Broken) -> Fault {
        self.fault
    }

    /// What the next value is, judged by its first byte; nothing is consumed but white space.
    #[inline]
    pub(crate) fn peek(&mut self) -> Result<Kind, Fault> {
        let at = self.offset();
        self.kind(at).map_err(|broken| self.fault(broken))
    }

    pub(crate) fn object_start(&mut self) -> Result<(), Fault> {
        self.pass(b'{', "`{`").map_err(|broken| self.fault(broken))
    }

    /// The next member's name, with its colon consumed; `None` at the object's end.
    pub(crate) fn object_next(&mut self, first: &mut bool) -> Result<Option<Key<'a>>, Fault> {
        let key = match self.pass_to_member(first) {
            Ok(true) => self.key().map(Some),
            Ok(false) => Ok(None),
            Err(broken) => Err(broken),
        };
        key.map_err(|broken| self.fault(broken))
    }

    pub(crate) fn array_start(&mut self) -> Result<(), Fault> {
        self.pass(b'[', "`[`").map_err(|broken| self.fault(broken))
    }

    /// Whether an element follows.
    pub(crate) fn array_next(&mut self, first: &mut bool) -> Result<bool, Fault> {
        // A value must follow a comma; `]` there would be a trailing comma, which the value's check refuses.
        self.pass_to(first, b']', "`,` or `]`")
            .map_err(|broken| self.fault(broken))
    }

    /// The next value, whatever it is.
    pub(crate) fn value(&mut self) -> Result<Raw<'a>, Fault> {
        let start = self.offset();
        let Passed {
            kind,
            breaks,
            escapes,
        } = self.pass_value().map_err(|broken| self.fault(broken))?;
        Ok(Raw {
            text: self.since(start),
            kind,
            breaks,
            escapes,
        })
    }

    /// Nothing but white space may be left.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        if self.offset() == self.text.len() {
            return Ok(());
        }
        let broken = self.broken(self.at, "the end of the text");
        Err(self.fault(broken))
    }

    #[inline]
    fn pass_to(&mut self, first: &mut bool, close: u8, expected: &'static str) -> Result<bool, Broken> {
        let mut at = self.space_end(self.at);
        match self.byte(at) {
            Some(byte) if byte == close => {
                self.at = at + 1;
                return Ok(false);
            }
            Some(b',') if !*first => at = self.space_end(at + 1),
            _ if *first => {}
            _ => return Err(self.broken(at, expected)),
        }
        (*first, self.at) = (false, at);
        Ok(true)
    }

    fn pass(&mut self, byte: u8, expected: &'static str) -> Result<(), Broken> {
        self.at = self.space_end(self.at);
        self.at = self.byte_end(self.at, byte, expected)?;
        Ok(())
    }

    /// Passes what is before a member's name; false at the object's end, which is passed too.
    #[inline]
    pub(crate) fn pass_to_member(&mut self, first: &mut bool) -> Result<bool, Broken> {
        self.pass_to(first, b'}', "`,` or `}`")
    }

    /// A member's name, with its colon consumed.
    pub(crate) fn key(&mut self) -> Result<Key<'a>, Broken> {
        let start = self.at + 1;
        let (end, escapes) = self.name_end(self.at)?;
        self.at = self.colon_end(end)?;
        let raw = self.text.get(start..end - 1).unwrap_or("");
        Ok(Key { raw, escapes })
    }

    /// Passes the next value.
    pub(crate) fn pass_value(&mut self) -> Result<Passed, Broken> {
        let (end, passed) = self.value_end(self.at)?;
        self.at = end;
        Ok(passed)
    }

    #[cold]
    fn broken(&mut self, offset: usize, expected: &'static str) -> Broken {
        self.fault = Fault { offset, expected };
        Broken
    }
}

/// Each of these is given where something begins and returns where it ends: an index that stays in a register is much
/// faster than one in the scanner.
impl Scanner<'_> {
    #[inline]
    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    #[inline]
    fn byte_end(&mut self, at: usize, byte: u8, expected: &'static str) -> Result<usize, Broken> {
        if self.byte(at) != Some(byte) {
            return Err(self.broken(at, expected));
        }
        Ok(at + 1)
    }

    #[inline]
    fn space_end(&mut self, at: usize) -> usize {
        // Mostly there is none.
        match self.byte(at) {
            Some(byte) if byte <= b' ' => self.spaces_end(at),
            _ => at,
        }
    }

    #[inline(never)]
    fn spaces_end(&mut self, mut at: usize) -> usize {
        while let Some(byte) = self.byte(at) {
            match byte {
                b' ' | b'\t' => {}
                b'\n' | b'\r' => self.breaks = true,
                _ => break,
            }
            at += 1;
        }
        at
    }

    #[inline]
    fn kind(&mut self, at: usize) -> Result<Kind, Broken> {
        match self.byte(at) {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(self.broken(at, "a value")),
        }
    }

    #[inline]
    fn name_end(&mut self, at: usize) -> Result<(usize, bool), Broken> {
        if self.byte(at) != Some(b'"') {
            return Err(self.broken(at, "a member's name"));
        }
        self.string_end(at)
    }

    #[inline]
    fn colon_end(&mut self, at: usize) -> Result<usize, Broken> {
        let at = self.space_end(at);
        self.byte_end(at, b':', "`:`")
    }

    /// From a member's name to the beginning of its value.
    #[inline]
    fn key_end(&mut self, at: usize) -> Result<usize, Broken> {
        let (at, _) = self.name_end(at)?;
        let at = self.colon_end(at)?;
        Ok(self.space_end(at))
    }

    #[inline]
    pub(crate) fn value_end(&mut self, at: usize) -> Result<(usize, Passed), Broken> {
        // Most values are strings, and need no stack.
        if self.byte(at) == Some(b'"') {
            let (end, escapes) = self.string_end(at)?;
            let passed = Passed {
                kind: Kind::String,
                breaks: false,
                escapes,
            };
            return Ok((end, passed));
        }
        self.other_end(at)
    }

    #[inline(never)]
    fn other_end(&mut self, at: usize) -> Result<(usize, Passed), Broken> {
        let outer_breaks = std::mem::replace(&mut self.breaks, false);
        let (end, kind) = self.nested_end(at)?;
        let breaks = std::mem::replace(&mut self.breaks, outer_breaks);
        let passed = Passed {
            kind,
            breaks,
            escapes: false,
        };
        Ok((end, passed))
    }

    /// Containers are kept on a stack of bits: 1 is an object, 0 an array.
    #[inline]
    fn nested_end(&mut self, mut at: usize) -> Result<(usize, Kind), Broken> {
        let mut stack = 0u64;
        let mut depth = 0u32;
        let outermost = self.kind(at)?;
        let mut kind = outermost;
        'value: loop {
            match kind {
                Kind::Object | Kind::Array => {
                    if depth == MAX_DEPTH {
                        return Err(self.broken(at, "less nesting"));
                    }
                    at = self.space_end(at + 1);
                    let is_object = kind == Kind::Object;
                    let close = if is_object { b'}' } else { b']' };
                    if self.byte(at) == Some(close) {
                        at += 1;
                    } else {
                        depth += 1;
                        stack = stack << 1 | u64::from(is_object);
                        if is_object {
                            at = self.key_end(at)?;
                        }
                        kind = self.kind(at)?;
                        continue 'value;
                    }
                }
                Kind::String => (at, _) = self.string_end(at)?,
                Kind::Number => at = self.number_end(at)?,
                Kind::Bool | Kind::Null => at = self.literal_end(at)?,
            }
            loop {
                if depth == 0 {
                    return Ok((at, outermost));
                }
                at = self.space_end(at);
                let is_object = stack & 1 == 1;
                match self.byte(at) {
                    Some(b',') => {
                        at = self.space_end(at + 1);
                        if is_object {
                            at = self.key_end(at)?;
                        }
                        kind = self.kind(at)?;
                        continue 'value;
                    }
                    Some(b'}') if is_object => {}
                    Some(b']') if !is_object => {}
                    _ => {
                        let expected = if is_object { "`,` or `}`" } else { "`,` or `]`" };
                        return Err(self.broken(at, expected));
                    }
                }
                at += 1;
                depth -= 1;
                stack >>= 1;
            }
        }
    }

    /// From the opening quote to behind the closing one; true when there are escapes.
    #[inline]
    fn string_end(&mut self, at: usize) -> Result<(usize, bool), Broken> {
        let bytes = self.text.as_bytes();
        let stop = self.stops.next(bytes, at + 1);
        if bytes.get(stop) == Some(&b'"') {
            return Ok((stop + 1, false));
        }
        Ok((self.escapes_end(stop)?, true))
    }

    /// The rest of a string, from its first stop that is no quote.
    #[inline(never)]
    fn escapes_end(&mut self, mut at: usize) -> Result<usize, Broken> {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(at) {
                Some(b'"') => return Ok(at + 1),
                Some(b'\\') => at = self.escape_end(at)?,
                Some(_) => return Err(self.broken(at, "no control character")),
                None => return Err(self.broken(at, "`\"`")),
            }
            at = self.stops.next(bytes, at);
        }
    }

    fn escape_end(&mut self, at: usize) -> Result<usize, Broken> {
        let bytes = self.text.as_bytes();
        match bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => {
                for digit in at + 2..at + 6 {
                    if !bytes.get(digit).is_some_and(u8::is_ascii_hexdigit) {
                        return Err(self.broken(digit.min(bytes.len()), "a hexadecimal digit"));
                    }
                }
                Ok(at + 6)
            }
            _ => Err(self.broken((at + 1).min(bytes.len()), "an escape")),
        }
    }

    #[inline]
    fn number_end(&mut self, mut at: usize) -> Result<usize, Broken> {
        if self.byte(at) == Some(b'-') {
            at += 1;
        }
        at = match self.byte(at) {
            Some(b'0') => at + 1,
            _ => self.digits_end(at)?,
        };
        if self.byte(at) == Some(b'.') {
            at = self.digits_end(at + 1)?;
        }
        if let Some(b'e' | b'E') = self.byte(at) {
            at += 1;
            if let Some(b'+' | b'-') = self.byte(at) {
                at += 1;
            }
            at = self.digits_end(at)?;
        }
        Ok(at)
    }

    #[inline]
    fn digits_end(&mut self, start: usize) -> Result<usize, Broken> {
        let mut at = start;
        while self.byte(at).is_some_and(|byte| byte.is_ascii_digit()) {
            at += 1;
        }
        if at == start {
            return Err(self.broken(at, "a digit"));
        }
        Ok(at)
    }

    fn literal_end(&mut self, mut at: usize) -> Result<usize, Broken> {
        let word: &[u8] = match self.byte(at) {
            Some(b't') => b"true",
            Some(b'f') => b"false",
            _ => b"null",
        };
        for letter in word {
            at = self.byte_end(at, *letter, "`true`, `false` or `null`")?;
        }
        Ok(at)
    }
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
