//! Kafka, ClickHouse and Redis in memory, for the tests of controllers.
//!
//! They decide by the same pure code as the real implementations (`ownership`, `kafka::plan`, `clickhouse::plan`), and
//! pass the same contract. Each answers at one address and is unreachable at any other, and while it is down.

mod clickhouse;
mod kafka;
mod redis;

pub use clickhouse::FakeClickHouse;
pub use kafka::FakeKafka;
pub use redis::FakeRedis;

use super::{Answer, ProvisionError, Service};

fn answer<'a, T: Send + 'a>(result: Result<T, ProvisionError>) -> Answer<'a, T> {
    Box::pin(std::future::ready(result))
}

fn unavailable(service: Service, address: &str) -> ProvisionError {
    ProvisionError::Unavailable {
        service,
        address: address.into(),
        detail: "connection refused".into(),
    }
}

#[cfg(test)]
mod tests {
    use penstock_dataplane_config::{KafkaCluster, RedisTarget};

    use super::super::{ClickHouseServer, contract};
    use super::*;

    #[tokio::test]
    async fn topics_keep_the_contract() {
        for brokers in [1, 3] {
            let fake = FakeKafka::new("kafka:9092", brokers);
            let cluster = KafkaCluster::open("kafka:9092");
            contract::topics(&fake, &fake, &cluster, "contract", brokers).await;
        }
    }

    #[tokio::test]
    async fn tables_keep_the_contract() {
        let fake = FakeClickHouse::new("http://clickhouse:8123");
        let server = ClickHouseServer::open("http://clickhouse:8123");
        contract::tables(&fake, &fake, &server, "contract").await;
    }

    #[tokio::test]
    async fn quotas_keep_the_contract() {
        let fake = FakeRedis::new("redis:6379");
        let target = RedisTarget::at("redis:6379");
        contract::quotas(&fake, &fake, &target).await;
    }
}
