//! After warm-up a request costs a bounded number of allocations, and an event costs none; only one that becomes a record of
//! its own costs what a record does.
//!
//! The role runs inside this process, so that an allocator which counts sees what the shard's thread does. librdkafka
//! allocates by itself, per group; that is not counted.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails where it stands"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use penstock_dataplane::ingest;
use penstock_dataplane::process::Process;
use penstock_dataplane_config::IngestConfig;
use penstock_dataplane_config::load::{Environment, load_file};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use sha2::{Digest as _, Sha256};

const THREADS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);

static ALLOCATIONS: [AtomicU64; THREADS] = [const { AtomicU64::new(0) }; THREADS];
/// The kernel's number of the thread that has a slot.
static NUMBERS: [AtomicU64; THREADS] = [const { AtomicU64::new(0) }; THREADS];
static TAKEN: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SLOT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The system's allocator, counting by thread.
struct Counting;

impl Counting {
    fn count() {
        // A thread that is ending has no slot any more, and nobody asks for its count.
        let _ = SLOT.try_with(|slot| {
            if slot.get() == usize::MAX {
                slot.set(TAKEN.fetch_add(1, Relaxed).min(THREADS - 1));
                let number = nix::unistd::gettid().as_raw();
                NUMBERS[slot.get()].store(number.unsigned_abs().into(), Relaxed);
            }
            ALLOCATIONS[slot.get()].fetch_add(1, Relaxed);
        });
    }
}

// SAFETY: everything is the system allocator's; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

type Kafka = MockCluster<'static, DefaultProducerContext>;

/// A role that runs until the program ends.
struct Role {
    port: u16,
    /// Threads that had a slot before it started.
    before: usize,
    _kafka: Kafka,
}

impl Role {
    fn start(settings: &str) -> Self {
        let kafka: Kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        kafka.create_topic("t.dlq", 1, 1).unwrap();
        let directory = tempfile::tempdir().unwrap().keep();
        let apps = directory.join("apps.yaml");
        let key = |name: &str, more: &str| {
            let digest: String = Sha256::digest(name)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            format!("{{name: {name}, digest: '{digest}', scope: Write{more}}}")
        };
        let text = format!(
            "{{version: 1, replicas: 1, apps: [{{id: {APP}, name: growth/shop, keys: [{}, {}]}}]}}",
            key("key", ""),
            key("trusted", ", trusted: true")
        );
        std::fs::write(&apps, text).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = directory.join("config.yaml");
        let text = format!(
            "version: 1\npipeline: {{namespace: growth, name: events}}\nlisten: 127.0.0.1:{port}\nadmin: 127.0.0.1:0\n\
             kafka: {{bootstrap: '{}', topic: t, deadLetterTopic: t.dlq}}\nappsFile: {}\nshards: 1\n{settings}\n",
            kafka.bootstrap_servers(),
            apps.display()
        );
        std::fs::write(&config, text).unwrap();
        let config: IngestConfig = load_file(&config, &Environment::default()).unwrap().config;
        let before = TAKEN.load(Relaxed);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(ingest::run(config, Process::new())).unwrap();
        });
        Self {
            port,
            before,
            _kafka: kafka,
        }
    }

    /// The slot of its shard's thread.
    fn shard(&self) -> usize {
        let taken = TAKEN.load(Relaxed);
        assert!(taken < THREADS, "more threads than slots");
        (self.before..taken)
            .find(|slot| {
                let number = NUMBERS[*slot].load(Relaxed);
                let comm = std::fs::read_to_string(format!("/proc/self/task/{number}/comm"));
                comm.is_ok_and(|comm| comm.trim() == "shard-0")
            })
            .expect("the shard has allocated")
    }

    /// Allocations of one request of this kind with 100 events, and with 1000.
    fn allocations(&self, kind: &Kind) -> (f64, f64) {
        const REQUESTS: u64 = 20;
        let mut client = Client::connect(self.port);
        let probe = request(kind, 1);
        let deadline = Instant::now() + PATIENCE;
        while client.send(&probe) != "200" {
            assert!(
                Instant::now() < deadline,
                "{}: it does not become ready",
                kind.name
            );
            std::thread::sleep(Duration::from_millis(20));
            client = Client::connect(self.port);
        }
        let counter = &ALLOCATIONS[self.shard()];
        let mut each_request = |events| {
            let request = request(kind, events);
            let rounds =
                |client: &mut Client| (0..REQUESTS).for_each(|_| assert_eq!(client.send(&request), "200"));
            rounds(&mut client);
            let before = counter.load(Relaxed);
            rounds(&mut client);
            (counter.load(Relaxed) - before) as f64 / REQUESTS as f64
        };
        let (few, many) = (each_request(100), each_request(1000));
        println!("{}: {few} allocations for 100 events, {many} for 1000", kind.name);
        (few, many)
    }
}

/// A client that allocates for its requests beforehand.
struct Client {
    stream: TcpStream,
    reply: Vec<u8>,
}

impl Client {
    fn connect(port: u16) -> Self {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            reply: vec![0; 4096],
        }
    }

    /// The status.
    fn send(&mut self, request: &[u8]) -> String {
        self.stream.write_all(request).unwrap();
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.reply[filled..]).unwrap();
            assert!(read > 0, "the connection was closed");
            filled += read;
            // Answers are one JSON object.
            if self.reply[..filled].ends_with(b"}") {
                return String::from_utf8_lossy(&self.reply[9..12]).into_owned();
            }
        }
    }
}

