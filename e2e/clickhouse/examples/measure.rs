//! Measures `clickhouse-front`: inserts of 100,000 rows in the Native format, `SELECT 1`, and memory.
//!
//! ```sh
//! cargo build --release -p penstock-e2e-clickhouse
//! cargo run --release -p penstock-e2e-clickhouse --example measure -- PATH/TO/libchdb.so
//! ```

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROWS: u64 = 100_000;
const INSERTS: u64 = 30;
const SELECTS: usize = 2_000;

struct Front(Child);

impl Drop for Front {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let library = std::env::args().nth(1).ok_or("which libchdb.so?")?;
    // target/release/examples/measure -> target/release/clickhouse-front
    let program = std::env::current_exe()?
        .ancestors()
        .nth(2)
        .ok_or("no folder")?
        .join("clickhouse-front");
    let data = tempfile::tempdir()?;
    let started = Instant::now();
    let mut front = Front(
        Command::new(program)
            .args(["--listen", "127.0.0.1:0", "--lib", &library, "--path"])
            .arg(data.path())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut line = String::new();
    BufReader::new(front.0.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let url = line.trim().rsplit(' ').next().ok_or("no address")?.to_string();
    println!("start: {} ms", started.elapsed().as_millis());
    println!("resident, idle: {} MB", resident(&front.0)?);

    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .into();
    let ask = |parameters: &str, body: &[u8]| -> Result<(String, Duration), Box<dyn Error>> {
        let started = Instant::now();
        let text = agent
            .post(format!("{url}/?{parameters}"))
            .send(body)?
            .body_mut()
            .read_to_string()?;
        Ok((text, started.elapsed()))
    };
    ask(
        "",
        b"CREATE TABLE t (a UInt64, b UInt64, c String, d String) ENGINE = MergeTree ORDER BY (c, a)",
    )?;
    let mut inserts = Vec::new();
    let mut bytes = 0;
    for batch in 0..INSERTS {
        let block = block(batch * ROWS);
        bytes = block.len();
        inserts.push(ask("async_insert=0&query=INSERT+INTO+t+FORMAT+Native", &block)?.1);
    }
    let (count, _) = ask("", b"SELECT count() FROM t")?;
    if count.trim() != (ROWS * INSERTS).to_string() {
        return Err(format!("stored {count}").into());
    }
    let insert = quantile(&mut inserts, 0.5);
    println!(
        "insert of {ROWS} rows, {:.1} MB, Native: median {:.1} ms ({:.1} M rows/s), slowest {:.1} ms",
        bytes as f64 / 1e6,
        millis(insert),
        ROWS as f64 / insert.as_secs_f64() / 1e6,
        millis(quantile(&mut inserts, 1.0)),
    );
    let mut selects = (0..SELECTS)
        .map(|_| ask("", b"SELECT 1").map(|(_, took)| took))
        .collect::<Result<Vec<_>, _>>()?;
    println!(
        "SELECT 1: p50 {:.2} ms, p99 {:.2} ms",
        millis(quantile(&mut selects, 0.5)),
        millis(quantile(&mut selects, 0.99))
    );
    println!("resident, loaded: {} MB", resident(&front.0)?);
    Ok(())
}

/// One Native block of four columns, about 45 bytes per row.
fn block(from: u64) -> Vec<u8> {
    let mut block = Vec::new();
    push_length(&mut block, 4);
    push_length(&mut block, ROWS as usize);
    for (name, kind) in [("a", "UInt64"), ("b", "UInt64"), ("c", "String"), ("d", "String")] {
        push_text(&mut block, name);
        push_text(&mut block, kind);
        for row in from..from + ROWS {
            match name {
                "a" => block.extend_from_slice(&row.to_le_bytes()),
                "b" => block.extend_from_slice(&row.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()),
                "c" => push_text(
                    &mut block,
                    &format!("user-{:06}", row.wrapping_mul(7919) % 50_000),
                ),
                _ => push_text(&mut block, &format!("{{\"n\":{row}}}")),
            }
        }
    }
    block
}

fn push_text(block: &mut Vec<u8>, text: &str) {
    push_length(block, text.len());
    block.extend_from_slice(text.as_bytes());
}

fn push_length(block: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        block.push(length as u8 | 0x80);
        length >>= 7;
    }
    block.push(length as u8);
}

fn quantile(times: &mut [Duration], q: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * q) as usize]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Resident memory in MB.
fn resident(child: &Child) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1000)
}
