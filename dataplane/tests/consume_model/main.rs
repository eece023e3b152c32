//! A model of everything around the exactly-once protocol, and thousands of schedules against the shipped machine.
//!
//! The model's broker takes any commit of the current generation, whoever owns the partition; its ClickHouse
//! forgets tokens after a while, applies requests whose client has given up, and loses answers; processes are
//! killed, frozen and expelled at any point between two actions. What is asserted is the promise: every produced
//! row is stored once, or (where it cannot be read, or ClickHouse refuses it) is in the dead letters. Live figures may be a little wrong where
//! offsets are lost or commits come late, and nowhere else.
//!
//! A schedule is a seed; a failure prints it.

mod process;
mod random;
mod schedule;
mod services;

use process::Seen;
use schedule::{Faults, Schedule};

fn run(name: &str, seeds: std::ops::Range<u64>, faults: Faults) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        match Schedule::new(seed, faults).run() {
            Ok(one) => seen.add(one),
            Err(broken) => panic!("{name}, seed {seed}: {broken}"),
        }
    }
    println!("{name}: {seen:?}");
    assert!(seen.told_again * 1000 <= seen.told && seen.told * 100 >= seen.stored * 95);
    seen
}

/// How many of the schedules break the promise when the surroundings break theirs.
fn broken(seeds: std::ops::Range<u64>, faults: Faults) -> usize {
    seeds
        .filter(|seed| Schedule::new(*seed, faults).run().is_err())
        .count()
}

#[test]
fn nothing_goes_wrong() {
    let _ = run("calm", 0..200, Faults::none());
}

#[test]
fn outcomes_are_unknown() {
    let seen = run(
        "unknown outcomes",
        0..1500,
        Faults {
            unknown: true,
            ..Faults::none()
        },
    );
    assert!(seen.rowless > 100, "{seen:?}");
}

#[test]
fn processes_die_and_freeze() {
    let _ = run(
        "deaths",
        0..1500,
        Faults {
            deaths: true,
            freezes: true,
            rebalances: true,
            ..Faults::none()
        },
    );
}

#[test]
fn everything_at_once() {
    let seen = run("everything", 0..3000, Faults::all());
    for (what, count) in [
        ("recovered", seen.recovered),
        ("all held", seen.all_held),
        ("some held", seen.some_held),
        ("split", seen.split),
        ("stale", seen.stale),
        ("repeated", seen.repeated),
        ("cut", seen.cut),
        ("dead letters", seen.dead),
        ("foreign metadata", seen.foreign),
    ] {
        assert!(count > 100, "the schedules reach `{what}` only {count} times");
    }
}

#[test]
fn the_log_is_trimmed_under_the_consumer() {
    let seen = run(
        "retention",
        0..1000,
        Faults {
            trims: true,
            ..Faults::all()
        },
    );
    assert!(seen.data_lost > 100, "{seen:?}");
}

#[test]
fn the_topic_is_made_anew_under_a_retained_table() {
    let seen = run(
        "recreated",
        0..1000,
        Faults {
            recreations: true,
            ..Faults::all()
        },
    );
    assert!(seen.other_log > 100 && seen.moved > 100, "{seen:?}");
}

/// Whatever was sent before, and by whom: batches that are always cut become smaller until they are not.
#[test]
fn a_line_too_slow_for_a_batch_carries_parts_of_it() {
    let unknown = Faults {
        unknown: true,
        ..Faults::none()
    };
    for (carries, others) in [(1, Faults::all()), (3, Faults::all()), (3, unknown)] {
        let slow = Faults { carries, ..others };
        let seen = run(&format!("{carries} rows at a time"), 0..200, slow);
        assert!(seen.cut > 1000 && seen.recovered > 50, "{seen:?}");
    }
}

/// The model finds a fault when there is one: a table that forgets tokens at once stores rows twice.
#[test]
fn a_table_without_memory_is_found_out() {
    let forgetful = Faults {
        unknown: true,
        token_memory_ms: 0,
        ..Faults::none()
    };
    assert!(broken(0..300, forgetful) > 10);
}

/// A server that begins what its client gave up long ago, when the halves of it are stored.
#[test]
fn requests_that_live_on_are_found_out() {
    let immortal = Faults {
        unknown: true,
        carries: 3,
        request_life_ms: 10 * services::REQUEST_LIFE_MS,
        token_memory_ms: 10 * services::REQUEST_LIFE_MS,
        ..Faults::none()
    };
    let found = broken(0..1500, immortal);
    println!("immortal {found}");
    assert!(found > 0);
}

/// And so does a process that sends whatever it is told, without looking at the fence and the intent's age.
#[test]
fn a_process_without_a_fence_is_found_out() {
    let reckless = Faults {
        reckless: true,
        ..Faults::all()
    };
    let found = broken(0..3000, reckless);
    println!("reckless {found}");
    assert!(found > 0);
}
