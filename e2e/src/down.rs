//! `kit down`: ends everything and removes every trace, then looks whether that is true.
//!
//! Found by what the kernel says of them (cgroup, network namespace, mount point), never by a program's name.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use crate::component::Component;
use crate::error::{Context, Error, Result};
use crate::instance::Instance;
use crate::process::{Identity, command_line};
use crate::progress::{Outcome, Progress};

/// Enough passes for mounts over mounts and for processes that die with their parents.
const PASSES: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

impl Instance {
    /// Stops the instance and deletes all it has. An error lists what could not be removed.
    pub fn down(&self, progress: &Progress) -> Result<()> {
        let _lock = self.lock()?;
        progress.heading(&format!("instance `{}`: down", self.name()));
        progress.step("components", None, || self.stop_components())?;
        progress.step("pods and what else runs in it", None, || {
            let ended = self.end_processes()?;
            Ok(Outcome::done(format!("{ended} ended")))
        })?;
        progress.step("mounts", None, || {
            Ok(Outcome::done(format!("{} removed", self.unmount_all())))
        })?;
        progress.step("network and cgroups", None, || {
            self.delete_netns()?;
            self.delete_cgroups();
            remove_shared_traces(self);
            Ok(Outcome::done("removed"))
        })?;
        // Deleting the folder while something is mounted in it would delete what is mounted.
        if mounts_below(self.state_dir()).is_empty() && self.state_dir().exists() {
            fs::remove_dir_all(self.state_dir())
                .doing(format_args!("removing {}", self.state_dir().display()))?;
        }
        let leftovers = self.leftovers();
        if !leftovers.is_empty() {
            return Err(
                Error::new(format!("these are left:\n    {}", leftovers.join("\n    "))).next(format!(
                    "end what holds them, then `{}` again",
                    self.command("down")
                )),
            );
        }
        // The folder of all instances goes with the last of them.
        if let Some(base) = self.state_dir().parent() {
            let _ = fs::remove_file(base.join(format!(".{}.lock", self.name())));
            let _ = fs::remove_dir(base);
        }
        Ok(())
    }

    /// kubelet first, so that it does not bring back what is ended; then the rest side by side. Their data is deleted
    /// next, so nobody gets time to save any.
    fn stop_components(&self) -> Result<Outcome<()>> {
        let mut stopped = usize::from(self.kill(Component::Kubelet)?);
        let brokers = self.record()?.brokers.unwrap_or(1);
        let others: Vec<Component> = Component::all(brokers)
            .filter(|c| !matches!(c, Component::Kubelet | Component::Containerd))
            .collect();
        stopped += std::thread::scope(|scope| {
            let workers: Vec<_> = others
                .into_iter()
                .map(|c| scope.spawn(move || self.kill(c)))
                .collect();
            workers
                .into_iter()
                .map(|worker| {
                    worker
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                        .map(usize::from)
                })
                .sum::<Result<usize>>()
        })?;
        Ok(Outcome::done(format!("{stopped} stopped")))
    }

    /// Ends every process of the instance: containerd with its shims and the pods by their cgroup, and whoever else
    /// is in its network, as a shell of `kit exec` is.
    fn end_processes(&self) -> Result<usize> {
        let mut ended = BTreeSet::new();
        // Pods first: a shim that sees its container end cleans up behind it.
        let pods: Vec<i32> = self.pod_processes();
        for pid in pods {
            kill(pid, Signal::SIGKILL, &mut ended)?;
        }
        self.kill(Component::Containerd)?;
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let left = self.processes();
            if left.is_empty() {
                return Ok(ended.len());
            }
            if Instant::now() >= deadline {
                // `leftovers` names them.
                return Ok(ended.len());
            }
            for pid in left {
                kill(pid, Signal::SIGKILL, &mut ended)?;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn pod_processes(&self) -> Vec<i32> {
        let components: BTreeSet<i32> = Component::all(3)
            .filter_map(|component| self.process(component))
            .map(|identity| identity.pid)
            .collect();
        let system = self.scope() + "/system";
        self.cgroup_processes()
            .into_iter()
            .filter(|pid| !components.contains(pid))
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| !text.contains(&system))
            })
            .collect()
    }

    /// Everyone in the instance's cgroups or network, except this process and those that it descends from.
    fn processes(&self) -> Vec<i32> {
        let mut pids: BTreeSet<i32> = self.cgroup_processes().into_iter().collect();
        if let Some(inode) = self.netns_inode() {
            pids.extend(all_pids().into_iter().filter(|pid| {
                fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|namespace| namespace.ino() == inode)
            }));
        }
        let own = ancestors(std::process::id().cast_signed());
        pids.into_iter()
            .filter(|pid| !own.contains(pid))
            .filter(|pid| is_alive(*pid))
            .collect()
    }

    /// Unmounts what is under the instance's folders; gives back how many mounts there were.
    fn unmount_all(&self) -> usize {
        let first = mounts_below(self.state_dir()).len();
        for _ in 0..PASSES {
            let mounts = mounts_below(self.state_dir());
            if mounts.is_empty() {
                break;
            }
            for mount in mounts.iter().rev() {
                // Detached, because a process that is just dying may still hold it; what stays is reported.
                let _ = umount2(mount, MntFlags::MNT_DETACH);
            }
        }
        first
    }

    /// What is still there of the instance, a line each.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for pid in self.processes() {
            left.push(format!("process {pid}: {}", command_line(pid)));
        }
        left.extend(
            mounts_below(self.state_dir())
                .iter()
                .map(|mount| format!("mount {}", mount.display())),
        );
        left.extend(
            self.leftover_cgroups()
                .iter()
                .map(|cgroup| format!("cgroup {}", cgroup.display())),
        );
        if self.netns_path().exists() {
            left.push(format!("network namespace {}", self.netns_path().display()));
        }
        if self.state_dir().exists() {
            left.push(format!("folder {}", self.state_dir().display()));
        }
        left
    }
}

