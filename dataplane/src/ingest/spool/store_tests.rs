use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::ingest::spool::Topic;

const LIMIT: u64 = 16_000_000;

fn record(name: &str, bytes: usize) -> Record {
    Record {
        created: 1_763_730_000_123,
        topic: Topic::Events,
        name: name.to_owned(),
        key: None,
        headers: Vec::new(),
        value: name.bytes().cycle().take(bytes).collect(),
    }
}

fn open(directory: &TempDir) -> (Store, Found) {
    Store::open(directory.path(), LIMIT, "growth.events").unwrap()
}

fn keep(store: &mut Store, name: &str, bytes: usize) -> Id {
    let record = record(name, bytes);
    store
        .append(&[(&record, State::Certain, Place::ANYWHERE)])
        .unwrap()[0]
}

/// What waits, in order: names and whether each must be looked up.
fn waiting(store: &mut Store) -> Vec<(String, State)> {
    let (mut out, mut cursor) = (Vec::new(), None);
    loop {
        let (window, last) = store.window(cursor, 7, 100_000);
        if window.is_empty() {
            return out;
        }
        for one in window {
            assert_eq!(one.record, record(&one.record.name, one.record.value.len()));
            out.push((one.record.name, one.state));
        }
        cursor = last;
    }
}

fn certain(names: &[&str]) -> Vec<(String, State)> {
    names
        .iter()
        .map(|name| ((*name).to_owned(), State::Certain))
        .collect()
}

fn files(directory: &TempDir) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.path()).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "spool"));
    files.sort();
    files
}

#[test]
fn what_was_kept_is_there_after_a_reopening_and_what_is_done_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, found) = open(&directory);
    assert_eq!(found, Found::default());
    let ids = ["a", "b", "c", "d"].map(|name| keep(&mut store, name, 1000));
    store.done(ids[1]);
    let place = Place {
        partition: 2,
        floor: 77,
    };
    store.attempt(&[(ids[2], place)]).unwrap();
    let owned = record("e", 10);
    store.append(&[(&owned, State::Owned, place)]).unwrap();
    let names = |waiting: Vec<(String, State)>| waiting.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(
        names(waiting(&mut store)),
        ["a", "d"],
        "producers still have c and e"
    );
    assert_eq!(store.depth().groups, 4);
    drop(store);

    let (mut store, found) = open(&directory);
    assert_eq!((found.groups, found.damage), (4, Damage::default()));
    let (window, _) = store.window(None, 10, usize::MAX);
    let states: Vec<_> = window
        .iter()
        .map(|one| (one.record.name.as_str(), one.state, one.place))
        .collect();
    assert_eq!(
        states,
        [
            ("a", State::Certain, Place::ANYWHERE),
            ("c", State::Maybe, place),
            ("d", State::Certain, Place::ANYWHERE),
            ("e", State::Maybe, place),
        ]
    );
    assert_eq!(store.depth().oldest, 1_763_730_000);
    window.iter().for_each(|one| store.done(one.id));
    assert_eq!(store.depth().groups, 0);
    drop(store);
    let (_store, found) = open(&directory);
    assert_eq!(found.groups, 0);
    assert!(
        files(&directory).is_empty(),
        "a segment of which all is done goes"
    );
}

/// The spool with `a` and `b` acknowledged and `c` as its last frame: its bytes, and where `c` begins.
fn with_a_tail(directory: &TempDir) -> (PathBuf, Vec<u8>, usize) {
    let (mut store, _) = open(directory);
    keep(&mut store, "a", 300);
    keep(&mut store, "b", 300);
    let [file] = &files(directory)[..] else {
        panic!("one segment")
    };
    let before = std::fs::read(file).unwrap().len();
    keep(&mut store, "c", 300);
    (file.clone(), std::fs::read(file).unwrap(), before)
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_costs_nothing_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let (file, bytes, tail) = with_a_tail(&directory);
    for end in tail..bytes.len() {
        std::fs::write(&file, &bytes[..end]).unwrap();
        let (mut store, found) = open(&directory);
        let torn = (end - tail) as u64;
        assert_eq!(found.damage, Damage { torn, lost: 0 }, "cut at {end}");
        assert_eq!(waiting(&mut store), certain(&["a", "b"]), "cut at {end}");
        keep(&mut store, "next", 50);
        drop(store);
        let (mut store, found) = open(&directory);
        assert_eq!(found.damage, Damage::default(), "what follows the cut is whole");
        assert_eq!(waiting(&mut store), certain(&["a", "b", "next"]));
    }
}

