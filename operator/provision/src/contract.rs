//! What every implementation of the traits must do, as one suite: it runs on the fake in this crate's tests and on
//! real services in `e2e/tests/cluster/provision`. A fake that passes may stand in for the real thing in the tests of the
//! controllers.
//!
//! Each case works on names that begin with the given prefix, so that suites may run side by side.

mod quotas;
mod tables;
mod topics;

use std::collections::BTreeMap;

use futures::future::BoxFuture;

pub use quotas::{RedisSide, quotas};
pub use tables::{Change, ClickHouseSide, OWN_COMMENT, tables};
pub use topics::{KafkaSide, topics};

use super::Owner;

/// Settings of a topic, or fields of an entry.
pub type Fields = BTreeMap<String, String>;

/// A step that the suite takes behind the operator's back, or a question it asks there.
pub type Side<'a, T> = BoxFuture<'a, T>;

fn owner(prefix: &str, name: &str) -> Owner {
    Owner::new("contract", prefix, name)
}
