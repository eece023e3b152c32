//! What one stored part of a batch adds to the live figures, counted from its columns.
//!
//! Only what is near to now counts: events by minute within the last hour, users of yesterday and today. Older events
//! are for the table; without a bound each minute that ever was would get a field of every batch.

use ahash::AHashMap;

use super::super::native::{Block, Fact};
use super::super::position::{Part, Position, Span};
use super::users::Users;
use crate::utc::{DAY_MS, MINUTE_MS, midnight};

/// Minutes before the current one that are counted, and minutes after it, for clocks differ.
const BACK: i64 = 60;
const AHEAD: i64 = 10;
const MINUTES: usize = (BACK + 1 + AHEAD) as usize;
/// Yesterday, today, and tomorrow for clocks that differ.
const DAYS: usize = 3;
/// Apps of one batch. A topic that somebody else fills may name any number of them.
const MOST_APPS: usize = 10_000;

/// What a machine says is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) span: Span,
    pub(crate) part: Part,
    /// The one row of the part that ClickHouse refused.
    pub(crate) refused: Option<Position>,
}

/// The figures of a stored part.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// Names the partition and the range: the field of the counts.
    pub(super) field: String,
    told: Told,
    window: Window,
    apps: Vec<AppFigures>,
    places: AHashMap<u128, usize>,
    last: usize,
}

/// One App's share.
#[derive(Clone, Debug)]
pub(super) struct AppFigures {
    pub(super) id: u128,
    counts: [u32; MINUTES],
    users: [Users; DAYS],
    /// Milliseconds since 1970 of the newest event, and of when the newest was received.
    pub(super) newest: Option<i64>,
    pub(super) received: Option<i64>,
}

/// What is near enough to now.
#[derive(Clone, Copy, Debug)]
struct Window {
    first_minute_ms: i64,
    first_day_ms: i64,
    end_ms: i64,
}

impl Window {
    fn around(now_ms: i64) -> Self {
        let minute = now_ms - now_ms.rem_euclid(MINUTE_MS);
        Self {
            first_minute_ms: minute - BACK * MINUTE_MS,
            first_day_ms: midnight(now_ms) - DAY_MS,
            end_ms: minute + (AHEAD + 1) * MINUTE_MS,
        }
    }

    fn minute(&self, at_ms: i64) -> Option<usize> {
        let inside = (self.first_minute_ms..self.end_ms).contains(&at_ms);
        inside.then(|| (at_ms - self.first_minute_ms) as usize / MINUTE_MS as usize)
    }

    fn day(&self, at_ms: i64) -> Option<usize> {
        let inside = (self.first_day_ms..self.end_ms).contains(&at_ms);
        inside.then(|| (at_ms - self.first_day_ms) as usize / DAY_MS as usize)
    }
}

impl Figures {
    /// Counts the rows that are told.
    pub(crate) fn of(partition: i32, block: &Block, told: Told, now_ms: i64) -> Self {
        let Told { span, part, refused } = told;
        let mut figures = Self {
            field: field(partition, span, part),
            told,
            window: Window::around(now_ms),
            apps: Vec::new(),
            places: AHashMap::new(),
            last: 0,
        };
        if part == span.whole() && refused.is_none() {
            block.facts().for_each(|fact| figures.add(&fact));
        } else {
            let rows = block.facts().zip(block.row_ids());
            let stored = rows.filter(|(_, id)| part.contains(id.position) && refused != Some(id.position));
            stored.for_each(|(fact, _)| figures.add(&fact));
        }
        figures
    }

    /// Whether these were counted for the same rows.
    pub(crate) fn are_of(&self, told: Told) -> bool {
        self.told == told
    }

    fn add(&mut self, fact: &Fact<'_>) {
        let window = self.window;
        let Some(app) = self.app(fact.app_id) else { return };
        if fact.received_at < window.end_ms {
            app.received = app.received.max(Some(fact.received_at));
        }
        if fact.timestamp < window.end_ms {
            app.newest = app.newest.max(Some(fact.timestamp));
        }
        if let Some(minute) = window.minute(fact.timestamp) {
            app.counts[minute] += 1;
        }
        if let Some(day) = window.day(fact.timestamp) {
            app.users[day].add(fact.user_id);
        }
    }

