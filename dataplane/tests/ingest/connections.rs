//! Connections: both versions of HTTP, TLS and its renewal, and their bounds.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::harness::{Ingest, apps, parse, read_all, wait_for};

const EVENT: &str = r#"{"event_type":"a"}"#;

type Body = Either<Full<Bytes>, Channel<Bytes>>;

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.unwrap() })
}

fn post(body: Body) -> Request<Body> {
    Request::post("http://ingest.test/v1/events")
        .header("host", "ingest.test")
        .header("x-api-key", "writer")
        .body(body)
        .unwrap()
}

fn event() -> Request<Body> {
    post(Either::Left(Full::from(EVENT)))
}

async fn tcp(ingest: &Ingest) -> tokio::net::TcpStream {
    tokio::net::TcpStream::connect(("127.0.0.1", ingest.port()))
        .await
        .unwrap()
}

/// A connection of HTTP/2; the task ends with it.
async fn over_http2<S>(stream: S) -> (http2::SendRequest<Body>, tokio::task::JoinHandle<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    // How it ends does not matter, that it does may.
    (sender, tokio::spawn(async move { drop(connection.await) }))
}

#[test]
fn requests_that_come_at_once_are_answered_in_order() {
    let ingest = Ingest::start();
    let mut stream = ingest.connect();
    let request = |id: &str, more: &str| {
        format!(
            "POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: writer\r\nx-request-id: {id}\r\n{more}content-length: {}\r\n\r\n{EVENT}",
            EVENT.len()
        )
    };
    let all = [
        request("1", ""),
        request("2", ""),
        request("3", "connection: close\r\n"),
    ]
    .concat();
    stream.write_all(all.as_bytes()).unwrap();
    let answers = String::from_utf8(read_all(&mut stream).unwrap()).unwrap();
    let ids: Vec<_> = answers
        .lines()
        .filter_map(|line| line.strip_prefix("x-request-id: "))
        .collect();
    assert_eq!(
        (ids, answers.matches("HTTP/1.1 200 OK").count()),
        (vec!["1", "2", "3"], 3),
        "{answers}"
    );
    assert_eq!(ingest.stored(3).len(), 3);

    // An answer does not wait for the rest of the next request.
    let mut stream = ingest.connect();
    let (first, second) = (request("4", ""), request("5", "connection: close\r\n"));
    let (begin, end) = second.split_at(20);
    stream.write_all(format!("{first}{begin}").as_bytes()).unwrap();
    let mut buffer = [0; 2000];
    let read = stream.read(&mut buffer).unwrap();
    assert!(String::from_utf8_lossy(&buffer[..read]).contains("x-request-id: 4"));
    stream.write_all(end.as_bytes()).unwrap();
    let rest = String::from_utf8(read_all(&mut stream).unwrap()).unwrap();
    assert!(rest.contains("x-request-id: 5"), "{rest}");
}

/// Longer than a client takes that goes away, and less than Kafka may take.
const ROUND_TRIP: Duration = Duration::from_secs(1);

#[test]
fn who_has_said_everything_may_close_his_half() {
    let ingest = Ingest::start();
    ingest.kafka.broker_round_trip_time(1, ROUND_TRIP).unwrap();
    let mut stream = ingest.connect();
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: writer\r\ncontent-length: {}\r\n\r\n{EVENT}",
        EVENT.len()
    );
    // The last of several is answered, too.
    stream.write_all(request.repeat(2).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answers = String::from_utf8(read_all(&mut stream).unwrap()).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    ingest.wait_for("the connection to be closed on this side as well", || {
        ingest.metric("penstock_ingest_connections") == 0.0
    });
    ingest.kafka.broker_round_trip_time(1, Duration::ZERO).unwrap();
    assert_eq!(ingest.stored(2).len(), 2);
}

#[test]
fn what_was_sent_is_counted_though_its_client_goes_away() {
    let ingest = Ingest::start();
    let accepted = r#"penstock_ingest_events_total{app="growth/shop",outcome="accepted",reason=""}"#;
    let answered = r#"penstock_http_requests_total{method="POST",route="/v1/events",status="200"}"#;
    assert_eq!(ingest.write("/v1/events", EVENT).status, 200);
    assert_eq!((ingest.metric(accepted), ingest.metric(answered)), (1.0, 1.0));
    ingest.kafka.broker_round_trip_time(1, ROUND_TRIP).unwrap();
    let mut gone = ingest.connect();
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: writer\r\ncontent-length: {}\r\n\r\n{EVENT}",
        EVENT.len()
    );
    gone.write_all(request.as_bytes()).unwrap();
    drop(gone);
    ingest.wait_for("it to be counted", || {
        (ingest.metric(accepted), ingest.metric(answered)) == (2.0, 2.0)
    });

    block_on(async {
        let (mut sender, connection) = over_http2(tcp(&ingest).await).await;
        // Taken back, which HTTP/2 has a frame for; then the connection goes with it.
        for _ in 0..2 {
            let answer = tokio::time::timeout(ROUND_TRIP / 4, sender.send_request(event()));
            assert!(answer.await.is_err(), "not answered yet");
        }
        connection.abort();
    });
    ingest.wait_for("they to be counted", || ingest.metric(accepted) == 4.0);
    assert_eq!(ingest.metric(answered), 2.0, "those were not answered");
    ingest.kafka.broker_round_trip_time(1, Duration::ZERO).unwrap();
    assert_eq!(ingest.stored(4).len(), 4);
}

