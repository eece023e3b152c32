//! Parameters, headers, sessions, errors and the query log.

use crate::server::{ADMIN, Server, WRITER};

#[test]
fn settings_database_and_format_come_with_the_request() {
    let server = Server::start();
    server.must("CREATE DATABASE `odd ``name`");
    server.must("CREATE TABLE `odd ``name`.t (a UInt64) ENGINE = MergeTree ORDER BY a");
    let headers = [
        ("X-ClickHouse-Database", "odd `name"),
        ("X-ClickHouse-Format", "JSONCompactEachRow"),
    ];
    let answer = server.send(
        ADMIN,
        "max_threads=3",
        &headers,
        b"SELECT currentDatabase(), getSetting('max_threads'), count() FROM t",
    );
    assert_eq!(answer.text(), "[\"odd `name\", 3, 0]");
    assert_eq!(answer.header("x-clickhouse-format"), Some("JSONCompactEachRow"));
    assert_eq!(
        server.must("SELECT currentDatabase()"),
        "default",
        "the next request starts afresh"
    );
    let own = server.send(
        ADMIN,
        "default_format=CSV&query_id=mine",
        &[],
        b"SELECT 1 FORMAT JSONEachRow",
    );
    assert_eq!(own.text(), "{\"1\":1}");
    assert_eq!(own.header("x-clickhouse-query-id"), Some("mine"));
    assert_eq!(own.header("x-clickhouse-timezone"), Some("Etc/UTC"));
    assert_eq!(
        server
            .send(ADMIN, "param_x=%271%27", &[], b"SELECT {x:String}")
            .text(),
        "\\'1\\'"
    );
    assert_eq!(server.get(ADMIN, "/").text(), "Ok.");
    assert_eq!(server.get(ADMIN, "/ping").text(), "Ok.");
    assert_eq!(server.get(ADMIN, "/nowhere").status, 404);
}

#[test]
fn errors_have_the_status_of_the_server() {
    let server = Server::start();
    for (sql, status, code) in [
        ("SELEC 1", 400, 62),
        ("", 400, 62),
        ("-- nothing", 400, 62),
        ("SELECT nope", 404, 47),
        ("SELECT * FROM nowhere", 404, 60),
        ("SELECT * FROM nowhere.t", 404, 81),
        ("SELECT nofunction(1)", 404, 46),
        ("SELECT 1 FORMAT Nope", 404, 73),
        ("SELECT toUInt8('x')", 400, 6),
        ("SELECT throwIf(1)", 500, 395),
        (
            "SELECT sleepEachRow(1) FROM numbers(3) SETTINGS max_execution_time = 0.5, function_sleep_max_microseconds_per_block = 0",
            408,
            159,
        ),
        ("INSERT INTO nowhere VALUES (1)", 404, 60),
        (
            "INSERT INTO nowhere SELECT * FROM input('a Int8') FORMAT CSV\n1",
            501,
            48,
        ),
    ] {
        let answer = server.query(sql);
        assert_eq!(answer.outcome(), (status, Some(code)), "{sql}: {}", answer.text());
        let text = answer.text();
        assert!(
            text.starts_with(&format!("Code: {code}. DB::Exception: ")),
            "{text}"
        );
        assert!(text.contains("(version 26.7.2.1)"), "{text}");
    }
    assert_eq!(
        server
            .send(ADMIN, "no_such_setting=1", &[], b"SELECT 1")
            .outcome(),
        (404, Some(115))
    );
    assert_eq!(
        server.send(ADMIN, "database=nowhere", &[], b"SELECT 1").outcome(),
        (404, Some(81))
    );
    assert_eq!(
        server
            .send(ADMIN, "", &[("Content-Encoding", "br")], b"SELECT 1")
            .outcome(),
        (501, Some(48))
    );
    assert_eq!(server.must("SELECT 1"), "1");
}

#[test]
fn comments_and_quotes_mean_what_they_mean_to_the_engine() {
    let server = Server::start();
    for (sql, expected) in [
        ("SELECT 1 -- ; x", "1"),
        ("SELECT 1 // ; x", "1"),
        ("SELECT 1 # ; x", "1"),
        ("SELECT 1 #! ; x", "1"),
        ("SELECT /* ; /* ; */ ; */ 1", "1"),
        ("SELECT $a$;$b$;$a$", ";$b$;"),
        ("SELECT ';''\\';'", ";\\'\\';"),
        ("SELECT x'3b', b'00111011'", ";\t;"),
        ("SELECT \u{2018};\u{2019}", ";"),
        ("SELECT 1 AS `;`, 2 AS \";;\", `;` + \";;\"", "1\t2\t3"),
        ("SELECT 1e-3 + 0x1p-1", "0.501"),
    ] {
        assert_eq!(server.must(sql), expected, "{sql}");
    }
}

#[test]
fn a_session_keeps_its_state_for_one_client_at_a_time() {
    let server = Server::start();
    let send = |parameters: &str, sql: &str| {
        server.send(ADMIN, &format!("session_id=s&{parameters}"), &[], sql.as_bytes())
    };
    assert_eq!(send("session_check=1", "SELECT 1").outcome(), (500, Some(372)));
    assert_eq!(send("", "CREATE TEMPORARY TABLE mine (a UInt64)").status, 200);
    assert_eq!(send("", "SET max_threads = 7").status, 200);
    assert_eq!(send("", "INSERT INTO mine VALUES (1), (2)").status, 200);
    let inside = send(
        "max_threads=2&database=system",
        "SELECT count(), getSetting('max_threads'), currentDatabase() FROM mine",
    );
    assert_eq!(inside.text(), "2\t2\tsystem");
    assert_eq!(
        send("", "SELECT getSetting('max_threads'), currentDatabase()").text(),
        "7\tdefault"
    );
    // Another user's session of the same name is another session.
    assert_eq!(
        server
            .send(WRITER, "session_id=s", &[], b"SELECT * FROM mine")
            .outcome(),
        (404, Some(60))
    );
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| send("", "SELECT sleep(3), 'busy'"));
        server.wait_until_running("busy");
        assert_eq!(send("", "SELECT 1").outcome(), (500, Some(373)));
        assert_eq!(slow.join().expect("an answer").status, 200);
    });
    assert_eq!(send("session_timeout=1", "SELECT count() FROM mine").text(), "2");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(send("session_check=1", "SELECT 1").outcome(), (500, Some(372)));
}

#[test]
fn the_query_log_tells_who_ran_what() {
    let server = Server::start_with(&["--query-log"]);
    server.must("CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a");
    let rows = "1\tsecret row\n2\tx\n";
    server.send(
        WRITER,
        "query=INSERT+INTO+t+FORMAT+TSV&query_id=one",
        &[],
        rows.as_bytes(),
    );
    server.send(WRITER, "query_id=two", &[], b"DROP TABLE t");
    server.must("SYSTEM FLUSH LOGS");
    let log = "SELECT type, query_kind, user, written_rows, exception_code, query FROM system.query_log \
               WHERE query_id IN ('one', 'two') ORDER BY query_id";
    assert_eq!(
        server.must(log),
        "QueryFinish\tInsert\twriter\t2\t0\tINSERT INTO t FORMAT TSV\n\
         ExceptionBeforeStart\tDrop\twriter\t0\t497\tDROP TABLE t"
    );
    assert_eq!(
        server.must("SELECT count() FROM system.query_log WHERE query LIKE '%secret' || ' row%'"),
        "0"
    );
    assert_eq!(
        server.must("SELECT max(event_date) >= today() - 1 FROM system.query_log"),
        "1"
    );
}
