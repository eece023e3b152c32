//! Distinct users of a batch: as many as a HyperLogLog can tell apart, and no more.
//!
//! A user is a hash of 64 bits, which is what `PFADD` gets. Redis keeps for each of 16384 registers the highest rank
//! that an element had there; an element that another outranks in its register changes nothing. So a set that has
//! grown is turned into one element for each register, by Redis's own hash, and the HyperLogLog becomes what all
//! elements would have made of it.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_64;

/// Registers of a HyperLogLog of Redis.
const REGISTERS: usize = 1 << REGISTER_BITS;
const REGISTER_BITS: u32 = 14;
const RANK_BITS: u32 = 64 - REGISTER_BITS;
/// Redis's seed, in `hyperloglog.c`.
const SEED: u64 = 0xadc8_3b19;

/// A set beyond this costs more than the registers do.
const FEW: usize = 4096;

#[derive(Clone, Debug, Default)]
pub(super) struct Users {
    few: HashSet<u64, BuildHasherDefault<Itself>>,
    many: Option<Registers>,
}

/// The element of the highest rank in each register; rank 0 is none.
#[derive(Clone, Debug)]
struct Registers {
    ranks: Vec<u8>,
    elements: Vec<u64>,
}

impl Users {
    /// Adds a user; an event without one adds nothing.
    pub(super) fn add(&mut self, user: &[u8]) {
        if user.is_empty() {
            return;
        }
        let element = xxh3_64(user);
        if let Some(many) = &mut self.many {
            many.add(element);
        } else if self.few.insert(element) && self.few.len() > FEW {
            let mut many = Registers::new();
            std::mem::take(&mut self.few)
                .into_iter()
                .for_each(|element| many.add(element));
            self.many = Some(many);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.is_none()
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        let many = self.many.as_ref().map_or(0, |_| REGISTERS * 9);
        self.few.capacity() * 10 + many
    }

    pub(super) fn elements(&self) -> impl Iterator<Item = u64> {
        let many = self.many.iter().flat_map(Registers::elements);
        self.few.iter().copied().chain(many)
    }
}

impl Registers {
    fn new() -> Self {
        Self {
            ranks: vec![0; REGISTERS],
            elements: vec![0; REGISTERS],
        }
    }

    fn add(&mut self, element: u64) {
        let (register, rank) = place(element);
        if rank > self.ranks[register] {
            self.ranks[register] = rank;
            self.elements[register] = element;
        }
    }

    fn elements(&self) -> impl Iterator<Item = u64> {
        let both = self.ranks.iter().zip(&self.elements);
        both.filter(|(rank, _)| **rank > 0).map(|(_, element)| *element)
    }
}

/// The register that Redis puts an element's bytes in, and its rank there.
fn place(element: u64) -> (usize, u8) {
    let hash = murmur(element);
    let register = hash as usize % REGISTERS;
    let rank = (hash >> REGISTER_BITS | 1 << RANK_BITS).trailing_zeros() + 1;
    (register, rank as u8)
}

/// MurmurHash64A of eight bytes.
fn murmur(element: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |value: u64| value ^ value >> 47;
    let part = mix(element.wrapping_mul(M)).wrapping_mul(M);
    let hash = (SEED ^ M.wrapping_mul(8)) ^ part;
    mix(mix(hash.wrapping_mul(M)).wrapping_mul(M))
}

/// What is a hash already needs no other.
#[derive(Clone, Copy, Debug, Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes
            .iter()
            .fold(self.0, |hash, byte| hash << 8 ^ u64::from(*byte));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(elements: impl Iterator<Item = u64>) -> Vec<u8> {
        let mut registers = vec![0; REGISTERS];
        for element in elements {
            let (register, rank) = place(element);
            registers[register] = rank.max(registers[register]);
        }
        registers
    }

    #[test]
    fn a_user_counts_once_and_nobody_not_at_all() {
        let mut users = Users::default();
        for user in ["a", "b", "", "a", ""] {
            users.add(user.as_bytes());
        }
        assert_eq!(users.elements().count(), 2);
    }

    #[test]
    fn many_users_are_reduced_to_what_the_registers_hold() {
        let mut users = Users::default();
        let names: Vec<String> = (0..200_000).map(|user| format!("user-{user}")).collect();
        for name in &names {
            users.add(name.as_bytes());
            assert!(users.bytes() <= REGISTERS * 9);
        }
        assert!(!users.is_empty() && users.elements().count() <= REGISTERS);
        let all = names.iter().map(|name| xxh3_64(name.as_bytes()));
        assert_eq!(registers(users.elements()), registers(all));
    }

    /// Of the reference implementation, with Redis's seed, of the elements 0 and 0x0123456789abcdef in little endian.
    #[test]
    fn elements_are_placed_as_redis_places_them() {
        assert_eq!(murmur(0), 0x396f_86b1_21d9_c351);
        assert_eq!(murmur(0x0123_4567_89ab_cdef), 0xa2eb_af93_1563_5ad3);
    }
}
