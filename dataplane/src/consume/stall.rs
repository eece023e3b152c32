//! A partition that stands still although there is something to do: the Kafka client has lost a request, or records.
//!
//! Such a client is as silent as one that has nothing to do, so it is looked at from outside: see
//! `docs/decisions/0010-clients-that-forget-their-brokers.md`.

use std::time::Duration;

use super::clock::Moment;

/// How long records that the log has may stay away before they are asked for again; twice as long each time, because a
/// log may end in what is no record, as the mark of a transaction.
const RECORDS: Duration = Duration::from_secs(30);
const RECORDS_AT_MOST: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    /// No record comes.
    Records,
    /// Nobody answers, neither well nor badly.
    Answer,
}

/// When something last happened for a partition.
#[derive(Debug)]
pub(super) struct Stalls {
    moved: Moment,
    patience: Duration,
}

impl Stalls {
    pub(super) fn since(now: Moment) -> Self {
        Self {
            moved: now,
            patience: RECORDS,
        }
    }

    /// A record or an answer has come.
    pub(super) fn moved(&mut self, now: Moment) {
        *self = Self::since(now);
    }

    /// Looks at a partition that `asks` for something, or `lacks` records that the log has. Called about once a second.
    pub(super) fn look(&mut self, now: Moment, asks: bool, lacks: bool, bound: Duration) -> Option<Stall> {
        if !asks && !lacks {
            self.moved(now);
            return None;
        }
        let stood = now.since(self.moved);
        if asks {
            return (stood > bound).then_some(Stall::Answer);
        }
        if stood <= self.patience {
            return None;
        }
        self.moved = now;
        self.patience = (self.patience * 2).min(RECORDS_AT_MOST);
        Some(Stall::Records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(120);

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn records_that_stay_away_are_asked_for_again_ever_less_often() {
        let mut stalls = Stalls::since(at(0));
        let asked: Vec<u64> = (0..4000)
            .filter(|second| stalls.look(at(*second), false, true, BOUND) == Some(Stall::Records))
            .collect();
        assert_eq!(asked, [31, 92, 213, 454, 935, 1536, 2137, 2738, 3339, 3940]);
        stalls.moved(at(4000));
        assert_eq!(stalls.look(at(4030), false, true, BOUND), None);
        assert_eq!(stalls.look(at(4031), false, true, BOUND), Some(Stall::Records));
    }

    #[test]
    fn who_has_nothing_to_do_does_not_stand_still() {
        let mut stalls = Stalls::since(at(0));
        assert_eq!(stalls.look(at(1000), false, false, BOUND), None);
        assert_eq!(stalls.look(at(1030), false, true, BOUND), None, "since then");
        assert_eq!(stalls.look(at(1031), false, true, BOUND), Some(Stall::Records));
    }

    #[test]
    fn an_answer_has_its_time_and_then_it_is_over() {
        let mut stalls = Stalls::since(at(0));
        for second in 0..=120 {
            assert_eq!(stalls.look(at(second), true, false, BOUND), None);
        }
        assert_eq!(stalls.look(at(121), true, true, BOUND), Some(Stall::Answer));
        stalls.moved(at(122));
        assert_eq!(stalls.look(at(200), true, false, BOUND), None);
    }
}
