//! Which events of the topic are in no row.
//!
//! By their positions first, which is quick. A row that is not at its position may be at another: a client sent the event
//! twice and ClickHouse has merged both, or its dead letter was replayed. So what seems to be missing is looked for by its id.
//! What is a dead letter, or is gone because its retention is over, is not missing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use penstock_dataplane_config::table::quote_literal;
use rdkafka::Message as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::dlq::letter::{Entry, Letter};
use crate::exit::Result;
use crate::kafka::Topic;
use crate::output::Progress;
use crate::stored::{SCAN, Stored};

/// What is read of the topic before the table is asked about it.
const RECORDS: usize = 10_000;
const BYTES: usize = 32_000_000;
/// Ids in one question.
const IDS: usize = 5_000;

/// What was found.
#[derive(Debug, Default)]
pub struct Gaps {
    pub records: u64,
    pub events: u64,
    pub partitions: Vec<Gap>,
}

/// One partition's part of the span: its offsets `from..to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    pub partition: i32,
    pub from: i64,
    pub to: i64,
    pub missing: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_missing: Option<i64>,
}

/// Of a line, what its row is found by.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Named {
    event_id: Uuid,
    app_id: Uuid,
    received_at: i64,
    timestamp: i64,
    client_timestamp: i64,
    retention_days: Option<i64>,
}

impl Named {
    /// Whether the row may be gone because its day has come.
    fn is_over(&self, today: i64) -> bool {
        let day = self.timestamp.div_euclid(DAY_MS);
        self.retention_days.is_some_and(|days| day + 1 + days <= today)
    }
}

const DAY_MS: i64 = 86_400_000;

/// Where a row is: offset and row.
type Row = (i64, u32);

impl Gaps {
    /// `spans`: partitions, each with its first offset and the one behind its last.
    pub async fn find(
        stored: &Stored,
        topic: &Topic,
        letters: &Topic,
        spans: &[(i32, i64, i64)],
    ) -> Result<Self> {
        let dead = Dead::read(letters, topic.name(), spans)?;
        let mut gaps = Self::default();
        let all: i64 = spans.iter().map(|(_, from, to)| to - from).sum();
        let mut progress = Progress::new(u64::try_from(all).unwrap_or(0));
        for &(partition, from, to) in spans {
            let mut gap = Gap {
                partition,
                from,
                to,
                missing: 0,
                first_missing: None,
            };
            let mut next = from;
            while next < to {
                let chunk = Chunk::read(topic, partition, next, to, &mut progress)?;
                if chunk.records.is_empty() {
                    break;
                }
                next = chunk.next;
                gaps.records += chunk.records.len() as u64;
                gaps.events += chunk
                    .records
                    .values()
                    .map(|lines| lines.len() as u64)
                    .sum::<u64>();
                let missing = chunk.missing(stored, partition, &dead).await?;
                gap.missing += missing.len() as u64;
                let first = missing.into_iter().min();
                gap.first_missing = gap.first_missing.or(first);
            }
            gaps.partitions.push(gap);
        }
        Ok(gaps)
    }

    pub fn missing(&self) -> u64 {
        self.partitions.iter().map(|gap| gap.missing).sum()
    }
}

/// Rows of the spans that are dead letters: they are in no table, and not lost.
#[derive(Debug, Default)]
struct Dead {
    rows: HashSet<(i32, Row)>,
    /// Records that one letter has the whole rest of: by partition and offset, the first row of it. Good lines are among it.
    rests: HashMap<(i32, i64), u32>,
}

