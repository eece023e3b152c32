//! Ids of Apps and their API keys.
//!
//! A key is `psk_`, 32 characters of base62 (190 bits), and 6 characters that check them, so that a scanner can tell
//! a leaked key from noise. Pods and status know a key by its SHA-256 only.

use std::fmt;

use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use uuid::Uuid;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const PREFIX: &str = "psk_";
const BODY: usize = 32;
const CHECK: usize = 6;
/// Bounds of a key that someone else made.
const FOREIGN: std::ops::RangeInclusive<usize> = 16..=256;

/// The id of an App that gives none: stable over deletion and re-creation, different in every cluster.
pub fn derived_app_id(cluster: &str, namespace: &str, name: &str) -> Uuid {
    let penstock = Uuid::new_v5(&Uuid::NAMESPACE_DNS, penstock_crds::GROUP.as_bytes());
    Uuid::new_v5(&penstock, format!("{cluster}/{namespace}/{name}").as_bytes())
}

/// An API key. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// Why some bytes cannot be a key. Says nothing of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAKey {
    #[error("it must have {} to {} characters", FOREIGN.start(), FOREIGN.end())]
    Length,
    #[error("it must be visible ASCII without spaces, and without a line break at its end")]
    Characters,
}

impl ApiKey {
    /// A new key, from the system's source of randomness.
    pub fn generate() -> Result<Self, rand::rand_core::OsError> {
        let mut key = String::with_capacity(PREFIX.len() + BODY + CHECK);
        key.push_str(PREFIX);
        let mut body = String::with_capacity(BODY);
        while body.len() < BODY {
            let mut bytes = [0u8; 64];
            OsRng.try_fill_bytes(&mut bytes)?;
            // 248 = 4 * 62: the rest would favour some characters.
            for byte in bytes.into_iter().filter(|b| *b < 248).take(BODY - body.len()) {
                body.push(char::from(ALPHABET[usize::from(byte % 62)]));
            }
        }
        key.push_str(&body);
        key.push_str(&check(&body));
        Ok(Self(key))
    }

    /// A key that is kept in a Secret.
    pub fn from_secret(bytes: &[u8]) -> Result<Self, NotAKey> {
        if !FOREIGN.contains(&bytes.len()) {
            return Err(NotAKey::Length);
        }
        if !bytes.iter().all(u8::is_ascii_graphic) {
            return Err(NotAKey::Characters);
        }
        String::from_utf8(bytes.to_vec())
            .map(Self)
            .map_err(|_| NotAKey::Characters)
    }

    /// For writing into the Secret, and for nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn digest(&self) -> KeyDigest {
        KeyDigest(hex(&Sha256::digest(self.0.as_bytes())))
    }
}

/// SHA-256 of a key, in lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyDigest(String);

impl KeyDigest {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Enough to recognise a key, too little to guess one.
    pub fn fingerprint(&self) -> &str {
        &self.0[..8]
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
            text
        })
}

/// CRC-32 of the body in base62, most significant first.
fn check(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut check = [b'0'; CHECK];
    for place in check.iter_mut().rev() {
        *place = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    check.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_keys_have_the_form_and_differ() {
        let keys: Vec<ApiKey> = (0..50).map(|_| ApiKey::generate().unwrap()).collect();
        for key in &keys {
            let text = key.expose();
            assert_eq!(text.len(), 42);
            let (body, given) = text.strip_prefix(PREFIX).unwrap().split_at(BODY);
            assert!(body.bytes().all(|b| b.is_ascii_alphanumeric()));
            assert_eq!(given, check(body));
            assert_eq!(ApiKey::from_secret(text.as_bytes()).as_ref(), Ok(key));
            assert_eq!(format!("{key:?}"), "ApiKey(..)");
        }
        let distinct: std::collections::BTreeSet<_> = keys.iter().map(ApiKey::digest).collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn the_check_is_crc32_in_base62() {
        // CRC-32 of "123456789" is 0xCBF43926 = 3421780262.
        assert_eq!(check("123456789"), "3jZRME");
    }

    #[test]
    fn digest_is_sha256() {
        let key = ApiKey::from_secret(b"psk_0123456789abcdef").unwrap();
        assert_eq!(key.digest().as_str().len(), 64);
        assert_eq!(hex(&Sha256::digest(b"abc"))[..8], *"ba7816bf");
        assert_eq!(key.digest().fingerprint(), &key.digest().as_str()[..8]);
    }

    #[test]
    fn foreign_keys_are_checked_without_being_told() {
        for (bytes, why) in [
            (&b"short"[..], NotAKey::Length),
            (&[b'x'; 257], NotAKey::Length),
            (b"a line break at its end\n", NotAKey::Characters),
            ("schl\u{fc}ssel-schl\u{fc}ssel".as_bytes(), NotAKey::Characters),
        ] {
            assert_eq!(ApiKey::from_secret(bytes), Err(why));
        }
    }

    #[test]
    fn derived_ids_are_stable_and_distinct() {
        let id = derived_app_id("c1", "growth", "shop");
        assert_eq!(id, derived_app_id("c1", "growth", "shop"));
        assert_eq!(id.get_version_num(), 5);
        assert_ne!(id, derived_app_id("c2", "growth", "shop"));
        assert_ne!(id, derived_app_id("c1", "growth", "blog"));
    }
}
