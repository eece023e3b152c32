//! The `consume` role: topic -> event table, each row once.
pub mod clock;
pub mod fence;
mod flight;
mod forming;
pub mod intent;
pub mod machine;
pub mod position;
pub mod protocol;
