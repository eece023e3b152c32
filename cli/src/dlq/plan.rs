//! Which letters are to be replayed, decided from everything that the dead-letter topic holds.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::letter::Why;
use super::offsets::{Position, Positions};

/// What a plan needs to know of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub position: Position,
    /// Of [`super::letter::Letter::identity`].
    pub identity: u128,
    pub replayable: Result<(), Why>,
    /// Whether the person asked for it.
    pub wanted: bool,
}

/// What is to be done with the letters that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be sent, and with each the other letters that are the same line written twice: they are replayed with it.
    pub send: BTreeMap<Position, Vec<Position>>,
    /// Were replayed before.
    pub done: usize,
    pub cannot: Vec<(Position, Why)>,
}

impl Plan {
    /// `replayed`: what the receipts say.
    pub fn of(letters: &[Known], replayed: &Positions) -> Self {
        let mut plan = Self::default();
        let lines = letters.iter().filter(|letter| letter.replayable.is_ok());
        let done: HashSet<u128> = lines
            .clone()
            .filter(|letter| replayed.contains(letter.position))
            .map(|letter| letter.identity)
            .collect();
        let mut first: HashMap<u128, Position> = HashMap::new();
        for letter in letters.iter().filter(|letter| letter.wanted) {
            match letter.replayable {
                Err(why) => plan.cannot.push((letter.position, why)),
                Ok(()) if done.contains(&letter.identity) => plan.done += 1,
                Ok(()) => {
                    first.entry(letter.identity).or_insert(letter.position);
                }
            }
        }
        plan.send = first.values().map(|&position| (position, Vec::new())).collect();
        for letter in lines {
            if let Some(sent) = first.get(&letter.identity)
                && *sent != letter.position
                && let Some(twins) = plan.send.get_mut(sent)
            {
                twins.push(letter.position);
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32, offset: i64) -> Position {
        Position { partition, offset }
    }

    fn known(position: Position, identity: u128) -> Known {
        Known {
            position,
            identity,
            replayable: Ok(()),
            wanted: true,
        }
    }

    #[test]
    fn what_was_replayed_is_not_replayed_again() {
        let letters = [known(at(0, 1), 1), known(at(0, 2), 2), known(at(1, 1), 3)];
        let mut replayed = Positions::default();
        replayed.add_one(at(0, 1));
        let plan = Plan::of(&letters, &replayed);
        assert_eq!(
            plan.send.keys().copied().collect::<Vec<_>>(),
            [at(0, 2), at(1, 1)]
        );
        assert_eq!(plan.done, 1);
        letters
            .iter()
            .for_each(|letter| replayed.add_one(letter.position));
        let again = Plan::of(&letters, &replayed);
        assert!(again.send.is_empty() && again.done == 3);
    }

    #[test]
    fn a_line_that_was_written_twice_is_sent_once() {
        let mut letters = [known(at(0, 1), 7), known(at(0, 4), 7), known(at(1, 0), 7)];
        let plan = Plan::of(&letters, &Positions::default());
        assert_eq!(plan.send, [(at(0, 1), vec![at(0, 4), at(1, 0)])].into());
        // One that nobody asked for is replayed with its twin all the same.
        letters[0].wanted = false;
        let plan = Plan::of(&letters, &Positions::default());
        assert_eq!(plan.send, [(at(0, 4), vec![at(0, 1), at(1, 0)])].into());
        // And where any of them was replayed, all were.
        let mut replayed = Positions::default();
        replayed.add_one(at(0, 1));
        let plan = Plan::of(&letters, &replayed);
        assert!(plan.send.is_empty() && plan.done == 2);
    }

    #[test]
    fn what_cannot_be_replayed_is_named_where_it_was_asked_for() {
        let mut old = known(at(0, 1), 1);
        old.replayable = Err(Why::TooOld);
        let mut unasked = known(at(0, 2), 2);
        (unasked.replayable, unasked.wanted) = (Err(Why::Cut), false);
        let plan = Plan::of(&[old, unasked], &Positions::default());
        assert_eq!(plan.cannot, [(at(0, 1), Why::TooOld)]);
        assert!(plan.send.is_empty());
    }
}
