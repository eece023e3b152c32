//! Who owns which topic: the compacted topic `__penstock_owners`, one partition, key = topic.
//!
//! It lies in Kafka because clusters may share one Kafka. There is no compare-and-swap in a topic, so the order of
//! the records decides: the first to claim a key holds it, and a claim that comes after another owner's is void,
//! unless it names that owner as the one it follows. A claimant therefore reads again after it wrote, and one that
//! lost writes the winner's entry once more, so that compaction keeps the right one. `min.compaction.lag.ms` keeps
//! the losing record visible to others long enough for that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::admin::{NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::FutureRecord;
use rdkafka::util::Timeout;
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::super::error::ProvisionError;
use super::super::ownership::{Mark, Owner};
use super::connection::{ANSWER, Connection, options};
use super::{failure, observe, plan};

pub(super) const TOPIC: &str = "__penstock_owners";
const PARTITION: i32 = 0;

/// What the registry says about a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub owner: Owner,
    /// Penstock made the topic and may delete it.
    pub created: bool,
    /// Written before the topic is made and cleared after: an operator that dies in between finds its claim.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// Settings that Penstock gave the topic: the only ones it takes back.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub config: BTreeSet<String>,
    /// The owner that this one follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<Owner>,
}

impl Entry {
    pub(super) fn mark(&self) -> Mark {
        Mark {
            owner: self.owner.clone(),
            created: self.created,
        }
    }
}

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Known {
    next: i64,
    entries: BTreeMap<String, Entry>,
}

impl Known {
    pub(super) fn get(&self, topic: &str) -> Option<&Entry> {
        self.entries.get(topic)
    }

    fn apply(&mut self, record: Record) {
        self.next = self.next.max(record.offset + 1);
        match record.entry {
            None => {
                self.entries.remove(&record.topic);
            }
            Some(entry) => {
                let void = self.entries.get(&record.topic).is_some_and(|held| {
                    held.owner != entry.owner && entry.follows.as_ref() != Some(&held.owner)
                });
                if !void {
                    self.entries.insert(record.topic, entry);
                }
            }
        }
    }
}

struct Record {
    offset: i64,
    topic: String,
    entry: Option<Entry>,
}

/// Reads what is new.
pub(super) async fn refresh(connection: &Connection, known: &mut Known) -> Result<(), ProvisionError> {
    let from = known.next;
    let news = connection
        .blocking(move |clients| {
            if observe::topic_metadata(&clients.reader, TOPIC)?.is_none() {
                return Ok(None);
            }
            let (low, high) = clients.reader.fetch_watermarks(TOPIC, PARTITION, ANSWER)?;
            // Fewer records than were read already: someone deleted the topic and made it again.
            let from = if high < from { low } else { from.max(low) };
            let records = if from < high {
                read(&clients.reader, from, high)?
            } else {
                Vec::new()
            };
            Ok(Some((from, high, records)))
        })
        .await?;
    match news {
        None => *known = Known::default(),
        Some((from, high, records)) => {
            if from < known.next {
                *known = Known::default();
            }
            records.into_iter().for_each(|record| known.apply(record));
            known.next = high.max(known.next);
        }
    }
    Ok(())
}

/// Reads from an offset up to another.
fn read(reader: &BaseConsumer, from: i64, to: i64) -> Result<Vec<Record>, KafkaError> {
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(TOPIC, PARTITION, Offset::Offset(from))?;
    reader.assign(&assignment)?;
    let read = read_assigned(reader, to);
    let unassigned = reader.unassign();
    let records = read?;
    unassigned?;
    Ok(records)
}

fn read_assigned(reader: &BaseConsumer, to: i64) -> Result<Vec<Record>, KafkaError> {
    let deadline = Instant::now() + ANSWER;
    let mut records = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::OperationTimedOut,
            ));
        }
        match reader.poll(Timeout::After(left)) {
            Some(Ok(message)) => {
                let offset = message.offset();
                let topic = message
                    .key()
                    .map(String::from_utf8_lossy)
                    .unwrap_or_default()
                    .into_owned();
                let entry = message.payload().map(|value| entry_of(value, &topic, offset));
                records.push(Record { offset, topic, entry });
                if offset + 1 >= to {
                    return Ok(records);
                }
            }
            // The last records are gone by compaction.
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(records),
            // Lost connections are retried by librdkafka until the deadline.
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
            )))
            | None => {}
            Some(Err(error)) => return Err(error),
        }
    }
}

/// An entry that cannot be read is a newer Penstock's: to take it for nothing would be to take its topic.
fn entry_of(value: &[u8], topic: &str, offset: i64) -> Entry {
    serde_json::from_slice(value).unwrap_or_else(|error| {
        tracing::error!(topic, offset, %error, "unreadable entry in {TOPIC}");
        Entry {
            owner: Owner::new("unreadable", TOPIC, &offset.to_string()),
            created: false,
            pending: false,
            config: BTreeSet::new(),
            follows: None,
        }
    })
}

