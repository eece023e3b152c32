//! Which groups a topic holds already: their names are in the header `penstock-group`, and each lies in its partition
//! at its floor or after it. Reads from the lowest floor to the end that the partition has when the look begins.

use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};
use penstock_dataplane_config::record;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::frame::Place;

const ANSWER: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(200);
/// Without a record for so long the look is given up, to be taken again.
const STALLED: Duration = Duration::from_secs(20);

/// The names, of those `wanted`, that `topic` holds. Blocks.
pub(crate) fn find(
    mut config: ClientConfig,
    topic: &str,
    wanted: &[(&str, Place)],
) -> KafkaResult<AHashSet<String>> {
    let consumer: BaseConsumer = config
        .set("group.id", "penstock-spool")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "true")
        .create()?;
    let mut missing: AHashSet<String> = wanted.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut found = AHashSet::new();
    let mut left = AHashMap::new();
    let mut list = TopicPartitionList::new();
    for (partition, floor) in floors(&consumer, topic, wanted)? {
        let (low, high) = consumer.fetch_watermarks(topic, partition, ANSWER)?;
        // A floor past the end belongs to a topic that was since made anew.
        let from = if (low..=high).contains(&floor) { floor } else { low };
        if from < high {
            list.add_partition_offset(topic, partition, Offset::Offset(from))?;
            left.insert(partition, high);
        }
    }
    consumer.assign(&list)?;
    let mut moved = Instant::now();
    while !left.is_empty() && !missing.is_empty() {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                moved = Instant::now();
                let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                for header in headers.filter(|header| header.key == record::GROUP) {
                    let name = String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned();
                    if missing.remove(&name) {
                        found.insert(name);
                    }
                }
                let partition = message.partition();
                if left
                    .get(&partition)
                    .is_some_and(|high| message.offset() + 1 >= *high)
                {
                    left.remove(&partition);
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                left.remove(&partition);
            }
            Some(Err(error)) if moved.elapsed() > STALLED => return Err(error),
            Some(Err(_)) => {}
            None if moved.elapsed() > STALLED => {
                return Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::OperationTimedOut,
                ));
            }
            None => {}
        }
    }
    Ok(found)
}

/// The partitions to look at, each from its lowest floor. A topic that was made anew with fewer lacks some.
fn floors(consumer: &BaseConsumer, topic: &str, wanted: &[(&str, Place)]) -> KafkaResult<AHashMap<i32, i64>> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    Ok(partitions
        .filter_map(|partition| {
            let floors = wanted.iter().filter_map(|(_, place)| match place.partition {
                id if id < 0 => Some(-1),
                id => (id == partition.id()).then_some(place.floor),
            });
            Some((partition.id(), floors.min()?))
        })
        .collect())
}