#[test]
fn what_is_no_http_is_told_so() {
    let ingest = Ingest::start();
    for text in [
        "NO HTTP\r\n\r\n",
        "POST /v1/events HTTP/1.1\r\nbad header\r\n\r\n",
        "POST /v1/events HTTP/1.1\r\ncontent-length: x\r\n\r\n{}",
        // Neither does it take the end of the head to know, nor the whole of what HTTP/2 begins with.
        "POST /v1/events HTTP/9.9\r\nhost: x\r\n",
        "PRI * HTTP/1.1\r\nhost x\r\n\r\n",
    ] {
        let mut stream = ingest.connect();
        stream.write_all(text.as_bytes()).unwrap();
        let answer = parse(&read_all(&mut stream).unwrap()).unwrap();
        assert_eq!(answer.status, 400, "{text:?}");
    }
}

#[test]
fn a_connection_may_begin_in_pieces() {
    const PAUSE: Duration = Duration::from_millis(50);
    let ingest = Ingest::start();
    let in_pieces = |pieces: &[&[u8]]| {
        let mut stream = ingest.connect();
        stream.set_nodelay(true).unwrap();
        for piece in pieces {
            stream.write_all(piece).unwrap();
            std::thread::sleep(PAUSE);
        }
        stream
    };
    let rest = format!(
        "OST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: writer\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{EVENT}",
        EVENT.len()
    );
    let mut posted = in_pieces(&[b"P", rest.as_bytes()]);
    assert_eq!(parse(&read_all(&mut posted).unwrap()).unwrap().status, 200);

    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let preface: [&[u8]; 5] = [b"P", b"RI", b" * HTTP/2.0\r\n", b"\r\nSM\r\n\r\n", &settings];
    let mut spoken = in_pieces(&preface);
    let mut frame = [0; 9];
    spoken.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4, "SETTINGS come first: {frame:?}");

    // Who goes away after a byte is not waited for.
    let gone = in_pieces(&[b"P"]);
    gone.shutdown(std::net::Shutdown::Write).unwrap();
    let begun = Instant::now();
    assert_eq!(read_all(&mut { gone }).unwrap(), b"");
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_connection_of_http_2_may_be_quiet() {
    let ingest = Ingest::start();
    block_on(async {
        let (mut sender, connection) = over_http2(tcp(&ingest).await).await;
        // Longer than the head of a request may take that has begun.
        tokio::time::sleep(Duration::from_secs(8)).await;
        let answer = sender.send_request(event()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(!connection.is_finished());
    });
}

#[test]
fn http_2_is_spoken_to_who_knows_it() {
    let ingest = Ingest::start_with("limits: {requestTimeout: 3s, kafkaTimeout: 2s}", &apps(""));
    block_on(async {
        let (sender, connection) = over_http2(tcp(&ingest).await).await;
        // A body that never ends on the same connection keeps nobody waiting.
        let (mut endless, body) = Channel::new(1);
        endless.send_data(Bytes::from_static(b"{")).await.unwrap();
        let endless_answer = tokio::spawn({
            let mut sender = sender.clone();
            async move { sender.send_request(post(Either::Right(body))).await }
        });
        let answers = (0..20).map(|_| {
            let mut sender = sender.clone();
            async move { sender.send_request(event()).await.unwrap() }
        });
        for answer in futures::future::join_all(answers).await {
            assert_eq!(
                (answer.status(), answer.version()),
                (StatusCode::OK, Version::HTTP_2)
            );
            assert!(answer.headers().contains_key("x-request-id"));
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert!(body.starts_with(b"{\"status\":\"accepted\""), "{body:?}");
        }
        let answer = endless_answer.await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
        assert!(!connection.is_finished(), "the connection outlives it");
    });
    assert_eq!(ingest.stored(20).len(), 20);
}

#[test]
fn http_2_is_told_its_bounds() {
    let ingest = Ingest::start();
    let mut stream = ingest.connect();
    let nothing_special = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let begin = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &nothing_special].concat();
    stream.write_all(&begin).unwrap();
    let mut frame = || {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).unwrap();
        (head[3], payload)
    };
    let (kind, settings) = frame();
    assert_eq!(kind, 4, "SETTINGS come first");
    let told = |number: u8| {
        let one = settings.chunks(6).find(|one| one[..2] == [0, number]);
        one.map(|one| u32::from_be_bytes([one[2], one[3], one[4], one[5]]))
    };
    let (streams, ahead_each, head) = (told(3), told(4), told(6));
    assert_eq!(
        (streams, ahead_each, head),
        (Some(128), Some(256 * 1024), Some(32 * 1024))
    );
    // What all of them may send ahead is no setting: it is 65535 bytes until it is widened.
    let widened = loop {
        if let (8, more) = frame() {
            break u32::from_be_bytes(more.try_into().unwrap());
        }
    };
    assert_eq!(65_535 + widened, 1024 * 1024);
}

