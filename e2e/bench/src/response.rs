//! Where an HTTP/1.1 answer ends, and its status: all that the load needs to know of it.

/// An answer that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Bytes of head and body.
    pub length: usize,
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
    let Some(body) = content_length(&bytes[..head]) else {
        return Parsed::Broken;
    };
    let length = head + 4 + body;
    if bytes.len() < length {
        Parsed::Incomplete
    } else {
        Parsed::Complete(Answer { status, length })
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        if !name.eq_ignore_ascii_case(NAME) {
            return None;
        }
        std::str::from_utf8(value).ok()?.trim().parse().ok()
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
        });
        assert_eq!(parse(whole), complete);
        assert_eq!(parse(&[&whole[..], b"HTTP"].concat()), complete);
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n"), Parsed::Broken);
        assert_eq!(parse(b"nonsense that has no status\r\n\r\n"), Parsed::Broken);
    }
}