/// kubelet, the CNI library and containerd's shims write to a few places of the whole machine that no setting moves.
/// Ours in them lead into the instance's folder, or are sockets at which nobody listens any more.
fn remove_shared_traces(instance: &Instance) {
    let state = instance.state_dir();
    for entry in entries("/var/log/containers") {
        if fs::read_link(&entry).is_ok_and(|target| target.starts_with(state)) {
            let _ = fs::remove_file(entry);
        }
    }
    let folder = format!("{}/", state.display());
    for entry in entries("/var/lib/cni/results") {
        if fs::read_to_string(&entry).is_ok_and(|text| text.contains(&folder)) {
            let _ = fs::remove_file(entry);
        }
    }
    for socket in entries("/run/containerd/s") {
        if is_deserted(&socket) {
            let _ = fs::remove_file(socket);
        }
    }
    // Every kubelet of the machine uses this one folder, each taking it from the one before.
    let plugins = Path::new("/var/lib/kubelet/device-plugins");
    if !runs_anywhere("kubelet") {
        let _ = fs::remove_file(plugins.join("kubelet.sock"));
        let _ = fs::remove_file(plugins.join("kubelet_internal_checkpoint"));
    }
    // Folders that are empty now served nobody else.
    for folder in [
        "/var/log/containers",
        "/var/lib/cni/results",
        "/var/lib/cni",
        "/run/containerd/s",
        "/run/containerd",
        "/var/lib/kubelet/device-plugins",
        "/var/lib/kubelet",
    ] {
        let _ = fs::remove_dir(folder);
    }
}

fn runs_anywhere(program: &str) -> bool {
    all_pids().into_iter().any(|pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == program)
            && is_alive(pid)
    })
}

/// Whether a socket's listener is gone.
fn is_deserted(socket: &Path) -> bool {
    UnixStream::connect(socket).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

fn entries(folder: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

fn kill(pid: i32, signal: Signal, ended: &mut BTreeSet<i32>) -> Result<()> {
    // A process that is gone between the list and here needs nothing.
    if let Ok(identity) = Identity::of(pid) {
        identity.signal(signal)?;
        ended.insert(pid);
    }
    Ok(())
}

fn is_alive(pid: i32) -> bool {
    Identity::of(pid).is_ok_and(|identity| identity.is_alive())
}

fn all_pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// A process and its ancestors.
fn ancestors(mut pid: i32) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    while pid > 0 && found.insert(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        pid = parent.and_then(|parent| parent.trim().parse().ok()).unwrap_or(0);
    }
    found
}

/// Mount points in a folder, in the order they were made.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    parse_mounts(&text)
        .into_iter()
        .filter(|mount| mount.starts_with(folder))
        .collect()
}

/// The second column, with the kernel's octal escapes undone.
fn parse_mounts(text: &str) -> Vec<PathBuf> {
    let unescape = |field: &str| {
        field
            .replace("\\040", " ")
            .replace("\\011", "\t")
            .replace("\\012", "\n")
            .replace("\\134", "\\")
    };
    text.lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|field| PathBuf::from(unescape(field)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_escapes() {
        let text = "overlay /var/lib/penstock/x/run/a overlay rw 0 0\ntmpfs /with\\040space tmpfs rw 0 0\n";
        assert_eq!(
            parse_mounts(text),
            [
                PathBuf::from("/var/lib/penstock/x/run/a"),
                PathBuf::from("/with space")
            ]
        );
    }

    #[test]
    fn another_instances_folder_is_not_below() {
        let mounts = parse_mounts("a /s/dev2/x overlay rw 0 0\nb /s/dev/y overlay rw 0 0\n");
        let below: Vec<_> = mounts
            .into_iter()
            .filter(|mount| mount.starts_with("/s/dev"))
            .collect();
        assert_eq!(below, [PathBuf::from("/s/dev/y")]);
    }

    #[test]
    fn a_socket_is_deserted_when_its_listener_is_gone() {
        let path = std::env::temp_dir().join(format!("penstock-socket-{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(!is_deserted(&path));
        drop(listener);
        assert!(is_deserted(&path));
        fs::remove_file(&path).unwrap();
        assert!(!is_deserted(&path), "what is not there is nobody's to remove");
    }

    #[test]
    fn we_do_not_end_ourselves() {
        let own = std::process::id().cast_signed();
        let found = ancestors(own);
        assert!(found.contains(&own) && found.len() >= 2, "{found:?}");
    }
}
