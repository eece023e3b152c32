//! Why something outside the cluster could not be made right: the one error of all traits of this folder.

use std::fmt;

use penstock_crds::Reason;

use super::ownership::{Owner, Refused};

/// What the operator keeps outside the cluster's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    Kafka,
    ClickHouse,
    Redis,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kafka => "Kafka",
            Self::ClickHouse => "ClickHouse",
            Self::Redis => "Redis",
        })
    }
}

/// Whether trying again helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// By itself: try again soon.
    Transient,
    /// Only when someone changes the spec or the thing itself; looked at again now and then, as nothing tells us.
    Permanent,
}

/// Why it failed. The text of each is a whole sentence for a person and never holds a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvisionError {
    #[error("{service} at {address} cannot be reached: {detail}")]
    Unavailable {
        service: Service,
        address: String,
        detail: String,
    },
    /// It answers, and something that takes its time is not done.
    #[error("{0}")]
    NotYet(String),
    #[error("{service} refused: {detail}")]
    Rejected { service: Service, detail: String },
    #[error(
        "{thing} belongs to {owner}: give this pipeline another name for it, or delete that pipeline first"
    )]
    OwnedBy { thing: String, owner: Owner },
    #[error(
        "{thing} exists already and is not marked as this pipeline's: set adoptionPolicy to Adopt to use it as it is, \
         or choose another name"
    )]
    Unmarked { thing: String },
    #[error("{0}")]
    NotSupported(String),
    #[error("{0}")]
    SchemaConflict(String),
    #[error("{0}")]
    DedupWindowTooSmall(String),
    #[error("{0}")]
    Sharded(String),
}

impl ProvisionError {
    /// The refusal of a claim to `thing`.
    pub(super) fn refused(thing: impl Into<String>, why: Refused) -> Self {
        let thing = thing.into();
        match why {
            Refused::OwnedBy(owner) => Self::OwnedBy { thing, owner },
            Refused::Unmarked => Self::Unmarked { thing },
        }
    }

    pub fn reason(&self) -> Reason {
        match self {
            Self::Unavailable {
                service: Service::Kafka,
                ..
            } => Reason::KafkaUnavailable,
            Self::Unavailable {
                service: Service::ClickHouse,
                ..
            } => Reason::ClickHouseUnavailable,
            Self::Unavailable {
                service: Service::Redis,
                ..
            } => Reason::RedisUnavailable,
            Self::NotYet(_) => Reason::Pending,
            Self::Rejected {
                service: Service::Kafka,
                ..
            } => Reason::KafkaRejected,
            Self::Rejected {
                service: Service::ClickHouse,
                ..
            } => Reason::ClickHouseRejected,
            // Redis has nothing of its own to refuse but a login; to a pipeline that is the same as no Redis.
            Self::Rejected {
                service: Service::Redis,
                ..
            } => Reason::RedisUnavailable,
            Self::OwnedBy { .. } => Reason::ResourceConflict,
            Self::Unmarked { .. } => Reason::AdoptionRefused,
            Self::NotSupported(_) => Reason::NotSupported,
            Self::SchemaConflict(_) => Reason::SchemaConflict,
            Self::DedupWindowTooSmall(_) => Reason::DedupWindowTooSmall,
            Self::Sharded(_) => Reason::ShardedTargetUnsupported,
        }
    }

    /// Whether what is there must be left alone, rather than that something which was tried has failed.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::OwnedBy { .. }
            | Self::Unmarked { .. }
            | Self::NotSupported(_)
            | Self::SchemaConflict(_)
            | Self::DedupWindowTooSmall(_)
            | Self::Sharded(_) => true,
            Self::Unavailable { .. } | Self::NotYet(_) | Self::Rejected { .. } => false,
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Self::Unavailable { .. } | Self::NotYet(_) => Class::Transient,
            Self::Rejected { .. }
            | Self::OwnedBy { .. }
            | Self::Unmarked { .. }
            | Self::NotSupported(_)
            | Self::SchemaConflict(_)
            | Self::DedupWindowTooSmall(_)
            | Self::Sharded(_) => Class::Permanent,
        }
    }
}
