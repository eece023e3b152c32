//! More is sent than Kafka takes: what finds no room is refused at once, and what was acknowledged is stored.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::harness::{EndsWith, Ingest, apps};

/// Room for four of the requests below at once.
const NARROW: &str = "limits: {body: 100kB, event: 50kB, memory: 400kB}";
/// So few answers come from Kafka that the room is never free for long.
const ROUND_TRIP: Duration = Duration::from_millis(200);
const CLIENTS: usize = 16;
/// While nobody has been refused, who finds no room waits so long.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A quarter of what a refusal would take that waited for Kafka, and many times what it takes.
const QUICK: Duration = Duration::from_millis(50);

/// What clients were told.
#[derive(Default)]
struct Told {
    acknowledged: BTreeSet<String>,
    /// When a request that was refused had begun, and how long its refusal took.
    refusals: Vec<(Instant, Duration)>,
}

#[test]
fn what_finds_no_room_is_refused_at_once_and_nothing_acknowledged_is_lost() {
    let ingest = Ingest::start_with(NARROW, &apps(""));
    ingest.kafka.broker_round_trip_time(1, ROUND_TRIP).unwrap();
    let (client, told, stop) = (*ingest, Mutex::new(Told::default()), AtomicBool::new(false));
    let filling = "x".repeat(30_000);
    let mut settled = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let id = uuid::Uuid::new_v4().to_string();
                    let body =
                        format!(r#"{{"event_type":"a","event_id":"{id}","event_data":{{"x":"{filling}"}}}}"#);
                    let began = Instant::now();
                    let reply = client.write("/v1/events", body);
                    match (reply.status, reply.body["code"].as_str()) {
                        (200, _) => {
                            told.lock().unwrap().acknowledged.insert(id);
                        }
                        (503, Some("overloaded")) => {
                            told.lock().unwrap().refusals.push((began, began.elapsed()));
                            std::thread::sleep(Duration::from_millis(20));
                        }
                        // A busy machine may be late to hear from Kafka, which is then taken to be away for a moment.
                        (503, Some("not_stored")) => std::thread::sleep(Duration::from_millis(20)),
                        _ => panic!("{reply:?}"),
                    }
                }
            });
        }
        let _ended = EndsWith(&stop);
        let refused_for = || {
            let told = told.lock().unwrap();
            told.refusals
                .first()
                .map(|(began, took)| (*began + *took).elapsed())
        };
        ingest.wait_for("refusals to be the rule", || refused_for() > Some(LONGEST_WAIT));
        settled = Instant::now();
        let before = told.lock().unwrap().acknowledged.len();
        ingest.wait_for("refusals and acknowledgements", || {
            let told = told.lock().unwrap();
            let refusals = told.refusals.iter().filter(|(began, _)| *began > settled);
            refusals.count() >= 500 && told.acknowledged.len() >= before + 20
        });
    });
    let told = told.into_inner().unwrap();
    let refusals = told.refusals.iter().filter(|(began, _)| *began > settled);
    let mut took: Vec<Duration> = refusals.map(|(_, took)| *took).collect();
    took.sort_unstable();
    let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    println!(
        "{} refused, p50 {p50:?}, p99 {p99:?}; {} acknowledged",
        took.len(),
        told.acknowledged.len()
    );
    assert!(p99 < QUICK, "p99 of refusals is {p99:?}");

    ingest.kafka.broker_round_trip_time(1, Duration::ZERO).unwrap();
    let stored = ingest.stored(told.acknowledged.len());
    let ids: BTreeSet<String> = stored
        .iter()
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), stored.len(), "no event twice");
    let missing = told.acknowledged.difference(&ids).count();
    assert_eq!(missing, 0, "acknowledged events are not stored");
}
