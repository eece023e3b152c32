//! Splits SQL text into tokens by the rules of the engine's lexer, so that what a statement is can be judged before it
//! runs, and so that the rows that follow an INSERT are never taken for SQL.
//!
//! Comments (`--`, `//`, `# `, `#!`, nested `/* */`) and white space give no token. Text is bytes: rows may follow it.

/// What a token is. Only what the judgement of a statement needs is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A bare word: keyword, name, or a name that begins with a digit.
    Word,
    /// A name in backquotes or double quotes.
    QuotedName,
    /// A string, heredoc, or a string in typographic quotes.
    Text,
    Number,
    /// One byte of punctuation; an operator of two bytes gives two.
    Mark(u8),
    /// What the engine's lexer refuses: an open quote or comment, or a byte that begins nothing.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Reads tokens one at a time, so that it can stop where the rows of an INSERT begin.
#[derive(Debug, Clone)]
pub(crate) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    pub(crate) fn starting_at(text: &'a [u8], at: usize) -> Self {
        Self { text, at }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn position_of(&self, needle: &[u8], from: usize) -> Option<usize> {
        let rest = self.text.get(from..)?;
        rest.windows(needle.len())
            .position(|window| window == needle)
            .map(|offset| from + offset)
    }

    fn skip_line(&mut self) {
        self.at = self.position_of(b"\n", self.at).unwrap_or(self.text.len());
    }

    /// Skips a comment of `/* */`, which nests; false when it is not closed.
    fn skip_block(&mut self) -> bool {
        let mut depth = 0usize;
        while self.at + 2 <= self.text.len() {
            match &self.text[self.at..self.at + 2] {
                b"/*" => {
                    depth += 1;
                    self.at += 2;
                }
                b"*/" => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return true;
                    }
                }
                _ => self.at += 1,
            }
        }
        self.at = self.text.len();
        false
    }

    /// Skips to the end of a quoted token; a quote within is doubled or comes after a backslash. False when open.
    fn skip_quoted(&mut self, quote: u8) -> bool {
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            if byte == b'\\' {
                self.at += 1;
            } else if byte == quote {
                if self.peek(0) != Some(quote) {
                    return true;
                }
                self.at += 1;
            }
        }
        self.at = self.text.len();
        false
    }

    /// The end of a heredoc `$tag$ … $tag$` that begins here.
    fn heredoc_end(&self) -> Option<usize> {
        let name_end = self.position_of(b"$", self.at + 1)? + 1;
        let tag = &self.text[self.at..name_end];
        self.position_of(tag, name_end).map(|at| at + tag.len())
    }

    fn skip_word(&mut self) {
        while self.peek(0).is_some_and(|byte| is_word(byte) || byte == b'$') {
            self.at += 1;
        }
    }

    fn skip_number(&mut self) {
        let hex = self.peek(0) == Some(b'0') && matches!(self.peek(1), Some(b'x' | b'X'));
        while let Some(byte) = self.peek(0) {
            let signed = matches!(byte, b'+' | b'-')
                && self.at > 0
                && (matches!(self.text[self.at - 1], b'p' | b'P')
                    || (!hex && matches!(self.text[self.at - 1], b'e' | b'E')));
            if !(is_word(byte) || byte == b'.' || signed) {
                break;
            }
            self.at += 1;
        }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        loop {
            let start = self.at;
            let first = self.peek(0)?;
            let second = self.peek(1);
            let kind = match first {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {
                    self.at += 1;
                    continue;
                }
                b'-' | b'/' if second == Some(first) => {
                    self.skip_line();
                    continue;
                }
                b'#' if matches!(second, Some(b' ' | b'!')) => {
                    self.skip_line();
                    continue;
                }
                b'/' if second == Some(b'*') => {
                    if self.skip_block() {
                        continue;
                    }
                    Kind::Broken
                }
                b'\'' => {
                    if self.skip_quoted(first) {
                        Kind::Text
                    } else {
                        Kind::Broken
                    }
                }
                b'"' | b'`' => {
                    if self.skip_quoted(first) {
                        Kind::QuotedName
                    } else {
                        Kind::Broken
                    }
                }
                b'x' | b'X' | b'b' | b'B' if second == Some(b'\'') => {
                    self.at += 1;
                    if self.skip_quoted(b'\'') {
                        Kind::Text
                    } else {
                        Kind::Broken
                    }
                }
                b'$' => match self.heredoc_end() {
                    Some(end) => {
                        self.at = end;
                        Kind::Text
                    }
                    None => {
                        self.at += 1;
                        self.skip_word();
                        Kind::Word
                    }
                },
                b'0'..=b'9' => {
                    self.skip_number();
                    let number = &self.text[start..self.at];
                    // `1st` is a name; `0x1f`, `1e5` and `1_000` are numbers.
                    let name = number.iter().all(|byte| is_word(*byte))
                        && !number.starts_with(b"0x")
                        && !number.starts_with(b"0X")
                        && number
                            .iter()
                            .any(|byte| byte.is_ascii_alphabetic() && !matches!(byte, b'e' | b'E'));
                    if name { Kind::Word } else { Kind::Number }
                }
                _ if is_word(first) => {
                    self.skip_word();
                    Kind::Word
                }
                _ if first.is_ascii_punctuation() => {
                    self.at += 1;
                    Kind::Mark(first)
                }
                // Typographic single quotes make a string, double ones a name.
                0xe2 if self.text[start..].starts_with("\u{2018}".as_bytes()) => {
                    self.quoted_typographic("\u{2019}", Kind::Text)
                }
                0xe2 if self.text[start..].starts_with("\u{201c}".as_bytes()) => {
                    self.quoted_typographic("\u{201d}", Kind::QuotedName)
                }
                _ => {
                    self.at += 1;
                    Kind::Broken
                }
            };
            self.at = self.at.min(self.text.len());
            return Some(Token {
                kind,
                start,
                end: self.at,
            });
        }
    }
}

