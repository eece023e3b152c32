use super::*;

fn shape(text: &str) -> Shape {
    Statement::parse(text.as_bytes())
        .expect("parses")
        .expect("is not empty")
        .shape
}

fn rows(text: &str) -> (String, String, String) {
    match shape(text) {
        Shape::Insert(Insert {
            source:
                Source::Rows {
                    head,
                    format,
                    data_start,
                },
            ..
        }) => (head.trim().to_string(), format, text[data_start..].to_string()),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn the_first_word_decides_whatever_stands_before_it() {
    for text in [
        "SELECT 1",
        "with 1 AS x select x",
        "-- a\n/* b */ SELECT 1;",
        "((SELECT 1))",
        "FROM t SELECT a",
    ] {
        assert_eq!(shape(text), Shape::Select, "{text}");
    }
    for (text, word) in [
        ("drop TABLE t", "DROP"),
        ("/**/ SYSTEM FLUSH LOGS", "SYSTEM"),
        ("SET a = 1", "SET"),
    ] {
        assert_eq!(shape(text), Shape::Other(word.to_string()), "{text}");
    }
    for text in ["", "  ", "-- only a comment", ";", "/* x */;;"] {
        assert!(
            Statement::parse(text.as_bytes()).expect("parses").is_none(),
            "{text}"
        );
    }
}

#[test]
fn a_second_statement_is_refused() {
    for text in [
        "SELECT 1; SELECT 2",
        "SELECT 1;DROP TABLE t",
        "INSERT INTO t SELECT 1; DROP TABLE t",
        "SET a=1; ; x",
    ] {
        assert_eq!(
            Statement::parse(text.as_bytes()).expect_err(text).number(),
            62,
            "{text}"
        );
    }
    for text in ["SELECT ';'", "SELECT 1;", "SELECT 1; -- a; b", "SELECT $$;$$;;"] {
        assert!(Statement::parse(text.as_bytes()).is_ok(), "{text}");
    }
}

#[test]
fn rows_are_split_from_the_statement() {
    let cases = [
        (
            "INSERT INTO t FORMAT Native\n\0;\x01",
            "INSERT INTO t",
            "Native",
            "\0;\x01",
        ),
        (
            "INSERT INTO db.t (a, b) FORMAT CSV \r\n1,2",
            "INSERT INTO db.t (a, b)",
            "CSV",
            "1,2",
        ),
        (
            "INSERT INTO t VALUES (1, ';'), (2, 'x')",
            "INSERT INTO t",
            "Values",
            " (1, ';'), (2, 'x')",
        ),
        (
            "insert into table t settings async_insert=0 format TSV\n\n1",
            "insert into table t settings async_insert=0",
            "TSV",
            "\n1",
        ),
        (
            "INSERT INTO t FORMAT TSV SETTINGS a = -1, b='x'\n1",
            "INSERT INTO t  SETTINGS a = -1, b='x'",
            "TSV",
            "1",
        ),
        (
            "INSERT INTO `format` (`values`, \"select\") FORMAT JSONEachRow {\"a\":1}",
            "INSERT INTO `format` (`values`, \"select\")",
            "JSONEachRow",
            "{\"a\":1}",
        ),
        (
            "/* FORMAT x */ INSERT INTO t (a) -- VALUES\n VALUES(1);",
            "/* FORMAT x */ INSERT INTO t (a) -- VALUES",
            "Values",
            "(1);",
        ),
        ("INSERT INTO t", "INSERT INTO t", "Values", ""),
        ("INSERT INTO t (a, b)", "INSERT INTO t (a, b)", "Values", ""),
    ];
    for (text, head, format, data) in cases {
        assert_eq!(
            rows(text),
            (head.to_string(), format.to_string(), data.to_string()),
            "{text:?}"
        );
    }
    assert_eq!(
        Statement::parse(b"INSERT INTO t FORMAT CSV;1")
            .expect_err("refused")
            .number(),
        62
    );
    assert_eq!(
        Statement::parse(b"INSERT INTO t FORMAT")
            .expect_err("refused")
            .number(),
        62
    );
    assert_eq!(
        Statement::parse(b"INSERT INTO").expect_err("refused").number(),
        62
    );
}

#[test]
fn targets_and_sources_are_told_apart() {
    let table = |database: Option<&str>, table: &str| Target::Table {
        database: database.map(str::to_string),
        table: table.to_string(),
    };
    let cases = [
        ("INSERT INTO t SELECT 1", table(None, "t"), Source::Query),
        (
            "INSERT INTO `a``b`.\"c\" (x) WITH 1 AS y SELECT y",
            table(Some("a`b"), "c"),
            Source::Query,
        ),
        ("INSERT INTO t (SELECT 1)", table(None, "t"), Source::Query),
        ("INSERT INTO t FROM x SELECT 1", table(None, "t"), Source::Query),
        (
            "INSERT INTO t SELECT * FROM input('a Int8') FORMAT CSV",
            table(None, "t"),
            Source::Input,
        ),
        (
            "INSERT INTO t FROM INFILE 'f' FORMAT CSV",
            table(None, "t"),
            Source::Infile,
        ),
        (
            "INSERT INTO FUNCTION file('f') SELECT 1",
            Target::Function,
            Source::Query,
        ),
        (
            "INSERT INTO TABLE FUNCTION url('u') SELECT 1",
            Target::Function,
            Source::Query,
        ),
        (
            "INSERT INTO {t:Identifier} SELECT 1",
            Target::Parameter,
            Source::Query,
        ),
    ];
    for (text, target, source) in cases {
        assert_eq!(shape(text), Shape::Insert(Insert { target, source }), "{text}");
    }
}

#[test]
fn the_result_format_is_found() {
    let format = |text: &str| {
        Statement::parse(text.as_bytes())
            .expect("parses")
            .expect("some")
            .output_format()
    };
    assert_eq!(format("SELECT 1 FORMAT JSON"), Some("JSON".to_string()));
    assert_eq!(
        format("SELECT 1 format `CSV` SETTINGS max_threads = 1"),
        Some("CSV".to_string())
    );
    assert_eq!(format("SELECT 'FORMAT JSON'"), None);
}
