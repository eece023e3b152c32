//! A short text, to be looked for where it stood before: 32 bytes are compared at once, which costs less than to scan them.

/// Bytes of the longest.
const LONGEST: usize = 32;

/// Empty: it is nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    bytes: [u128; 2],
    /// The bits of the former that count.
    mask: [u128; 2],
    length: u8,
}

impl Written {
    /// Remembers a text, if it is short enough.
    pub(crate) fn new(text: &[u8]) -> Option<Self> {
        let (mut padded, mut mask) = ([0; LONGEST], [0; LONGEST]);
        padded.get_mut(..text.len())?.copy_from_slice(text);
        mask[..text.len()].fill(u8::MAX);
        Some(Self {
            bytes: halves(&padded),
            mask: halves(&mask),
            length: text.len() as u8,
        })
    }

    /// How long it is, where `rest` begins with it. It is not looked for so close to the end that fewer than 32 bytes are
    /// left.
    #[inline]
    pub(crate) fn at(&self, rest: &[u8]) -> Option<usize> {
        let next = halves(rest.first_chunk()?);
        let differs = |half: usize| (next[half] ^ self.bytes[half]) & self.mask[half];
        (self.length > 0 && differs(0) | differs(1) == 0).then_some(usize::from(self.length))
    }
}

#[inline]
fn halves(bytes: &[u8; LONGEST]) -> [u128; 2] {
    let (halves, _) = bytes.as_chunks::<16>();
    [halves[0], halves[1]].map(u128::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_where_it_is_and_nowhere_else() {
        let text = b"\"event_type\":\"purchase\",\"user_id\":1}";
        let written = Written::new(b"\"event_type\":").unwrap();
        assert_eq!(written.at(text), Some(13));
        assert_eq!(written.at(&text[1..]), None);
        assert_eq!(written.at(&text[..31]), None, "too close to the end");
        assert_eq!(Written::default().at(text), None);
        assert_eq!(Written::new(&text[..32]).unwrap().at(text), Some(32));
        assert!(Written::new(&text[..33]).is_none());
    }
}
