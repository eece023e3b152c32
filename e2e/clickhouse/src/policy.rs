//! What an insert-only user may run: one INSERT into a table, one SELECT from tables, or DESCRIBE of a table (whoever may
//! SELECT from a table of the server may describe it, and the `clickhouse` crate does so before it inserts).
//!
//! The engine has no users, so this is the whole of the access control. It is an allow list over tokens, and the caller
//! also asks the engine's own parser (`Connection::classify`): both must agree. Refused are
//! - every other statement,
//! - every function that is also a table function (`file`, `url`, `s3`, `remote`, `executable`, …; the engine's list,
//!   read at start), except those that read nothing but their arguments,
//! - tables of `system` beyond those that describe schemas,
//! - settings beyond those that bound or shape what is read and written; names that come from parameters or hide behind
//!   escapes.

use std::collections::HashSet;

use crate::failure::{Code, Failure};
use crate::lexer::{Kind, Token};
use crate::statement::{Shape, Source, Statement, Target, keyword, name};

/// Table functions that read nothing outside the statement.
const HARMLESS_FUNCTIONS: [&str; 10] = [
    "numbers",
    "numbers_mt",
    "zeros",
    "zeros_mt",
    "primes",
    "values",
    "null",
    "view",
    "generateseries",
    "generate_series",
];

/// What a client reads to learn schemas and versions, and nothing about other users.
const READABLE_SYSTEM_TABLES: [&str; 14] = [
    "one",
    "numbers",
    "numbers_mt",
    "zeros",
    "zeros_mt",
    "databases",
    "tables",
    "columns",
    "parts",
    "settings",
    "merge_tree_settings",
    "functions",
    "formats",
    "data_type_families",
];

/// Settings by the beginning of their names. An allow list, because others hold SQL (`additional_result_filter`), change
/// how a text is parsed (`dialect`), or name files (`format_schema`).
const ALLOWED_SETTINGS: [&str; 26] = [
    "async_insert",
    "connect_timeout",
    "date_time_",
    "deduplicate_",
    "describe_",
    "enable_http_",
    "final",
    "format_csv_",
    "format_tsv_",
    "http_",
    "input_format_",
    "insert_",
    "join_",
    "log_",
    "low_cardinality_",
    "max_",
    "min_",
    "non_replicated_",
    "optimize_",
    "output_format_",
    "priority",
    "readonly",
    "receive_timeout",
    "send_",
    "session_timezone",
    "wait_for_async_insert",
];

/// Rows in the format Values may be expressions, which would be SQL that nobody has judged; an insert-only user's rows
/// are values and nothing else. These go before such an INSERT, and may not be sent by the user.
pub(crate) const ROWS_ARE_VALUES: [&str; 2] = [
    "input_format_values_interpret_expressions",
    "input_format_values_deduce_templates_of_expressions",
];

/// Function names that would let a statement reach beyond the tables, in lower case.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    refused_functions: HashSet<String>,
}

