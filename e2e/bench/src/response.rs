//! Where an HTTP/1.1 answer ends, and its status: all that the load needs to know of it.

/// An answer that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Bytes of head and body.
    pub length: usize,
    /// The server ends the connection behind it.
    pub closes: bool,
}

/// What the bytes read so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    Incomplete,
    Complete(Answer),
    /// No answer that this understands: it needs `Content-Length`.
    Broken,
}

/// Looks for one answer at the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Parsed::Incomplete;
    };
    let Some(status) = bytes
        .get(9..12)
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
    else {
        return Parsed::Broken;
    };
    let number = field(&bytes[..head], b"content-length:").and_then(|value| value.parse::<usize>().ok());
    let Some(body) = number else {
        return Parsed::Broken;
    };
    let closes =
        field(&bytes[..head], b"connection:").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let length = head + 4 + body;
    if bytes.len() < length {
        Parsed::Incomplete
    } else {
        Parsed::Complete(Answer {
            status,
            length,
            closes,
        })
    }
}

/// The value of a header, whose name is given with its colon.
fn field<'h>(head: &'h [u8], name: &[u8]) -> Option<&'h str> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        let is_it = found.eq_ignore_ascii_case(name);
        is_it.then(|| std::str::from_utf8(value).ok().map(str::trim))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let whole = b"HTTP/1.1 503 Service Unavailable\r\nx: y\r\nContent-Length: 3\r\n\r\nabc";
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), Parsed::Incomplete, "{cut}");
        }
        let complete = Parsed::Complete(Answer {
            status: 503,
            length: whole.len(),
            closes: false,
        });
        assert_eq!(parse(whole), complete);
        assert_eq!(parse(&[&whole[..], b"HTTP"].concat()), complete);
        let last = parse(b"HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n");
        assert!(
            matches!(last, Parsed::Complete(Answer { closes: true, .. })),
            "{last:?}"
        );
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n"), Parsed::Broken);
        assert_eq!(parse(b"nonsense that has no status\r\n\r\n"), Parsed::Broken);
    }
}
