//! What a text of SQL is, as far as a server in front of the engine must know before it runs it.
//!
//! ```text
//! INSERT INTO db.t (a, b) SETTINGS x = 1 FORMAT Native\n<rows>
//! └────────── head ──────────────────┘        └format┘  └ data_start
//! ```
//!
//! Invariants: a text is one statement, or `parse` fails; the rows of an INSERT are never read as SQL.

use crate::failure::{Code, Failure};
use crate::lexer::{Kind, Lexer, Token};

/// One statement of SQL.
#[derive(Debug)]
pub(crate) struct Statement<'a> {
    pub(crate) text: &'a [u8],
    /// The tokens of the SQL, without the rows and without the closing `;`.
    pub(crate) tokens: Vec<Token>,
    pub(crate) shape: Shape,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Begins with SELECT, WITH or FROM, or with a bracket before one of them.
    Select,
    Insert(Insert),
    /// Any other statement, by its first word in capitals.
    Other(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Insert {
    pub(crate) target: Target,
    pub(crate) source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Table {
        database: Option<String>,
        table: String,
    },
    Function,
    /// A name that is a query parameter.
    Parameter,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Rows follow the statement. `head` is the INSERT without its FORMAT or VALUES, as the stream insert wants it.
    Rows {
        head: String,
        format: String,
        data_start: usize,
    },
    /// INSERT … SELECT.
    Query,
    /// INSERT … SELECT … FROM input(…) FORMAT …: rows that pass through a query.
    Input,
    /// INSERT … FROM INFILE: a file of the machine that the engine runs on.
    Infile,
}

impl<'a> Statement<'a> {
    /// Reads one statement. `None` when there is nothing but white space and comments.
    pub(crate) fn parse(text: &'a [u8]) -> Result<Option<Self>, Failure> {
        let mut lexer = Lexer::new(text);
        let mut brackets = 0usize;
        let Some(first) = lexer.find(|token| {
            let opening = token.kind == Kind::Mark(b'(');
            brackets += usize::from(opening);
            !opening
        }) else {
            return Ok(None);
        };
        let word = keyword(text, first);
        if word == "INSERT" && brackets == 0 {
            let (insert, tokens) = parse_insert(text)?;
            if !matches!(insert.source, Source::Rows { .. }) {
                let tokens = one_statement(text)?;
                return Ok(Some(Self {
                    text,
                    tokens,
                    shape: Shape::Insert(insert),
                }));
            }
            return Ok(Some(Self {
                text,
                tokens,
                shape: Shape::Insert(insert),
            }));
        }
        let tokens = one_statement(text)?;
        if tokens.is_empty() {
            return Ok(None);
        }
        let shape = match word.as_str() {
            "SELECT" | "WITH" | "FROM" => Shape::Select,
            _ => Shape::Other(word),
        };
        Ok(Some(Self { text, tokens, shape }))
    }

    /// The format that the statement itself asks its result in.
    pub(crate) fn output_format(&self) -> Option<String> {
        let mut found = None;
        for pair in self.tokens.windows(2) {
            if keyword(self.text, pair[0]) == "FORMAT"
                && matches!(pair[1].kind, Kind::Word | Kind::QuotedName)
            {
                found = Some(name(self.text, pair[1]));
            }
        }
        found.filter(|_| !matches!(self.shape, Shape::Insert(_)))
    }

    /// Whether the words follow each other somewhere in the statement.
    pub(crate) fn has_words(&self, words: &[&str]) -> bool {
        self.tokens.windows(words.len()).any(|window| {
            window
                .iter()
                .zip(words)
                .all(|(token, word)| keyword(self.text, *token) == *word)
        })
    }
}

/// All tokens of a text without rows; fails when a second statement follows.
fn one_statement(text: &[u8]) -> Result<Vec<Token>, Failure> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut closed = false;
    for token in Lexer::new(text) {
        if token.kind == Kind::Mark(b';') {
            closed = true;
        } else if closed {
            return Err(Failure::new(
                Code::SyntaxError,
                "Multi-statements are not allowed",
            ));
        } else {
            tokens.push(token);
        }
    }
    Ok(tokens)
}