#[test]
fn http_2_is_told_to_go_elsewhere_when_the_process_stops() {
    let mut ingest = Ingest::start();
    block_on(async {
        let (mut sender, connection) = over_http2(tcp(&ingest).await).await;
        assert_eq!(
            sender.send_request(event()).await.unwrap().status(),
            StatusCode::OK
        );
        ingest.signal("TERM");
        tokio::time::timeout(Duration::from_secs(3), connection)
            .await
            .unwrap()
            .unwrap();
    });
    assert!(ingest.ended(Duration::from_secs(15)).success());
}

/// Writes a new certificate and its key; gives back what a client has to trust.
fn certificate(directory: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["ingest.test".to_owned()]).unwrap();
    // Renamed, as whoever renews a certificate does.
    for (name, text) in [
        ("tls.crt", made.cert.pem()),
        ("tls.key", made.signing_key.serialize_pem()),
    ] {
        let new = directory.join(format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, directory.join(name)).unwrap();
    }
    CertificateDer::from_pem_file(directory.join("tls.crt")).unwrap()
}

async fn over_tls(
    ingest: &Ingest,
    trusted: &CertificateDer<'static>,
    alpn: &[&str],
) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("ingest.test").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp(ingest).await)
        .await
}

#[test]
fn tls_is_spoken_and_renewed_without_cutting_anybody() {
    let files = tempfile::tempdir().unwrap();
    let first = certificate(files.path());
    let settings = format!(
        "tls: {{certFile: {0}/tls.crt, keyFile: {0}/tls.key}}",
        files.path().display()
    );
    let ingest = Ingest::start_with(&settings, &apps(""));
    block_on(async {
        let stream = over_tls(&ingest, &first, &["h2", "http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut before, connection) = over_http2(stream).await;
        assert_eq!(
            before.send_request(event()).await.unwrap().status(),
            StatusCode::OK
        );
        for alpn in [&["http/1.1"][..], &[]] {
            let stream = over_tls(&ingest, &first, alpn).await.unwrap();
            let (mut sender, http1) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(http1);
            let answer = sender.send_request(event()).await.unwrap();
            assert_eq!(
                (answer.status(), answer.version()),
                (StatusCode::OK, Version::HTTP_11),
                "{alpn:?}"
            );
        }

        let second = certificate(files.path());
        let reloads = r#"penstock_ingest_tls_reloads_total{outcome="accepted"}"#;
        wait_for("the new certificate", || ingest.metric(reloads) >= 1.0);
        assert!(over_tls(&ingest, &first, &[]).await.is_err());
        let stream = over_tls(&ingest, &second, &["h2"]).await.unwrap();
        let (mut after, _) = over_http2(stream).await;
        for sender in [&mut before, &mut after] {
            assert_eq!(
                sender.send_request(event()).await.unwrap().status(),
                StatusCode::OK
            );
        }
        assert!(
            !connection.is_finished(),
            "who was connected is not cut by a renewal"
        );
    });
    assert_eq!(ingest.stored(5).len(), 5);
    // Plain HTTP is no TLS.
    assert!(ingest.try_write(EVENT).is_err());
    ingest.wait_for("the failed handshakes to be counted", || {
        ingest.metric("penstock_ingest_tls_handshakes_failed_total") >= 2.0
    });
    let readyz = ingest.readyz();
    assert_eq!((readyz.status, &readyz.body["status"]), (200, &"ready".into()));
}

#[test]
fn who_does_not_agree_on_tls_is_cut() {
    let files = tempfile::tempdir().unwrap();
    certificate(files.path());
    let settings = format!(
        "tls: {{certFile: {0}/tls.crt, keyFile: {0}/tls.key}}",
        files.path().display()
    );
    let ingest = Ingest::start_with(&settings, &apps(""));
    let mut silent = ingest.connect();
    let before = Instant::now();
    assert_eq!(
        read_all(&mut silent).unwrap(),
        b"",
        "there is nothing to be said in"
    );
    assert!(
        (Duration::from_secs(5)..Duration::from_secs(12)).contains(&before.elapsed()),
        "{:?}",
        before.elapsed()
    );
    ingest.wait_for("it to be counted", || {
        ingest.metric("penstock_ingest_tls_handshakes_failed_total") == 1.0
    });
}

#[test]
fn without_its_certificate_it_does_not_start() {
    let settings = "tls: {certFile: /nowhere/tls.crt, keyFile: /nowhere/tls.key}";
    let mut ingest = Ingest::start_unready(settings, &apps(""));
    assert!(!ingest.ended(Duration::from_secs(10)).success());
    let log = std::fs::read_to_string(ingest.directory.path().join("log.json")).unwrap();
    assert!(log.contains("/nowhere/tls.crt"), "{log}");
}

#[test]
fn there_are_only_so_many_connections() {
    let ingest = Ingest::start_with("limits: {connections: 2}\nshards: 2", &apps(""));
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: writer\r\ncontent-length: {}\r\n\r\n{EVENT}",
        EVENT.len()
    );
    let mut held: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = ingest.connect();
            stream.write_all(request.as_bytes()).unwrap();
            assert!(stream.read(&mut [0; 1000]).unwrap() > 0);
            stream
        })
        .collect();
    let mut refused = ingest.connect();
    let reply = parse(&read_all(&mut refused).unwrap()).unwrap();
    assert_eq!(
        (
            reply.status,
            reply.headers["retry-after"].as_str(),
            reply.headers["connection"].as_str()
        ),
        (503, "1", "close")
    );
    assert_eq!(reply.body["code"], "overloaded");
    assert_eq!(ingest.metric("penstock_ingest_connections_refused_total"), 1.0);
    for stream in &mut held {
        stream.write_all(request.as_bytes()).unwrap();
        assert!(
            stream.read(&mut [0; 1000]).unwrap() > 0,
            "who is there already is served"
        );
    }
    held.pop();
    ingest.wait_for("room for another", || {
        ingest.try_write(EVENT).is_ok_and(|reply| reply.status == 200)
    });
}

