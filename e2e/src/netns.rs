//! The network namespace of an instance: made, entered, removed.
//!
//! A thread enters it with setns(2), and the processes it starts are born there. That leaves the mounts alone, unlike
//! `ip netns exec`, which remounts /sys: the cgroup mounts would vanish, and kubelet and runc need them.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sched::{CloneFlags, setns};

use crate::error::{Context, Error, Result};
use crate::instance::{Instance, NODE_ADDRESS};
use crate::run::run;

/// The node's own device. A bridge without ports holds an address and a default route as well as a dummy device
/// does, and every kernel that runs containers has it.
const NODE_DEVICE: &str = "node0";

impl Instance {
    pub fn netns_path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(self.scope())
    }

    /// The namespace's inode, by which processes in it are recognised; `None` when there is no namespace.
    pub fn netns_inode(&self) -> Option<u64> {
        let inode = fs::metadata(self.netns_path()).ok()?.ino();
        // `ip netns add` that was interrupted leaves a plain file, which is no namespace.
        self.is_namespace().then_some(inode)
    }

    fn is_namespace(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let path = self.netns_path();
        mounts
            .lines()
            .any(|line| line.split(' ').nth(1) == path.to_str() && line.contains(" nsfs "))
    }

    /// Makes the namespace and its one device. Finding it there already is fine.
    pub(crate) fn create_netns(&self) -> Result<()> {
        let path = self.netns_path();
        if self.netns_inode().is_none() {
            if path.exists() {
                fs::remove_file(&path).doing(format_args!("removing the stale {}", path.display()))?;
            }
            run(Command::new("ip").args(["netns", "add", &self.scope()]))?;
        }
        self.inside(|| {
            if !has_device(NODE_DEVICE)? {
                run(Command::new("ip").args(["link", "add", NODE_DEVICE, "type", "bridge"]))?;
            }
            let address = format!("{NODE_ADDRESS}/24");
            run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
            run(Command::new("ip").args(["addr", "replace", &address, "dev", NODE_DEVICE]))?;
            run(Command::new("ip").args(["link", "set", NODE_DEVICE, "up"]))?;
            run(Command::new("ip").args(["route", "replace", "default", "dev", NODE_DEVICE]))?;
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")
                .doing("switching on IPv4 forwarding in the namespace")
        })
    }

    pub(crate) fn delete_netns(&self) -> Result<()> {
        let path = self.netns_path();
        if self.netns_inode().is_some() {
            run(Command::new("ip").args(["netns", "delete", &self.scope()]))?;
        } else if path.exists() {
            fs::remove_file(&path).doing(format_args!("removing the stale {}", path.display()))?;
        }
        Ok(())
    }

    /// Moves the calling thread into the instance's network. What it starts afterwards (threads, an async runtime,
    /// processes) is there too; threads that run already are not, so call it first.
    pub fn enter(&self) -> Result<()> {
        let path = self.netns_path();
        let namespace = File::open(&path).map_err(|error| {
            Error::new(format!(
                "instance `{}` has no network namespace ({}: {error})",
                self.name(),
                path.display()
            ))
            .next(self.command("up"))
        })?;
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| {
            Error::new(format!(
                "entering the network namespace {}: {error}",
                path.display()
            ))
            .next("run it as root: the kit needs CAP_SYS_ADMIN")
        })
    }

    /// Runs `work` on a thread inside the instance's network and gives back its result.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter()?;
                work()
            });
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn has_device(name: &str) -> Result<bool> {
    // `thread-self`, because /proc/self is the process and this is one thread in another namespace.
    let devices = fs::read_to_string("/proc/thread-self/net/dev").doing("listing network devices")?;
    Ok(devices
        .lines()
        .any(|line| line.trim_start().starts_with(&format!("{name}:"))))
}
