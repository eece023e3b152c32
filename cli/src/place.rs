//! Where a pipeline's topics are: as its consumers are told by the operator, or as the person says.

use clap::Args;

use crate::access::KafkaFlags;
use crate::cluster::{Cluster, Where};
use crate::exit::Result;
use crate::kafka::Brokers;

/// Addresses, where the cluster is not to be asked.
#[derive(Clone, Debug, Default, Args)]
pub struct Given {
    #[command(flatten)]
    pub kafka: KafkaFlags,
    /// The pipeline's topic; with --kafka no cluster is asked
    #[arg(long, value_name = "NAME", env = "PENSTOCK_KAFKA__TOPIC")]
    pub topic: Option<String>,
}

/// A pipeline's Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub brokers: Brokers,
    pub topic: String,
    pub dead_letter_topic: String,
}

impl Place {
    /// Asks the cluster for what is not given.
    pub async fn find(
        place: &Where,
        pipeline: &str,
        given: &Given,
        dead_letter_topic: Option<&str>,
    ) -> Result<Self> {
        let letters_of =
            |topic: &str| dead_letter_topic.map_or_else(|| format!("{topic}.dlq"), str::to_owned);
        if let (Some(bootstrap), Some(topic)) = (&given.kafka.kafka, &given.topic) {
            return Ok(Self {
                brokers: Brokers::at(given.kafka.cluster(bootstrap)?),
                topic: topic.clone(),
                dead_letter_topic: letters_of(topic),
            });
        }
        let cluster = Cluster::connect(place).await?;
        let kafka = cluster.consumer(pipeline).await?.kafka;
        let brokers = cluster.brokers(pipeline, &kafka, &given.kafka).await?;
        Ok(Self {
            brokers,
            dead_letter_topic: match (dead_letter_topic, &given.topic) {
                (Some(told), _) => told.to_owned(),
                (None, Some(topic)) => letters_of(topic),
                (None, None) => kafka.dead_letter_topic,
            },
            topic: given.topic.clone().unwrap_or(kafka.topic),
        })
    }
}
