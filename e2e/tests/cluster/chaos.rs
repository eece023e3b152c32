//! Processes die, and nothing that was acknowledged is lost or stored twice.

use std::time::Duration;

use penstock_e2e::Result;
use penstock_e2e::trial::{APP, Trial, Turn, kill_operator};

const SPEC: &str =
    "  ingest: {scaling: {replicas: 2}}\n  consume: {scaling: {replicas: 2}}\n  kafka: {partitions: 3}\n";

/// One victim at a time, again and again, while 50,000 events go in.
#[test]
fn every_acknowledged_event_is_stored_once_whatever_is_killed() -> Result<()> {
    let kit = Turn::alone()?;
    let trial = Trial::start(&kit, "chaos", SPEC)?;
    let traffic = trial.traffic(APP)?;
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            traffic.send(
                50_000,
                20,
                4,
                Duration::from_millis(100),
                Duration::from_secs(240),
            )
        });
        let mut kills = 0;
        while !sending.is_finished() {
            std::thread::sleep(Duration::from_secs(4));
            let killed = match kills % 3 {
                0 => trial.kill("ingest"),
                1 => trial.kill("consume"),
                _ => kill_operator(&kit),
            };
            match killed {
                Ok(pod) => {
                    println!("killed {pod}");
                    kills += 1;
                }
                // The one before is not ready yet; the next victim waits for it.
                Err(error) => println!("nobody killed: {error}"),
            }
        }
        assert!(
            kills >= 6,
            "only {kills} processes were killed while events went in"
        );
        sending.join().expect("the senders do not panic")
    })?;
    println!(
        "{} acknowledged, {} attempts failed, slowest answer {:?}",
        sent.ids.len(),
        sent.failed,
        sent.slowest
    );
    trial.settle(&sent, Duration::from_secs(120))
}
