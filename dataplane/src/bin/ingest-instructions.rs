//! `ingest-instructions BODY TIMES`: reads a body of `/v1/events/batch` into lines, so many times.
//!
//! It measures nothing itself; `e2e/bench/instructions` runs it under valgrind and divides what it counts.
#![forbid(unsafe_code)]

use std::error::Error;
use std::hint::black_box;

use penstock_dataplane::ingest::pure::Reader;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, times] = arguments.as_slice() else {
        return Err("ingest-instructions BODY TIMES".into());
    };
    let body = std::fs::read(path)?;
    let times: u32 = times.parse()?;
    let mut reader = Reader::new();
    let (mut events, mut bytes) = (0, 0);
    for _ in 0..times {
        let (count, lines) = reader.batch(black_box(&body)).ok_or("the body is refused")?;
        (events, bytes) = (count, black_box(lines).len());
    }
    println!("{events} events of {} bytes, lines of {bytes} bytes", body.len());
    Ok(())
}
