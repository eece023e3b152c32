//! Which id an event is stored under.
//!
//! The client's own UUID; else a UUID of version 5 made from what the client sent, so that a retry gets the same
//! one; else a random one. Duplicates with one id collapse in the table.

use std::io::Write as _;

use uuid::Uuid;

/// What an id is derived from is shorter than this: a protocol's name and 1000 bytes of a client's, or an idempotency
/// key and a number.
const LONGEST_NAME: usize = 1100;

/// An id, and whether a retry gets the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: Uuid,
    pub(crate) from_client: bool,
}

/// The id for an event at `index` of its request. `random` is called only where nothing else names the event.
pub(crate) fn of(
    app: &Uuid,
    protocol: &str,
    client_id: Option<&str>,
    idempotency_key: Option<&str>,
    index: usize,
    random: impl FnOnce() -> Uuid,
) -> Identity {
    let derived = |name: std::fmt::Arguments<'_>| {
        let mut bytes = [0u8; LONGEST_NAME];
        let mut rest = &mut bytes[..];
        // A longer name would be cut; the limits of its parts keep it shorter.
        let _ = rest.write_fmt(name);
        let length = LONGEST_NAME - rest.len();
        Identity {
            id: Uuid::new_v5(app, &bytes[..length]),
            from_client: true,
        }
    };
    match (client_id.filter(|id| !id.is_empty()), idempotency_key) {
        (Some(given), _) => match Uuid::try_parse(given) {
            Ok(id) => Identity {
                id,
                from_client: true,
            },
            Err(_) => derived(format_args!("{protocol}/{given}")),
        },
        (None, Some(key)) => derived(format_args!("idempotency/{key}/{index}")),
        (None, None) => Identity {
            id: random(),
            from_client: false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_names_the_event_wins() {
        let app = Uuid::from_u128(7);
        let random = || Uuid::from_u128(9);
        let given = "0193F1C2-7B3E-7C31-A3C9-4B1F0A1D2E3F";
        let of = |client, key, index| of(&app, "segment", client, key, index, random);
        assert_eq!(of(Some(given), Some("k"), 0).id.to_string(), given.to_lowercase());
        assert_eq!(
            of(Some("m-1"), Some("k"), 0).id,
            Uuid::new_v5(&app, b"segment/m-1")
        );
        assert_eq!(of(None, Some("k"), 3).id, Uuid::new_v5(&app, b"idempotency/k/3"));
        assert_eq!(
            of(Some(""), None, 3),
            Identity {
                id: random(),
                from_client: false
            }
        );
        assert!(of(Some("m-1"), None, 0).from_client && of(None, Some("k"), 0).from_client);
    }
}
