//! Asking a local port whether someone is there: the plain questions behind "is it ready".

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);
const DNS_PATIENCE: Duration = Duration::from_millis(500);

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

/// Whether a name server has an address for a name.
pub(crate) fn resolves(server: impl Into<SocketAddr>, name: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(DNS_PATIENCE))?;
        socket.connect(server.into())?;
        socket.send(&dns_question(name))?;
        let mut answer = [0; 512];
        let count = socket.recv(&mut answer)?;
        Ok(dns_has_answer(&answer[..count]))
    };
    ask().unwrap_or(false)
}

/// A question for the A record of a name (RFC 1035, 4.1): a header that wants recursion, and one entry.
fn dns_question(name: &str) -> Vec<u8> {
    let mut packet = vec![0x50, 0x53, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap_or(0));
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

/// No error, and at least one answer.
fn dns_has_answer(packet: &[u8]) -> bool {
    packet.len() >= 12 && packet[3] & 0x0f == 0 && packet[6..8] != [0, 0]
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
    fn dns_packets_have_their_form() {
        let packet = dns_question("a.svc");
        assert_eq!(packet[12..], [1, b'a', 3, b's', b'v', b'c', 0, 0, 1, 0, 1]);
        assert!(!dns_has_answer(&packet), "a question is no answer");
        let mut answer = packet;
        answer[7] = 1;
        assert!(dns_has_answer(&answer));
        answer[3] = 3;
        assert!(!dns_has_answer(&answer), "no such name");
        assert!(!dns_has_answer(&[]));
    }

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
        // The port just freed may be someone else's by now; nobody serves tcpmux any more.
        assert!(!accepts(([127, 0, 0, 1], 1)));
    }
}