impl Policy {
    /// `table_functions` is the engine's own list.
    pub(crate) fn new<'a>(table_functions: impl IntoIterator<Item = &'a str>) -> Self {
        let mut refused_functions: HashSet<String> =
            table_functions.into_iter().map(str::to_ascii_lowercase).collect();
        for name in HARMLESS_FUNCTIONS {
            refused_functions.remove(name);
        }
        Self { refused_functions }
    }

    /// Whether an insert-only user may send this setting with a request.
    pub(crate) fn check_setting(&self, setting: &str) -> Result<(), Failure> {
        let name = setting.to_ascii_lowercase();
        let allowed = ALLOWED_SETTINGS
            .iter()
            .any(|beginning| name.starts_with(beginning));
        if !allowed || ROWS_ARE_VALUES.contains(&name.as_str()) {
            return Err(denied(format_args!("the setting {setting}")));
        }
        Ok(())
    }

    /// Whether an insert-only user may make this the current database.
    pub(crate) fn check_database(&self, database: &str) -> Result<(), Failure> {
        match database.to_ascii_lowercase().as_str() {
            "system" | "information_schema" => {
                Err(denied(format_args!("{database} may not be the current database")))
            }
            _ => Ok(()),
        }
    }

    /// Whether an insert-only user may run this statement.
    pub(crate) fn check(&self, statement: &Statement<'_>) -> Result<(), Failure> {
        match &statement.shape {
            Shape::Select => {}
            Shape::Insert(insert) => {
                match &insert.target {
                    Target::Table { database, .. } => {
                        if let Some(database) = database {
                            self.check_database(database)?;
                        }
                    }
                    Target::Function => return Err(denied("INSERT INTO FUNCTION")),
                    Target::Parameter => return Err(denied("INSERT into a table named by a parameter")),
                }
                match insert.source {
                    Source::Rows { .. } | Source::Query => {}
                    Source::Input | Source::Infile => {
                        return Err(denied("INSERT from a file or from input()"));
                    }
                }
            }
            Shape::Other(word) if word == "DESCRIBE" || word == "DESC" => {}
            Shape::Other(word) => return Err(denied(word)),
        }
        self.check_tokens(statement)
    }

    fn check_tokens(&self, statement: &Statement<'_>) -> Result<(), Failure> {
        let text = statement.text;
        let is_name = |token: Token| matches!(token.kind, Kind::Word | Kind::QuotedName);
        let mut in_settings = false;
        for (index, token) in statement.tokens.iter().copied().enumerate() {
            let ahead = |by: usize| statement.tokens.get(index + by).copied();
            let mark_ahead =
                |by: usize, mark: u8| ahead(by).is_some_and(|token| token.kind == Kind::Mark(mark));
            match token.kind {
                Kind::Broken => return Err(denied("text that cannot be read")),
                // {name:Identifier}: a name that is not in the text.
                Kind::Mark(b':')
                    if ahead(1).is_some_and(|token| {
                        is_name(token) && name(text, token).eq_ignore_ascii_case("identifier")
                    }) =>
                {
                    return Err(denied("names that come from parameters"));
                }
                Kind::Word | Kind::QuotedName => {
                    if token.kind == Kind::QuotedName && text[token.start..token.end].contains(&b'\\') {
                        return Err(denied("names with escapes"));
                    }
                    let name_here = name(text, token).to_ascii_lowercase();
                    if mark_ahead(1, b'(') && self.refused_functions.contains(&name_here) {
                        return Err(denied(format_args!("the function {name_here}")));
                    }
                    // SETTINGS name = value, name = value
                    in_settings |= keyword(text, token) == "SETTINGS" && mark_ahead(2, b'=');
                    let after_comma = index > 0
                        && (statement.tokens[index - 1].kind == Kind::Mark(b',')
                            || keyword(text, statement.tokens[index - 1]) == "SETTINGS");
                    if in_settings && after_comma && mark_ahead(1, b'=') {
                        self.check_setting(&name_here)?;
                    }
                    if name_here == "system" && mark_ahead(1, b'.') {
                        let table = ahead(2)
                            .filter(|token| is_name(*token))
                            .map(|token| name(text, token));
                        if !table
                            .as_deref()
                            .is_some_and(|table| READABLE_SYSTEM_TABLES.contains(&table))
                        {
                            return Err(denied(format_args!(
                                "the table system.{}",
                                table.as_deref().unwrap_or("?")
                            )));
                        }
                    }
                    if name_here.starts_with("system.") {
                        return Err(denied("names that begin with system."));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The answer to what an insert-only user may not do.
pub(crate) fn denied(what: impl std::fmt::Display) -> Failure {
    Failure::new(
        Code::AccessDenied,
        format_args!(
            "Not enough privileges. This user may only INSERT into tables and SELECT from them; refused: {what}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), u32> {
        let policy = Policy::new([
            "file",
            "url",
            "s3",
            "remote",
            "executable",
            "format",
            "input",
            "numbers",
            "values",
            "merge",
        ]);
        match Statement::parse(text.as_bytes()) {
            Ok(Some(statement)) => policy.check(&statement).map_err(|failure| failure.number()),
            Ok(None) => panic!("{text} is empty"),
            Err(failure) => Err(failure.number()),
        }
    }

    #[test]
    fn inserts_and_selects_pass() {
        for text in [
            "INSERT INTO t FORMAT Native\n\0;DROP TABLE t",
            "INSERT INTO db.t (a, b) SETTINGS async_insert = 0 VALUES (1, 'file(')",
            "INSERT INTO t SELECT number FROM numbers(10)",
            "SELECT count() FROM db.t WHERE a IN (SELECT b FROM u)",
            "WITH x AS (SELECT 1) SELECT * FROM x -- url('http://x')",
            "(SELECT 1) UNION ALL (SELECT 2)",
            "SELECT name FROM system.columns WHERE table = 'file('",
            "SELECT file FROM t WHERE url = 'x' AND s3 > (1)",
            "SELECT {a:UInt64} + {b:String}",
            "DESCRIBE TABLE db.t",
            "desc t",
            "SELECT settings, a = b FROM t WHERE settings = 1 SETTINGS max_threads = 1, max_block_size = 2",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn everything_else_is_denied() {
        for text in [
            "DROP TABLE t",
            "CREATE TABLE x (a Int8) ENGINE = Memory",
            "ALTER TABLE t DELETE WHERE 1",
            "/* SELECT */ TRUNCATE t",
            "-- SELECT 1\nDETACH TABLE t",
            "SET max_threads = 1",
            "USE system",
            "SYSTEM FLUSH LOGS",
            "OPTIMIZE TABLE t FINAL",
            "SHOW TABLES",
            "DESCRIBE TABLE url('http://x')",
            "DESC file('x')",
            "DESCRIBE TABLE system.processes",
            "EXPLAIN SELECT 1",
            "KILL QUERY WHERE 1",
            "(DROP TABLE t)",
            "INSERT INTO FUNCTION file('x', 'CSV', 'a Int8') VALUES (1)",
            "INSERT INTO TABLE FUNCTION url('http://x') SELECT 1",
            "INSERT INTO system.query_log VALUES (1)",
            "INSERT INTO `system`.x VALUES (1)",
            "INSERT INTO {t:Identifier} VALUES (1)",
            "INSERT INTO t FROM INFILE '/etc/passwd' FORMAT LineAsString",
            "INSERT INTO t SELECT * FROM input('a Int8') FORMAT CSV",
            "INSERT INTO t SELECT * FROM url('http://x', CSV, 'a Int8')",
            "INSERT INTO t SETTINGS input_format_values_interpret_expressions = 1 VALUES (1)",
            "SELECT * FROM file('/etc/passwd')",
            "SELECT * FROM FILE /* x */ ('/etc/passwd')",
            "SELECT * FROM `file`('/etc/passwd')",
            "SELECT * FROM \"file\"\n('/etc/passwd')",
            "SELECT * FROM `f\\x69le`('/etc/passwd')",
            "SELECT file('/etc/passwd')",
            "SELECT * FROM s3('x'), t",
            "SELECT * FROM t JOIN remote('h', 'd', 't') USING a",
            "SELECT 1 IN url('http://x')",
            "SELECT * FROM merge('system', '.*')",
            "SELECT * FROM system.processes",
            "SELECT * FROM `system` . \"query_log\"",
            "SELECT * FROM system.{t:String}",
            "SELECT * FROM {t:Identifier}",
            "SELECT * FROM t SETTINGS dialect = 'prql'",
            "SELECT * FROM t SETTINGS max_threads = 1, `additional_result_filter` = 'x'",
            "SELECT * FROM (SELECT 1 SETTINGS format_schema = '/etc/passwd') SETTINGS max_threads = 1",
            "INSERT INTO t FORMAT CSV SETTINGS max_threads = 1, dialect = 'x'\n1",
            "SELECT 'open",
            "SELECT 1 /* open",
        ] {
            assert_eq!(check(text), Err(497), "{text}");
        }
        assert_eq!(check("SELECT 1; DROP TABLE t"), Err(62));
    }

    #[test]
    fn databases_and_settings_of_the_request_are_judged_too() {
        let policy = Policy::new([]);
        assert!(policy.check_database("shop").is_ok());
        assert!(policy.check_database("System").is_err());
        assert!(policy.check_setting("max_threads").is_ok());
        for setting in [
            "Dialect",
            "additional_result_filter",
            "format_schema",
            ROWS_ARE_VALUES[0],
            ROWS_ARE_VALUES[1],
        ] {
            assert!(policy.check_setting(setting).is_err(), "{setting}");
        }
    }
}
