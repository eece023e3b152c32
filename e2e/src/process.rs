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
        let Stat { started, .. } =
            Stat::parse(&stat).ok_or_else(|| Error::new(format!("cannot read /proc/{pid}/stat")))?;
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
        let Some(stat) = Stat::parse(&stat) else {
            return false;
        };
        !stat.has_ended() && stat.started == self.started && boot_id().is_ok_and(|boot| boot == self.boot)
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

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    threads: u32,
    started: u64,
}

impl Stat {
    /// The command's name comes before the rest in parentheses and may hold anything, parentheses and spaces too, so
    /// fields are counted from the last one.
    fn parse(stat: &str) -> Option<Self> {
        let rest = &stat[stat.rfind(')')? + 1..];
        let mut fields = rest.split_whitespace();
        Some(Self {
            state: fields.next()?.chars().next()?,
            threads: fields.nth(16)?.parse().ok()?,
            started: fields.nth(1)?.parse().ok()?,
        })
    }

    /// A zombie has ended, and its parent has not looked yet; but not while threads are left that its first one did not
    /// wait for, for with them its ports are still open.
    fn has_ended(self) -> bool {
        self.state == 'X' || self.state == 'Z' && self.threads <= 1
    }
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
            let stat = Stat::parse(&format!("12 ({name}) {tail}")).unwrap();
            assert_eq!(
                (stat.state, stat.threads, stat.started),
                ('S', 17, 4711),
                "{name}"
            );
        }
        assert_eq!(Stat::parse("12 (sh) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn a_process_lives_as_long_as_its_last_thread() {
        let program = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start(); \
                       ctypes.CDLL(None).pthread_exit(None)";
        let mut child = Command::new("python3").args(["-c", program]).spawn().unwrap();
        let identity = Identity::of(child.id().cast_signed()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let state =
            || Stat::parse(&fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap()).unwrap();
        while state().state != 'Z' {
            assert!(Instant::now() < deadline, "{:?}", state());
            std::thread::sleep(POLL);
        }
        assert!(identity.is_alive());
        identity.stop(Duration::ZERO).unwrap();
        assert!(!identity.is_alive());
        child.wait().unwrap();
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
