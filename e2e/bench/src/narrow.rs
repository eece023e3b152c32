//! A way to Kafka that is narrow: a TCP proxy through which a fixed number of bytes a second reaches the broker, so that
//! how much can be acknowledged does not depend on how fast the machine happens to be.
//!
//! Answers are let through at once. A broker tells clients where it is to be found, and they would go there: in what it
//! says, its port is replaced by the proxy's, on the same address.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use penstock_e2e::error::Context as _;
use penstock_e2e::{Error, Result};

/// Passed on at a time.
const PIECE: usize = 16 * 1024;
/// Kafka's length before each answer.
const LENGTH: usize = 4;

/// Passes connections on until the process ends.
#[derive(Debug)]
pub struct Narrow {
    pub bootstrap: String,
}

impl Narrow {
    /// Lets `rate` bytes a second, of all connections together, through to the broker at `bootstrap`.
    pub fn before(bootstrap: &str, rate: u32) -> Result<Self> {
        let broker: SocketAddr = bootstrap
            .parse()
            .map_err(|_| Error::new(format!("{bootstrap} is not the address of one broker")))?;
        let listener = TcpListener::bind((broker.ip(), 0)).doing("opening a port before Kafka")?;
        let own = listener.local_addr().doing("opening a port before Kafka")?;
        let meter = Arc::new(Meter::new(rate));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A client whose broker is gone sees its connection end.
                if let Ok(server) = TcpStream::connect(broker) {
                    let _ = pass(client, server, &meter, broker, own);
                }
            }
        });
        Ok(Self {
            bootstrap: own.to_string(),
        })
    }
}

fn pass(
    client: TcpStream,
    server: TcpStream,
    meter: &Arc<Meter>,
    broker: SocketAddr,
    own: SocketAddr,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (requests, to_broker) = (client.try_clone()?, server.try_clone()?);
    let meter = Arc::clone(meter);
    std::thread::spawn(move || {
        let _ = narrowly(&requests, &to_broker, &meter);
        let _ = to_broker.shutdown(Shutdown::Both);
    });
    std::thread::spawn(move || {
        let _ = answers(&server, &client, broker, own);
        let _ = client.shutdown(Shutdown::Both);
    });
    Ok(())
}

fn narrowly(mut from: impl Read, mut to: impl Write, meter: &Meter) -> std::io::Result<()> {
    let mut piece = [0; PIECE];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            read => {
                std::thread::sleep(meter.wait(read, Instant::now()));
                to.write_all(&piece[..read])?;
            }
        }
    }
}

fn answers(
    mut from: impl Read,
    mut to: impl Write,
    broker: SocketAddr,
    own: SocketAddr,
) -> std::io::Result<()> {
    let (mut length, mut answer) = ([0; LENGTH], Vec::new());
    loop {
        match from.read_exact(&mut length) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        answer.resize(u32::from_be_bytes(length) as usize, 0);
        from.read_exact(&mut answer)?;
        replace(&mut answer, broker, own);
        to.write_all(&length)?;
        to.write_all(&answer)?;
    }
}

/// Wherever the broker says its address, its port, a number of four bytes, comes right behind it.
fn replace(answer: &mut [u8], broker: SocketAddr, own: SocketAddr) {
    let place = |of: SocketAddr| {
        let mut place = of.ip().to_string().into_bytes();
        place.extend_from_slice(&u32::from(of.port()).to_be_bytes());
        place
    };
    let (told, instead) = (place(broker), place(own));
    let mut at = 0;
    while at + told.len() <= answer.len() {
        let here = &mut answer[at..at + told.len()];
        if here == told.as_slice() {
            here.copy_from_slice(&instead);
        }
        at += 1;
    }
}

/// Says how long to wait so that all together pass no more than so many bytes a second.
#[derive(Debug)]
struct Meter {
    rate: u32,
    /// When everything that was let through so far is through.
    through: Mutex<Instant>,
}

impl Meter {
    fn new(rate: u32) -> Self {
        Self {
            rate,
            through: Mutex::new(Instant::now()),
        }
    }

    fn wait(&self, bytes: usize, now: Instant) -> Duration {
        let takes = Duration::from_secs_f64(bytes as f64 / f64::from(self.rate));
        let mut through = self.through.lock().unwrap_or_else(PoisonError::into_inner);
        *through = now.max(*through) + takes;
        through.duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_bytes_takes_a_second_however_they_are_cut() {
        let meter = Meter::new(1000);
        let now = Instant::now();
        let waits: Vec<Duration> = (0..4).map(|_| meter.wait(250, now)).collect();
        let milliseconds = |number| Duration::from_millis(number);
        let (first, last) = (waits[0], waits[3]);
        assert!(first.abs_diff(milliseconds(250)) < milliseconds(1), "{first:?}");
        assert!(last.abs_diff(milliseconds(1000)) < milliseconds(1), "{last:?}");
        let later = now + milliseconds(5000);
        assert!(
            meter.wait(250, later) <= milliseconds(250),
            "what was not used is lost"
        );
    }

    #[test]
    fn clients_are_told_of_the_proxy_instead_of_the_broker() {
        let (broker, own) = (
            "10.9.8.7:9092".parse().unwrap(),
            "10.9.8.7:40000".parse().unwrap(),
        );
        let body = b"\0\0\0\x01\x0910.9.8.7\0\0\x23\x84\0rack";
        let mut stream = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        stream.extend_from_slice(body);
        stream.extend_from_slice(&[0, 0, 0, 2, 1, 2]);
        let mut told = Vec::new();
        answers(stream.as_slice(), &mut told, broker, own).unwrap();
        assert_eq!(told.len(), stream.len());
        assert_eq!(&told[4..22], b"\0\0\0\x01\x0910.9.8.7\0\0\x9c\x40\0");
        assert_eq!(&told[told.len() - 6..], &[0, 0, 0, 2, 1, 2]);
    }
}
