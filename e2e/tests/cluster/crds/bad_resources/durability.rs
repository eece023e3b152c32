//! What must not be asked of a pipeline's durability and of its spool.

use super::{Case, pipeline};

pub(super) fn cases() -> Vec<Case> {
    let class = format!(
        "ingest: {{spool: {{volume: {{size: 1Gi, storageClassName: {}}}}}}}",
        "c".repeat(254)
    );
    vec![
        pipeline(
            "an unknown durability",
            "ingest: {durability: Eventual}",
            &["spec.ingest.durability"],
        ),
        pipeline(
            "an unknown way through an outage",
            "ingest: {onKafkaOutage: Wait}",
            &["spec.ingest.onKafkaOutage"],
        ),
        pipeline(
            "Spooled without a spool",
            "ingest: {durability: Spooled}",
            &["spec.ingest.durability", "set spool.volume.size"],
        ),
        pipeline(
            "an outage spooled without a spool",
            "ingest: {onKafkaOutage: Spool}",
            &["spec.ingest.onKafkaOutage", "set spool.volume.size"],
        ),
        pipeline(
            "Spooled, and an outage refused",
            "ingest: {durability: Spooled, onKafkaOutage: Reject, spool: {volume: {size: 1Gi}}}",
            &["spec.ingest.onKafkaOutage", "must be Spool"],
        ),
        pipeline(
            "Spooled, and an outage stored directly",
            "ingest: {durability: Spooled, onKafkaOutage: Direct, spool: {volume: {size: 1Gi}}}",
            &["spec.ingest.onKafkaOutage", "must be Spool"],
        ),
        pipeline(
            "a spool that nothing uses",
            "ingest: {onKafkaOutage: Reject, spool: {volume: {size: 1Gi}}}",
            &["spec.ingest.spool", "is not used"],
        ),
        pipeline(
            "a spool beside what stores directly",
            "ingest: {durability: Memory, onKafkaOutage: Direct, spool: {volume: {size: 1Gi}}}",
            &["spec.ingest.spool", "is not used"],
        ),
        pipeline(
            "a spool without a volume",
            "ingest: {spool: {}}",
            &["spec.ingest.spool.volume"],
        ),
        pipeline(
            "a volume without a size",
            "ingest: {spool: {volume: {}}}",
            &["spec.ingest.spool.volume.size"],
        ),
        pipeline(
            "a volume that is too small",
            "ingest: {spool: {volume: {size: 19M}}}",
            &["spec.ingest.spool.volume.size", "at least 20M"],
        ),
        pipeline(
            "a volume whose size has a fraction",
            "ingest: {spool: {volume: {size: 1.5Gi}}}",
            &["spec.ingest.spool.volume.size"],
        ),
        pipeline(
            "a class that cannot be",
            "ingest: {spool: {volume: {size: 1Gi, storageClassName: Fast_Disk}}}",
            &["spec.ingest.spool.volume.storageClassName"],
        ),
        pipeline(
            "a class of 254 characters",
            &class,
            &["spec.ingest.spool.volume.storageClassName"],
        ),
        pipeline(
            "a spool of nearly all of its volume",
            "ingest: {spool: {volume: {size: 1G}, maxBytes: 901MB}}",
            &["spec.ingest.spool.maxBytes", "90 %"],
        ),
        pipeline(
            "a spool larger than its volume",
            "ingest: {spool: {volume: {size: 1Gi}, maxBytes: 2GiB}}",
            &["spec.ingest.spool.maxBytes", "90 %"],
        ),
        pipeline(
            "a spool of 15 MB",
            "ingest: {spool: {volume: {size: 1Gi}, maxBytes: 15MB}}",
            &["spec.ingest.spool.maxBytes", "16MB"],
        ),
        pipeline(
            "a spool of more than 1000 GB",
            "ingest: {spool: {volume: {size: 9Ti}, maxBytes: 1001GB}}",
            &["spec.ingest.spool.maxBytes", "1000GB"],
        ),
        pipeline(
            "a size without a unit",
            "ingest: {spool: {volume: {size: 1Gi}, maxBytes: '100000000'}}",
            &["spec.ingest.spool.maxBytes"],
        ),
    ]
}
