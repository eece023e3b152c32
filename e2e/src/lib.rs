//! The local cluster kit, and what the end-to-end tests need of it.
//!
//! An [`Instance`] is one named cluster on this machine: etcd, the API server and the rest of Kubernetes, Kafka, Redis
//! and ClickHouse, each an ordinary process in one network namespace. `kit up` makes it, `kit down` removes it.
//!
//! A test takes the instance that runs and steps into its network before it starts a runtime or a thread:
//!
//! ```no_run
//! use penstock_e2e::{Component, Instance};
//!
//! let kit = Instance::from_environment("test")?;
//! kit.enter()?;
//! println!("{} {} {}", kit.kafka_bootstrap()?, kit.clickhouse_url(), kit.kubeconfig().display());
//! kit.kill(Component::Kafka(1))?;
//! kit.start(Component::Kafka(1))?;
//! # Ok::<(), penstock_e2e::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod cache;
mod capacity;
mod cgroup;
pub mod cli;
pub mod clickhouse;
mod cluster;
pub mod component;
mod containerd;
mod controlplane;
pub mod daemon;
mod down;
pub mod environment;
pub mod error;
mod exec;
mod fetch;
mod file;
pub mod image;
pub mod instance;
mod kafka;
mod logs;
mod netns;
mod node;
pub mod penstock;
mod pki;
mod preflight;
mod probe;
pub mod process;
pub mod progress;
pub mod quickstart;
mod redis;
mod run;
mod secret;
pub mod secured;
pub mod status;
pub mod trial;
pub mod up;
pub mod versions;

pub use component::{Component, Group};
pub use error::{Error, Result};
pub use instance::Instance;
pub use secret::short_id;
