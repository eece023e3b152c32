//! After warm-up a request costs a bounded number of allocations, and an event costs none.
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
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

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

/// The slot of the thread of this name.
fn slot_of(name: &str) -> usize {
    let taken = TAKEN.load(Relaxed);
    assert!(taken < THREADS, "more threads than slots");
    (0..taken)
        .find(|slot| {
            let number = NUMBERS[*slot].load(Relaxed);
            let comm = std::fs::read_to_string(format!("/proc/self/task/{number}/comm"));
            comm.is_ok_and(|comm| comm.trim() == name)
        })
        .unwrap_or_else(|| panic!("no thread {name} has allocated"))
}

type Kafka = MockCluster<'static, DefaultProducerContext>;

/// A role that runs until the test ends: its port, and its broker, which has to be kept.
fn start() -> (u16, Kafka) {
    let kafka: Kafka = MockCluster::new(1).unwrap();
    kafka.create_topic("t", 1, 1).unwrap();
    kafka.create_topic("t.dlq", 1, 1).unwrap();
    let directory = tempfile::tempdir().unwrap().keep();
    let apps = directory.join("apps.yaml");
    let digest: String = Sha256::digest("key")
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let text = format!(
        "{{version: 1, replicas: 1, apps: [{{id: 6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11, name: growth/shop, \
         keys: [{{name: k, digest: '{digest}', scope: Write}}]}}]}}"
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
         kafka: {{bootstrap: '{}', topic: t, deadLetterTopic: t.dlq}}\nappsFile: {}\nshards: 1\n",
        kafka.bootstrap_servers(),
        apps.display()
    );
    std::fs::write(&config, text).unwrap();
    let config: IngestConfig = load_file(&config, &Environment::default()).unwrap().config;
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(ingest::run(config, Process::new())).unwrap();
    });
    (port, kafka)
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

fn request(path: &str, events: usize, event: impl Fn(usize) -> String) -> Vec<u8> {
    let events: Vec<String> = (0..events).map(event).collect();
    let member = if path == SEGMENT { "batch" } else { "events" };
    let body = format!("{{\"{member}\":[{}]}}", events.join(","));
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: i\r\nx-api-key: key\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

const NATIVE: &str = "/v1/events/batch";
const SEGMENT: &str = "/segment/v1/batch";

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

#[test]
fn an_event_costs_no_allocation() {
    const REQUESTS: u64 = 20;
    let (port, _kafka) = start();
    let mut client = Client::connect(port);
    let probe = request(NATIVE, 1, full);
    let deadline = Instant::now() + PATIENCE;
    while client.send(&probe) != "200" {
        assert!(Instant::now() < deadline, "it does not become ready");
        std::thread::sleep(Duration::from_millis(20));
        client = Client::connect(port);
    }
    let shard = slot_of("shard-0");
    let mut each_request = |request: &[u8]| {
        let rounds =
            |client: &mut Client| (0..REQUESTS).for_each(|_| assert_eq!(client.send(request), "200"));
        rounds(&mut client);
        let before = ALLOCATIONS[shard].load(Relaxed);
        rounds(&mut client);
        (ALLOCATIONS[shard].load(Relaxed) - before) as f64 / REQUESTS as f64
    };
    type Event = fn(usize) -> String;
    let kinds: [(&str, &str, Event); 4] = [
        ("the least", NATIVE, |_| "{\"event_type\":\"view\"}".into()),
        ("every member", NATIVE, full),
        ("an unknown member", NATIVE, |index| {
            format!("{{\"event_type\":\"view\",\"colour\":{index}}}")
        }),
        ("a call of Segment's", SEGMENT, track),
    ];
    for (name, path, event) in kinds {
        let (few, many) = (
            each_request(&request(path, 100, event)),
            each_request(&request(path, 1000, event)),
        );
        println!("{name}: {few} allocations for 100 events, {many} for 1000");
        assert!(few < 25.0, "{name}: {few} allocations for a request");
        // A larger body comes in more pieces, each with a buffer; that is far from one per event.
        assert!(
            (many - few) / 900.0 < 0.02,
            "{name}: {few} for 100 events, {many} for 1000"
        );
    }
}
