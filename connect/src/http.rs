//! Connections for HTTP, plain or encrypted as the address says.

use std::time::Duration;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use penstock_dataplane_config::ClientTls;

use crate::{Unusable, tls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(30);

/// For one address. With `https` it trusts what `tls` says, or the system's authorities.
pub fn connector(https: bool, tls: Option<&ClientTls>) -> Result<HttpsConnector<HttpConnector>, Unusable> {
    let mut plain = HttpConnector::new();
    plain.set_nodelay(true);
    plain.set_connect_timeout(Some(CONNECT_TIMEOUT));
    plain.set_keepalive(Some(KEEPALIVE));
    plain.enforce_http(false);
    let config = match https {
        true => tls::client(tls.unwrap_or(&ClientTls::default()))?,
        // A machine may have no authorities, and needs none.
        false => tls::trusting_nobody()?,
    };
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(plain))
}
