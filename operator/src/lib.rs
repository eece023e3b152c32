//! The operator: reads Apps and IngestionPipelines, and makes the cluster, Kafka, ClickHouse and Redis match.
//!
//! ```text
//! main ──> run: settings -> definitions installed? -> leadership -> controllers (one set for each scope)
//!                                                                   ├── app        keys, Secrets
//!                                                                   └── pipeline   objects, and through provision/,
//!                                                                                  a crate of its own: topics, tables,
//!                                                                                  quota entries
//! ```
#![forbid(unsafe_code)]

pub mod admin;
pub mod api;
pub mod backoff;
pub mod conditions;
pub mod connections;
pub mod controllers;
pub mod events;
pub mod health;
pub mod identity;
pub mod lease;
pub mod metrics;
pub mod run;
pub mod settings;
pub mod tenancy;