fn parse_insert(text: &[u8]) -> Result<(Insert, Vec<Token>), Failure> {
    let mut lexer = Lexer::new(text);
    let mut tokens = Vec::new();
    let mut next = |lexer: &mut Lexer<'_>| {
        let token = lexer.next();
        tokens.extend(token);
        token
    };
    let mut token = next(&mut lexer);
    // INSERT [INTO] [TABLE]
    for optional in ["INSERT", "INTO", "TABLE"] {
        if token.is_some_and(|token| keyword(text, token) == optional) {
            token = next(&mut lexer);
        }
    }
    let (target, mut token) = match token {
        Some(token) if keyword(text, token) == "FUNCTION" => (Target::Function, next(&mut lexer)),
        Some(token) if token.kind == Kind::Mark(b'{') => (Target::Parameter, Some(token)),
        Some(token) if matches!(token.kind, Kind::Word | Kind::QuotedName) => {
            let first = name(text, token);
            let mut after = next(&mut lexer);
            if after.is_some_and(|token| token.kind == Kind::Mark(b'.')) {
                let table = next(&mut lexer);
                after = next(&mut lexer);
                match table {
                    Some(table) if table.kind == Kind::Mark(b'{') => (Target::Parameter, after),
                    Some(table) => (
                        Target::Table {
                            database: Some(first),
                            table: name(text, table),
                        },
                        after,
                    ),
                    None => {
                        return Err(Failure::new(
                            Code::SyntaxError,
                            "Syntax error: a table is missing after INSERT INTO",
                        ));
                    }
                }
            } else {
                (
                    Target::Table {
                        database: None,
                        table: first,
                    },
                    after,
                )
            }
        }
        _ => {
            return Err(Failure::new(
                Code::SyntaxError,
                "Syntax error: a table is missing after INSERT INTO",
            ));
        }
    };
    let mut depth = 0usize;
    let mut previous: Option<Token> = None;
    let source = loop {
        let Some(current) = token else {
            // Without FORMAT and without SELECT, the rows come in the body, as VALUES.
            let head = String::from_utf8_lossy(text).into_owned();
            break Source::Rows {
                head,
                format: "Values".to_string(),
                data_start: text.len(),
            };
        };
        match current.kind {
            Kind::Mark(b'(') => depth += 1,
            Kind::Mark(b')') => depth = depth.saturating_sub(1),
            Kind::Mark(b';') if depth == 0 => {
                let head = String::from_utf8_lossy(&text[..current.start]).into_owned();
                break Source::Rows {
                    head,
                    format: "Values".to_string(),
                    data_start: current.end,
                };
            }
            _ => {}
        }
        // `INSERT INTO t (SELECT …)`: a bracket right after the table may hold a query instead of columns.
        let opens = depth == 1 && previous.is_some_and(|previous| previous.kind == Kind::Mark(b'('));
        if depth == 0 || opens {
            match keyword(text, current).as_str() {
                "SELECT" | "WITH" => break query_source(text),
                "FROM" => {
                    let after = next(&mut lexer);
                    let infile = after.is_some_and(|token| keyword(text, token) == "INFILE");
                    break if infile {
                        Source::Infile
                    } else {
                        query_source(text)
                    };
                }
                "VALUES" if depth == 0 => {
                    let head = String::from_utf8_lossy(&text[..current.start]).into_owned();
                    break Source::Rows {
                        head,
                        format: "Values".to_string(),
                        data_start: current.end,
                    };
                }
                "FORMAT" if depth == 0 => {
                    let Some(format) = next(&mut lexer) else {
                        return Err(Failure::new(
                            Code::SyntaxError,
                            "Syntax error: a format is missing after FORMAT",
                        ));
                    };
                    break rows_after_format(text, current, format, &mut tokens)?;
                }
                _ => {}
            }
        }
        previous = Some(current);
        token = next(&mut lexer);
    };
    Ok((Insert { target, source }, tokens))
}

fn query_source(text: &[u8]) -> Source {
    let tokens: Vec<Token> = Lexer::new(text).collect();
    let input = tokens
        .windows(2)
        .any(|pair| keyword(text, pair[0]) == "INPUT" && pair[1].kind == Kind::Mark(b'('));
    if input { Source::Input } else { Source::Query }
}

/// The rows begin after the format's name, spaces and one line break; SETTINGS may stand between, as the server allows.
fn rows_after_format(
    text: &[u8],
    keyword_at: Token,
    format: Token,
    tokens: &mut Vec<Token>,
) -> Result<Source, Failure> {
    let mut head = String::from_utf8_lossy(&text[..keyword_at.start]).into_owned();
    let mut end = format.end;
    let mut lexer = Lexer::starting_at(text, format.end);
    if let Some(settings) = lexer.next().filter(|token| keyword(text, *token) == "SETTINGS") {
        tokens.push(settings);
        let mut expected_value = 0;
        let from = format.end;
        // name = value, name = value …
        for token in lexer {
            match (expected_value, token.kind) {
                (0, Kind::Word) => expected_value = 1,
                (1, Kind::Mark(b'=')) => expected_value = 2,
                (2, Kind::Mark(b'-')) => {}
                (2, Kind::Word | Kind::Text | Kind::Number) => {
                    expected_value = 3;
                    end = token.end;
                }
                (3, Kind::Mark(b',')) => expected_value = 0,
                _ => break,
            }
            tokens.push(token);
        }
        head.push_str(&String::from_utf8_lossy(&text[from..end]));
    }
    let mut at = end;
    while matches!(text.get(at), Some(b' ' | b'\t' | 0x0c)) {
        at += 1;
    }
    if text.get(at) == Some(&b'\r') {
        at += 1;
    }
    if text.get(at) == Some(&b'\n') {
        at += 1;
    }
    if text.get(at) == Some(&b';') {
        return Err(Failure::new(
            Code::SyntaxError,
            "You have excessive ';' symbol before data for INSERT",
        ));
    }
    Ok(Source::Rows {
        head,
        format: name(text, format),
        data_start: at,
    })
}

/// A bare word in capitals; empty for every other token, so that a quoted name is never taken for a keyword.
pub(crate) fn keyword(text: &[u8], token: Token) -> String {
    match token.kind {
        Kind::Word => String::from_utf8_lossy(&text[token.start..token.end]).to_ascii_uppercase(),
        _ => String::new(),
    }
}

/// A name without its quotes.
pub(crate) fn name(text: &[u8], token: Token) -> String {
    let raw = String::from_utf8_lossy(&text[token.start..token.end]).into_owned();
    if token.kind != Kind::QuotedName {
        return raw;
    }
    let quote = raw.chars().next().unwrap_or('`');
    let inner: String = raw
        .chars()
        .skip(1)
        .take(raw.chars().count().saturating_sub(2))
        .collect();
    inner.replace(&format!("{quote}{quote}"), &quote.to_string())
}

#[cfg(test)]
mod tests;
