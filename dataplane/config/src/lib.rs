//! What the operator hands to the data plane, and what programs that share a topic or a table must call by one name.
//!
//! Two files, because they change at different speeds:
//!
//! ```text
//! config.yaml   one role's settings      changed -> the pods roll (it is part of the pod-template hash)
//! apps.yaml     Apps, keys, limits       changed -> the running pods read it again, nothing restarts
//! ```
//!
//! Both are versioned, refuse unknown fields, and are validated whole before a port is bound. Neither holds a
//! secret: a key is known by its SHA-256 digest, and credentials are named by the file that holds them.
#![forbid(unsafe_code)]

pub mod apps;
pub mod letters;
pub mod load;
pub mod record;
mod replaced;
pub mod roles;
pub mod table;
pub mod units;
pub mod validate;

pub use apps::{AppEntry, AppsFile, KeyEntry, KeyScope, Quota};
pub use roles::{
    ClickHouseTarget, ClientTls, Compression, ConsumeBatch, ConsumeConfig, DrainConfig, Durability,
    GroupProtocol, IngestConfig, IngestLimits, KafkaCluster, KafkaOutage, KafkaTarget, PipelineRef, Protocol,
    RecordFormat, RecordKey, RedisTarget, Sasl, SaslMechanism, SpoolConfig, TlsFiles,
};
pub use units::{ByteSize, Duration};

/// The version of both files. A data plane reads this one and the one before.
pub const CONFIG_VERSION: u32 = 1;
