//! The names of an event's members, remembered for the next event.
//!
//! Events of one program mostly have the same members in the same order, written in the same way. What stands between two
//! values is then compared with what stood there before, 32 bytes at once, instead of being scanned and looked up. It was
//! JSON there, so it is JSON here.

use std::ops::Range;

use super::members::Protocol;

/// The slot of a member that the protocol does not know.
pub(super) const UNKNOWN: u8 = u8::MAX;

/// Members of an event whose names are remembered.
const PLACES: usize = 16;
/// The longest that is remembered of one.
const LONGEST: usize = 32;

/// The names of the last event, as written, by their places in it. Kept from one request to the next.
#[derive(Debug)]
pub(crate) struct Shape {
    /// Whose slots these are.
    protocol: Option<&'static Protocol>,
    places: [Place; PLACES],
}

/// What is between two values: a comma, unless the name is the first, the name without escapes, a colon, and the white
/// space about them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    written: [u128; 2],
    /// The bits of the former that count; none where nothing is remembered.
    mask: [u128; 2],
    pub(super) length: u8,
    /// Where the name is, from quote to quote.
    pub(super) name: (u8, u8),
    /// There is no white space.
    pub(super) is_tidy: bool,
    pub(super) slot: u8,
}

impl Place {
    const NONE: Self = Self {
        written: [0; 2],
        mask: [0; 2],
        length: 0,
        name: (0, 0),
        is_tidy: false,
        slot: UNKNOWN,
    };

    pub(super) fn new(written: &[u8], name: Range<usize>, slot: u8) -> Option<Self> {
        let (mut padded, mut mask) = ([0; LONGEST], [0; LONGEST]);
        padded.get_mut(..written.len())?.copy_from_slice(written);
        mask[..written.len()].fill(u8::MAX);
        Some(Self {
            written: halves(&padded),
            mask: halves(&mask),
            length: written.len() as u8,
            name: (name.start as u8, name.end as u8),
            is_tidy: name.start <= 1 && name.end + 1 == written.len(),
            slot,
        })
    }

    #[inline]
    fn is_at(&self, next: &[u8; LONGEST]) -> bool {
        let next = halves(next);
        let differs = |half: usize| (next[half] ^ self.written[half]) & self.mask[half];
        self.length > 0 && differs(0) | differs(1) == 0
    }
}

#[inline]
fn halves(bytes: &[u8; LONGEST]) -> [u128; 2] {
    let (halves, _) = bytes.as_chunks::<16>();
    [halves[0], halves[1]].map(u128::from_le_bytes)
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            protocol: None,
            places: [Place::NONE; PLACES],
        }
    }
}

impl Shape {
    /// Slots are of one protocol.
    pub(super) fn is_of(&mut self, protocol: &'static Protocol) {
        if !self.protocol.is_some_and(|before| std::ptr::eq(before, protocol)) {
            *self = Self {
                protocol: Some(protocol),
                ..Self::default()
            };
        }
    }

    /// What is remembered of this place, if the text goes on so.
    #[inline]
    pub(super) fn expected(&self, place: usize, rest: &[u8]) -> Option<&Place> {
        let place = self.places.get(place)?;
        place.is_at(rest.first_chunk()?).then_some(place)
    }

    pub(super) fn set(&mut self, place: usize, remembered: Option<Place>) {
        if let Some(place) = self.places.get_mut(place) {
            *place = remembered.unwrap_or(Place::NONE);
        }
    }
}