impl Lexer<'_> {
    fn quoted_typographic(&mut self, close: &str, kind: Kind) -> Kind {
        match self.position_of(close.as_bytes(), self.at) {
            Some(at) => {
                self.at = at + close.len();
                kind
            }
            None => {
                self.at = self.text.len();
                Kind::Broken
            }
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        Lexer::new(text.as_bytes())
            .map(|token| match token.kind {
                Kind::Broken => format!("!{}", &text[token.start..token.end]),
                _ => text[token.start..token.end].to_string(),
            })
            .collect()
    }

    #[test]
    fn comments_give_no_token() {
        for text in [
            "SELECT -- a; b\n1",
            "SELECT // a; b\n1",
            "SELECT # a; b\n1",
            "#! a; b\nSELECT 1",
            "/* a; /* b */ c; */ SELECT/**/1",
        ] {
            assert_eq!(words(text), ["SELECT", "1"], "{text}");
        }
        assert_eq!(words("SELECT /* /* */ 1"), ["SELECT", "!/* /* */ 1"]);
    }

    #[test]
    fn quotes_hide_what_they_hold() {
        assert_eq!(words(r"'a;''b\';' `c;` x"), [r"'a;''b\';'", "`c;`", "x"]);
        assert_eq!(words("$t$ a; $ 'b $t$ y"), ["$t$ a; $ 'b $t$", "y"]);
        assert_eq!(
            words("x'3b' \u{2018}a;b\u{2019} z"),
            ["x'3b'", "\u{2018}a;b\u{2019}", "z"]
        );
        assert_eq!(words("'open"), ["!'open"]);
        assert_eq!(words(r"'open\"), [r"!'open\"]);
    }

    #[test]
    fn numbers_and_names() {
        assert_eq!(
            words("1e-5 0x1F 1.5 1st a.b"),
            ["1e-5", "0x1F", "1.5", "1st", "a", ".", "b"]
        );
    }

    proptest::proptest! {
        #[test]
        fn every_text_ends_and_tokens_do_not_overlap(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let mut last = 0;
            for token in Lexer::new(&text) {
                proptest::prop_assert!(token.start >= last && token.end > token.start && token.end <= text.len());
                last = token.end;
            }
        }
    }
}