/// Writes an entry, or with `None` takes it away, and reads it back. What stands then is in `known`.
pub(super) async fn write(
    connection: &Connection,
    known: &mut Known,
    topic: &str,
    entry: Option<&Entry>,
) -> Result<(), ProvisionError> {
    ensure_topic(connection).await?;
    append(connection, topic, entry).await?;
    refresh(connection, known).await?;
    if let (Some(ours), Some(stands)) = (entry, known.get(topic))
        && ours.owner != stands.owner
    {
        let winner = stands.clone();
        append(connection, topic, Some(&winner)).await?;
    }
    Ok(())
}

async fn append(connection: &Connection, topic: &str, entry: Option<&Entry>) -> Result<(), ProvisionError> {
    let failed = |error: KafkaError| failure::request(&connection.bootstrap, &error);
    let value = match entry {
        Some(entry) => {
            Some(serde_json::to_vec(entry).map_err(|error| ProvisionError::NotSupported(error.to_string()))?)
        }
        None => None,
    };
    let producer = connection.clients().producer().map_err(failed)?;
    let mut record = FutureRecord::<str, [u8]>::to(TOPIC)
        .partition(PARTITION)
        .key(topic);
    if let Some(value) = &value {
        record = record.payload(value);
    }
    let sent = producer.send(record, Timeout::After(Duration::ZERO)).await;
    sent.map(|_| ()).map_err(|(error, _)| failed(error))
}

async fn ensure_topic(connection: &Connection) -> Result<(), ProvisionError> {
    let (exists, brokers) = connection
        .blocking(|clients| {
            let brokers = observe::brokers(&clients.reader, ANSWER)?;
            Ok((
                observe::topic_metadata(&clients.reader, TOPIC)?.is_some(),
                brokers,
            ))
        })
        .await?;
    if exists {
        return Ok(());
    }
    let replication = plan::default_replication(brokers);
    let in_sync = plan::min_insync_replicas(replication).to_string();
    let results = connection
        .administer(|clients| async move {
            let topic = NewTopic::new(TOPIC, 1, TopicReplication::Fixed(replication.cast_signed()))
                .set("cleanup.policy", "compact")
                .set("min.compaction.lag.ms", "3600000")
                .set("min.insync.replicas", &in_sync)
                .set("unclean.leader.election.enable", "false");
            clients.admin.create_topics([&topic], &options()).await
        })
        .await?;
    match results.into_iter().next() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) => {
            observe::wait_for_partitions(connection, TOPIC, 1).await
        }
        Some(Err((_, code))) => Err(failure::broker(
            &connection.bootstrap,
            code,
            Some("the registry topic"),
        )),
        None => Err(failure::unavailable(&connection.bootstrap, "an empty answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(owner: &str, follows: Option<&str>) -> Option<Entry> {
        Some(Entry {
            owner: Owner::new("c", "ns", owner),
            created: true,
            pending: false,
            config: BTreeSet::new(),
            follows: follows.map(|owner| Owner::new("c", "ns", owner)),
        })
    }

    fn owner_after(history: &[Option<Entry>]) -> Option<Owner> {
        let mut known = Known::default();
        for (offset, entry) in (0..).zip(history) {
            known.apply(Record {
                offset,
                topic: "t".into(),
                entry: entry.clone(),
            });
        }
        assert_eq!(known.next, history.len() as i64);
        known.get("t").map(|entry| entry.owner.clone())
    }

    #[test]
    fn the_first_claim_holds() {
        let a = Some(Owner::new("c", "ns", "a"));
        let b = Some(Owner::new("c", "ns", "b"));
        for (history, expected) in [
            (vec![], None),
            (vec![entry("a", None), entry("b", None)], a.clone()),
            (
                vec![entry("a", None), entry("b", None), entry("a", None)],
                a.clone(),
            ),
            (vec![entry("a", None), None, entry("b", None)], b.clone()),
            (vec![entry("a", None), entry("b", Some("a"))], b),
            (vec![entry("a", None), entry("b", Some("x"))], a),
            (vec![entry("a", None), None], None),
        ] {
            assert_eq!(owner_after(&history), expected, "{history:?}");
        }
    }

    #[test]
    fn the_value_is_the_documented_one() {
        let plain = entry("a", None).unwrap();
        assert_eq!(
            serde_json::to_string(&plain).unwrap(),
            r#"{"owner":"c/ns/a","created":true}"#
        );
        let read: Entry = serde_json::from_str(r#"{"owner":"c/ns/a","created":true,"later":1}"#).unwrap();
        assert_eq!(read, plain);
    }
}
