//! Which events of the topic are in no row.
//!
//! By their positions first, which is quick. A row that is not at its position may be at another: a client sent the event
//! twice and ClickHouse has merged both, or its dead letter was replayed. So what seems to be missing is looked for by its id.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use penstock_dataplane_config::table::{quote_identifier, quote_literal};
use rdkafka::Message as _;
use serde::{Deserialize, Serialize};

use crate::dlq::letter::Entry;
use crate::exit::Result;
use crate::kafka::Topic;
use crate::output::Progress;
use crate::stored::Stored;

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

/// Of a line, what names the event.
#[derive(Deserialize)]
struct Named {
    event_id: String,
}

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
        let dead = dead(letters, topic.name())?;
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

/// Rows that are dead letters: they are in no table, and not lost.
fn dead(letters: &Topic, topic: &str) -> Result<HashSet<(i32, Row)>> {
    let mut dead = HashSet::new();
    letters.read(&letters.beginning(), false, |message| {
        if let Entry::Letter(letter) = Entry::of(message)
            && let Some(origin) = letter.origin.as_deref()
            && let Some(row) = read_origin(origin, topic)
        {
            dead.insert(row);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(dead)
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
    /// By offset, each line's id, where it has one.
    records: BTreeMap<i64, Vec<Option<String>>>,
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
            records.insert(message.offset(), ids(value));
            Ok(match records.len() == RECORDS || bytes >= BYTES || next >= to {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
        })?;
        Ok(Self { records, next })
    }

    /// Offsets of events that are nowhere, one for each.
    async fn missing(&self, stored: &Stored, partition: i32, dead: &HashSet<(i32, Row)>) -> Result<Vec<i64>> {
        let (Some(first), Some(last)) = (self.records.keys().next(), self.records.keys().next_back()) else {
            return Ok(Vec::new());
        };
        let table = format!(
            "{}.{}",
            quote_identifier(&stored.spec.database),
            quote_identifier(&stored.spec.table)
        );
        let held: Vec<(i64, u64)> = stored
            .server
            .ask(&format!(
                "SELECT src_offset, uniqExact(src_row) FROM {table} \
                 WHERE src_partition = {partition} AND src_offset BETWEEN {first} AND {last} GROUP BY src_offset"
            ))
            .await?;
        let held: BTreeMap<i64, u64> = held.into_iter().collect();
        let mut sought: Vec<(&str, i64)> = Vec::new();
        for (offset, lines) in &self.records {
            if held.get(offset).copied().unwrap_or(0) == lines.len() as u64 {
                continue;
            }
            let rows = lines.iter().zip(0u32..);
            let alive = rows.filter(|(_, row)| !dead.contains(&(partition, (*offset, *row))));
            sought.extend(alive.filter_map(|(id, _)| Some((id.as_deref()?, *offset))));
        }
        let mut missing = Vec::new();
        for some in sought.chunks(IDS) {
            let ids: Vec<String> = some.iter().map(|(id, _)| quote_literal(id)).collect();
            let found: Vec<String> = stored
                .server
                .ask(&format!(
                    "SELECT DISTINCT toString(event_id) FROM {table} WHERE event_id IN ({})",
                    ids.join(", ")
                ))
                .await?;
            let found: HashSet<String> = found.into_iter().collect();
            missing.extend(
                some.iter()
                    .filter(|(id, _)| !found.contains(*id))
                    .map(|(_, offset)| *offset),
            );
        }
        Ok(missing)
    }
}

/// The ids of a record's lines; what is no line of ours has none.
fn ids(value: &[u8]) -> Vec<Option<String>> {
    let lines = value.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let named: Option<Named> = serde_json::from_slice(line).ok();
            // Anything else than a UUID would not be understood by the server.
            let id = named.and_then(|named| named.event_id.parse::<uuid::Uuid>().ok());
            id.map(|id| id.to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_known_by_their_ids() {
        let id = "0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f";
        let value = format!(
            "{{\"v\":1,\"event_id\":\"{}\"}}\nnot ours\n\n{{\"event_id\":\"x\"}}\n",
            id.to_uppercase()
        );
        assert_eq!(ids(value.as_bytes()), [Some(id.to_owned()), None, None]);
        assert!(ids(b"").is_empty());
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
