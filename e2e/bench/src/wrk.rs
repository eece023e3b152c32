//! The same single events sent by `wrk`: whether the load of this benchmark bends the figures.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use penstock_e2e::error::Context as _;
use penstock_e2e::{Error, Result};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::corpus::Encoding;
use crate::corpus::body;
use crate::measure::Bench;
use crate::plan::{Drive, Workload};
use crate::process;
use crate::server::{KEY, Server};

/// What both generators send.
pub const SINGLE: Workload = Workload::new(1, Encoding::Plain, Drive::Full);
/// Different bodies, sent by turns.
const BODIES: usize = 64;

/// Events a second, and microseconds of the server for one.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub rate: f64,
    pub cpu: f64,
}

/// Whether the program is there.
pub fn is_installed() -> bool {
    Command::new("wrk").arg("--version").output().is_ok()
}

/// One run of one server.
pub fn run(bench: &Bench, server: &Server) -> Result<Figures> {
    let topic = bench.topic()?;
    let running = server.start(&bench.bootstrap, &topic)?;
    let folder = tempfile::tempdir().doing("making a folder")?;
    let script = folder.path().join("events.lua");
    std::fs::write(&script, lua(bench.now_ms())).doing("writing events.lua")?;
    let wrk = |time: Duration| -> Result<u64> {
        let output = Command::new("wrk")
            .args(["-t1", "--latency"])
            .arg(format!("-c{}", SINGLE.connections))
            .arg(format!("-d{}s", time.as_secs().max(1)))
            .arg("-s")
            .arg(&script)
            .arg(format!("http://{}/v1/events", running.address))
            .output()
            .doing("running wrk")?;
        let said = String::from_utf8_lossy(&output.stdout);
        answered(&said).ok_or_else(|| Error::new(format!("wrk says:\n{said}")))
    };
    wrk(bench.warm_up)?;
    let before = process::cpu(running.pid())?;
    let count = wrk(bench.time)?;
    let cpu = process::cpu(running.pid())?.saturating_sub(before);
    drop(running);
    bench.topics.delete(&topic)?;
    Ok(Figures {
        rate: count as f64 / bench.time.as_secs().max(1) as f64,
        cpu: cpu.as_secs_f64() * 1e6 / count.max(1) as f64,
    })
}

fn lua(now: i64) -> String {
    let mut random = StdRng::seed_from_u64(1);
    let mut text = String::from("local requests, next = {}, 0\nfunction init()\n");
    for _ in 0..BODIES {
        let (body, _) = body(1, now, &mut random);
        // JSON of letters, digits and punctuation: a long bracket takes it as it is. Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  table.insert(requests, wrk.format('POST', '/v1/events', {{['X-API-Key']='{KEY}', \
             ['Content-Type']='application/json'}}, [==[{}]==]))",
            String::from_utf8_lossy(&body)
        );
    }
    text.push_str("end\nfunction request()\n  next = next % #requests + 1\n  return requests[next]\nend\n");
    text
}

/// Requests that were answered well, of what `wrk` prints; none when any was not.
fn answered(said: &str) -> Option<u64> {
    if said.contains("Non-2xx") || said.contains("Socket errors") {
        return None;
    }
    let line = said.lines().find(|line| line.contains(" requests in "))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_output_is_read() {
        let said =
            "Running 1s test\n  Latency 1ms\n  61234 requests in 1.00s, 9MB read\nRequests/sec: 61000.1\n";
        assert_eq!(answered(said), Some(61234));
        assert_eq!(answered(&format!("{said}  Non-2xx or 3xx responses: 3\n")), None);
        assert_eq!(answered("unable to connect"), None);
    }
}
