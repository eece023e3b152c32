//! Passwords and ids made at random, from the kernel.

use std::fs::File;
use std::io::Read;

use crate::error::{Context, Result};

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// 32 letters of URL-safe base64: 192 bits.
pub(crate) fn password() -> Result<String> {
    let bytes: [u8; 32] = random()?;
    Ok(bytes
        .iter()
        .map(|byte| char::from(LETTERS[usize::from(byte & 63)]))
        .collect())
}

/// 16 bytes as Kafka writes ids: URL-safe base64 without padding, 22 letters. The first is never a hyphen, which a
/// command line would take for a flag.
pub(crate) fn kafka_uuid() -> Result<String> {
    let mut bytes: [u8; 16] = random()?;
    bytes[0] &= 0x7f;
    let mut text = String::with_capacity(22);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..=chunk.len() {
            text.push(char::from(LETTERS[(word >> (18 - 6 * position)) as usize & 63]));
        }
    }
    Ok(text)
}

/// Eight hex digits: an id that is unlikely to come twice, and fits every name.
pub fn short_id() -> Result<String> {
    Ok(format!("{:08x}", u32::from_be_bytes(random()?)))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .doing("reading /dev/urandom")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_need_no_quoting() {
        let (one, two) = (password().unwrap(), password().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 32);
        assert!(
            one.chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        );
    }

    #[test]
    fn kafka_ids_have_its_form() {
        for _ in 0..200 {
            let id = kafka_uuid().unwrap();
            assert_eq!(id.len(), 22, "{id}");
            assert!(!id.starts_with('-'), "{id}");
            // 128 bits in 22 letters leave the last four bits empty.
            let last = LETTERS
                .iter()
                .position(|l| char::from(*l) == id.chars().last().unwrap())
                .unwrap();
            assert_eq!(last & 15, 0, "{id}");
        }
    }
}
