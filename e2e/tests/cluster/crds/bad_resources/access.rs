//! How services of the pipeline's own are reached.

use super::{Case, pipeline};

pub(super) fn cases() -> Vec<Case> {
    vec![
        pipeline(
            "TLS for the installation's Kafka",
            "kafka: {tls: {}}",
            &["spec.kafka.bootstrap", "the installation's to say"],
        ),
        pipeline(
            "a user for the installation's Kafka",
            "kafka: {sasl: {mechanism: ScramSha512, secret: s}}",
            &["spec.kafka.bootstrap"],
        ),
        pipeline(
            "a password in the clear",
            "kafka: {bootstrap: 'k:9092', sasl: {mechanism: Plain, secret: s}}",
            &["spec.kafka.sasl.mechanism", "it needs tls"],
        ),
        pipeline(
            "a certificate of the operator alone",
            "kafka: {bootstrap: 'k:9092', tls: {adminCertSecret: s}}",
            &["spec.kafka.tls.adminCertSecret"],
        ),
        pipeline(
            "a mechanism that there is not",
            "kafka: {bootstrap: 'k:9092', sasl: {mechanism: GSSAPI, secret: s}}",
            &["spec.kafka.sasl.mechanism"],
        ),
        pipeline(
            "a mechanism without a user",
            "kafka: {bootstrap: 'k:9092', sasl: {mechanism: ScramSha512}}",
            &["spec.kafka.sasl.secret"],
        ),
        pipeline(
            "a Secret's name with a slash",
            "kafka: {bootstrap: 'k:9092', tls: {caSecret: ../other}}",
            &["spec.kafka.tls.caSecret"],
        ),
        pipeline(
            "a user for the installation's ClickHouse",
            "clickhouse: {secret: s}",
            &["spec.clickhouse.url", "the installation's to say"],
        ),
        pipeline(
            "an authority for what is not encrypted",
            "clickhouse: {url: 'http://c:8123', caSecret: s}",
            &["spec.clickhouse.caSecret", "https://"],
        ),
        pipeline(
            "a maker of tables without a writer of rows",
            "clickhouse: {url: 'http://c:8123', adminSecret: s}",
            &["spec.clickhouse.adminSecret"],
        ),
        pipeline(
            "a user for the installation's Redis",
            "redis: {secret: s}",
            &["spec.redis.address", "the installation's to say"],
        ),
        pipeline(
            "TLS for the installation's Redis",
            "redis: {tls: {}}",
            &["spec.redis.address"],
        ),
    ]
}
