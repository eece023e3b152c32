//! Where built and downloaded things are kept: outside the checkout, by version, shared by all instances.
//!
//! `$PENSTOCK_CACHE`, else `$XDG_CACHE_HOME/penstock`, else `~/.cache/penstock`. A folder under its final name is
//! complete: everything is made beside it and renamed.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::versions;

#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn from_environment() -> Result<Self> {
        let variable = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let root = variable("PENSTOCK_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("penstock")))
            .or_else(|| variable("HOME").map(|home| home.join(".cache/penstock")))
            .ok_or_else(|| {
                Error::new("no HOME is set, so there is no place for the cache")
                    .next("export PENSTOCK_CACHE=FOLDER")
            })?;
        Ok(Self::at(root))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn kubernetes(&self) -> PathBuf {
        self.tools(&format!("kubernetes-v{}", versions::KUBERNETES))
    }

    pub fn helm(&self) -> PathBuf {
        self.tools(&format!("helm-v{}", versions::HELM))
    }

    pub fn coredns(&self) -> PathBuf {
        self.tools(&format!("coredns-v{}", versions::COREDNS))
    }

    /// A program built of sources with this sum.
    pub(crate) fn program(&self, name: &str, sum: &str) -> PathBuf {
        self.tools(&format!("{name}-{sum}"))
    }

    fn tools(&self, name: &str) -> PathBuf {
        self.root.join("tools").join(name)
    }

    /// The folder of Kafka's jars.
    pub fn kafka(&self) -> PathBuf {
        self.root.join(format!("kafka-{}", versions::KAFKA))
    }

    /// The ClickHouse engine.
    pub fn libchdb(&self) -> PathBuf {
        self.root
            .join(format!("chdb-{}", versions::CHDB))
            .join("libchdb.so")
    }

    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Logs of builds and downloads; one file per thing, replaced each time.
    pub fn build_log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }
}
