//! Topics that tests make themselves, past the operator.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;

/// Of a machine that has other tests to run.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes topics that are not there yet.
///
/// A busy machine may keep a broker from telling the controller that it lives, which then refuses every topic for a moment, as
/// if too many copies were asked for.
pub(crate) fn create(kafka: &ClientConfig, topics: &[NewTopic<'_>]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let admin: AdminClient<DefaultClientContext> = kafka.create().expect("a client");
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let until = Instant::now() + PATIENCE;
    loop {
        let created = runtime
            .block_on(admin.create_topics(topics, &options))
            .expect("Kafka answers");
        let failed = created.into_iter().find_map(|one| match one {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => None,
            Err(failed) => Some(failed),
        });
        match failed {
            None => return,
            Some((_, RDKafkaErrorCode::InvalidReplicationFactor)) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(500));
            }
            Some((topic, error)) => panic!("the topic {topic} is not made: {error}"),
        }
    }
}
