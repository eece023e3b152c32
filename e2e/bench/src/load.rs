//! The load: one thread, one epoll, keep-alive connections, one request at a time on each.
//!
//! Closed: every connection sends again as soon as it has its answer. Paced: requests are due at fixed intervals,
//! whoever is free sends them, and a latency counts from the moment at which its request was due. So a server that
//! stalls is charged for every request that should have been sent meanwhile (no coordinated omission).
//!
//! Nothing is left open: [`Load::finish`] waits for the last answers, so what was acknowledged is known exactly.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use penstock_e2e::error::Context as _;
use penstock_e2e::{Error, Result};

use crate::corpus::{Requests, Shape};
use crate::response::{Parsed, parse};

/// An answer that does not come within this is lost.
const PATIENCE: Duration = Duration::from_secs(15);
/// The timer's token; connections have their index.
const TIMER: u64 = u64::MAX;

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as answers come.
    Closed,
    /// Requests a second, evenly.
    Rate(f64),
}

/// What came of the requests that were answered during one phase.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Requests answered with 2xx.
    pub acknowledged: u64,
    /// Requests answered otherwise.
    pub refused: u64,
    /// Connections that ended, and answers that were none.
    pub broken: u64,
    /// Of acknowledged requests, microseconds, in the order of the answers.
    pub latencies: Vec<u32>,
    /// Of refused requests, microseconds from their first byte sent.
    pub refusals: Vec<u32>,
    pub elapsed: Duration,
    /// The first answer that was not 2xx, as text.
    pub first_refusal: Option<String>,
}

/// Connections to one server.
#[derive(Debug)]
pub struct Load {
    address: SocketAddr,
    epoll: Epoll,
    timer: TimerFd,
    connections: Vec<Connection>,
    /// Connections without a request.
    idle: VecDeque<usize>,
    pace: Pace,
    /// When the next paced request is due.
    due: Instant,
    /// Goes up by each event sent.
    number: u64,
    /// Requests that may still be begun; none where time is the bound.
    left: Option<u64>,
    /// When each request was due, in the order in which they began; none where nobody asked.
    journal: Option<Vec<Instant>>,
    stats: Stats,
    open: bool,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    requests: Requests,
    /// Bytes of the request that are sent.
    sent: usize,
    reply: Vec<u8>,
    /// When the request in hand was due; none when there is none.
    since: Option<Instant>,
    /// When it began to be sent.
    begun: Instant,
}

