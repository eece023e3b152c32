//! What programs that write and read the topics call things by; `docs/record.md` is the contract.

/// The version of a line.
pub const LINE_VERSION: u64 = 1;

/// Names a group of events that was acknowledged together.
pub const GROUP: &str = "penstock-group";
/// Of a record that is one event: its type.
pub const EVENT_TYPE: &str = "penstock-event-type";

/// Of a dead letter: why it is one.
pub const REASON: &str = "penstock-reason";
/// Of a dead letter: who wrote it.
pub const STEP: &str = "penstock-step";
/// Of a dead letter: a sentence for a person.
pub const DETAIL: &str = "penstock-detail";
/// Of a dead letter: `topic/partition/offset/row`.
pub const ORIGIN: &str = "penstock-origin";
/// Of a dead letter that has more than one line of its record, from the one that it names on: how many.
pub const LINES: &str = "penstock-lines";
/// Of a dead letter, and of a record that is one event: the UUID of its App.
pub const APP: &str = "penstock-app";

/// Of a record that was a letter: where that letter is.
pub const REPLAY: &str = "penstock-replay";
/// Of a receipt: offsets of letters of its own partition that were replayed.
pub const REPLAYED: &str = "penstock-replayed";

/// The partition of a key, as Kafka's own producers choose it: murmur2 over its bytes. `partitions`: all of the topic.
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff).cast_signed() % partitions.max(1)
}

/// As `org.apache.kafka.common.utils.Utils.murmur2`; librdkafka's own is not reachable without a topic's handle.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let word = u32::from_le_bytes(*word).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ (word ^ word >> 24).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of Kafka's own test (`UtilsTest.testMurmur2`).
    #[test]
    fn keys_are_hashed_as_kafka_does() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
            let partition = partition_of(key.as_bytes(), 6);
            assert_eq!(partition, (hash & 0x7fff_ffff) % 6, "{key}");
        }
        assert_eq!(partition_of(b"abc", 0), 0, "none is known");
    }
}