#[test]
fn damage_at_any_byte_costs_only_the_record_it_is_in() {
    let directory = tempfile::tempdir().unwrap();
    let (file, bytes, tail) = with_a_tail(&directory);
    let second = (tail - SEGMENT_HEAD) / 2 + SEGMENT_HEAD;
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        std::fs::write(&file, &damaged).unwrap();
        let (mut store, found) = open(&directory);
        let left = waiting(&mut store);
        let hit = match at {
            _ if at < SEGMENT_HEAD => "none",
            _ if at < second => "a",
            _ if at < tail => "b",
            _ => "c",
        };
        for name in ["a", "b", "c"] {
            let state = left
                .iter()
                .find(|(left, _)| left == name)
                .map(|(_, state)| *state);
            if name != hit {
                assert_eq!(state, Some(State::Certain), "byte {at}, {name}");
            } else {
                // Its mark alone is hit: it is kept, and looked up. Anything else costs it.
                assert!(
                    state.is_none_or(|state| state == State::Maybe),
                    "byte {at}, {name}: {state:?}"
                );
                assert_eq!(
                    state.is_none(),
                    found.damage != Damage::default(),
                    "byte {at}: told"
                );
            }
        }
    }
}

#[test]
fn a_newer_format_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (file, mut bytes, _) = with_a_tail(&directory);
    bytes[8] = 9;
    let sum = crc32c::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&file, &bytes).unwrap();
    let refused = Store::open(directory.path(), LIMIT, "growth.events")
        .unwrap_err()
        .to_string();
    assert!(refused.contains("format 9"), "{refused}");
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}

#[test]
fn two_never_share_a_spool_and_topics_are_not_mixed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&directory);
    keep(&mut store, "a", 10);
    let second = Store::open(directory.path(), LIMIT, "growth.events");
    assert!(matches!(second, Err(SpoolError::Locked(_))), "{second:?}");
    drop(store);
    let other = Store::open(directory.path(), LIMIT, "growth.other")
        .unwrap_err()
        .to_string();
    assert!(
        other.contains("growth.events") && other.contains("growth.other"),
        "{other}"
    );
    let (mut store, _) = open(&directory);
    let (window, _) = store.window(None, 1, 1);
    store.done(window[0].id);
    drop(store);
    Store::open(directory.path(), LIMIT, "growth.other").unwrap();
}

#[test]
fn room_comes_back_piece_by_piece_while_it_is_drained() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&directory);
    let mut ids = Vec::new();
    let big = record("big", 500_000);
    let full = loop {
        match store.append(&[(&big, State::Certain, Place::ANYWHERE)]) {
            Ok(kept) => ids.extend(kept),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, SpoolError::Full { limit: LIMIT }), "{full}");
    assert!(ids.len() >= 30, "{}", ids.len());
    let on_disk = |directory: &TempDir| {
        files(directory)
            .iter()
            .map(|path| path.metadata().unwrap().len())
            .sum::<u64>()
    };
    assert!(on_disk(&directory) <= LIMIT && on_disk(&directory) == store.depth().disk);
    let most = on_disk(&directory);
    ids.drain(..4).for_each(|id| store.done(id));
    assert!(on_disk(&directory) < most);
    assert!(store.append(&[(&big, State::Certain, Place::ANYWHERE)]).is_ok());
    let refused = store.append(&[(&record("huge", 3_000_000), State::Certain, Place::ANYWHERE)]);
    assert!(matches!(refused, Err(SpoolError::TooLarge(3_000_000))));
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&directory);
    keep(&mut store, "a", 100);
    let [file] = &files(&directory)[..] else {
        panic!("one segment")
    };
    // Half a frame, as a disk that fills up leaves it when taking it back fails, too.
    let handle = File::options().write(true).open(file).unwrap();
    let end = handle.metadata().unwrap().len();
    handle
        .write_all_at(&[0x50, 0xff, 0x47, 0xfe, 9, 9, 9], end)
        .unwrap();
    keep(&mut store, "b", 100);
    assert_eq!(waiting(&mut store), certain(&["a", "b"]));
    drop(store);
    assert_eq!(waiting(&mut open(&directory).0), certain(&["a", "b"]));
}

