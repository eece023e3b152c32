//! Which process a pid file means, and ending it.
//!
//! A pid alone means nothing after a crash or a reboot: the kernel gives it to someone else. An identity is the pid
//! with the moment the process began and the boot it began in; a signal goes only to a process that still has all three.

use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

const POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: i32,
    /// Clock ticks from boot to the start of the process: field 22 of /proc/PID/stat.
    pub started: u64,
    pub boot: String,
}

impl Identity {
    pub fn of(pid: i32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .doing(format_args!("looking at process {pid}"))?;
        let (_, started) =
            parse_stat(&stat).ok_or_else(|| Error::new(format!("cannot read /proc/{pid}/stat")))?;
        Ok(Self {
            pid,
            started,
            boot: boot_id()?,
        })
    }

    pub fn is_alive(&self) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        let Some((state, started)) = parse_stat(&stat) else {
            return false;
        };
        // A zombie has ended; its parent has not looked yet.
        state != 'Z'
            && state != 'X'
            && started == self.started
            && boot_id().is_ok_and(|boot| boot == self.boot)
    }

    /// Sends a signal; a process that is gone already is fine.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(Error::new(format!(
                "sending {signal} to pid {}: {error}",
                self.pid
            ))),
        }
    }

    /// Asks the process to end, and after `grace` makes it; without grace it is not asked.
    pub fn stop(&self, grace: Duration) -> Result<()> {
        if !grace.is_zero() {
            self.signal(Signal::SIGTERM)?;
            if self.wait_gone(grace) {
                return Ok(());
            }
        }
        self.signal(Signal::SIGKILL)?;
        if self.wait_gone(Duration::from_secs(10)) {
            return Ok(());
        }
        Err(
            Error::new(format!("pid {} does not end, not even by SIGKILL", self.pid)).next(format!(
                "look at /proc/{}/stack for what the kernel waits for",
                self.pid
            )),
        )
    }

    fn wait_gone(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(POLL);
        }
        true
    }
}

/// The kernel's id of this boot.
pub fn boot_id() -> Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").doing("reading the boot id")?;
    Ok(id.trim().to_owned())
}

/// The state letter and the start time. The command's name comes before them in parentheses and may hold anything,
/// parentheses and spaces too, so fields are counted from the last one.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// The command line of a process, for people.
pub fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text: Vec<_> = bytes
        .split(|b| *b == 0)
        .filter(|a| !a.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    let text = text.join(" ");
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn stat_is_read_behind_any_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        for name in ["sh", "a b", "x) R 1 (y", "((("] {
            assert_eq!(
                parse_stat(&format!("12 ({name}) {tail}")),
                Some(('S', 4711)),
                "{name}"
            );
        }
        assert_eq!(parse_stat("12 (sh) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn an_identity_follows_one_process_only() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id().cast_signed()).unwrap();
        assert!(identity.is_alive());
        let recycled = Identity {
            started: identity.started + 1,
            ..identity.clone()
        };
        assert!(!recycled.is_alive(), "another start time is another process");
        let rebooted = Identity {
            boot: "another".into(),
            ..identity
        };
        assert!(!rebooted.is_alive(), "another boot is another process");
        recycled.signal(Signal::SIGKILL).unwrap();
        assert!(identity.is_alive(), "a stale pid file kills nobody");
        identity.stop(Duration::from_secs(5)).unwrap();
        assert!(!identity.is_alive());
        child.wait().unwrap();
    }
}
