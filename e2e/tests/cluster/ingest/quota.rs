//! Limits that pods share through Redis: how exactly they are kept, and what becomes of them when Redis is wiped, killed
//! and back.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use penstock_e2e::Result;
use penstock_e2e::trial::{Turn, at_length, meanwhile};
use uuid::Uuid;

use super::redis::Redis;
use super::setup::{self, Ingest, Setup, batch, wait_for};

const LEASE_AGE: &str = "penstock_ingest_quota_lease_age_seconds";
/// A pod that has not heard of Redis for so long goes on alone.
const HEARD_WITHIN: f64 = 1.5;

const RATE: u64 = 3000;
/// As much as comes in two thirds of a second: so long may a busy machine hold the pods up, and nothing is lost.
const BURST: u64 = 2000;
/// As apps.yaml says.
const REPLICAS: u64 = 3;
/// Twice the limit, most of it to one pod.
const OFFERED: [u64; 3] = [RATE * 5 / 4, RATE / 2, RATE / 4];
/// Of a request.
const EVENTS: u64 = 50;
/// What was admitted before a measurement begins or ends may be counted after that: a request of each sender.
const UNCOUNTED: u64 = OFFERED.len() as u64 * EVENTS;

/// What a sender was answered.
struct Sender {
    pause: Duration,
    next: Mutex<Instant>,
    sent: AtomicU64,
    admitted: AtomicU64,
    /// Requests that were not admitted as a whole.
    refused: AtomicU64,
}

