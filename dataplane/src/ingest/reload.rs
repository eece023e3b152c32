//! Reading apps.yaml again when it changes. A file that cannot be used leaves the last good one in force.
//!
//! The kubelet swaps a symbolic link above the file, which no watch on the file itself sees; so the file's identity
//! is looked at twice a second, and its content is read only when that has changed, or could not be read.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use penstock_dataplane_config::AppsFile;
use penstock_dataplane_config::load::{Environment, load};
use xxhash_rust::xxh3::xxh3_128;

use super::apps::Apps;
use super::metrics::IngestMetrics;
use crate::process::Dependency;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What tells one version of a file from another without reading it.
pub(crate) type Identity = (u64, u64, i64, i64, u64);

/// Keeps the Apps in force in step with the file.
#[derive(Debug)]
pub(crate) struct Reload {
    path: PathBuf,
    apps: Arc<ArcSwap<Apps>>,
    metrics: IngestMetrics,
    dependency: Dependency,
    /// The file that was read last.
    seen: Option<Identity>,
    /// The hash of what is in force; `None` before anything is.
    in_force: Option<u128>,
}

impl Reload {
    pub(crate) fn new(
        path: PathBuf,
        apps: Arc<ArcSwap<Apps>>,
        metrics: IngestMetrics,
        dependency: Dependency,
    ) -> Self {
        Self {
            path,
            apps,
            metrics,
            dependency,
            seen: None,
            in_force: None,
        }
    }

    /// Looks until dropped.
    pub(crate) async fn run(mut self) {
        loop {
            self.look();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// One look; reads the file when it has changed.
    pub(crate) fn look(&mut self) {
        let identity = match identity(&self.path) {
            Ok(identity) => identity,
            Err(error) => {
                // Gone is not empty: revoking everybody's keys takes a file that says so.
                self.refuse(format!("cannot read {}: {error}", self.path.display()));
                self.seen = None;
                return;
            }
        };
        if self.seen == Some(identity) {
            return;
        }
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            // Not seen, so the next look tries again.
            Err(error) => return self.refuse(format!("cannot read {}: {error}", self.path.display())),
        };
        self.seen = Some(identity);
        let content = xxh3_128(text.as_bytes());
        if self.in_force == Some(content) {
            return self.dependency.found();
        }
        match self.parse(&text) {
            Ok(apps) => {
                self.in_force = Some(content);
                tracing::info!(apps = apps.list().len(), "apps.yaml is in force");
                self.metrics
                    .apps
                    .set(i64::try_from(apps.list().len()).unwrap_or(i64::MAX));
                self.metrics.apps_reloaded.inc();
                self.apps.store(Arc::new(apps));
                self.dependency.found();
            }
            Err(why) => self.refuse(why),
        }
    }

    fn parse(&self, text: &str) -> Result<Apps, String> {
        // The file is the operator's alone; no variable may add to it.
        let file: AppsFile = load(text, &Environment::new())
            .map_err(|error| error.to_string())?
            .config;
        Apps::build(&file, &self.apps.load(), &self.metrics)
    }

    fn refuse(&self, why: String) {
        self.metrics.apps_refused.inc();
        tracing::error!(why, "apps.yaml cannot be used; the last good one stays in force");
        self.dependency.lost(why);
    }
}

pub(crate) fn identity(path: &Path) -> std::io::Result<Identity> {
    let meta = std::fs::metadata(path)?;
    Ok((
        meta.dev(),
        meta.ino(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.len(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Needed, Process};

    const ID: &str = "6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11";

    /// Of a process that has not seen the file yet.
    fn reload(path: &Path) -> Reload {
        let process = Process::new();
        let dependency = process.dependencies.add("apps", Needed::ToStart);
        let metrics = IngestMetrics::new(&process.metrics);
        Reload::new(path.to_path_buf(), Arc::default(), metrics, dependency)
    }

    #[test]
    fn a_refused_file_that_comes_again_is_refused_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("apps.yaml");
        std::fs::write(&path, "apps: [").unwrap();
        let mut reload = reload(&path);
        for times in 1..4 {
            reload.seen = None;
            reload.look();
            assert_eq!(
                (reload.metrics.apps_refused.get(), reload.dependency.is_up()),
                (times, false)
            );
        }
        let good = format!("{{version: 1, replicas: 1, apps: [{{id: {ID}, name: a/b}}]}}");
        for (text, is_up) in [(good.as_str(), true), ("apps: [", false), (&good, true)] {
            std::fs::write(&path, text).unwrap();
            reload.seen = None;
            reload.look();
            assert_eq!(reload.dependency.is_up(), is_up, "{text}");
        }
        assert_eq!(
            reload.metrics.apps_reloaded.get(),
            1,
            "what is in force is not built anew"
        );
    }

    #[test]
    fn a_file_that_could_not_be_read_is_read_again() {
        // A directory is there, and cannot be read as a file.
        let directory = tempfile::tempdir().unwrap();
        let mut reload = reload(directory.path());
        for times in 1..4 {
            reload.look();
            assert_eq!(reload.metrics.apps_refused.get(), times);
        }
    }

    #[test]
    fn a_bad_file_leaves_the_last_good_one_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("apps.yaml");
        let mut reload = reload(&path);
        let (apps, dependency) = (Arc::clone(&reload.apps), reload.dependency.clone());
        let names = || {
            apps.load()
                .list()
                .iter()
                .map(|app| app.name.clone())
                .collect::<Vec<_>>()
        };

        reload.look();
        assert!(!dependency.is_up(), "no file yet");
        std::fs::write(
            &path,
            format!("{{version: 1, replicas: 1, apps: [{{id: {ID}, name: a/b}}]}}"),
        )
        .unwrap();
        reload.look();
        assert_eq!((names(), dependency.is_up()), (vec!["a/b".to_owned()], true));

        for bad in [
            "apps: [",
            "{version: 9, replicas: 1}",
            "{version: 1, replicas: 1, bogus: 1}",
        ] {
            std::fs::write(&path, bad).unwrap();
            reload.seen = None;
            reload.look();
            assert_eq!(
                (names(), dependency.is_up()),
                (vec!["a/b".to_owned()], false),
                "{bad}"
            );
        }
        std::fs::remove_file(&path).unwrap();
        reload.look();
        assert_eq!(names(), ["a/b"]);

        // As the kubelet does it: a new directory, and a link that is swapped.
        let next = directory.path().join("next");
        std::fs::create_dir(&next).unwrap();
        std::fs::write(
            next.join("apps.yaml"),
            format!("{{version: 1, replicas: 1, apps: [{{id: {ID}, name: a/c}}]}}"),
        )
        .unwrap();
        std::os::unix::fs::symlink(next.join("apps.yaml"), &path).unwrap();
        reload.look();
        assert_eq!((names(), dependency.is_up()), (vec!["a/c".to_owned()], true));
    }
}
