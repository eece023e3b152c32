//! How Penstock's programs reach Kafka, ClickHouse and Redis: where, encrypted with what, and as whom.
//!
//! What is secret stands in files that a configuration names. They are read for each client, or each connection, that is
//! made, so what is rotated is used from the next one on: by Redis from the next connection, by ClickHouse from the next
//! request (its credentials; its certificates from the next client), by Kafka from the next client, because librdkafka
//! keeps what it was made with.
//!
//! No secret is ever part of an error, a log line or an argument.
#![forbid(unsafe_code)]

pub mod http;
pub mod kafka;
pub mod redis;
mod tls;

use std::path::{Path, PathBuf};

/// A file that a connection needs and cannot use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct Unusable {
    pub path: PathBuf,
    pub why: String,
}

impl Unusable {
    pub fn new(path: &Path, why: impl ToString) -> Self {
        Self {
            path: path.to_owned(),
            why: why.to_string(),
        }
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, Unusable> {
    std::fs::read(path).map_err(|error| Unusable::new(path, error))
}

/// A secret of one line, without the line break that editors put behind it.
pub fn secret(path: &Path) -> Result<String, Unusable> {
    line(path, bytes(path)?)
}

/// Text without the line breaks behind it.
fn line(path: &Path, bytes: Vec<u8>) -> Result<String, Unusable> {
    let mut text = String::from_utf8(bytes).map_err(|_| Unusable::new(path, "is not UTF-8"))?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line_and_is_never_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        for (content, read) in [
            (&b"s3cret\n"[..], Ok("s3cret")),
            (b" kept \r\n", Ok(" kept ")),
            (b"\n", Ok("")),
            (b"s3cret\xff", Err("is not UTF-8")),
        ] {
            std::fs::write(&path, content).unwrap();
            let found = secret(&path);
            assert_eq!(found.as_deref().map_err(|error| error.why.as_str()), read);
            let told = found.map_err(|error| error.to_string());
            assert!(told.is_ok() || !told.unwrap_err().contains("s3cret"));
        }
        let absent = secret(&directory.path().join("absent")).unwrap_err().to_string();
        assert!(absent.contains("/absent: No such file"), "{absent}");
    }
}
