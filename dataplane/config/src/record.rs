//! What programs that write and read the topics call things by; `docs/record.md` is the contract.

/// The version of a line.
pub const LINE_VERSION: u64 = 1;

/// Names a group of events that was acknowledged together.
pub const GROUP: &str = "penstock-group";

/// Of a dead letter: why it is one.
pub const REASON: &str = "penstock-reason";
/// Of a dead letter: who wrote it.
pub const STEP: &str = "penstock-step";
/// Of a dead letter: a sentence for a person.
pub const DETAIL: &str = "penstock-detail";
/// Of a dead letter: `topic/partition/offset/row`.
pub const ORIGIN: &str = "penstock-origin";
/// Of a dead letter: the UUID of its App.
pub const APP: &str = "penstock-app";

/// Of a record that was a letter: where that letter is.
pub const REPLAY: &str = "penstock-replay";
/// Of a receipt: offsets of letters of its own partition that were replayed.
pub const REPLAYED: &str = "penstock-replayed";
