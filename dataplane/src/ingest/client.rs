//! Who an event's client is: an address and a name for itself.
//!
//! ```text
//! a trusted key, and the event says so  ->  what the event says: a backend speaks for others
//! else the connection's own             ->  through trusted proxies, what they say in X-Forwarded-For
//! ```
//! Anybody can send that header, so it is read from the right, where the nearest proxy has written, and only as far
//! as the addresses in it are trusted.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

use super::flaw::{Flaw, Found};
use super::json::Raw;
use super::line::{self, TEXT_LIMIT};
use super::retention::Retention;
use super::text::push_json_string;

const FORWARDED_FOR: &str = "x-forwarded-for";
/// No real chain of proxies is longer.
const LONGEST_CHAIN: usize = 32;
/// Bytes of a user agent; the rest is cut.
const USER_AGENT_LIMIT: usize = 512;

/// The networks whose word about an address counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies(Vec<IpNet>);

impl Proxies {
    pub(crate) fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Where a request comes from: `peer`, or the first address behind it that is no trusted proxy.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut nearest = peer.to_canonical();
        if !self.trusts(nearest) {
            return nearest;
        }
        let hops = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .rev()
            .flat_map(|value| value.to_str().unwrap_or("?").rsplit(','))
            .take(LONGEST_CHAIN);
        for hop in hops {
            // What is no address was not written by a proxy of ours; what is left of it may be anybody's.
            let Some(address) = address(hop.trim()) else {
                return nearest;
            };
            nearest = address;
            if !self.trusts(address) {
                return nearest;
            }
        }
        nearest
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// An address as proxies write it: alone, in brackets, or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address| address.to_canonical())
}

/// The address and name that a request itself came with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'r> {
    pub(crate) ip: &'r str,
    pub(crate) user_agent: &'r str,
}

/// What an event says of its client; empty where its key may not speak for others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Spoken<'a> {
    pub(crate) ip: Option<IpAddr>,
    pub(crate) user_agent: Option<Cow<'a, str>>,
}

impl<'a> Spoken<'a> {
    /// Reads the two members, which have passed for text nowhere yet.
    pub(crate) fn read(ip: Option<Raw<'a>>, user_agent: Option<Raw<'a>>) -> Result<Self, Found> {
        let ip = line::text("ip", ip, TEXT_LIMIT)?.and_then(|raw| raw.decoded());
        let ip = match ip {
            None => None,
            Some(text) => {
                Some(address(&text).ok_or(Found::new(Flaw::InvalidType, "ip", "must be an IP address"))?)
            }
        };
        let user_agent = line::text("user_agent", user_agent, usize::MAX)?;
        Ok(Self {
            ip,
            user_agent: user_agent.and_then(|raw| raw.decoded()).map(cut),
        })
    }

    /// The members about the client, up to the library's value; `own` stands in for what is not said.
    pub(crate) fn push(&self, out: &mut Vec<u8>, own: &Sender<'_>) {
        out.extend_from_slice(b",\"ip\":");
        match self.ip {
            // Nothing in an address has to be escaped, and writing to a Vec cannot fail.
            Some(ip) => drop(write!(out, "\"{ip}\"")),
            None => push_json_string(out, own.ip),
        }
        push_user_agent(out, self.user_agent.as_deref().unwrap_or(own.user_agent));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ip.is_none() && self.user_agent.is_none()
    }
}

/// The members that all events of a request share behind their times, from the client's address to the
/// retention.
/// Made once per request.
#[derive(Debug)]
pub(crate) struct Shared {
    bytes: Vec<u8>,
    /// Where the library's value begins.
    library: usize,
}

impl Shared {
    pub(crate) fn new(sender: &Sender<'_>, source: &str, retention: Retention) -> Self {
        let mut bytes = Vec::with_capacity(96 + sender.ip.len() + sender.user_agent.len());
        bytes.extend_from_slice(b",\"ip\":");
        push_json_string(&mut bytes, sender.ip);
        push_user_agent(&mut bytes, sender.user_agent);
        let library = bytes.len();
        bytes.extend_from_slice(b"\"\"");
        push_end(&mut bytes, source, retention);
        Self { bytes, library }
    }

    /// Without a library.
    pub(crate) fn whole(&self) -> &[u8] {
        &self.bytes
    }

    /// Up to the library's value.
    pub(crate) fn before_library(&self) -> &[u8] {
        &self.bytes[..self.library]
    }
}

