//! How services of the pipeline's own are reached: with what of the Secrets in its namespace.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Kafka over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaTls {
    /// A Secret of the namespace with `ca.crt`: who may have signed the brokers' certificates. Default: the system's
    /// authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SUBDOMAIN))]
    pub ca_secret: Option<String>,
    /// A Secret with `tls.crt` and `tls.key`, which the brokers are shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SUBDOMAIN))]
    pub cert_secret: Option<String>,
    /// The same for the operator, which makes topics. Default: `certSecret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SUBDOMAIN))]
    pub admin_cert_secret: Option<String>,
}

/// Who the pipeline is in Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSasl {
    /// `Plain` sends the password itself and needs `tls`.
    pub mechanism: SaslMechanism,
    /// A Secret of the namespace with `username` and `password`. A change restarts the pods, one by one.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SUBDOMAIN))]
    pub secret: String,
    /// The same for the operator, which makes topics. Default: `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SUBDOMAIN))]
    pub admin_secret: Option<String>,
}

/// How Kafka is told who is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    ScramSha512,
    ScramSha256,
    Plain,
}

/// Redis over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisTls {
    /// A Secret of the namespace with `ca.crt`: who may have signed Redis's certificate. Default: the system's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SUBDOMAIN))]
    pub ca_secret: Option<String>,
}
