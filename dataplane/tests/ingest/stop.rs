//! SIGTERM: what was begun is finished, what comes in the meantime is served, and the process ends well.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::harness::Ingest;

#[test]
fn it_stops_without_failing_a_request() {
    let mut ingest = Ingest::start();
    let (began, failures) = (Instant::now(), Mutex::new(Vec::new()));
    let client = *ingest;
    let mut accepted = 0;
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut accepted = 0;
            // New connections all the while, as clients of a Service that has not heard yet would make them.
            while began.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(5));
                match client.try_write(r#"{"event_type":"a"}"#) {
                    Ok(reply) if reply.status == 200 => accepted += 1,
                    other => failures
                        .lock()
                        .unwrap()
                        .push(format!("{:?} {other:?}", began.elapsed())),
                }
            }
            accepted
        });
        std::thread::sleep(Duration::from_secs(1));
        ingest.signal("TERM");
        ingest.wait_for("readiness to go", || ingest.readyz().status == 503);
        assert_eq!(ingest.readyz().body["status"], "stopping");
        let reply = ingest.request("GET", "/health", &[], b"");
        assert_eq!(
            (reply.status, reply.headers["connection"].as_str()),
            (200, "close")
        );
        accepted = sender.join().unwrap();
    });
    assert_eq!(failures.into_inner().unwrap(), Vec::<String>::new());
    assert!(ingest.ended(Duration::from_secs(30)).success());
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert_eq!(ingest.stored(accepted).len(), accepted);
}

#[test]
fn an_idle_process_stops_on_interrupt_too() {
    let mut ingest = Ingest::start();
    let idle = ingest.connect();
    ingest.signal("INT");
    assert!(
        ingest.ended(Duration::from_secs(15)).success(),
        "an idle connection does not hold it"
    );
    drop(idle);
}
