//! Two thousand clients that send a byte a second: they are cut in time, and cost those who send whole requests little.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::broker::Broker;
use super::harness::{Client, EndsWith, Ingest, LETTERS, TOPIC, apps, binary};

const SLOW: u32 = 2000;
/// Between two bytes of one of them.
const PAUSE: Duration = Duration::from_secs(1);
/// When they are cut: the least, and what a busy machine may make of it.
const CUT: std::ops::Range<Duration> = Duration::from_secs(5)..Duration::from_secs(15);
/// Whole requests: clients, and the time between two requests of one.
const CLIENTS: usize = 4;
const EVERY: Duration = Duration::from_millis(5);
const ALONE: Duration = Duration::from_secs(4);
/// As long as the slowest client is borne.
const BESIDE: Duration = Duration::from_secs(8);
/// What an event may cost beside them, of what it costs alone. `make test-full` holds them to less, with more traffic and a
/// machine to itself.
const DEARER: f64 = 1.5;
/// What p99 may be beside them: twice what it is alone, and what a busy machine adds.
const LATER: (u32, Duration) = (2, Duration::from_millis(50));
/// A machine that does something else meanwhile may spoil a pair of runs, but hardly each of them.
const PAIRS: usize = 3;

#[test]
fn slow_clients_are_cut_and_cost_others_little() {
    // Each is a descriptor here and one in the process, which inherits the limit.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let kafka = Broker::new();
    kafka.create_topic(TOPIC, 3, 1).unwrap();
    kafka.create_topic(LETTERS, 1, 1).unwrap();
    let mut command = binary();
    // What it would say about each connection is dearer than the connection.
    command.env("RUST_LOG", "info");
    let settings = "limits: {requestTimeout: 6s, kafkaTimeout: 3s}\nshards: 1";
    let ingest = Ingest::start_as(command, kafka, settings, &apps(""));
    ingest.wait_for("readiness", || ingest.readyz().status == 200);
    // Everything has been done once when it is measured.
    whole_requests(&ingest, ALONE / 4);

    let mut pairs = Vec::new();
    while pairs.len() < PAIRS {
        let alone = whole_requests(&ingest, ALONE);
        let beside = beside_slow_clients(&ingest);
        println!("alone {alone:?}, beside slow clients {beside:?}");
        let dearer = beside.cpu / alone.cpu;
        let is_late = beside.p99 > alone.p99 * LATER.0 + LATER.1;
        pairs.push((dearer, is_late));
        if dearer <= DEARER && !is_late {
            return;
        }
    }
    panic!("beside slow clients whole requests are dearer or later, each time: {pairs:?}");
}

/// What whole requests cost.
#[derive(Debug)]
struct Cost {
    /// Microseconds of the process, an event.
    cpu: f64,
    p99: Duration,
}

/// Sends them for so long; each must be accepted.
fn whole_requests(ingest: &Ingest, time: Duration) -> Cost {
    let (client, before, end) = (**ingest, ingest.cpu(), Instant::now() + time);
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(move || whole_client(client, end)))
            .collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect()
    });
    let cpu = (ingest.cpu() - before).as_secs_f64() * 1e6 / took.len() as f64;
    took.sort_unstable();
    Cost {
        cpu,
        p99: took[took.len() * 99 / 100],
    }
}

/// How long each of its requests took.
fn whole_client(client: Client, end: Instant) -> Vec<Duration> {
    const BODY: &str = r#"{"event_type":"a"}"#;
    let request = format!("{HEAD}content-length: {}\r\n\r\n{BODY}", BODY.len());
    let mut stream = client.connect();
    stream.set_nodelay(true).unwrap();
    let (mut took, mut next, mut answer) = (Vec::new(), Instant::now(), [0; 2000]);
    while next < end {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let began = Instant::now();
        stream.write_all(request.as_bytes()).unwrap();
        let mut filled = 0;
        // Answers are one JSON object.
        while !answer[..filled].ends_with(b"}") {
            let read = stream.read(&mut answer[filled..]).unwrap();
            assert!(read > 0, "the connection was closed");
            filled += read;
        }
        took.push(began.elapsed());
        let answer = String::from_utf8_lossy(&answer[..filled]);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        next += EVERY;
    }
    took
}

/// The same when each slow client has been cut and has come again.
fn beside_slow_clients(ingest: &Ingest) -> Cost {
    let (client, cut, stop) = (**ingest, AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| slow_clients(client, &cut, &stop));
        let _ended = EndsWith(&stop);
        ingest.wait_for("each slow client to be cut", || cut.load(Relaxed) >= SLOW);
        whole_requests(ingest, BESIDE)
    })
}

const HEAD: &str = "POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: writer\r\n";

/// All of them, half of which never end a head, and the others never a body. `cut` counts those that were.
fn slow_clients(client: Client, cut: &AtomicU32, stop: &AtomicBool) {
    let body = format!("{HEAD}content-length: 1000\r\n\r\n");
    let mut clients: Vec<Slow<'_>> = (0..SLOW)
        .map(|number| match number % 2 {
            0 => Slow::new(client, HEAD, 1),
            _ => Slow::new(client, &body, body.len()),
        })
        .collect();
    let mut next = Instant::now();
    while !stop.load(Relaxed) {
        for slow in &mut clients {
            let is_cut = slow.turn(client);
            cut.fetch_add(u32::from(is_cut && !slow.cut), Relaxed);
            slow.cut |= is_cut;
            // Whoever comes late makes up for it.
            next += PAUSE / SLOW;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
}

struct Slow<'r> {
    stream: TcpStream,
    request: &'r str,
    /// Bytes that go out first; every other one has a turn of its own.
    at_once: usize,
    sent: usize,
    since: Instant,
    /// Whether it ever was.
    cut: bool,
}

impl<'r> Slow<'r> {
    fn new(client: Client, request: &'r str, at_once: usize) -> Self {
        Self {
            stream: dial(client),
            request,
            at_once,
            sent: 0,
            since: Instant::now(),
            cut: false,
        }
    }

    /// Sends one byte more; whether it had been told to go, and has come again instead.
    fn turn(&mut self, client: Client) -> bool {
        let mut answer = [0; 512];
        match self.stream.read(&mut answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            told => {
                let after = self.since.elapsed();
                let is_timeout = |read: &usize| answer[..*read].starts_with(b"HTTP/1.1 408");
                assert!(told.as_ref().is_ok_and(is_timeout), "{told:?} after {after:?}");
                assert!(CUT.contains(&after), "cut after {after:?}");
                (self.stream, self.sent) = (dial(client), 0);
                return true;
            }
        }
        if self.sent == 0 {
            self.since = Instant::now();
        }
        let next = (self.sent + 1).max(self.at_once);
        // Behind its head come spaces. What becomes of a write is seen by the next read.
        let bytes = self.request.as_bytes().get(self.sent..next).unwrap_or(b" ");
        let _ = self.stream.write(bytes);
        self.sent = next;
        false
    }
}

fn dial(client: Client) -> TcpStream {
    let stream = client.connect();
    stream.set_nodelay(true).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}
