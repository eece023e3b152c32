//! What became of a request's events, as far as the client is told: settled once, awaited by many.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::{HeaderName, HeaderValue, StatusCode};

use super::answer::Answer;

/// Where events are when their request is answered. The later, the less is promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// Kafka has acknowledged them.
    #[default]
    Stored,
    /// In the event table, without having been in Kafka.
    Direct,
    /// On this process's disk, on the way to Kafka.
    Spooled,
    /// In this process's memory, on the way to Kafka.
    Memory,
    /// Nowhere, as far as is known.
    Failed,
}

const DURABILITY: HeaderName = HeaderName::from_static("penstock-durability");

impl Fate {
    /// Says in the answer what less than Kafka's acknowledgement stands behind it. `only_200`: the protocol's clients
    /// take no other status for a success.
    pub(crate) fn tell(self, answer: &mut Answer, only_200: bool) {
        let durability = match self {
            Self::Stored | Self::Failed => return,
            Self::Direct => "direct",
            Self::Spooled => "spooled",
            Self::Memory => "memory",
        };
        answer
            .headers_mut()
            .insert(DURABILITY, HeaderValue::from_static(durability));
        if self == Self::Memory && !only_200 {
            *answer.status_mut() = StatusCode::ACCEPTED;
        }
    }
}

/// The fate of some records.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Records that are not settled yet.
    open: Cell<usize>,
    worst: Cell<Fate>,
    waiting: RefCell<Vec<Waker>>,
}

impl Outcome {
    pub(crate) fn of(records: usize) -> Rc<Self> {
        Rc::new(Self {
            open: Cell::new(records),
            ..Self::default()
        })
    }

    /// What was to be one record becomes so many.
    pub(crate) fn expect(&self, records: usize) {
        self.open.set(records);
    }

    /// One record more is settled.
    pub(crate) fn settle(&self, fate: Fate) {
        self.worst.set(self.worst.get().max(fate));
        self.open.set(self.open.get().saturating_sub(1));
        if self.open.get() == 0 {
            self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
        }
    }
}

/// Resolves to the worst fate of the records.
#[derive(Debug)]
pub(crate) struct Settled(pub(crate) Rc<Outcome>);

impl Settled {
    /// Nobody waits for what Kafka says.
    pub(crate) fn in_memory() -> Self {
        let outcome = Outcome::of(0);
        outcome.worst.set(Fate::Memory);
        Self(outcome)
    }
}

impl Future for Settled {
    type Output = Fate;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Fate> {
        if self.0.open.get() == 0 {
            return Poll::Ready(self.0.worst.get());
        }
        let mut waiting = self.0.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;

    use super::*;

    #[tokio::test]
    async fn the_worst_fate_of_several_records_is_told() {
        for (fates, told, status) in [
            (&[Fate::Stored, Fate::Stored][..], None, 200),
            (&[Fate::Direct, Fate::Stored], Some("direct"), 200),
            (&[Fate::Spooled, Fate::Direct], Some("spooled"), 200),
            (&[Fate::Memory, Fate::Spooled], Some("memory"), 202),
            (&[Fate::Failed, Fate::Stored], None, 200),
        ] {
            let outcome = Outcome::of(fates.len());
            let settled = Settled(Rc::clone(&outcome));
            fates.iter().for_each(|fate| outcome.settle(*fate));
            let fate = settled.await;
            assert_eq!(Some(&fate), fates.iter().max());
            let mut answer = Answer::new(Full::new(Bytes::new()));
            fate.tell(&mut answer, false);
            let header = answer
                .headers()
                .get(DURABILITY)
                .and_then(|value| value.to_str().ok());
            assert_eq!((header, answer.status().as_u16()), (told, status), "{fates:?}");
        }
        assert_eq!(Settled::in_memory().await, Fate::Memory);
        let mut answer = Answer::new(Full::new(Bytes::new()));
        Fate::Memory.tell(&mut answer, true);
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()[DURABILITY]),
            (200, &HeaderValue::from_static("memory"))
        );
    }
}
