//! What a body does when it is whole, encoded, damaged or cut short.

use std::io::Write;

use crate::server::{ADMIN, Server, WRITER, native_block};

const CREATE: &str = "CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a \
                      SETTINGS non_replicated_deduplication_window = 100";

#[test]
fn a_native_block_with_a_token_is_stored_once() {
    let server = Server::start();
    server.must(CREATE);
    let block = native_block(&[(1, "a;b"), (2, ""), (3, "é")]);
    let other = native_block(&[(9, "other data")]);
    let insert = "query=INSERT+INTO+t+(a,b)+FORMAT+Native&async_insert=0&insert_deduplication_token=";
    for (token, body, rows) in [
        ("x", &block, 3),
        ("x", &block, 3),
        ("x", &other, 3),
        ("y", &other, 4),
    ] {
        let answer = server.send(WRITER, &format!("{insert}{token}"), &[], body);
        assert_eq!(answer.outcome(), (200, None), "{}", answer.text());
        assert_eq!(server.count("t"), rows, "token {token}");
    }
    assert_eq!(
        server.must("SELECT * FROM t WHERE a < 4 ORDER BY a"),
        "1\ta;b\n2\t\n3\té"
    );
    let summary = server.send(WRITER, &format!("{insert}z"), &[], &block);
    assert!(
        summary
            .header("x-clickhouse-summary")
            .expect("given")
            .contains("\"written_rows\":\"3\"")
    );
}

#[test]
fn statements_and_rows_come_in_url_or_body() {
    let server = Server::start();
    server.must(CREATE);
    let with_url = |query: &str, body: &[u8]| {
        let answer = server.send(ADMIN, &format!("query={query}"), &[], body);
        assert_eq!(answer.outcome(), (200, None), "{query}: {}", answer.text());
    };
    with_url("INSERT+INTO+t+FORMAT+TSV", b"1\tone\n");
    with_url("INSERT+INTO+t+VALUES", b"(2, 'two;')");
    with_url("INSERT+INTO+t+VALUES+(3,'three')", b"");
    with_url("INSERT+INTO+t+FORMAT+CSV%0A4,four%0A", b"5,five\n");
    with_url("INSERT+INTO", b"t FORMAT JSONEachRow {\"a\": 6, \"b\": \"six\"}");
    with_url("INSERT+INTO+t+--+a+comment%0AFORMAT+TSV", b"7\tseven\n");
    server.must("INSERT INTO t (b, a) VALUES ('eight', 8); ");
    server.must("INSERT INTO t FORMAT CSV SETTINGS format_csv_delimiter = '|'\n9|nine\n");
    server.must("INSERT INTO t SELECT number + 10, 'many' FROM numbers(5)");
    let sum = server.must("SELECT count(), sum(a) FROM t");
    assert_eq!(sum, format!("14\t{}", (1..15).sum::<u64>()));
    // A million bytes of binary rows behind the statement, in one body.
    let mut body = b"INSERT INTO t FORMAT RowBinary\n".to_vec();
    for a in 100u64..50_100 {
        body.extend_from_slice(&a.to_le_bytes());
        body.extend_from_slice(b"\x08;;\n';--\0");
    }
    assert_eq!(server.send(ADMIN, "", &[], &body).outcome(), (200, None));
    assert_eq!(server.count("t"), 50_014);
}

#[test]
fn encoded_bodies_and_replies() {
    let server = Server::start();
    server.must(CREATE);
    let rows = b"1\tone\n2\ttwo\n";
    let gzip = || {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        writer.write_all(rows).expect("writes");
        writer.finish().expect("ends")
    };
    let lz4 = || {
        let mut writer = lz4_flex::frame::FrameEncoder::new(Vec::new());
        writer.write_all(rows).expect("writes");
        writer.finish().expect("ends")
    };
    let zstd = || zstd::stream::encode_all(&rows[..], 3).expect("encodes");
    for (name, body) in [("gzip", gzip()), ("lz4", lz4()), ("zstd", zstd())] {
        let insert = |body: &[u8]| {
            server
                .send(
                    WRITER,
                    "query=INSERT+INTO+t+FORMAT+TSV",
                    &[("Content-Encoding", name)],
                    body,
                )
                .outcome()
        };
        server.must("TRUNCATE TABLE t");
        assert_eq!(insert(&body), (200, None), "{name}");
        assert_eq!(server.count("t"), 2, "{name}");
        server.must("TRUNCATE TABLE t");
        assert_eq!(insert(&body[..body.len() - 1]), (500, Some(271)), "{name} cut");
        assert_eq!(server.count("t"), 0, "{name} cut");
    }
    let text = |name: &str, answer: &[u8]| match name {
        "gzip" => std::io::read_to_string(flate2::read::GzDecoder::new(answer)),
        "lz4" => std::io::read_to_string(lz4_flex::frame::FrameDecoder::new(answer)),
        _ => std::io::read_to_string(zstd::stream::read::Decoder::new(answer).expect("begins")),
    };
    for name in ["gzip", "lz4", "zstd"] {
        let answer = server.send(
            ADMIN,
            "",
            &[("Accept-Encoding", name)],
            b"SELECT number FROM numbers(1000)",
        );
        assert_eq!(answer.header("content-encoding"), Some(name));
        assert_eq!(
            text(name, &answer.body).expect("decodes").lines().count(),
            1000,
            "{name}"
        );
    }
    let plain = server.send(
        ADMIN,
        "enable_http_compression=0",
        &[("Accept-Encoding", "gzip")],
        b"SELECT 1",
    );
    assert_eq!(
        (plain.header("content-encoding"), plain.text().as_str()),
        (None, "1")
    );
}