#[derive(Clone, Debug)]
enum Step {
    Keep(Vec<usize>),
    Attempt(prop::sample::Index),
    Done(prop::sample::Index),
    Reopen,
    /// The end of the last segment is lost, up to this many bytes of what nobody was promised.
    Torn(u16),
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec(prop_oneof![8 => 0..2000usize, 1 => 200_000..600_000usize], 1..5)
            .prop_map(Step::Keep),
        2 => any::<prop::sample::Index>().prop_map(Step::Attempt),
        5 => any::<prop::sample::Index>().prop_map(Step::Done),
        1 => Just(Step::Reopen),
        1 => any::<u16>().prop_map(Step::Torn),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Whatever happens, what waits is what was kept and is not done, in order, within the bound.
    #[test]
    fn the_spool_holds_what_was_kept_and_is_not_done(steps in proptest::collection::vec(a_step(), 1..120)) {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = open(&directory);
        // What must be there: id -> name and whether it was tried.
        let mut model: BTreeMap<Id, (String, bool)> = BTreeMap::new();
        let mut count = 0;
        for step in steps.into_iter().chain([Step::Reopen]) {
            let reopened = matches!(step, Step::Reopen | Step::Torn(_));
            match step {
                Step::Keep(lengths) => {
                    let records: Vec<_> = lengths.iter().map(|length| {
                        count += 1;
                        record(&format!("boot/0/{count}"), *length)
                    }).collect();
                    let batch: Vec<_> = records.iter()
                        .map(|record| (record, State::Certain, Place::ANYWHERE)).collect();
                    match store.append(&batch) {
                        Ok(ids) => model.extend(ids.into_iter().zip(records)
                            .map(|(id, record)| (id, (record.name, false)))),
                        Err(SpoolError::Full { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
                Step::Attempt(which) | Step::Done(which) if model.is_empty() => { let _ = which; }
                Step::Attempt(which) => {
                    let id = *model.keys().nth(which.index(model.len())).unwrap();
                    store.attempt(&[(id, Place { partition: 1, floor: 5 })]).unwrap();
                    model.get_mut(&id).unwrap().1 = true;
                }
                Step::Done(which) => {
                    let id = *model.keys().nth(which.index(model.len())).unwrap();
                    store.done(id);
                    model.remove(&id);
                }
                Step::Reopen | Step::Torn(_) => {
                    drop(store);
                    if let (Step::Torn(bytes), Some(last)) = (&step, files(&directory).last()) {
                        let mut content = std::fs::read(last).unwrap();
                        content.extend((0..*bytes).map(|byte| byte as u8));
                        std::fs::write(last, content).unwrap();
                    }
                    store = open(&directory).0;
                    // Ids stay as long as no record is lost.
                }
            }
            if reopened {
                let expected: Vec<_> = model.values().map(|(name, tried)| {
                    (name.clone(), if *tried { State::Maybe } else { State::Certain })
                }).collect();
                prop_assert_eq!(waiting(&mut store), expected);
            }
            let depth = store.depth();
            prop_assert_eq!(depth.groups, model.len() as u64);
            let on_disk: u64 = files(&directory).iter().map(|path| path.metadata().unwrap().len()).sum();
            prop_assert!(on_disk <= LIMIT && on_disk == depth.disk, "{} {:?}", on_disk, depth);
        }
    }
}
