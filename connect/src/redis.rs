//! Opening a connection to Redis, within the timeouts that it is configured with.

use penstock_dataplane_config::RedisTarget;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ErrorKind, IntoConnectionInfo as _, RedisError,
    TlsCertificates,
};

use crate::{Unusable, bytes, secret};

impl From<Unusable> for RedisError {
    fn from(unusable: Unusable) -> Self {
        let what = "a file of the connection cannot be used";
        Self::from((ErrorKind::InvalidClientConfig, what, unusable.to_string()))
    }
}

/// Opens one, with the credentials that the files hold now.
pub async fn open(target: &RedisTarget) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(target.connect_timeout.get()))
        .set_response_timeout(Some(target.command_timeout.get()));
    client(target)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

fn client(target: &RedisTarget) -> Result<Client, RedisError> {
    let scheme = if target.tls.is_some() { "rediss" } else { "redis" };
    let info = format!("{scheme}://{}/{}", target.address, target.database).into_connection_info()?;
    let mut as_whom = info.redis_settings().clone();
    if let Some(file) = &target.username_file {
        as_whom = as_whom.set_username(secret(file)?);
    }
    if let Some(file) = &target.password_file {
        as_whom = as_whom.set_password(secret(file)?);
    }
    let info = info.set_redis_settings(as_whom);
    let Some(tls) = &target.tls else {
        return Client::open(info);
    };
    let client_tls = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: bytes(cert)?,
            client_key: bytes(key)?,
        }),
        _ => None,
    };
    let root_cert = tls.ca_file.as_deref().map(bytes).transpose()?;
    Client::build_with_tls(
        info,
        TlsCertificates {
            client_tls,
            root_cert,
        },
    )
}
