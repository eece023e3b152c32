//! `instructions read|store BODY TIMES`: so many times a body of `/v1/events/batch` is read into lines, or the lines that it
//! became into rows.
//!
//! It measures nothing itself; `e2e/bench/instructions` runs it under valgrind and divides what it counts.
#![forbid(unsafe_code)]

use std::error::Error;
use std::hint::black_box;

use penstock_dataplane::consume::record::Content;
use penstock_dataplane::ingest::pure::Reader;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, path, times] = arguments.as_slice() else {
        return Err("instructions read|store BODY TIMES".into());
    };
    let body = std::fs::read(path)?;
    let times: u32 = times.parse()?;
    let mut reader = Reader::new();
    let refused = "the body is refused";
    let events = match what.as_str() {
        "read" => {
            let mut events = 0;
            for _ in 0..times {
                let (count, lines) = reader.batch(black_box(&body)).ok_or(refused)?;
                events = count;
                black_box(lines);
            }
            events
        }
        "store" => {
            let (events, lines) = reader.batch(&body).ok_or(refused)?;
            let mut content = Content::default();
            for offset in 0..times {
                let added = content.add(0, offset.into(), None, black_box(lines));
                let added = added.map_err(|version| format!("{version:?}"))?;
                if (added.rows as usize, added.dead) != (events, 0) {
                    return Err(format!("of {events} lines {} became rows", added.rows).into());
                }
            }
            black_box(&content);
            events
        }
        _ => return Err(format!("{what} is neither `read` nor `store`").into()),
    };
    println!("{events} events of {} bytes", body.len());
    Ok(())
}
