//! What can be wrong with one event, and how an answer lists it.

use std::borrow::Cow;

use super::text::{push_json_string, push_number};

/// Why an event was not accepted: a closed set, the `code` of answers and the `reason` of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flaw {
    InvalidJson,
    MissingField,
    InvalidType,
    TooShort,
    TooLong,
    InvalidTime,
    DuplicateMember,
    EventTooLarge,
    AppMismatch,
    TooOld,
    Quota,
    /// Nothing of its own: another event of its envelope was refused, or its request has too many.
    Envelope,
}

impl Flaw {
    pub(crate) const ALL: [Self; 12] = [
        Self::InvalidJson,
        Self::MissingField,
        Self::InvalidType,
        Self::TooShort,
        Self::TooLong,
        Self::InvalidTime,
        Self::DuplicateMember,
        Self::EventTooLarge,
        Self::AppMismatch,
        Self::TooOld,
        Self::Quota,
        Self::Envelope,
    ];

    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::MissingField => "missing_field",
            Self::InvalidType => "invalid_type",
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
            Self::InvalidTime => "invalid_time",
            Self::DuplicateMember => "duplicate_member",
            Self::EventTooLarge => "event_too_large",
            Self::AppMismatch => "app_mismatch",
            Self::TooOld => "too_old",
            Self::Quota => "quota",
            Self::Envelope => "envelope",
        }
    }

    /// The reason in the header of a dead letter; `None` for what is never kept as one.
    pub(crate) fn dead_letter_reason(self) -> Option<&'static str> {
        match self {
            Self::TooOld => Some("TooOld"),
            Self::EventTooLarge => Some("TooLarge"),
            Self::AppMismatch => Some("Refused"),
            Self::Quota | Self::Envelope => None,
            _ => Some("Malformed"),
        }
    }
}

/// A flaw and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) flaw: Flaw,
    /// The member, empty when the event as a whole is meant.
    pub(crate) field: Cow<'static, str>,
    pub(crate) detail: Cow<'static, str>,
}

impl Found {
    pub(crate) fn new(flaw: Flaw, field: &'static str, detail: &'static str) -> Self {
        Self {
            flaw,
            field: Cow::Borrowed(field),
            detail: Cow::Borrowed(detail),
        }
    }
}

/// An event that the answer lists as refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) index: u32,
    pub(crate) found: Found,
}

/// `[{"index":…,"code":…,"field":…,"detail":…},…]`
pub(crate) fn push_rejections(out: &mut Vec<u8>, rejections: &[Rejection]) {
    out.push(b'[');
    for (position, one) in rejections.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"index\":");
        push_number(out, i64::from(one.index));
        out.extend_from_slice(b",\"code\":\"");
        out.extend_from_slice(one.found.flaw.code().as_bytes());
        out.extend_from_slice(b"\",\"field\":");
        push_json_string(out, &one.found.field);
        out.extend_from_slice(b",\"detail\":");
        push_json_string(out, &one.found.detail);
        out.push(b'}');
    }
    out.push(b']');
}