/// Requests that differ in the number of their events only.
struct Kind {
    name: &'static str,
    path: &'static str,
    /// The key's, and those that say how the body is to be read.
    headers: &'static str,
    event: fn(usize) -> String,
}

fn request(kind: &Kind, events: usize) -> Vec<u8> {
    let events: Vec<String> = (0..events).map(kind.event).collect();
    let list = events.join(",");
    let body = match kind.path {
        SEGMENT => format!("{{\"batch\":[{list}]}}"),
        ENVELOPE => format!("{{\"app_id\":\"{APP}\",\"events\":[{list}]}}"),
        _ if kind.headers.contains("ndjson") => events.join("\n"),
        _ => format!("{{\"events\":[{list}]}}"),
    };
    let mut body = body.into_bytes();
    if kind.headers.contains("gzip") {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&body).unwrap();
        body = encoder.finish().unwrap();
    }
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: i\r\n{}content-length: {}\r\n\r\n",
        kind.path,
        kind.headers,
        body.len()
    );
    [head.into_bytes(), body].concat()
}

const APP: &str = "6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11";
const NATIVE: &str = "/v1/events/batch";
const ENVELOPE: &str = "/api/v1/events";
const SEGMENT: &str = "/segment/v1/batch";
const KEY: &str = "x-api-key: key\r\n";

/// An event with nothing but what it must have.
fn least(_: usize) -> String {
    "{\"event_type\":\"view\"}".into()
}

/// A call as the Node.js SDK sends it.
fn track(index: usize) -> String {
    format!(
        "{{\"type\":\"track\",\"event\":\"Signed Up\",\"userId\":\"u-{index}\",\"messageId\":\"node-next-1763740000000-{index}\",\
         \"timestamp\":\"2025-11-21T10:00:00.000Z\",\"properties\":{{\"plan\":\"pro\"}},\"integrations\":{{}},\
         \"context\":{{\"library\":{{\"name\":\"@segment/analytics-node\",\"version\":\"2.3.0\"}},\"os\":{{\"name\":\"linux\"}}}},\
         \"_metadata\":{{\"nodeVersion\":\"22\"}}}}"
    )
}

/// An event that uses every member.
fn full(index: usize) -> String {
    format!(
        "{{\"event_type\":\"purchase\",\"event_id\":\"0193f1c2-7b3e-4c31-a3c9-{index:012x}\",\"user_id\":\"u-{index}\",\
         \"device_id\":\"d\",\"session_id\":\"s\",\"timestamp\":\"2025-11-21T10:00:00.5Z\",\"platform\":\"ios\",\
         \"os_version\":\"18\",\"app_version\":\"3\",\"attribution\":{{\"a\":1}},\"event_data\":{{\"b\":[1,2,{{}}]}},\
         \"context\":{{\"c\":true}}}}"
    )
}

/// What the replaced platform's clients send.
fn enveloped(index: usize) -> String {
    format!(
        "{{\"event_id\":\"0193f1c2-7b3e-4c31-a3c9-{index:012x}\",\"event_name\":\"purchase\",\"user_id\":\"u-{index}\",\
         \"timestamp\":\"2025-11-21T10:00:00.5Z\",\"properties\":{{\"amount\":12.5}}}}"
    )
}

/// What a backend sends for somebody else.
fn forwarded(index: usize) -> String {
    let (high, low) = (index / 256, index % 256);
    format!(
        "{{\"event_type\":\"view\",\"ip\":\"203.0.{high}.{low}\",\"user_agent\":\"Mozilla/5.0 ({index})\"}}"
    )
}

/// One role at a time: what each allocates is told apart by the order in which threads begin.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn an_event_costs_no_allocation() {
    let _turn = ONE_AT_A_TIME.lock();
    let role = Role::start("");
    let native = |name, headers, event| Kind {
        name,
        path: NATIVE,
        headers,
        event,
    };
    let of = |name, path, event| Kind {
        name,
        path,
        headers: KEY,
        event,
    };
    for kind in [
        native("the least", KEY, least),
        native("every member", KEY, full),
        native("an unknown member", KEY, |index| {
            format!("{{\"event_type\":\"view\",\"colour\":{index}}}")
        }),
        native(
            "a line each",
            "x-api-key: key\r\ncontent-type: application/x-ndjson\r\n",
            full,
        ),
        native("gzip", "x-api-key: key\r\ncontent-encoding: gzip\r\n", full),
        native("for somebody else", "x-api-key: trusted\r\n", forwarded),
        of("an envelope's", ENVELOPE, enveloped),
        of("a call of Segment's", SEGMENT, track),
    ] {
        let (few, many) = role.allocations(&kind);
        assert!(few < 25.0, "{}: {few} allocations for a request", kind.name);
        // A larger body comes in more pieces, each with a buffer; that is far from one per event.
        assert!(
            (many - few) / 900.0 < 0.02,
            "{}: {few} for 100 events, {many} for 1000",
            kind.name
        );
    }
}

#[test]
fn an_event_that_is_a_record_costs_what_a_record_costs() {
    /// Its name, which outgrows what was guessed; who waits for it; the topic, as C wants it.
    const RECORD: f64 = 4.0;
    let _turn = ONE_AT_A_TIME.lock();
    for settings in ["recordFormat: Single", "recordFormat: Single\nrecordKey: EventId"] {
        let role = Role::start(settings);
        let (few, many) = role.allocations(&Kind {
            name: settings,
            path: NATIVE,
            headers: KEY,
            event: full,
        });
        let each = (many - few) / 900.0;
        assert!(each < RECORD + 0.1, "{settings}: {each} allocations for an event");
    }
}
