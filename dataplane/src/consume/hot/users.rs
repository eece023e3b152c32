//! Distinct users of a batch: as many as a HyperLogLog can tell apart, and no more.
//!
//! A user is a hash of 64 bits, which is what `PFADD` gets. Redis keeps for each of 16384 registers the highest rank
//! that an element had there; an element that another outranks in its register changes nothing. So a set that has
//! grown to twice the registers is reduced to one element each, by Redis's own hash, and the HyperLogLog becomes what
//! all elements would have made of it.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_64;

/// Registers of a HyperLogLog of Redis.
pub(super) const REGISTERS: usize = 1 << REGISTER_BITS;
const REGISTER_BITS: u32 = 14;
const RANK_BITS: u32 = 64 - REGISTER_BITS;
/// Redis's seed, in `hyperloglog.c`.
const SEED: u64 = 0xadc8_3b19;

#[derive(Clone, Debug, Default)]
pub(super) struct Users(HashSet<u64, BuildHasherDefault<Itself>>);

impl Users {
    /// Adds a user; an event without one adds nothing.
    pub(super) fn add(&mut self, user: &[u8]) {
        if !user.is_empty() && self.0.insert(xxh3_64(user)) && self.0.len() >= 2 * REGISTERS {
            self.reduce();
        }
    }

    /// Keeps what Redis would keep.
    pub(super) fn reduce(&mut self) {
        if self.0.len() <= REGISTERS {
            return;
        }
        let mut best = vec![(0, 0); REGISTERS];
        for element in self.0.drain() {
            let (register, rank) = place(element);
            if rank > best[register].0 {
                best[register] = (rank, element);
            }
        }
        let kept = best.into_iter().filter(|(rank, _)| *rank > 0);
        self.0.extend(kept.map(|(_, element)| element));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.0.capacity() * 10
    }

    pub(super) fn elements(&self) -> impl Iterator<Item = u64> {
        self.0.iter().copied()
    }
}

/// The register that Redis puts an element's bytes in, and its rank there.
fn place(element: u64) -> (usize, u32) {
    let hash = murmur(element);
    let register = hash as usize % REGISTERS;
    let rank = (hash >> REGISTER_BITS | 1 << RANK_BITS).trailing_zeros() + 1;
    (register, rank)
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

    fn registers(elements: impl Iterator<Item = u64>) -> Vec<u32> {
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
            assert!(users.0.len() < 2 * REGISTERS);
        }
        users.reduce();
        assert!(users.0.len() <= REGISTERS);
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
