//! libFuzzer around one target of `penstock_dataplane::fuzz`, which `PENSTOCK_FUZZ_TARGET` names.
#![no_main]

use std::sync::OnceLock;

use penstock_dataplane::fuzz::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

fn target() -> Target {
    let wanted = std::env::var("PENSTOCK_FUZZ_TARGET").unwrap_or_default();
    let known = TARGETS.map(|(name, _)| name).join(", ");
    match TARGETS.iter().find(|(name, _)| *name == wanted) {
        Some((_, target)) => *target,
        None => panic!("PENSTOCK_FUZZ_TARGET is `{wanted}`, not one of {known}"),
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET.get_or_init(target)(bytes));