/// One block as ClickHouse frames it, LZ4.
fn frame(data: &[u8]) -> Vec<u8> {
    let compressed = lz4_flex::block::compress(data);
    let mut block = vec![0x82];
    block.extend_from_slice(&(compressed.len() as u32 + 9).to_le_bytes());
    block.extend_from_slice(&(data.len() as u32).to_le_bytes());
    block.extend_from_slice(&compressed);
    let mut framed = cityhash_rs::cityhash_102_128(&block)
        .rotate_right(64)
        .to_le_bytes()
        .to_vec();
    framed.extend_from_slice(&block);
    framed
}

#[test]
fn frames_are_checked_before_any_row_is_stored() {
    let server = Server::start();
    server.must(CREATE);
    let insert = |body: &[u8]| {
        server
            .send(WRITER, "query=INSERT+INTO+t+FORMAT+TSV&decompress=1", &[], body)
            .outcome()
    };
    let two = [frame(b"1\tone\n"), frame(b"2\ttwo\n")].concat();
    // The first block is whole and good in each of these.
    let mut damaged = two.clone();
    *damaged.last_mut().expect("not empty") ^= 1;
    assert_eq!(insert(&damaged), (500, Some(40)));
    assert_eq!(insert(&two[..two.len() - 1]), (500, Some(33)));
    assert_eq!(insert(&[two.as_slice(), b"x"].concat()), (500, Some(33)));
    assert_eq!(server.count("t"), 0);
    assert_eq!(insert(&two), (200, None));
    assert_eq!(server.count("t"), 2);
    let reply = server.send(ADMIN, "compress=1", &[], b"SELECT 'framed' FORMAT TSV");
    assert_eq!(reply.body, frame(b"framed\n"));
}

/// A request as bytes: what `cut` leaves of `body` in the framing named, and the end of the connection.
fn cut_request(body: &[u8], chunked: bool, cut: usize) -> Vec<u8> {
    let (user, key) = WRITER;
    let head = format!(
        "POST /?query=INSERT+INTO+t+FORMAT+TSV HTTP/1.1\r\nHost: x\r\nX-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {key}\r\n"
    );
    let mut request = head.into_bytes();
    if chunked {
        request.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        let mut chunks = Vec::new();
        for chunk in body.chunks(6) {
            chunks.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            chunks.extend_from_slice(chunk);
            chunks.extend_from_slice(b"\r\n");
        }
        chunks.extend_from_slice(b"0\r\n\r\n");
        request.extend_from_slice(&chunks[..chunks.len() - cut]);
    } else {
        request.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        request.extend_from_slice(&body[..body.len() - cut]);
    }
    request
}

#[test]
fn a_body_cut_short_stores_nothing() {
    let server = Server::start();
    server.must(CREATE);
    let body = b"1\tone\n2\ttwo\n3\tsix\n";
    // Every cut at a row's end too: what has arrived would be good rows.
    for cut in 1..=body.len() {
        server.send_raw(&cut_request(body, false, cut));
    }
    for cut in 1..30 {
        server.send_raw(&cut_request(body, true, cut));
    }
    assert_eq!(server.count("t"), 0);
    for chunked in [false, true] {
        let answer = server.send_raw(&cut_request(body, chunked, 0));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(
        server.must("SELECT count(), uniqExact(a) FROM t"),
        "3\t3",
        "the second is the first's duplicate"
    );
}

#[test]
fn large_bodies_are_refused_before_they_are_kept() {
    let server = Server::start_with(&["--body-limit", "1000"]);
    server.must(CREATE);
    let insert = "query=INSERT+INTO+t+FORMAT+TSV";
    let rows = "1\tx\n".repeat(300);
    assert_eq!(
        server.send(WRITER, insert, &[], rows.as_bytes()).outcome(),
        (413, Some(229))
    );
    // Small on the wire, large afterwards.
    let framed = frame(rows.as_bytes());
    assert!(framed.len() < 1000);
    assert_eq!(
        server
            .send(WRITER, &format!("{insert}&decompress=1"), &[], &framed)
            .outcome(),
        (413, Some(229))
    );
    let zstd = zstd::stream::encode_all(rows.as_bytes(), 3).expect("encodes");
    let headers = [("Content-Encoding", "zstd")];
    assert_eq!(
        server.send(WRITER, insert, &headers, &zstd).outcome(),
        (413, Some(229))
    );
    assert_eq!(server.count("t"), 0);
}

#[test]
fn a_form_carries_the_query_and_its_parameters() {
    let server = Server::start();
    let form = "--xyz\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {a:String} || {b:String}\r\n\
                --xyz\r\nContent-Disposition: form-data; name=\"param_a\"\r\n\r\nit's\r\n--xyz--\r\n";
    let headers = [("Content-Type", "multipart/form-data; boundary=xyz")];
    let answer = server.send(ADMIN, "param_b=;%5Cn", &headers, form.as_bytes());
    assert_eq!(answer.text(), "it\\'s;\\n");
    let cut = server.send(ADMIN, "param_b=x", &headers, &form.as_bytes()[..form.len() - 6]);
    assert_eq!(cut.outcome(), (500, Some(408)));
}
