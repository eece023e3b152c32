//! Whether the machine has room: disk for what is built and stored, memory for what runs.

use std::fs;

use crate::component::Group;
use crate::error::{Error, Result};
use crate::instance::Instance;

/// What a Go build needs besides the results, and a cold Rust build.
const DISK_TO_BUILD_GB: u64 = 12;
const DISK_TO_RUN_GB: u64 = 3;
const MEMORY_FIRST_GB: u64 = 3;
/// Beside another instance that runs.
const MEMORY_SECOND_GB: u64 = 6;
const MEMORY_SERVICES_GB: u64 = 1;

/// Room for the cache and for the instance.
pub(crate) fn disk(instance: &Instance, to_build: bool) -> Result<()> {
    let needed = if to_build {
        DISK_TO_BUILD_GB
    } else {
        DISK_TO_RUN_GB
    };
    for folder in [instance.cache().root(), instance.state_dir()] {
        let Some(existing) = folder.ancestors().find(|path| path.exists()) else {
            continue;
        };
        let Ok(stat) = nix::sys::statvfs::statvfs(existing) else {
            continue;
        };
        let free = stat.blocks_available() * stat.fragment_size() / 1_000_000_000;
        if free < needed {
            return Err(Error::new(format!(
                "{} has {free} GB free; {needed} GB are needed",
                existing.display()
            ))
            .next("make room, or set PENSTOCK_CACHE and PENSTOCK_STATE to folders on another disk"));
        }
    }
    Ok(())
}

/// Memory for what is to run, beside what runs.
pub(crate) fn memory(instance: &Instance, groups: &[Group]) -> Result<()> {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let Some(available) = available_gb(&text) else {
        return Ok(());
    };
    // What runs already has its memory.
    let components = instance.components()?;
    if components
        .iter()
        .any(|component| instance.process(*component).is_some())
    {
        return Ok(());
    }
    let others = others_running(instance);
    let needed = memory_needed_gb(groups, !others.is_empty());
    if available >= needed as f64 {
        return Ok(());
    }
    let (beside, next) = match others.first() {
        Some(other) => (
            format!(" beside the running instance `{other}`"),
            format!("`./e2e/kit --instance {other} down`"),
        ),
        None => (String::new(), "end what uses the memory".to_owned()),
    };
    Err(Error::new(format!(
        "{available:.1} GB of memory are free; a cluster{beside} needs {needed} GB"
    ))
    .next(format!("{next}, then run the same command again")))
}

fn memory_needed_gb(groups: &[Group], beside_another: bool) -> u64 {
    match (groups.contains(&Group::Kubernetes), beside_another) {
        (false, _) => MEMORY_SERVICES_GB,
        (true, false) => MEMORY_FIRST_GB,
        (true, true) => MEMORY_SECOND_GB,
    }
}

fn others_running(instance: &Instance) -> Vec<String> {
    let Some(Ok(entries)) = instance.state_dir().parent().map(fs::read_dir) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name != instance.name())
        .filter(|name| Instance::named(name).is_ok_and(|other| !other.cgroup_processes().is_empty()))
        .collect()
}

fn available_gb(meminfo: &str) -> Option<f64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024.0 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_cluster_wants_room_beside_the_first() {
        assert_eq!(memory_needed_gb(&Group::ALL, false), 3);
        assert_eq!(memory_needed_gb(&Group::ALL, true), 6);
        assert_eq!(memory_needed_gb(&[Group::Kafka, Group::Redis], true), 1);
    }

    #[test]
    fn memory_is_what_is_available_not_what_is_free() {
        let text = "MemTotal: 24000000 kB\nMemFree: 1 kB\nMemAvailable:   6000000 kB\n";
        assert!((available_gb(text).unwrap() - 6.144).abs() < 0.001);
    }
}
