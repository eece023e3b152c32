//! Opening a connection to the Redis that a role is configured with, within its timeouts.

use penstock_dataplane_config::RedisTarget;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError};

pub(crate) async fn open(target: &RedisTarget) -> Result<MultiplexedConnection, RedisError> {
    let client = Client::open(format!("redis://{}/{}", target.address, target.database))?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(target.connect_timeout.get()))
        .set_response_timeout(Some(target.command_timeout.get()));
    client.get_multiplexed_async_connection_with_config(&config).await
}
