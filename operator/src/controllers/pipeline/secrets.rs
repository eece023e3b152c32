//! What pods are given to say who they are: copies of the operator's files, in a Secret for each role.
//!
//! A pod gets what its role needs and nothing else. What a process reads only at
//! its start is part of what its pods restart for ([`Files::restarts`]); what it reads again is not: a rotated password of
//! ClickHouse or Redis restarts no pod.

use std::collections::BTreeMap;

use penstock_crds::Reason;
use sha2::{Digest as _, Sha256};

use super::target::{Invalid, invalid};
use crate::connections::{Connections, Copied};
use crate::identity::hex;

/// Files that processes read for each request, or each connection.
const READ_AGAIN: [&str; 5] = [
    "clickhouse-username",
    "clickhouse-password",
    "redis-ca.crt",
    "redis-username",
    "redis-password",
];

/// Contents, by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Files(BTreeMap<&'static str, Vec<u8>>);

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Files {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.0.iter().map(|(name, content)| (*name, content.as_slice()))
    }

    /// Changes when pods have to restart.
    pub(crate) fn restarts(&self) -> String {
        let mut once = self
            .iter()
            .filter(|(name, _)| !READ_AGAIN.contains(name))
            .peekable();
        match once.peek() {
            Some(_) => digest(once),
            None => String::new(),
        }
    }

    /// Changes with any of them.
    pub(crate) fn revision(&self) -> String {
        digest(self.iter())
    }
}

/// Of names and contents.
pub(super) fn digest<'f>(files: impl Iterator<Item = (&'static str, &'f [u8])>) -> String {
    let mut hash = Sha256::new();
    for (name, content) in files {
        for part in [name.as_bytes(), content] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hex(&hash.finalize())[..16].to_owned()
}

/// Both roles'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub ingest: Files,
    pub consume: Files,
}

/// Reads them. `direct`: ingest stores in ClickHouse, too. Read each time: what is rotated reaches pods by itself.
pub(super) async fn read(connections: &Connections, direct: bool) -> Result<Credentials, Invalid> {
    let shared = [connections.kafka_in_pods().1, connections.redis_in_pods().1].concat();
    let shared = contents(&shared).await?;
    let mut consume = shared.clone();
    let store = contents(&connections.clickhouse_in_pods().1).await?;
    consume.0.extend(store.0);
    Ok(Credentials {
        ingest: if direct { consume.clone() } else { shared },
        consume,
    })
}

async fn contents(files: &[Copied]) -> Result<Files, Invalid> {
    let mut contents = Files::default();
    for (name, path) in files {
        let content = tokio::fs::read(path).await.map_err(|error| {
            let message = format!("{name} cannot be read for the pods: {error}");
            invalid(Reason::NotConfigured, message)
        })?;
        contents.0.insert(name, content);
    }
    Ok(contents)
}

#[cfg(test)]
impl Files {
    pub(crate) fn of(files: &[(&'static str, &str)]) -> Self {
        let files = files
            .iter()
            .map(|(name, content)| (*name, content.as_bytes().to_vec()));
        Self(files.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_restart_for_what_they_read_once() {
        let all = [
            ("kafka-password", "s3cret"),
            ("clickhouse-password", "s3cret"),
            ("redis-password", "s3cret"),
        ];
        let before = Files::of(&all);
        for (index, restarts) in [(0, true), (1, false), (2, false)] {
            let mut changed = all;
            changed[index].1 = "other";
            let changed = Files::of(&changed);
            assert_eq!(changed.restarts() != before.restarts(), restarts, "{index}");
            assert_ne!(changed.revision(), before.revision());
        }
        assert_eq!(Files::of(&all[1..]).restarts(), "");
        let told = format!("{before:?}");
        assert!(
            told.contains("kafka-password") && !told.contains("s3cret"),
            "{told}"
        );
    }
}