impl Sender {
    fn new(per_second: u64) -> Self {
        Self {
            pause: Duration::from_micros(EVENTS * 1_000_000 / per_second),
            next: Mutex::new(Instant::now()),
            sent: AtomicU64::new(0),
            admitted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// One request, when its time has come.
    fn send(&self, pod: &Ingest) {
        let next = {
            let mut next = self.next.lock().unwrap();
            *next += self.pause;
            *next
        };
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let admitted = send(pod, EVENTS);
        self.sent.fetch_add(EVENTS, Relaxed);
        self.admitted.fetch_add(admitted, Relaxed);
        self.refused.fetch_add(u64::from(admitted < EVENTS), Relaxed);
    }
}

/// How many of so many new events a pod admits.
fn send(pod: &Ingest, events: u64) -> u64 {
    let ids: Vec<_> = (0..events).map(|_| Uuid::new_v4().to_string()).collect();
    match pod.send(&batch(&ids)) {
        (200, body) => setup::accepted(&body),
        (429, _) => 0,
        (status, body) => panic!("{status}: {body}"),
    }
}

/// A sender to each pod.
struct Load(Vec<Sender>);

/// What was sent and admitted while it was measured, by pod.
struct Measured {
    took: Duration,
    sent: Vec<u64>,
    admitted: Vec<u64>,
}

impl Load {
    fn new() -> Self {
        Self(OFFERED.map(Sender::new).into())
    }

    fn each(&self, count: impl Fn(&Sender) -> &AtomicU64) -> Vec<u64> {
        self.0.iter().map(|sender| count(sender).load(Relaxed)).collect()
    }

    /// Waits until the burst is used up: each pod has refused something, or is offered less than it may have.
    fn settle(&self) {
        const AT_LEAST: Duration = Duration::from_secs(2);
        std::thread::sleep(AT_LEAST);
        let (before, began) = (self.each(|sender| &sender.refused), Instant::now());
        while began.elapsed() < AT_LEAST {
            let now = self.each(|sender| &sender.refused);
            if now.iter().zip(&before).all(|(now, before)| now > before) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What happens meanwhile lasts as long as the measurement.
    fn measure(&self, what: &str, meanwhile: impl FnOnce()) -> Measured {
        let look = || {
            (
                Instant::now(),
                self.each(|sender| &sender.sent),
                self.each(|sender| &sender.admitted),
            )
        };
        let before = look();
        meanwhile();
        let after = look();
        let difference = |before: &[u64], after: &[u64]| {
            let pairs = after.iter().zip(before);
            pairs.map(|(after, before)| after - before).collect()
        };
        let measured = Measured {
            took: after.0 - before.0,
            sent: difference(&before.1, &after.1),
            admitted: difference(&before.2, &after.2),
        };
        println!(
            "{what}: {:?} of {:?} admitted in {:?}, {:.1} % of the limit",
            measured.admitted,
            measured.sent,
            measured.took,
            100.0 * measured.total() as f64 / measured.limit() as f64
        );
        assert!(
            measured.sent.iter().sum::<u64>() > measured.limit() * 3 / 2,
            "too little was sent to tell"
        );
        measured
    }
}

impl Measured {
    fn total(&self) -> u64 {
        self.admitted.iter().sum()
    }

    /// What may be admitted in this time at so many events per second.
    fn at(&self, rate: u64) -> u64 {
        (rate as f64 * self.took.as_secs_f64()) as u64
    }

    fn limit(&self) -> u64 {
        self.at(RATE)
    }

    /// 95 to 101 % over 30 seconds. In a shorter time what the pods and Redis together hold weighs more: it is between
    /// nothing and the burst, both when the measurement begins, then that much more may be admitted, and when it ends,
    /// then that much less.
    fn keeps_the_limit(&self) {
        let (limit, total) = (self.limit(), self.total());
        let (least, most) = if at_length() {
            (limit * 95 / 100, limit * 101 / 100)
        } else {
            (limit - BURST - UNCOUNTED, limit + BURST + UNCOUNTED)
        };
        assert!((least..=most).contains(&total), "not within {least} and {most}");
    }
}

/// So long, or half a minute when there is time.
fn pass(seconds: u64) {
    std::thread::sleep(Duration::from_secs(if at_length() { 30 } else { seconds }));
}

/// Three pods that share a limit per second, and what happens under load.
fn under_load(setup: &Setup<'_>, scenario: impl FnOnce(&Load, &[Ingest])) -> Result<()> {
    setup.create_topics(3);
    setup.write_apps(&format!("eventsPerSecond: {RATE}, burst: {BURST}"));
    let pods = OFFERED.map(|_| setup.start());
    pods.iter().for_each(Ingest::wait_ready);
    let load = Load::new();
    let send = |number: usize| {
        load.0[number].send(&pods[number]);
        Ok(())
    };
    meanwhile(OFFERED.len(), send, || {
        load.settle();
        scenario(&load, &pods);
        Ok(())
    })
}

/// Waits until a pod knows that Redis is away.
fn wait_alone(pod: &Ingest) {
    wait_for("a lease that is old", || pod.metric(LEASE_AGE) > HEARD_WITHIN);
}

/// Waits until a pod has leases again.
fn wait_leased(pod: &Ingest) {
    wait_for("a lease that is new", || pod.metric(LEASE_AGE) < 1.0);
}

#[test]
fn pods_share_the_limit_per_second() -> Result<()> {
    // Others would hold up what is measured.
    let kit = Turn::in_quiet()?;
    under_load(&Setup::new(&kit)?, |load, _| {
        // 36000 events: 94 to 106 %.
        load.measure("with Redis", || pass(12)).keeps_the_limit();
    })
}

#[test]
fn pods_share_the_limit_per_second_whatever_becomes_of_redis() -> Result<()> {
    let kit = Turn::in_quiet()?;
    let mut redis = Redis::start();
    let setup = Setup::new(&kit)?.with_redis(redis.address());
    under_load(&setup, |load, pods| {
        let wiped = load.measure("wiped", || {
            redis.wipe();
            pass(6);
        });
        // What it knew is gone: what pods held, up to a burst, and the burst that it begins with. A machine that holds
        // everything up costs some of that.
        let (limit, total) = (wiped.limit(), wiped.total());
        assert!(
            (limit * 95 / 100..=limit + 2 * BURST + UNCOUNTED).contains(&total),
            "{total} of {limit}"
        );

        redis.kill();
        pods.iter().for_each(wait_alone);
        let fresh = setup.start();
        fresh.wait_ready();
        let (alone, before) = (Sender::new(RATE), Instant::now());
        let away = load.measure("away", || {
            let lasts = Duration::from_secs(if at_length() { 30 } else { 6 });
            while before.elapsed() < lasts {
                alone.send(&fresh);
            }
        });
        // Each goes on with its share. The last is offered no more than three quarters of it: 92 % in all.
        let (limit, total) = (away.limit(), away.total());
        assert!(
            (limit * 80 / 100..=limit * 101 / 100).contains(&total),
            "{total} of {limit}"
        );
        // So does one that has never heard of Redis. All of them may have held their share of the burst when it began.
        let share = away.at(RATE / REPLICAS);
        let of_fresh = alone.admitted.into_inner();
        println!("a fresh pod: {of_fresh} of {share}");
        assert!(of_fresh >= share * 80 / 100, "{of_fresh} of {share}");
        for of_one in away.admitted.iter().chain([&of_fresh]) {
            assert!(
                *of_one <= share + BURST / REPLICAS + UNCOUNTED,
                "{of_one} of {share}"
            );
        }
        for pod in pods {
            let age = pod.metric(LEASE_AGE);
            assert!(
                age >= away.took.as_secs_f64(),
                "{age} s, and Redis was away for longer"
            );
        }
        drop(fresh);

        redis.start_again();
        pods.iter().for_each(wait_leased);
        load.settle();
        // 24000 events: 91 to 109 %.
        load.measure("back", || pass(8)).keeps_the_limit();
    })
}

#[test]
fn pods_share_the_limit_per_day_whatever_becomes_of_redis() -> Result<()> {
    // It counts single events, and an answer that comes late would be one too few.
    let kit = Turn::in_quiet()?;
    let mut redis = Redis::start();
    let setup = Setup::new(&kit)?.with_redis(redis.address());
    setup.create_topics(1);
    setup.write_apps("eventsPerDay: 1000");
    let pods = [setup.start(), setup.start()];
    pods.iter().for_each(Ingest::wait_ready);
    assert_eq!(send(&pods[0], 600), 600);
    // Both learn within two exchanges what the other has admitted.
    wait_for("the usage in Redis", || setup.usage() == 600);
    pods.iter().for_each(Ingest::wait_exchanged);
    assert_eq!(send(&pods[1], 1000), 400);
    assert_eq!(send(&pods[1], 1), 0);
    wait_for("the usage in Redis", || setup.usage() == 1000);

    redis.wipe();
    wait_for("a wiped Redis to be filled again", || setup.usage() == 1000);
    pods.iter().for_each(Ingest::wait_exchanged);
    assert_eq!(send(&pods[0], 1) + send(&pods[1], 1), 0);

    setup.write_limits(&[("events_per_day", "1500")]);
    wait_for("the operator's limit to be in force", || send(&pods[0], 1) == 1);
    pods.iter().for_each(Ingest::wait_exchanged);
    let more = send(&pods[0], 300) + send(&pods[1], 100);
    assert_eq!(more, 400);
    wait_for("the usage in Redis", || setup.usage() == 1401);
    pods.iter().for_each(Ingest::wait_exchanged);

    redis.kill();
    pods.iter().for_each(wait_alone);
    for pod in &pods {
        assert_eq!(send(pod, 1000), 33, "a third of the 99 that were left");
        assert_eq!(send(pod, 1), 0);
    }
    let fresh = setup.start();
    fresh.wait_ready();
    assert_eq!(send(&fresh, 1000), 333, "a third of the limit that it knows");
    assert_eq!(send(&fresh, 1), 0);

    redis.start_again();
    wait_for("an empty Redis to be filled again", || {
        setup.usage() == 1401 + 66 + 333
    });
    for pod in pods.iter().chain([&fresh]) {
        wait_leased(pod);
        pod.wait_exchanged();
        assert_eq!(send(pod, 1), 0);
    }
    // Another process starts from what is known, not from nothing.
    let last = setup.start();
    last.wait_ready();
    last.wait_exchanged();
    assert_eq!(send(&last, 1000), 0);
    Ok(())
}

#[test]
fn no_request_waits_for_a_redis_that_hangs() -> Result<()> {
    let kit = Turn::in_quiet()?;
    let redis = Redis::start();
    let setup = Setup::new(&kit)?.with_redis(redis.address());
    setup.create_topics(1);
    setup.write_apps("eventsPerDay: 1000000");
    let pod = setup.start();
    pod.wait_ready();
    let mut admitted = send(&pod, 100);
    wait_for("the usage in Redis", || setup.usage() == admitted);

    redis.freeze();
    let (frozen, mut slowest) = (Instant::now(), Duration::ZERO);
    while frozen.elapsed() < Duration::from_secs(5) {
        let began = Instant::now();
        admitted += send(&pod, 10);
        slowest = slowest.max(began.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("the slowest answer took {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    wait_alone(&pod);
    assert_eq!(pod.metric("penstock_dependency_up{name=\"redis\"}"), 0.0);
    assert_eq!(pod.readyz().0, 200);
    // One that starts meanwhile does not wait for it either.
    let started = Instant::now();
    let fresh = setup.start();
    fresh.wait_ready();
    println!("another was ready after {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(20));
    admitted += send(&fresh, 100);

    redis.thaw();
    for pod in [&pod, &fresh] {
        wait_leased(pod);
    }
    wait_for("what was admitted meanwhile", || setup.usage() == admitted);
    Ok(())
}

#[test]
fn pods_share_the_bytes_of_a_day() -> Result<()> {
    const LIMIT: u64 = 100_000;
    let kit = Turn::in_quiet()?;
    let redis = Redis::start();
    let setup = Setup::new(&kit)?.with_redis(redis.address());
    setup.create_topics(1);
    setup.write_apps(&format!("bytesPerDay: {LIMIT}"));
    let pods = [setup.start(), setup.start()];
    pods.iter().for_each(Ingest::wait_ready);
    assert_eq!(send(&pods[0], 100), 100);
    wait_for("the usage in Redis", || setup.usage() == 100);
    // All events are equally long.
    let each = setup.usage_of("bytes") / 100;
    assert!(each > 0 && each * 100 < LIMIT / 2, "{each}");
    pods.iter().for_each(Ingest::wait_exchanged);
    let fit = LIMIT / each;
    assert_eq!(send(&pods[1], fit), fit - 100);
    wait_for("the usage in Redis", || setup.usage_of("bytes") == fit * each);
    pods.iter().for_each(Ingest::wait_exchanged);
    assert_eq!(send(&pods[0], 1) + send(&pods[1], 1), 0);

    setup.write_limits(&[("bytes_per_day", &(LIMIT + 2 * each).to_string())]);
    wait_for("the operator's limit to be in force", || send(&pods[0], 1) == 1);
    wait_for("the usage in Redis", || {
        setup.usage_of("bytes") == (fit + 1) * each
    });
    pods.iter().for_each(Ingest::wait_exchanged);
    assert_eq!(send(&pods[1], 2), 1);
    Ok(())
}