/// The server's last members: the protocol, and how long the event is kept.
pub(crate) fn push_end(out: &mut Vec<u8>, source: &str, retention: Retention) {
    out.extend_from_slice(b",\"source\":\"");
    out.extend_from_slice(source.as_bytes());
    out.push(b'"');
    retention.push(out);
}

/// The user agent, and what is before the library's value.
fn push_user_agent(out: &mut Vec<u8>, user_agent: &str) {
    out.extend_from_slice(b",\"user_agent\":");
    push_json_string(out, user_agent);
    out.extend_from_slice(b",\"library\":");
}

/// At most [`USER_AGENT_LIMIT`] bytes, and no character in two.
fn cut(text: Cow<'_, str>) -> Cow<'_, str> {
    let end = (0..=USER_AGENT_LIMIT.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
        Cow::Owned(mut text) => {
            text.truncate(end);
            Cow::Owned(text)
        }
    }
}

/// The client's name for itself, out of a request's head.
pub(crate) fn user_agent(headers: &HeaderMap) -> &str {
    let text = headers
        .get(http::header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    // A header is ASCII where it is text at all.
    text.get(..USER_AGENT_LIMIT).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::super::json::Scanner;
    use super::*;

    fn client(trusted: &[&str], peer: &str, headers: &[&str]) -> String {
        let proxies = Proxies::new(trusted.iter().map(|network| network.parse().unwrap()).collect());
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(FORWARDED_FOR, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        proxies.client(peer.parse().unwrap(), &map).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_only_as_far_as_they_are() {
        let inside = &["10.0.0.0/8", "fd00::/8"][..];
        for (trusted, peer, headers, expected) in [
            (&[][..], "10.0.0.1", &["203.0.113.7"][..], "10.0.0.1"),
            (inside, "198.51.100.1", &["203.0.113.7"], "198.51.100.1"),
            (inside, "10.0.0.1", &[], "10.0.0.1"),
            (inside, "10.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            (inside, "::ffff:10.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            (inside, "fd00::1", &["2001:db8::7"], "2001:db8::7"),
            // The client's own claim is to the left.
            (
                inside,
                "10.0.0.1",
                &["1.1.1.1, 203.0.113.7, 10.9.9.9"],
                "203.0.113.7",
            ),
            (
                inside,
                "10.0.0.1",
                &["1.1.1.1", "203.0.113.7,10.9.9.9"],
                "203.0.113.7",
            ),
            (inside, "10.0.0.1", &["203.0.113.7:4711"], "203.0.113.7"),
            (inside, "10.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            (inside, "10.0.0.1", &["[2001:db8::7]"], "2001:db8::7"),
            (inside, "10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (inside, "10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
            (inside, "10.0.0.1", &["\u{e9}"], "10.0.0.1"),
            (inside, "10.0.0.1", &[""], "10.0.0.1"),
        ] {
            assert_eq!(client(trusted, peer, headers), expected, "{peer} {headers:?}");
        }
        let endless = "10.0.0.2,".repeat(5000);
        assert_eq!(
            client(
                inside,
                "10.0.0.1",
                &[format!("1.1.1.1,{endless}10.0.0.2").as_str()]
            ),
            "10.0.0.2"
        );
    }

    #[test]
    fn an_event_may_say_who_its_client_is() {
        let raw = |text: &'static str| Scanner::new(text).value().unwrap();
        let long = format!("\"{}é\"", "x".repeat(511));
        let long = Scanner::new(&long).value().unwrap();
        let spoken = Spoken::read(Some(raw("\"2001:DB8::7\"")), Some(long)).unwrap();
        let mut out = Vec::new();
        let own = Sender {
            ip: "198.51.100.1",
            user_agent: "backend/1",
        };
        spoken.push(&mut out, &own);
        let expected = format!(
            ",\"ip\":\"2001:db8::7\",\"user_agent\":\"{}\",\"library\":",
            "x".repeat(511)
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);

        for (ip, user_agent, expected) in [
            (None, None, Ok(true)),
            (Some(raw("null")), Some(raw("\"\"")), Ok(true)),
            (Some(raw("\"1.2.3.4\"")), None, Ok(false)),
            (Some(raw("\"1.2.3\"")), None, Err("ip")),
            (Some(raw("7")), None, Err("ip")),
            (None, Some(raw("7")), Err("user_agent")),
        ] {
            let read = Spoken::read(ip, user_agent);
            assert_eq!(
                read.as_ref().map(Spoken::is_empty).map_err(|found| &*found.field),
                expected,
                "{read:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_stumble(value in "[ -~]{0,80}") {
            client(&["0.0.0.0/0", "::/0"], "10.0.0.1", &[&value]);
        }
    }
}