#[test]
fn over_tls_a_connection_too_many_is_closed() {
    let files = tempfile::tempdir().unwrap();
    let trusted = certificate(files.path());
    let settings = format!(
        "limits: {{connections: 1}}\ntls: {{certFile: {0}/tls.crt, keyFile: {0}/tls.key}}",
        files.path().display()
    );
    let ingest = Ingest::start_with(&settings, &apps(""));
    block_on(async {
        let _held = over_tls(&ingest, &trusted, &[]).await.unwrap();
        assert_eq!(read_all(&mut ingest.connect()).unwrap(), b"");
    });
    assert_eq!(ingest.metric("penstock_ingest_connections_refused_total"), 1.0);
}

#[test]
fn heads_are_bounded_in_size_and_time() {
    let ingest = Ingest::start();
    let long = "x".repeat(40_000);
    let reply = ingest.post("/v1/events", &[("x-api-key", "writer"), ("cookie", &long)], EVENT);
    assert_eq!(reply.status, 431);
    assert_eq!(ingest.write("/v1/events", EVENT).status, 200);
    // It might have become HTTP/2, had it gone on.
    let mut stream = ingest.connect();
    stream.write_all(b"P").unwrap();
    let before = Instant::now();
    assert_eq!(parse(&read_all(&mut stream).unwrap()).unwrap().status, 408);
    assert!(
        (Duration::from_secs(5)..Duration::from_secs(12)).contains(&before.elapsed()),
        "{:?}",
        before.elapsed()
    );
}

#[test]
fn the_kernel_asks_silent_peers_whether_they_are_there() {
    let ingest = Ingest::start();
    let stream = ingest.connect();
    let local = format!("0100007F:{:04X}", ingest.port());
    let peer = format!("0100007F:{:04X}", stream.local_addr().unwrap().port());
    // Local and remote address, state (01 is established), queues, then which timer runs (02 is keep-alive).
    ingest.wait_for("the timer", || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        table.lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields.len() > 5
                && (fields[1], fields[2], fields[3]) == (&*local, &*peer, "01")
                && fields[5].starts_with("02:")
        })
    });
}

#[test]
fn it_says_what_it_is_only_when_told_to() {
    let ingest = Ingest::start();
    assert!(!ingest.write("/v1/events", EVENT).headers.contains_key("server"));
    let ingest = Ingest::start_with("serverHeader: edge/7", &apps(""));
    assert_eq!(ingest.write("/v1/events", EVENT).headers["server"], "edge/7");
    assert_eq!(ingest.write("/nowhere", EVENT).headers["server"], "edge/7");
}
