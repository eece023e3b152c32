//! Pieces of schema that attributes cannot say.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A size: `8MB`, `64MiB`.
pub(crate) const SIZE: &str = r"^[1-9][0-9]{0,8}(B|kB|MB|GB|KiB|MiB|GiB)$";
/// A short span: `250ms`, `10s`, `5m`. CEL can read these.
pub(crate) const SHORT_DURATION: &str = r"^[1-9][0-9]{0,5}(ms|s|m)$";
/// A retention: `12h`, `7d`.
pub(crate) const RETENTION: &str = r"^[1-9][0-9]{0,4}(m|h|d)$";
/// Whole days: `400d`.
pub(crate) const DAYS: &str = r"^[1-9][0-9]{0,3}d$";
/// A DNS label.
pub(crate) const LABEL: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// A DNS subdomain: the name of a Secret.
pub(crate) const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
/// A Kafka topic.
pub(crate) const TOPIC: &str = r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$";
/// A database or table of ClickHouse that needs no quoting.
pub(crate) const IDENTIFIER: &str = r"^[a-zA-Z_][a-zA-Z0-9_]*$";
/// A cluster of ClickHouse, by the name that its servers have for it.
pub(crate) const CLUSTER: &str = r"^[a-zA-Z_][a-zA-Z0-9_-]*$";
/// A column of JSON, or a value in it: `properties.cart.total`.
pub(crate) const JSON_PATH: &str = r"^(properties|attribution|context)(\.[A-Za-z0-9_$-]+){0,8}$";
/// A rollup: the end of a table's name.
pub(crate) const ROLLUP: &str = r"^[a-z][a-z0-9_]*$";
/// An origin of web pages: a scheme, a host in lower case, maybe a port, and nothing behind.
pub(crate) const ORIGIN: &str =
    r"^[a-z][a-z0-9+.-]*://([a-z0-9]([-a-z0-9.]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?$";
/// A network: `10.0.0.0/8`, `fd00::/8`. Of IPv6 only the characters; the operator reads the address.
pub(crate) const CIDR: &str = concat!(
    r"^(((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])/([0-9]|[12][0-9]|3[0-2])",
    r"|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))$"
);
macro_rules! host_port {
    () => {
        r"[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?:(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
    };
}

/// `host:port`, comma-separated.
pub(crate) const BOOTSTRAP: &str = concat!("^", host_port!(), "(,", host_port!(), ")*$");
/// `host:port`.
pub(crate) const HOST_PORT: &str = concat!("^", host_port!(), "$");
/// `http://host:port`.
pub(crate) const HTTP_URL: &str = concat!("^https?://", host_port!(), "/?$");

/// Labels to match, bounded.
pub(crate) fn match_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63}
    })
}

/// Topic settings, bounded.
pub(crate) fn topic_config(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 256}
    })
}
