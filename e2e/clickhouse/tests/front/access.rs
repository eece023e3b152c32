//! Who may do what.

use std::process::Stdio;

use crate::server::{ADMIN, Server, WRITER, command};

#[test]
fn names_and_passwords_are_checked_in_every_form() {
    let server = Server::start();
    for user in [
        (ADMIN.0, "wrong"),
        (ADMIN.0, ""),
        ("nobody", ADMIN.1),
        ("default", ""),
    ] {
        let answer = server.send(user, "", &[], b"SELECT 1");
        assert_eq!(answer.outcome(), (403, Some(516)), "{user:?}");
        assert!(
            answer.text().contains("AUTHENTICATION_FAILED"),
            "{}",
            answer.text()
        );
        assert!(!answer.text().contains(ADMIN.1));
    }
    let raw = |head: &str| {
        server.send_raw(format!("GET {head}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
    };
    let status = |head: &str| raw(head).lines().next().unwrap_or_default().to_string();
    assert_eq!(status("/?query=SELECT+1 HTTP/1.1"), "HTTP/1.1 403 Forbidden");
    assert_eq!(
        status("/?query=SELECT+1&user=admin&password=a+secret HTTP/1.1"),
        "HTTP/1.1 200 OK"
    );
    assert_eq!(
        status("/?query=SELECT+1 HTTP/1.1\r\nAuthorization: Basic YWRtaW46YSBzZWNyZXQ="),
        "HTTP/1.1 200 OK"
    );
    assert_eq!(
        status("/?query=SELECT+1 HTTP/1.1\r\nAuthorization: Basic YWRtaW46d3Jvbmc="),
        "HTTP/1.1 403 Forbidden"
    );
    assert_eq!(status("/ping HTTP/1.1"), "HTTP/1.1 200 OK");
}

#[test]
fn an_insert_only_user_inserts_and_reads_and_nothing_else() {
    let server = Server::start();
    server.must("CREATE DATABASE shop");
    server.must("CREATE TABLE shop.t (a UInt64) ENGINE = MergeTree ORDER BY a");
    let send = |sql: &str| server.send(WRITER, "", &[], sql.as_bytes());
    for (sql, expected) in [
        ("INSERT INTO shop.t VALUES (1), (2)", ""),
        ("INSERT INTO shop.t SELECT a + 2 FROM shop.t", ""),
        ("/* x */ SELECT count() FROM shop.t;", "4"),
        ("WITH 1 AS one SELECT one + max(a) FROM shop.t", "5"),
        ("SELECT name FROM system.columns WHERE database = 'shop'", "a"),
    ] {
        let answer = send(sql);
        assert_eq!((answer.status, answer.text().as_str()), (200, expected), "{sql}");
    }
    for sql in [
        "DROP TABLE shop.t",
        "-- SELECT\nTRUNCATE TABLE shop.t",
        "CREATE TABLE shop.u (a Int8) ENGINE = Memory",
        "ALTER TABLE shop.t DELETE WHERE 1",
        "SYSTEM STOP MERGES",
        "SET max_threads = 1",
        "USE shop",
        "SHOW TABLES FROM shop",
        "DESCRIBE TABLE url('http://127.0.0.1:1/')",
        "INSERT INTO FUNCTION file('x.csv', 'CSV', 'a Int8') VALUES (1)",
        "INSERT INTO shop.t SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a UInt64')",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM `file` /**/ ('/etc/passwd', 'LineAsString')",
        "SELECT * FROM s3('http://127.0.0.1:1/x', 'CSV', 'a Int8')",
        "SELECT file('/etc/passwd')",
        "SELECT * FROM system.processes",
        "SELECT * FROM system . `query_log`",
        "WITH x AS (SELECT toUInt64(9)) INSERT INTO shop.t SELECT * FROM x",
    ] {
        let answer = send(sql);
        assert_eq!(answer.outcome(), (403, Some(497)), "{sql}: {}", answer.text());
    }
    // Rows are values and never expressions.
    let expression = send("INSERT INTO shop.t VALUES (toUInt64(length(file('/etc/passwd'))))");
    assert_eq!(expression.outcome(), (500, Some(344)), "{}", expression.text());
    assert_eq!(send("SELECT 1; DROP TABLE shop.t").outcome(), (400, Some(62)));
    for parameters in [
        "database=system",
        "dialect=prql",
        "input_format_values_interpret_expressions=1",
        "additional_result_filter=1",
    ] {
        assert_eq!(
            server.send(WRITER, parameters, &[], b"SELECT 1").outcome(),
            (403, Some(497)),
            "{parameters}"
        );
    }
    assert_eq!(server.count("shop.t"), 4);
}

#[test]
fn nobody_reads_or_writes_files_of_the_machine_by_a_clause() {
    let server = Server::start();
    server.must("CREATE TABLE t (a String) ENGINE = Memory");
    let target = server.data().join("stolen");
    let answer = server.query(&format!("SELECT 1 INTO OUTFILE '{}'", target.display()));
    assert_eq!(answer.outcome(), (500, Some(358)), "{}", answer.text());
    assert!(!target.exists());
    let answer = server.query("INSERT INTO t FROM INFILE '/etc/passwd' FORMAT LineAsString");
    assert_eq!(answer.outcome(), (400, Some(36)), "{}", answer.text());
    assert_eq!(server.count("t"), 0);
}

#[test]
fn get_only_reads() {
    let server = Server::start();
    server.must("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a");
    assert_eq!(server.get(ADMIN, "/?query=SELECT+count()+FROM+t").text(), "0");
    assert_eq!(server.get(ADMIN, "/?query=SET+max_threads+=+1").status, 200);
    for query in [
        "INSERT+INTO+t+VALUES+(1)",
        "DROP+TABLE+t",
        "CREATE+TABLE+u+(a+Int8)+ENGINE=Memory",
    ] {
        assert_eq!(
            server.get(ADMIN, &format!("/?query={query}")).outcome(),
            (500, Some(164)),
            "{query}"
        );
    }
    let post = server.send(ADMIN, "readonly=1", &[], b"INSERT INTO t VALUES (1)");
    assert_eq!(post.outcome(), (500, Some(164)));
    assert_eq!(server.count("t"), 0);
}

#[test]
fn a_file_of_users_is_read_and_must_be_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let users = folder.path().join("users");
    std::fs::write(&users, "# the users\nfrom-file:pass:word\n").expect("writes");
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o644)).expect("mode");
    let refused = command(&folder.path().join("data"))
        .args(["--listen", "127.0.0.1:0", "--users-file"])
        .arg(&users)
        .stdout(Stdio::null())
        .output()
        .expect("runs");
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && message.contains("chmod 600") && !message.contains("pass:word"),
        "{message}"
    );
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o600)).expect("mode");
    let server = Server::start_with(&["--users-file", &users.display().to_string()]);
    assert_eq!(
        server
            .send(("from-file", "pass:word"), "", &[], b"SELECT 1")
            .text(),
        "1"
    );
}
