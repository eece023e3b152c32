//! A Redis of a test's own, to be wiped, frozen, killed and brought back while other tests use the instance's.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use penstock_e2e::trial::port;

use super::setup::wait_for;

/// One process, which keeps nothing on a disk, as the instance's does not.
pub(crate) struct Redis {
    port: u16,
    child: Child,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let port = port();
        let child = run(port);
        let redis = Self { port, child };
        redis.wait_ready();
        redis
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// It answers nothing more, and ends no connection.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Another process in the place of the one that was killed, with nothing in it.
    pub(crate) fn start_again(&mut self) {
        self.child = run(self.port);
        self.wait_ready();
    }

    /// Forgets everything.
    pub(crate) fn wipe(&self) {
        redis::cmd("FLUSHALL").exec(&mut self.connect().unwrap()).unwrap();
    }

    fn wait_ready(&self) {
        wait_for("an own Redis", || self.connect().is_ok());
    }

    fn connect(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(format!("redis://{}", self.address()))?.get_connection()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(port: u16) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
