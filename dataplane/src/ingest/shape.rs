//! The names of an event's members, remembered for the next event.
//!
//! Events of one program mostly have the same members in the same order, written in the same way. What stands between two
//! values is then compared with what stood there before, 32 bytes at once, instead of being scanned and looked up. It was
//! JSON there, so it is JSON here.

use std::ops::Range;

use super::members::Protocol;
use crate::written::Written;

/// The slot of a member that the protocol does not know.
pub(super) const UNKNOWN: u8 = u8::MAX;

/// Members of an event whose names are remembered.
const PLACES: usize = 16;

/// The names of the last event, as written, by their places in it. Kept from one request to the next.
#[derive(Debug)]
pub(crate) struct Shape {
    /// Whose slots these are.
    protocol: Option<&'static Protocol>,
    places: [Place; PLACES],
}

/// What is between two values: a comma, unless the name is the first, the name without escapes, a colon, and the white
/// space about them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    written: Written,
    /// Where the name is, from quote to quote.
    pub(super) name: (u8, u8),
    /// There is no white space.
    pub(super) is_tidy: bool,
    pub(super) slot: u8,
}

impl Place {
    pub(super) fn new(written: &[u8], name: Range<usize>, slot: u8) -> Option<Self> {
        Some(Self {
            written: Written::new(written)?,
            name: (name.start as u8, name.end as u8),
            is_tidy: name.start <= 1 && name.end + 1 == written.len(),
            slot,
        })
    }
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            protocol: None,
            places: [Place::default(); PLACES],
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

    /// What is remembered of this place and how long it is, if the text goes on so.
    #[inline]
    pub(super) fn expected(&self, place: usize, rest: &[u8]) -> Option<(&Place, usize)> {
        let place = self.places.get(place)?;
        Some((place, place.written.at(rest)?))
    }

    pub(super) fn set(&mut self, place: usize, remembered: Option<Place>) {
        if let Some(place) = self.places.get_mut(place) {
            *place = remembered.unwrap_or_default();
        }
    }
}
