//! Asking a local port whether someone is there: the plain questions behind "is it ready".

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a connection is accepted.
pub(crate) fn accepts(address: impl Into<SocketAddr>) -> bool {
    TcpStream::connect_timeout(&address.into(), PATIENCE).is_ok()
}

/// Whether the answer to a line begins as expected.
pub(crate) fn answers(address: impl Into<SocketAddr>, question: &str, expected: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address.into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(question.as_bytes())?;
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer == expected.as_bytes())
    };
    ask().unwrap_or(false)
}

/// Whether a GET is answered with 200.
pub(crate) fn http_ok(url: &str) -> bool {
    agent(PATIENCE).get(url).call().is_ok()
}

/// A client for plain HTTP inside the instance's network: no proxy, no more than `patience` for a whole exchange.
pub(crate) fn agent(patience: Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(patience))
        .proxy(None)
        .build()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn answers_are_compared_by_their_beginning() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = [0; 6];
                stream.read_exact(&mut line).unwrap();
                stream.write_all(b"+PONG\r\n").unwrap();
            }
        });
        assert!(answers(address, "PING\r\n", "+PONG"));
        assert!(!answers(address, "PING\r\n", "-ERR!"));
        server.join().unwrap();
        assert!(!accepts(([127, 0, 0, 1], address.port())));
    }
}