impl Dead {
    fn read(letters: &Topic, topic: &str, spans: &[(i32, i64, i64)]) -> Result<Self> {
        let mut dead = Self::default();
        let from = letters.beginning();
        let mut progress = Progress::new(letters.length(&from));
        letters.read(&from, false, |message| {
            progress.record();
            if let Entry::Letter(letter) = Entry::of(message) {
                dead.add(&letter, topic, spans);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(dead)
    }

    fn add(&mut self, letter: &Letter, topic: &str, spans: &[(i32, i64, i64)]) {
        let origin = letter.origin.as_deref();
        let Some((partition, (offset, row))) = origin.and_then(|origin| read_origin(origin, topic)) else {
            return;
        };
        let mut spans = spans.iter();
        if !spans.any(|&(one, from, to)| one == partition && (from..to).contains(&offset)) {
            return;
        }
        // What was cut off is in no letter.
        if letter.lines.is_some() && !letter.is_cut() {
            let rest = self.rests.entry((partition, offset)).or_insert(row);
            *rest = row.min(*rest);
        } else {
            self.rows.insert((partition, (offset, row)));
        }
    }

    fn has(&self, partition: i32, offset: i64, row: u32) -> bool {
        let rest = self.rests.get(&(partition, offset));
        rest.is_some_and(|first| row >= *first) || self.rows.contains(&(partition, (offset, row)))
    }
}

/// `topic/partition/offset/row`, where it is of this topic.
fn read_origin(origin: &str, topic: &str) -> Option<(i32, Row)> {
    let mut parts = origin.strip_prefix(topic)?.strip_prefix('/')?.split('/');
    let mut number = || parts.next()?.parse::<i64>().ok();
    let (partition, offset, row) = (number()?, number()?, number()?);
    Some((i32::try_from(partition).ok()?, (offset, u32::try_from(row).ok()?)))
}

/// Some records of one partition.
struct Chunk {
    /// By offset, its lines; one that is not ours is a dead letter.
    records: BTreeMap<i64, Vec<Option<Named>>>,
    /// The offset behind it.
    next: i64,
}

impl Chunk {
    fn read(topic: &Topic, partition: i32, from: i64, to: i64, progress: &mut Progress) -> Result<Self> {
        let (mut records, mut bytes, mut next) = (BTreeMap::new(), 0, from);
        topic.read(&[(partition, from)], false, |message| {
            if message.offset() >= to {
                return Ok(ControlFlow::Break(()));
            }
            progress.record();
            let value = message.payload().unwrap_or_default();
            next = message.offset() + 1;
            bytes += value.len();
            records.insert(message.offset(), named(value));
            Ok(match records.len() == RECORDS || bytes >= BYTES || next >= to {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
        })?;
        Ok(Self { records, next })
    }

    /// Offsets of events that are nowhere, one for each.
    async fn missing(&self, stored: &Stored, partition: i32, dead: &Dead) -> Result<Vec<i64>> {
        let (Some(first), Some(last)) = (self.records.keys().next(), self.records.keys().next_back()) else {
            return Ok(Vec::new());
        };
        let table = stored.quoted();
        let all = || self.records.values().flatten().flatten();
        let bounds = |of: fn(&Named) -> i64, named: &mut dyn Iterator<Item = &Named>| {
            named.map(of).fold((i64::MAX, i64::MIN), |(low, high), at| {
                (low.min(at), high.max(at))
            })
        };
        let between = |column: &str, (low, high): (i64, i64)| {
            format!(
                "{column} BETWEEN fromUnixTimestamp64Milli({low}, 'UTC') AND fromUnixTimestamp64Milli({high}, 'UTC')"
            )
        };
        let received = bounds(|named| named.received_at, &mut all());
        let held: Vec<(i64, u64)> = match received {
            // No line is ours.
            (i64::MAX, _) => Vec::new(),
            // The time of receipt leaves out the table's other months, and rows of a topic that this one has replaced.
            received => {
                let question = format!(
                    "SELECT src_offset, uniqExact(src_row) FROM {table} WHERE src_partition = {partition} \
                     AND src_offset BETWEEN {first} AND {last} AND {} GROUP BY src_offset",
                    between("received_at", received)
                );
                stored.server.ask_within(&question, SCAN).await?
            }
        };
        let held: BTreeMap<i64, u64> = held.into_iter().collect();
        let today = jiff::Timestamp::now().as_millisecond().div_euclid(DAY_MS);
        let mut sought: Vec<(&Named, i64)> = Vec::new();
        for (offset, lines) in &self.records {
            if held.get(offset).copied().unwrap_or(0) == lines.len() as u64 {
                continue;
            }
            let rows = lines.iter().zip(0u32..);
            let alive = rows.filter(|(_, row)| !dead.has(partition, *offset, *row));
            let named = alive.filter_map(|(named, _)| named.as_ref());
            sought.extend(
                named
                    .filter(|named| !named.is_over(today))
                    .map(|named| (named, *offset)),
            );
        }
        let mut missing = Vec::new();
        for some in sought.chunks(IDS) {
            let list = |of: fn(&Named) -> Uuid| {
                let ids: BTreeSet<Uuid> = some.iter().map(|(named, _)| of(named)).collect();
                let ids: Vec<String> = ids.iter().map(|id| quote_literal(&id.to_string())).collect();
                ids.join(", ")
            };
            // App and client's time stand in the sort key, and are the same in every retry.
            let times = bounds(
                |named| named.client_timestamp,
                &mut some.iter().map(|(named, _)| *named),
            );
            let question = format!(
                "SELECT DISTINCT toString(event_id) FROM {table} WHERE app_id IN ({}) AND {} AND event_id IN ({})",
                list(|named| named.app_id),
                between("client_timestamp", times),
                list(|named| named.event_id)
            );
            let found: Vec<String> = stored.server.ask_within(&question, SCAN).await?;
            let found: HashSet<Uuid> = found.iter().filter_map(|id| id.parse().ok()).collect();
            let lost = some.iter().filter(|(named, _)| !found.contains(&named.event_id));
            missing.extend(lost.map(|(_, offset)| *offset));
        }
        Ok(missing)
    }
}

/// A record's lines, numbered as the consumer numbers its rows.
fn named(value: &[u8]) -> Vec<Option<Named>> {
    if value.is_empty() {
        return Vec::new();
    }
    let lines = value
        .strip_suffix(b"\n")
        .unwrap_or(value)
        .split(|&byte| byte == b'\n');
    lines.map(|line| serde_json::from_slice(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, timestamp: i64, retention: &str) -> String {
        format!(
            r#"{{"v":1,"app_id":"6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11","event_id":"{id}","received_at":3,"timestamp":{timestamp},"client_timestamp":2,{retention}"ip":""}}"#
        )
    }

    #[test]
    fn lines_keep_their_numbers() {
        let id = "0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f";
        let value = format!("{}\nnot ours\n\n{}\n", line(id, 1, ""), line(id, 1, ""));
        let ids: Vec<_> = named(value.as_bytes())
            .into_iter()
            .map(|named| named.map(|named| named.event_id.to_string()))
            .collect();
        assert_eq!(ids, [Some(id.to_owned()), None, None, Some(id.to_owned())]);
        assert!(named(b"").is_empty());
        assert_eq!(named(line("x", 1, "").as_bytes()), [None], "no UUID");
    }

    #[test]
    fn a_row_whose_day_has_come_is_not_missing() {
        let id = "0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f";
        for (day, retention, over) in [
            (100, "\"retention_days\":30,", false),
            (99, "\"retention_days\":30,", true),
            (1, "", false),
        ] {
            let value = line(id, day * DAY_MS + 5, retention);
            let read = named(value.as_bytes()).remove(0);
            assert_eq!(read.map(|named| named.is_over(130)), Some(over), "{day}");
        }
    }

    #[test]
    fn the_rest_of_a_record_is_dead_with_its_letter() {
        let letter = |origin: &str, lines, detail: &str| Letter {
            partition: 0,
            offset: 0,
            written_at: 0,
            reason: "Malformed".into(),
            step: "consume".into(),
            detail: detail.into(),
            app: None,
            origin: Some(origin.into()),
            lines,
            size: 0,
        };
        let mut dead = Dead::default();
        for (origin, lines, detail) in [
            ("t/2/17/3", None, "no"),
            ("t/2/17/1004", Some(500), "no"),
            ("t/2/99/0", Some(9), "no"),
            ("other/2/17/0", Some(9), "no"),
            ("t/2/19/1000", Some(500), "no (cut from 1200000 bytes)"),
        ] {
            dead.add(&letter(origin, lines, detail), "t", &[(2, 10, 20)]);
        }
        for (offset, row, is) in [
            (17, 3, true),
            (17, 4, false),
            (17, 1003, false),
            (17, 1004, true),
            (17, 1400, true),
            (18, 1400, false),
            (19, 1000, true),
            (19, 1001, false),
            (99, 0, false),
        ] {
            assert_eq!(dead.has(2, offset, row), is, "{offset}/{row}");
        }
        assert!(!dead.has(1, 17, 1004));
    }

    #[test]
    fn an_origin_is_of_one_topic() {
        assert_eq!(read_origin("g.events/2/17/3", "g.events"), Some((2, (17, 3))));
        for origin in [
            "g.events2/2/17/3",
            "other/2/17/3",
            "g.events/2/17",
            "g.events/a/1/2",
            "",
        ] {
            assert_eq!(read_origin(origin, "g.events"), None, "{origin}");
        }
    }
}