    /// Rows of one App mostly come together.
    fn app(&mut self, id: u128) -> Option<&mut AppFigures> {
        if self.apps.get(self.last).is_none_or(|app| app.id != id) {
            self.last = match self.places.get(&id) {
                Some(place) => *place,
                None if self.apps.len() >= MOST_APPS => return None,
                None => {
                    self.apps.push(AppFigures::new(id));
                    self.places.insert(id, self.apps.len() - 1);
                    self.apps.len() - 1
                }
            };
        }
        self.apps.get_mut(self.last)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.apps.is_empty()
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        let users = self.apps.iter().flat_map(|app| &app.users).map(Users::bytes);
        self.apps.len() * (size_of::<AppFigures>() + 32) + users.sum::<usize>()
    }

    pub(super) fn apps(&self) -> &[AppFigures] {
        &self.apps
    }

    /// The minutes in which an App has events, in milliseconds since 1970, and how many.
    pub(super) fn counts<'a>(&self, app: &'a AppFigures) -> impl Iterator<Item = (i64, u32)> + 'a {
        let first = self.window.first_minute_ms;
        let minutes = app.counts.iter().zip(0_i64..);
        minutes
            .filter(|(count, _)| **count > 0)
            .map(move |(count, minute)| (first + minute * MINUTE_MS, *count))
    }

    /// The days on which an App has users, and those.
    pub(super) fn users<'a>(&self, app: &'a AppFigures) -> impl Iterator<Item = (i64, &'a Users)> + 'a {
        let first = self.window.first_day_ms;
        let days = app.users.iter().zip(0_i64..);
        days.filter(|(users, _)| !users.is_empty())
            .map(move |(users, day)| (first + day * DAY_MS, users))
    }
}

impl AppFigures {
    fn new(id: u128) -> Self {
        Self {
            id,
            counts: [0; MINUTES],
            users: Default::default(),
            newest: None,
            received: None,
        }
    }
}

