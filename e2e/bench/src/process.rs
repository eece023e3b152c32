//! What a process costs, and on which core it runs.

use std::fs;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use penstock_e2e::error::Context as _;
use penstock_e2e::{Error, Result};

/// The kernel tells CPU time in hundredths of a second, whatever its own clock is.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of a process and its threads so far.
pub fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).doing(format_args!("reading {path}"))?;
    ticks(&stat)
        .map(|ticks| TICK * ticks)
        .ok_or_else(|| Error::new(format!("cannot read {path}")))
}

/// utime + stime: fields 14 and 15, counted behind the name, which may hold anything.
fn ticks(stat: &str) -> Option<u32> {
    let rest = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

/// Memory of a process, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub resident: u64,
    /// The most there was of it.
    pub peak: u64,
}

pub fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).doing(format_args!("reading {path}"))?;
    let field = |name| {
        kilobytes(&status, name)
            .map(|kilobytes| kilobytes * 1024)
            .ok_or_else(|| Error::new(format!("{path} has no {name}")))
    };
    Ok(Memory {
        resident: field("VmRSS:")?,
        peak: field("VmHWM:")?,
    })
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Keeps the calling thread, and what it starts from now on, on one core.
pub fn stay_on(core: usize) -> Result<()> {
    pin(Pid::from_raw(0), core)
}

/// Keeps every thread of a running process on one core.
pub fn keep_on(pid: i32, core: usize) -> Result<()> {
    let path = format!("/proc/{pid}/task");
    let threads = fs::read_dir(&path).doing(format_args!("listing {path}"))?;
    for thread in threads.flatten() {
        if let Some(id) = thread.file_name().to_str().and_then(|name| name.parse().ok()) {
            // A thread that has just ended needs no core.
            let _ = pin(Pid::from_raw(id), core);
        }
    }
    Ok(())
}

fn pin(thread: Pid, core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores
        .set(core)
        .and_then(|()| sched_setaffinity(thread, &cores))
        .map_err(|error| {
            Error::new(format!("pinning to core {core}: {error}"))
                .next("the benchmark needs two cores of its own")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 4711 0";
        assert_eq!(ticks(stat), Some(200));
        assert_eq!(ticks("7 (a) S 1"), None);
        let status = "VmPeak:\t  12 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(
            (kilobytes(status, "VmHWM:"), kilobytes(status, "VmSwap:")),
            (Some(2048), None)
        );
    }

    #[test]
    fn this_process_costs_something() {
        let before = cpu(std::process::id()).unwrap();
        let mut sum = 0u64;
        while cpu(std::process::id()).unwrap() < before + TICK * 3 {
            sum = std::hint::black_box(sum + 1);
        }
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.peak >= memory.resident && memory.resident > 0);
    }
}
