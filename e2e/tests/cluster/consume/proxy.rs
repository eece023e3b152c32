//! A TCP proxy before ClickHouse that refuses, stalls, holds back, cuts what passes, and has INSERTs run under settings of its own.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// What happens to connections from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    Pass,
    /// Connections are closed at once.
    Refuse,
    /// Every third answer is cut off before its first byte: the request was worked on, nobody knows.
    LoseAnswers,
    /// Every third request is cut off in the middle.
    CutRequests,
    /// Answers are held back.
    Stall,
    /// INSERTs of the first partition are held back.
    HoldFirst,
    /// INSERTs may use no memory.
    NoMemory,
    /// INSERTs may not write.
    ReadOnly,
}

impl Mode {
    /// What the server is told with each INSERT.
    fn setting(self) -> Option<&'static str> {
        match self {
            Self::NoMemory => Some("max_memory_usage=1&"),
            Self::ReadOnly => Some("readonly=1&"),
            _ => None,
        }
    }
}

/// How a request's line begins, up to its parameters.
const LINE: &[u8] = b"POST /?";

#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    mode: Arc<AtomicU8>,
    counter: Arc<AtomicU32>,
    pub(crate) lost: Arc<AtomicU32>,
    /// Bytes of requests.
    sent: Arc<AtomicU64>,
    address: SocketAddr,
}

impl Proxy {
    /// Listens on a free port of loopback and forwards to `target`.
    pub(crate) fn start(target: &str) -> Self {
        let target: SocketAddr = target
            .trim_start_matches("http://")
            .parse()
            .expect("address and port");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let proxy = Self {
            mode: Arc::new(AtomicU8::new(Mode::Pass as u8)),
            counter: Arc::default(),
            lost: Arc::default(),
            sent: Arc::default(),
            address: listener.local_addr().expect("its address"),
        };
        let serving = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(client, target));
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Bytes that were sent to ClickHouse.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::SeqCst) == mode as u8
    }

    /// Whether this one is hit: every third.
    fn hit(&self) -> bool {
        let hit = self.counter.fetch_add(1, Ordering::SeqCst) % 3 == 2;
        if hit {
            self.lost.fetch_add(1, Ordering::SeqCst);
        }
        hit
    }

    fn serve(&self, client: TcpStream, target: SocketAddr) {
        if self.is(Mode::Refuse) {
            return;
        }
        let Ok(server) = TcpStream::connect(target) else {
            return;
        };
        let (Ok(to_server), Ok(from_client)) = (server.try_clone(), client.try_clone()) else {
            return;
        };
        let upward = self.clone();
        // Set by every request, taken by the first bytes of its answer.
        let asked = Arc::new(AtomicBool::new(false));
        let asking = Arc::clone(&asked);
        let up = std::thread::spawn(move || upward.requests(from_client, to_server, &asking));
        self.answers(server, client, &asked);
        let _ = up.join();
    }

    fn requests(&self, mut from: TcpStream, mut to: TcpStream, asked: &AtomicBool) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let cut = self.is(Mode::CutRequests) && self.hit();
            if self.is(Mode::Refuse) || cut {
                let _ = to.write_all(&buffer[..count / 2]);
                break;
            }
            asked.store(true, Ordering::SeqCst);
            self.sent.fetch_add(count as u64, Ordering::SeqCst);
            let read = &buffer[..count];
            let line = read.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let insert = line.starts_with(LINE) && line.windows(6).any(|word| word == b"INSERT");
            // As the token has it: topic/partition/offsets/digest.
            while insert && line.windows(3).any(|word| word == b"/0/") && self.is(Mode::HoldFirst) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let setting = [Mode::NoMemory, Mode::ReadOnly]
                .into_iter()
                .find(|&mode| insert && self.is(mode))
                .and_then(Mode::setting);
            let sent = match setting {
                Some(setting) => to.write_all(&[LINE, setting.as_bytes(), &read[LINE.len()..]].concat()),
                None => to.write_all(read),
            };
            if sent.is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn answers(&self, mut from: TcpStream, mut to: TcpStream, asked: &AtomicBool) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            while self.is(Mode::Stall) {
                std::thread::sleep(Duration::from_millis(20));
            }
            // By answers, not by what is read of them at once: one that comes in three pieces would never get through.
            let lost = asked.swap(false, Ordering::SeqCst) && self.is(Mode::LoseAnswers) && self.hit();
            if self.is(Mode::Refuse) || lost || to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
