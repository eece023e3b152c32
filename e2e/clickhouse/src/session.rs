//! Sessions: connections that are kept between requests for their temporary tables and settings.
//!
//! ```text
//! take ──> Busy ──> put_back ──> Idle until its deadline ──> swept
//! ```
//! A session belongs to one user, and serves one request at a time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::Connection;
use crate::failure::{Code, Failure};
use crate::request::SessionRequest;

/// More than this many sessions at once is a client that never reuses one.
const MOST: usize = 1000;

type Key = (String, String);

#[derive(Debug)]
enum Slot {
    Busy,
    Idle {
        connection: Connection,
        deadline: Instant,
    },
}

/// All sessions of this server.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    slots: Mutex<HashMap<Key, Slot>>,
}

impl Sessions {
    /// The session's connection, when it exists; `None` when the caller opens one. Either way it is busy until
    /// `put_back` or `end`.
    pub(crate) fn take(
        &self,
        user: &str,
        request: &SessionRequest,
        now: Instant,
    ) -> Result<Option<Connection>, Failure> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let count = slots.len();
        match slots.entry((user.to_string(), request.id.clone())) {
            Entry::Occupied(mut slot) => match slot.insert(Slot::Busy) {
                Slot::Busy => Err(Failure::new(
                    Code::SessionIsLocked,
                    format_args!("Session {} is locked by a concurrent client", request.id),
                )),
                Slot::Idle { connection, deadline } if deadline > now => Ok(Some(connection)),
                Slot::Idle { .. } if request.must_exist => {
                    slot.remove();
                    Err(not_found(&request.id))
                }
                Slot::Idle { .. } => Ok(None),
            },
            Entry::Vacant(_) if request.must_exist => Err(not_found(&request.id)),
            Entry::Vacant(_) if count >= MOST => Err(Failure::new(
                Code::CannotScheduleTask,
                format_args!("more than {MOST} sessions are open"),
            )),
            Entry::Vacant(slot) => {
                slot.insert(Slot::Busy);
                Ok(None)
            }
        }
    }

    pub(crate) fn put_back(
        &self,
        user: &str,
        request: &SessionRequest,
        connection: Connection,
        now: Instant,
    ) {
        let key = (user.to_string(), request.id.clone());
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if request.close {
            slots.remove(&key);
        } else {
            let deadline = now + Duration::from_secs(request.timeout_seconds);
            slots.insert(key, Slot::Idle { connection, deadline });
        }
    }

    /// Forgets a session whose connection is gone.
    pub(crate) fn end(&self, user: &str, request: &SessionRequest) {
        let key = (user.to_string(), request.id.clone());
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
    }

    /// Closes the sessions whose time is up.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| {
            matches!(slot, Slot::Idle { deadline, .. } if *deadline > now) || matches!(slot, Slot::Busy)
        });
    }

    /// Closes every idle session; used when no request runs any more.
    pub(crate) fn close_all(&self) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn not_found(id: &str) -> Failure {
    Failure::new(Code::SessionNotFound, format_args!("Session {id} not found"))
}
