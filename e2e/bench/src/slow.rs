//! Thousands of clients that send a byte a second: what they cost those that send whole requests.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use penstock_e2e::error::Context as _;
use penstock_e2e::{Error, Result};

use crate::measure::{Bench, Sample};
use crate::plan::PARTIAL;
use crate::server::{KEY, Server};
use crate::summary::median;

/// Half of them never end a head, the others a body.
pub const CLIENTS: u32 = 2000;
/// Between two bytes of one client.
const PAUSE: Duration = Duration::from_secs(1);
/// Until the first are cut and come again, so that they no longer do it all at once.
const SETTLING: Duration = Duration::from_secs(12);
/// As long as the slowest client is borne.
const MEASURED: Duration = Duration::from_secs(10);

/// Whole requests without slow clients, and beside them: medians.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlowClients {
    /// Microseconds an event.
    pub cpu_alone: f64,
    pub cpu_beside: f64,
    /// Milliseconds.
    pub p99_alone: f64,
    pub p99_beside: f64,
    /// Slow clients that were told 408 and cut, in all runs.
    pub cut: u64,
    /// Whether every whole request was acknowledged and is stored.
    pub adds_up: bool,
}

/// Single events at `rate` a second, without slow clients and beside them, in turns.
pub fn slow_clients(bench: &Bench, server: &Server, rate: f64, runs: usize) -> Result<SlowClients> {
    // Every client is a descriptor here and another one in the server, which inherits the limit.
    getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most))
        .doing("raising the limit of open files")?;
    let longer = Bench::new(bench.bootstrap.clone(), bench.warm_up, bench.time.max(MEASURED))?;
    let (mut alone, mut beside, mut cut) = (Vec::new(), Vec::new(), 0);
    for _ in 0..runs {
        for slow in [false, true] {
            let topic = bench.topic()?;
            let running = server.start(&bench.bootstrap, &topic)?;
            let clients = if slow {
                let clients = Clients::of(running.address)?;
                std::thread::sleep(SETTLING);
                Some(clients)
            } else {
                None
            };
            let sample = longer.drive(server, &running, PARTIAL, Some(rate), &topic)?;
            if let Some(clients) = clients {
                cut += clients.end()?;
            }
            drop(running);
            let sample = bench.close(sample, server.kind.record(PARTIAL.events), &topic)?;
            if slow { &mut beside } else { &mut alone }.push(sample);
        }
    }
    let of = |samples: &[Sample], figure: fn(&Sample) -> f64| median(samples.iter().map(figure).collect());
    Ok(SlowClients {
        cpu_alone: of(&alone, |sample| sample.cpu),
        cpu_beside: of(&beside, |sample| sample.cpu),
        p99_alone: of(&alone, |sample| sample.p99),
        p99_beside: of(&beside, |sample| sample.p99),
        cut,
        adds_up: beside.iter().all(|sample| sample.failed == 0 && sample.adds_up()),
    })
}

/// All of them, on one thread, until ended.
struct Clients {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Clients {
    fn of(address: SocketAddr) -> Result<Self> {
        let head = format!("POST /v1/events HTTP/1.1\r\nhost: bench\r\nx-api-key: {KEY}\r\n");
        let endless_head = format!("{head}x-slow: {}", "z".repeat(1000));
        let endless_body = format!("{head}content-length: 1000\r\n\r\n{}", " ".repeat(999));
        let whole = endless_body.len() - 999;
        let mut clients = (0..CLIENTS)
            .map(|number| {
                let (request, at_once) = if number % 2 == 0 {
                    (&endless_head, 1)
                } else {
                    (&endless_body, whole)
                };
                Client::connect(address, request.clone().into_bytes(), at_once)
            })
            .collect::<Result<Vec<Client>>>()?;
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut cut = 0;
            loop {
                for client in &mut clients {
                    if told.load(Relaxed) {
                        return Ok(cut);
                    }
                    cut += u64::from(client.turn(address)?);
                    std::thread::sleep(PAUSE / CLIENTS);
                }
            }
        });
        Ok(Self { over, thread })
    }

    /// How many were cut.
    fn end(self) -> Result<u64> {
        self.over.store(true, Relaxed);
        self.thread
            .join()
            .map_err(|_| Error::new("the thread of the slow clients died"))?
    }
}

struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    /// Bytes that go out first; every other one has a turn of its own.
    at_once: usize,
    sent: usize,
}

impl Client {
    fn connect(address: SocketAddr, request: Vec<u8>, at_once: usize) -> Result<Self> {
        Ok(Self {
            stream: dial(address)?,
            request,
            at_once,
            sent: 0,
        })
    }

    /// Sends one byte more; whether it had been told to go, and has come again instead.
    fn turn(&mut self, address: SocketAddr) -> Result<bool> {
        let mut answer = [0; 512];
        let told = match self.stream.read(&mut answer) {
            Ok(count) => Some(answer[..count].starts_with(b"HTTP/1.1 408")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(false),
        };
        if let Some(told) = told {
            (self.stream, self.sent) = (dial(address)?, 0);
            return Ok(told);
        }
        let next = self.request.len().min(self.at_once.max(self.sent + 1));
        // What becomes of a write is seen by the next read.
        let _ = self.stream.write(&self.request[self.sent..next]);
        self.sent = next;
        Ok(false)
    }
}

fn dial(address: SocketAddr) -> Result<TcpStream> {
    let dialing = || format!("connecting a slow client to {address}");
    let stream = TcpStream::connect(address).doing(dialing())?;
    stream.set_nodelay(true).doing(dialing())?;
    stream.set_nonblocking(true).doing(dialing())?;
    Ok(stream)
}
