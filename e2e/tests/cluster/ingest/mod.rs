//! The `ingest` role before a real Kafka and Redis, outside the cluster: what a mock cannot show.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails where it stands"
)]

mod outage;
pub(crate) mod setup;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use penstock_e2e::Result;
use penstock_e2e::trial::{Turn, at_length};
use setup::{Ingest, Setup, batch, wait_for};
use uuid::Uuid;

#[test]
fn a_topic_that_is_missing_is_named_until_it_is_there() -> Result<()> {
    let kit = Turn::beside_others()?;
    let setup = Setup::new(&kit)?;
    setup.write_apps("");
    let pod = setup.start();
    wait_for("the topic to be named", || {
        let (status, body) = pod.readyz();
        status == 503 && body.contains(&setup.topic)
    });
    assert_eq!(pod.send(&batch(&[Uuid::new_v4().to_string()])).0, 503);
    setup.create_topics(1);
    pod.wait_ready();
    assert_eq!(pod.send(&batch(&[Uuid::new_v4().to_string()])).0, 200);
    Ok(())
}

#[test]
fn pods_share_the_limit_per_second() -> Result<()> {
    const RATE: u64 = 3000;
    const BURST: u64 = 2000;
    const WARM_UP: Duration = Duration::from_secs(3);
    let measured = Duration::from_secs(if at_length() { 30 } else { 12 });
    // Others would hold up what is measured.
    let kit = Turn::in_quiet()?;
    let setup = Setup::new(&kit)?;
    setup.create_topics(3);
    setup.write_apps(&format!("eventsPerSecond: {RATE}, burst: {BURST}"));
    let pods = [setup.start(), setup.start(), setup.start()];
    pods.iter().for_each(Ingest::wait_ready);
    // Twice the limit, most of it to one pod.
    let offered = [RATE * 5 / 4, RATE / 2, RATE / 4];
    let (admitted, sent) = (AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    // Once each has refused something: what was held back while a busy machine let nobody send is used up then.
    let (refusing, measuring) = (AtomicUsize::new(0), OnceLock::new());
    let is_over = || {
        measuring
            .get()
            .is_some_and(|since: &Instant| since.elapsed() >= measured)
    };
    std::thread::scope(|scope| {
        for (pod, per_second) in pods.iter().zip(offered) {
            let (admitted, sent, is_over) = (&admitted, &sent, &is_over);
            let (refusing, measuring) = (&refusing, &measuring);
            scope.spawn(move || {
                let pause = Duration::from_micros(50 * 1_000_000 / per_second);
                let (mut next, mut refused) = (Instant::now(), false);
                while !is_over() {
                    let ids: Vec<_> = (0..50).map(|_| Uuid::new_v4().to_string()).collect();
                    let (status, body) = pod.send(&batch(&ids));
                    if measuring.get().is_none() {
                        let short = status == 429 || setup::accepted(&body) < 50;
                        if short && !refused && began.elapsed() >= WARM_UP {
                            refused = true;
                            refusing.fetch_add(1, Relaxed);
                        }
                        if refusing.load(Relaxed) == offered.len() || began.elapsed() >= 2 * WARM_UP {
                            measuring.get_or_init(Instant::now);
                        }
                    } else {
                        sent.fetch_add(50, Relaxed);
                        match status {
                            200 => admitted.fetch_add(setup::accepted(&body), Relaxed),
                            429 => 0,
                            status => panic!("{status}: {body}"),
                        };
                    }
                    next += pause;
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            });
        }
    });
    let (admitted, sent, limit) = (
        admitted.load(Relaxed),
        sent.load(Relaxed),
        RATE * measured.as_secs(),
    );
    println!("{sent} sent, {admitted} admitted of {limit}");
    assert!(sent > limit * 3 / 2, "too little was sent to tell");
    // What the pods together held when the measurement began is at most the burst.
    assert!(
        admitted <= limit + BURST + RATE / 10,
        "more than the limit and the burst"
    );
    let (least, most) = if at_length() { (95, 101) } else { (92, 200) };
    assert!(admitted >= limit * least / 100, "less than the limit");
    assert!(admitted <= limit * most / 100, "more than the limit");
    Ok(())
}

#[test]
fn pods_share_the_limit_per_day_whatever_becomes_of_redis() -> Result<()> {
    // It counts single events, and an answer that comes late would be one too few.
    let kit = Turn::in_quiet()?;
    let setup = Setup::new(&kit)?;
    setup.create_topics(1);
    setup.write_apps("eventsPerDay: 1000");
    let pods = [setup.start(), setup.start()];
    pods.iter().for_each(Ingest::wait_ready);
    let send = |pod: &Ingest, events: usize| -> u64 {
        let ids: Vec<_> = (0..events).map(|_| Uuid::new_v4().to_string()).collect();
        let (status, body) = pod.send(&batch(&ids));
        if status == 429 { 0 } else { setup::accepted(&body) }
    };
    assert_eq!(send(&pods[0], 600), 600);
    // Both learn within two exchanges what the other has admitted.
    wait_for("the usage in Redis", || setup.usage() == 600);
    pods.iter().for_each(Ingest::wait_exchanged);
    assert_eq!(send(&pods[1], 1000), 400);
    assert_eq!(send(&pods[1], 1), 0);
    wait_for("the usage in Redis", || setup.usage() == 1000);

    setup.forget_usage();
    wait_for("a wiped Redis to be filled again", || setup.usage() == 1000);
    pods.iter().for_each(Ingest::wait_exchanged);
    assert_eq!(send(&pods[0], 1) + send(&pods[1], 1), 0);

    setup.write_limits(&[("events_per_day", "1500")]);
    wait_for("the operator's limit to be in force", || send(&pods[0], 1) == 1);
    pods.iter().for_each(Ingest::wait_exchanged);
    let more = send(&pods[0], 300) + send(&pods[1], 100);
    assert_eq!(more, 400);

    // Another process starts from what is known, not from nothing.
    let third = setup.start();
    third.wait_ready();
    third.wait_exchanged();
    assert!(send(&third, 1000) <= 99);
    Ok(())
}