impl Load {
    /// Opens the connections; each has requests of its own.
    pub fn connect(address: SocketAddr, connections: usize, shape: &Shape<'_>) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing("making an epoll")?;
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).doing("making a timer")?;
        epoll
            .add(
                &timer,
                EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TIMER),
            )
            .doing("watching the timer")?;
        let mut load = Self {
            address,
            epoll,
            timer,
            connections: Vec::with_capacity(connections),
            idle: (0..connections).collect(),
            pace: Pace::Closed,
            due: Instant::now(),
            number: 0,
            left: None,
            journal: None,
            stats: Stats::default(),
            open: false,
        };
        for index in 0..connections {
            let stream = load.dial(index)?;
            load.connections.push(Connection {
                stream,
                requests: shape.requests(index as u64),
                sent: 0,
                reply: Vec::with_capacity(4096),
                since: None,
                begun: Instant::now(),
            });
        }
        Ok(load)
    }

    /// From now on the journal tells when each request was due.
    pub fn keep_journal(&mut self) {
        self.journal = Some(Vec::new());
    }

    /// When each request since [`Self::keep_journal`] was due.
    pub fn take_journal(&mut self) -> Vec<Instant> {
        self.journal.take().unwrap_or_default()
    }

    /// Goes on with another number than the next, so that two loads have no id in common.
    pub fn number_from(&mut self, number: u64) {
        self.number = number;
    }

    /// Sends so many requests as fast as they are answered, and waits for the last answer.
    pub fn send_all(&mut self, requests: u64) -> Result<Stats> {
        (self.pace, self.left, self.open) = (Pace::Closed, Some(requests), true);
        self.stats = Stats::default();
        let began = Instant::now();
        let (mut answered, mut heard) = (0, began);
        self.dispatch()?;
        while answered < requests {
            self.turn(Instant::now() + PATIENCE)?;
            let now = self.stats.acknowledged + self.stats.refused + self.stats.broken;
            if now > answered {
                (answered, heard) = (now, Instant::now());
            } else if heard.elapsed() > PATIENCE {
                return Err(Error::new(format!(
                    "{answered} of {requests} requests were answered, and none since {PATIENCE:?}"
                )));
            }
        }
        (self.left, self.open) = (None, false);
        let mut stats = std::mem::take(&mut self.stats);
        stats.elapsed = began.elapsed();
        Ok(stats)
    }

    /// Sends at this pace for so long; what was in hand before goes on.
    pub fn run(&mut self, pace: Pace, time: Duration) -> Result<Stats> {
        self.pace = pace;
        self.stats = Stats::default();
        let began = Instant::now();
        self.due = began;
        self.open = true;
        let end = began + time;
        self.dispatch()?;
        while Instant::now() < end {
            self.turn(end)?;
        }
        self.open = false;
        let mut stats = std::mem::take(&mut self.stats);
        stats.elapsed = began.elapsed();
        Ok(stats)
    }

    /// Waits for the answers that are open, and sends nothing more.
    pub fn finish(mut self) -> Result<Stats> {
        let end = Instant::now() + PATIENCE;
        while self.idle.len() < self.connections.len() && Instant::now() < end {
            self.turn(end)?;
        }
        self.stats.broken += (self.connections.len() - self.idle.len()) as u64;
        Ok(self.stats)
    }

    /// One wait, and what comes of it.
    fn turn(&mut self, end: Instant) -> Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        let wait = end
            .saturating_duration_since(Instant::now())
            .min(Duration::from_millis(100));
        let timeout = EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::ZERO);
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(Error::new(format!("waiting for answers: {error}"))),
        };
        for event in &events[..count] {
            if event.data() == TIMER {
                let _ = self.timer.wait();
                continue;
            }
            let index = event.data() as usize;
            if !self.send(index)? {
                continue;
            }
            self.receive(index)?;
        }
        self.dispatch()
    }

    /// Gives requests that are due to connections that are free.
    fn dispatch(&mut self) -> Result<()> {
        if !self.open {
            return Ok(());
        }
        let Pace::Rate(rate) = self.pace else {
            while self.left != Some(0)
                && let Some(index) = self.idle.pop_front()
            {
                self.left = self.left.map(|left| left - 1);
                self.begin(index, Instant::now())?;
            }
            return Ok(());
        };
        let interval = Duration::from_secs_f64(1.0 / rate);
        loop {
            let now = Instant::now();
            if self.due > now {
                return self.wake_at(self.due - now);
            }
            let Some(index) = self.idle.pop_front() else {
                return Ok(());
            };
            let due = self.due;
            self.due += interval;
            self.begin(index, due)?;
        }
    }

    fn wake_at(&mut self, after: Duration) -> Result<()> {
        let after = TimeSpec::from_duration(after.max(Duration::from_nanos(1)));
        self.timer
            .set(Expiration::OneShot(after), TimerSetTimeFlags::empty())
            .doing("setting the timer")
    }

    fn begin(&mut self, index: usize, due: Instant) -> Result<()> {
        if let Some(journal) = &mut self.journal {
            journal.push(due);
        }
        let connection = &mut self.connections[index];
        connection.requests.advance(&mut self.number);
        (connection.sent, connection.since, connection.begun) = (0, Some(due), Instant::now());
        self.send(index).map(drop)
    }

    /// Writes what the socket takes; whether the connection is still there.
    fn send(&mut self, index: usize) -> Result<bool> {
        let connection = &mut self.connections[index];
        if connection.since.is_none() {
            return Ok(true);
        }
        loop {
            let rest = &connection.requests.bytes()[connection.sent..];
            if rest.is_empty() {
                return Ok(true);
            }
            match connection.stream.write(rest) {
                Ok(count) => connection.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.replace(index).map(|()| false),
            }
        }
    }

    /// Reads until the answer is complete or the socket is empty.
    fn receive(&mut self, index: usize) -> Result<()> {
        let mut buffer = [0u8; 16384];
        loop {
            let connection = &mut self.connections[index];
            match connection.stream.read(&mut buffer) {
                Ok(0) => return self.replace(index),
                Ok(count) => connection.reply.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.replace(index),
            }
            match parse(&connection.reply) {
                Parsed::Incomplete => {}
                Parsed::Broken => return self.replace(index),
                Parsed::Complete(answer) => {
                    let Some(since) = connection.since.take() else {
                        return self.replace(index);
                    };
                    if (200..300).contains(&answer.status) {
                        self.stats.acknowledged += 1;
                        self.stats.latencies.push(microseconds(since.elapsed()));
                    } else {
                        self.stats.refused += 1;
                        self.stats.refusals.push(microseconds(connection.begun.elapsed()));
                        let reply = &connection.reply;
                        self.stats
                            .first_refusal
                            .get_or_insert_with(|| String::from_utf8_lossy(reply).into_owned());
                    }
                    connection.reply.clear();
                    self.idle.push_back(index);
                    // Refused before it was sent whole: what is left of it would be read as the next request.
                    if answer.closes || connection.sent < connection.requests.bytes().len() {
                        return self.replace(index);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// A connection that has ended is opened again; the request on it is lost.
    fn replace(&mut self, index: usize) -> Result<()> {
        let stream = self.dial(index)?;
        let connection = &mut self.connections[index];
        connection.stream = stream;
        connection.reply.clear();
        if connection.since.take().is_some() {
            self.stats.broken += 1;
            self.idle.push_back(index);
        }
        Ok(())
    }

    fn dial(&self, index: usize) -> Result<TcpStream> {
        let dialing = || format!("connecting to {}", self.address);
        let stream = TcpStream::connect(self.address).doing(dialing())?;
        stream.set_nodelay(true).doing(dialing())?;
        stream.set_nonblocking(true).doing(dialing())?;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll
            .add(&stream, EpollEvent::new(flags, index as u64))
            .doing("watching a connection")?;
        Ok(stream)
    }
}

fn microseconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// The latency, in microseconds, that this share of all stayed below; 0 of none.
pub fn percentile(sorted: &[u32], share: f64) -> u32 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::corpus::{Encoding, Protocol};

    const SHAPE: Shape<'static> = Shape {
        protocol: Protocol::Native,
        events: 1,
        encoding: Encoding::Plain,
        key: "k",
        now: 1_763_740_000_000,
    };

    /// Answers every request with `answer`, after `pause(how many came before)`, on one connection.
    fn server(answer: &'static str, pause: impl Fn(usize) -> Duration + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut buffer, mut filled, mut served) = (vec![0; 65536], 0, 0);
            loop {
                let read = stream.read(&mut buffer[filled..]).unwrap_or(0);
                if read == 0 {
                    return;
                }
                filled += read;
                // The body is one event, and ends in two braces.
                if buffer[..filled].ends_with(b"}}") {
                    std::thread::sleep(pause(served));
                    served += 1;
                    filled = 0;
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        address
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

    #[test]
    fn a_closed_load_counts_every_answer() {
        let mut load = Load::connect(server(OK, |_| Duration::ZERO), 1, &SHAPE).unwrap();
        let stats = load.run(Pace::Closed, Duration::from_millis(200)).unwrap();
        let rest = load.finish().unwrap();
        assert!(stats.acknowledged > 50 && stats.latencies.len() as u64 == stats.acknowledged);
        assert!(stats.elapsed >= Duration::from_millis(200));
        assert_eq!((rest.acknowledged, stats.refused + rest.broken), (1, 0));
    }

    #[test]
    fn so_many_requests_are_sent_and_no_more() {
        let mut load = Load::connect(server(OK, |_| Duration::ZERO), 1, &SHAPE).unwrap();
        load.keep_journal();
        assert_eq!(load.send_all(30).unwrap().acknowledged, 30);
        assert_eq!((load.send_all(5).unwrap().acknowledged, load.number), (5, 35));
        let journal = load.take_journal();
        assert!(journal.len() == 35 && journal.is_sorted());
        assert_eq!(load.finish().unwrap().acknowledged, 0);
    }

    #[test]
    fn a_stall_is_charged_to_every_request_that_was_due() {
        // One connection, 1000 a second, and the 20th answer takes 200 ms.
        let pause = |served| Duration::from_millis(if served == 20 { 200 } else { 0 });
        let mut load = Load::connect(server(OK, pause), 1, &SHAPE).unwrap();
        let mut stats = load.run(Pace::Rate(1000.0), Duration::from_millis(600)).unwrap();
        let rest = load.finish().unwrap();
        let answered = stats.acknowledged + rest.acknowledged;
        assert!((550..=602).contains(&answered), "{answered}");
        stats.latencies.sort_unstable();
        let late = stats
            .latencies
            .iter()
            .filter(|latency| **latency > 20_000)
            .count();
        assert!(late > 120, "only {late} requests felt the stall");
    }

    #[test]
    fn refusals_are_told_apart_from_acknowledgements() {
        let refusal = "HTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nwhy";
        let mut load = Load::connect(server(refusal, |_| Duration::ZERO), 1, &SHAPE).unwrap();
        let stats = load.run(Pace::Rate(500.0), Duration::from_millis(100)).unwrap();
        assert!(stats.acknowledged == 0 && stats.refused > 20, "{stats:?}");
        assert!(stats.first_refusal.unwrap().ends_with("why"));
    }

    #[test]
    fn percentiles_are_ranks() {
        let sorted: Vec<u32> = (1..=1000).collect();
        assert_eq!(percentile(&sorted, 0.5), 500);
        assert_eq!(percentile(&sorted, 0.999), 999);
        assert_eq!(percentile(&sorted, 1.0), 1000);
        assert_eq!(percentile(&[], 0.5), 0);
    }
}
