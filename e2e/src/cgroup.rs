//! The cgroup of an instance: everything it runs is in it, so everything it runs can be found again.
//!
//! The same path in every hierarchy (cgroup v1 has several, v2 one): `penstock-NAME/system` holds the kit's own
//! components and what they fork, and kubelet puts pods under `penstock-NAME/kubepods`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Context, Result};
use crate::instance::Instance;

const ROOT: &str = "/sys/fs/cgroup";
const SYSTEM: &str = "system";
const PATIENCE: Duration = Duration::from_secs(10);

impl Instance {
    /// Makes the instance's cgroup in every hierarchy that takes one.
    pub(crate) fn create_cgroups(&self) -> Result<()> {
        for hierarchy in hierarchies() {
            let own = hierarchy.join(self.scope());
            for path in [&own, &own.join(SYSTEM)] {
                if !path.exists() {
                    fs::create_dir(path).doing(format_args!("creating the cgroup {}", path.display()))?;
                }
                let Some(parent) = path.parent() else { continue };
                // A new v1 cpuset is empty and admits no process until it is told its CPUs and memory nodes.
                for setting in ["cpuset.cpus", "cpuset.mems"] {
                    let inherits = path.join("cgroup.controllers").exists();
                    if let (false, Ok(value)) = (inherits, fs::read_to_string(parent.join(setting))) {
                        fs::write(path.join(setting), value.trim())
                            .doing(format_args!("setting {setting} of {}", path.display()))?;
                    }
                }
                // v2 hands a controller to children only when told to.
                if path == &own
                    && let Ok(controllers) = fs::read_to_string(own.join("cgroup.controllers"))
                {
                    for controller in controllers.split_whitespace() {
                        // A controller that the kernel refuses here is one that kubelet will do without.
                        let _ = fs::write(own.join("cgroup.subtree_control"), format!("+{controller}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives the instance, and in it what the kit runs, more weight than the kernel does: to it each busy task beside the
    /// cluster weighs as much as the whole cluster, so that tests starve what they wait for.
    pub(crate) fn outweigh_others(&self) -> Result<()> {
        for hierarchy in hierarchies() {
            let own = hierarchy.join(self.scope());
            for (path, times) in [(&own, 16), (&own.join(SYSTEM), 8)] {
                // In v1 and in v2, with what each gives by itself.
                for (setting, usual) in [("cpu.shares", 1024), ("cpu.weight", 100)] {
                    let file = path.join(setting);
                    if file.exists() {
                        fs::write(&file, (times * usual).to_string())
                            .doing(format_args!("writing {}", file.display()))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves a process that the kit has just started into the instance's cgroups.
    pub(crate) fn adopt(&self, pid: i32) -> Result<()> {
        for hierarchy in hierarchies() {
            let procs = hierarchy.join(self.scope()).join(SYSTEM).join("cgroup.procs");
            if procs.exists() {
                fs::write(&procs, pid.to_string())
                    .doing(format_args!("moving pid {pid} into {}", procs.display()))?;
            }
        }
        Ok(())
    }

    /// Every process in the instance's cgroups, pods included.
    pub fn cgroup_processes(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for hierarchy in hierarchies() {
            for directory in below(&hierarchy.join(self.scope())) {
                let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
                pids.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()));
            }
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Removes the instance's cgroups, deepest first. The kernel lets go of one a moment after its last process has
    /// ended, so it is tried for a while; what stays is told by `leftover_cgroups`.
    pub(crate) fn delete_cgroups(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for hierarchy in hierarchies() {
                for directory in below(&hierarchy.join(self.scope())) {
                    let _ = fs::remove_dir(directory);
                }
            }
            if self.leftover_cgroups().is_empty() || Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn leftover_cgroups(&self) -> Vec<PathBuf> {
        hierarchies()
            .into_iter()
            .map(|h| h.join(self.scope()))
            .filter(|path| path.exists())
            .collect()
    }
}

/// The mount points of all hierarchies: one on v2, one per controller on v1, both on a mixed system.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if root.join("cgroup.procs").exists() {
        return vec![root.to_path_buf()];
    }
    let Ok(entries) = fs::read_dir(root) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists())
        .collect();
    found.sort();
    found
}

/// A folder and all folders in it, children before parents; nothing when it is not there.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(entries) = fs::read_dir(directory) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(below(&entry.path()));
            }
        }
        found.push(directory.to_path_buf());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_come_before_their_parents() {
        let dir = std::env::temp_dir().join(format!("penstock-cgroup-{}", std::process::id()));
        fs::create_dir_all(dir.join("a/b")).unwrap();
        assert_eq!(below(&dir), [dir.join("a/b"), dir.join("a"), dir.clone()]);
        assert!(below(&dir.join("none")).is_empty());
        fs::remove_dir_all(dir).unwrap();
    }
}