/// A part of a batch is named by its lines, so that no two names overlap.
fn field(partition: i32, span: Span, part: Part) -> String {
    if part == span.whole() {
        return format!("{partition}:{span}");
    }
    let Part { from, to } = part;
    format!(
        "{partition}:{}.{}-{}.{}",
        from.offset, from.row, to.offset, to.row
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::super::line::parse;
    use super::*;

    /// Half past noon and 5 s, 2025-11-21.
    pub(crate) const NOW: i64 = 1_763_728_205_000;
    const HOUR: i64 = 60 * MINUTE_MS;

    pub(crate) fn line(app: u8, user: &str, at: i64) -> String {
        format!(
            r#"{{"v":1,"app_id":"00000000-0000-0000-0000-0000000000{app:02x}","event_id":"0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f","received_at":{received},"timestamp":{at},"client_timestamp":{at},"ip":"","user_agent":"","library":"","source":"","event_type":"e","user_id":"{user}"}}"#,
            received = at.max(0) + 7,
        )
    }

    /// One record of these lines.
    fn block(lines: &[(u8, &str, i64)]) -> Block {
        let mut block = Block::new();
        for (row, (app, user, at)) in lines.iter().enumerate() {
            let text = line(*app, user, *at);
            block.push(3, Position::new(40, row as u32), &parse(text.as_bytes()).unwrap());
        }
        block
    }

    fn whole() -> Told {
        let span = Span::new(40, 41);
        Told {
            span,
            part: span.whole(),
            refused: None,
        }
    }

    fn counts(figures: &Figures, app: usize) -> Vec<(i64, u32)> {
        figures.counts(&figures.apps()[app]).collect()
    }

    #[test]
    fn events_are_counted_by_app_and_minute_and_users_by_day() {
        let minute = NOW - 5000;
        let midnight = NOW - NOW.rem_euclid(DAY_MS);
        let figures = Figures::of(
            3,
            &block(&[
                (1, "a", NOW),
                (1, "b", minute),
                (2, "a", minute - 1),
                (1, "a", minute - 1),
                (1, "", NOW - HOUR),
                (2, "c", midnight - 1),
            ]),
            whole(),
            NOW,
        );
        assert_eq!(figures.field, "3:40-41");
        assert_eq!(
            counts(&figures, 0),
            [(minute - HOUR, 1), (minute - MINUTE_MS, 1), (minute, 2)]
        );
        assert_eq!(counts(&figures, 1), [(minute - MINUTE_MS, 1)]);
        let users = |app: usize| -> Vec<(i64, usize)> {
            let users = figures.users(&figures.apps()[app]);
            users
                .map(|(day, users)| (day, users.elements().count()))
                .collect()
        };
        assert_eq!(users(0), [(midnight, 2)]);
        assert_eq!(users(1), [(midnight - DAY_MS, 1), (midnight, 1)]);
        let app = &figures.apps()[0];
        assert_eq!((app.newest, app.received), (Some(NOW), Some(NOW + 7)));
        assert_eq!(figures.apps()[1].newest, Some(minute - 1));
    }

    #[test]
    fn what_is_far_from_now_is_not_counted() {
        let minute = NOW - 5000;
        let edges = [
            (minute - 60 * MINUTE_MS - 1, 0),
            (minute - 60 * MINUTE_MS, 1),
            (minute + 11 * MINUTE_MS - 1, 1),
            (minute + 11 * MINUTE_MS, 0),
            (-2_208_988_800_000, 0),
            (10_413_791_999_999, 0),
        ];
        for (at, counted) in edges {
            let mut text = line(1, "a", at);
            if at == 10_413_791_999_999 {
                // Received at a time that the table can hold.
                text = text.replace(&format!("\"received_at\":{}", at + 7), "\"received_at\":1");
            }
            let mut block = Block::new();
            block.push(3, Position::new(40, 0), &parse(text.as_bytes()).unwrap());
            let figures = Figures::of(3, &block, whole(), NOW);
            assert_eq!(counts(&figures, 0).len(), counted, "{at}");
            let app = &figures.apps()[0];
            let ahead = at >= minute + 11 * MINUTE_MS;
            assert_eq!(app.newest, (!ahead).then_some(at), "{at}");
        }
        let yesterday = NOW - NOW.rem_euclid(DAY_MS) - DAY_MS;
        for (at, days) in [(yesterday, 1), (yesterday - 1, 0)] {
            let figures = Figures::of(3, &block(&[(1, "a", at)]), whole(), NOW);
            assert_eq!(figures.users(&figures.apps()[0]).count(), days);
        }
    }

    #[test]
    fn a_part_counts_its_own_rows_and_not_the_one_that_was_refused() {
        let block = block(&[(1, "a", NOW), (1, "b", NOW), (1, "c", NOW), (1, "d", NOW)]);
        let span = Span::new(40, 41);
        let (first, second) = span.whole().split(Position::new(40, 2));
        let of =
            |part: Part, refused: Option<Position>| Figures::of(3, &block, Told { span, part, refused }, NOW);
        let (left, right) = (of(first, None), of(second, Some(Position::new(40, 3))));
        assert_eq!((left.field.as_str(), counts(&left, 0)[0].1), ("3:40.0-40.1", 2));
        assert_eq!(
            (right.field.as_str(), counts(&right, 0)[0].1),
            ("3:40.2-41.4294967295", 1)
        );
        let (one, _) = first.split(Position::new(40, 1));
        assert!(
            of(one, Some(Position::new(40, 0))).is_empty(),
            "nothing is stored"
        );
    }

    #[test]
    fn apps_and_users_are_bounded() {
        let mut figures = Figures::of(0, &Block::new(), whole(), NOW);
        assert!(figures.is_empty());
        for number in 0..100_000_u128 {
            let user = number.to_le_bytes();
            for app_id in [number, 1] {
                figures.add(&Fact {
                    app_id,
                    user_id: &user,
                    timestamp: NOW,
                    received_at: NOW,
                });
            }
        }
        assert_eq!(figures.apps().len(), MOST_APPS);
        assert!(figures.bytes() < 10_000_000, "{}", figures.bytes());
        assert_eq!(counts(&figures, 1)[0].1, 100_001);
    }
}
