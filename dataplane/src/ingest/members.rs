//! The members of an event: those that its protocol knows, each at most once, and how they go into a line.
//!
//! A member that goes into the line as it is, is copied with its neighbours that do, in one piece.

use std::collections::HashSet;
use std::ops::Range;

use super::flaw::{Flaw, Found};
use super::json::{Broken, Fault, Key, Kind, Passed, Raw, Scanner};
use super::line;
use super::shape::{Place, Shape, UNKNOWN};
use super::text::push_raw;

/// Members that a protocol may know.
const SLOTS: usize = 16;

/// A member that a protocol knows.
#[derive(Debug)]
pub(crate) struct Known {
    name: &'static str,
    /// What must hold of it.
    rule: Rule,
    /// The line's member that it becomes; empty where the protocol makes something else of it.
    column: &'static str,
}

impl Known {
    /// A member that goes into the line under its own name.
    pub(crate) const fn same(name: &'static str, rule: Rule) -> Self {
        Self::column(name, rule, name)
    }

    /// A member that goes into the line as it is.
    pub(crate) const fn column(name: &'static str, rule: Rule, column: &'static str) -> Self {
        Self { name, rule, column }
    }

    /// Text that may be there, under its own name.
    pub(crate) const fn text(name: &'static str) -> Self {
        Self::same(name, Rule::Text(line::TEXT_LIMIT))
    }

    /// A member that the protocol makes something else of.
    pub(crate) const fn own(name: &'static str) -> Self {
        Self::column(name, Rule::Own, "")
    }
}

/// What must hold of a member. `null` and the empty string count as absent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// A string of at most so many bytes that must be there.
    Required(usize),
    /// A string of at most so many bytes.
    Text(usize),
    Object,
    /// The protocol checks it itself.
    Own,
}

/// What a protocol knows: members by their slots.
#[derive(Debug)]
pub(crate) struct Protocol {
    known: &'static [Known],
    /// Slots whose rule is looked at even when the member is absent.
    required: u32,
    /// Slots that become a member of the line.
    columns: u32,
    /// Those of them whose name stays.
    same: u32,
    /// Slots of objects.
    objects: u32,
    /// Bytes of the strings that the slots may hold; 0 where they hold something else.
    limits: [u32; SLOTS],
}

impl Protocol {
    pub(crate) const fn new(known: &'static [Known]) -> Self {
        assert!(known.len() <= SLOTS);
        let mut protocol = Self {
            known,
            required: 0,
            columns: 0,
            same: 0,
            objects: 0,
            limits: [0; SLOTS],
        };
        let mut slot = 0;
        while slot < known.len() {
            let Known { name, rule, column } = &known[slot];
            let bit = 1 << slot;
            match rule {
                Rule::Required(limit) | Rule::Text(limit) => protocol.limits[slot] = *limit as u32,
                Rule::Object => protocol.objects |= bit,
                Rule::Own => {}
            }
            if matches!(rule, Rule::Required(_)) {
                protocol.required |= bit;
            }
            if !column.is_empty() {
                protocol.columns |= bit;
                if are_equal(name.as_bytes(), column.as_bytes()) {
                    protocol.same |= bit;
                }
            }
            slot += 1;
        }
        protocol
    }

    /// The slot of a member that the protocol knows, for the compiler.
    pub(crate) const fn index(&self, name: &str) -> usize {
        let mut slot = 0;
        while !are_equal(self.known[slot].name.as_bytes(), name.as_bytes()) {
            slot += 1;
        }
        slot
    }

    fn slot(&self, name: &str) -> u8 {
        let slot = self.known.iter().position(|known| known.name == name);
        slot.map_or(UNKNOWN, |slot| slot as u8)
    }
}

/// `==` for what is made by the compiler.
const fn are_equal(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// A member as it stands in the body. Bodies are far smaller than 4 GB.
#[derive(Clone, Copy, Debug)]
struct Member {
    /// Where its name begins, where its value begins, and where that ends.
    from: u32,
    value: u32,
    to: u32,
    passed: Passed,
    /// There is nothing in it that a line may not have: neither escapes in its name nor white space around the colon,
    /// nor line breaks.
    is_tidy: bool,
}

/// The members of one event after the other.
#[derive(Debug)]
pub(crate) struct Members<'a> {
    protocol: &'static Protocol,
    body: &'a str,
    /// Known members, by slot; of this event are those in `seen`.
    members: [Member; SLOTS],
    seen: u32,
    /// Those of them that need no closer look: their rule holds, and they are not empty.
    sound: u32,
    /// Their slots as they came.
    order: [u8; SLOTS],
    count: usize,
    /// The others.
    pub(crate) unknown: Vec<(Key<'a>, Raw<'a>)>,
}

impl<'a> Members<'a> {
    pub(crate) fn new(protocol: &'static Protocol) -> Self {
        let none = Member {
            from: 0,
            value: 0,
            to: 0,
            passed: Passed {
                kind: Kind::Null,
                breaks: false,
                escapes: false,
            },
            is_tidy: false,
        };
        Self {
            protocol,
            body: "",
            members: [none; SLOTS],
            seen: 0,
            sound: 0,
            order: [0; SLOTS],
            count: 0,
            unknown: Vec::new(),
        }
    }

    /// Reads the next value as an event of at most `limit` bytes: its text, and what is wrong with it whatever its
    /// protocol.
    pub(crate) fn read(
        &mut self,
        scanner: &mut Scanner<'a>,
        shape: &mut Shape,
        limit: usize,
    ) -> Result<(&'a str, Option<Found>), Fault> {
        let start = scanner.offset();
        if scanner.peek()? != Kind::Object {
            scanner.value()?;
            let found = Found::new(Flaw::InvalidType, "", "an event must be an object");
            return Ok((scanner.since(start), Some(found)));
        }
        scanner.object_start()?;
        shape.is_of(self.protocol);
        self.body = scanner.text();
        (self.seen, self.sound, self.count) = (0, 0, 0);
        self.unknown.clear();
        let found = self.read_members(scanner, shape);
        let found = found.map_err(|broken| scanner.fault(broken))?;
        let text = scanner.since(start);
        Ok((text, found.map(|found| *found).or_else(|| too_large(text, limit))))
    }

    /// The scan goes on to the event's end whatever it finds, so the caller stays in step with the text; the first flaw
    /// is returned.
    fn read_members(
        &mut self,
        scanner: &mut Scanner<'a>,
        shape: &mut Shape,
    ) -> Result<Option<Box<Found>>, Broken> {
        let mut found = None;
        let (mut at, mut place) = (scanner.at(), 0);
        loop {
            (at, place) = self.read_expected(scanner, shape, at, place)?;
            scanner.go_to(at);
            if !scanner.pass_to_member(&mut (place == 0))? {
                break;
            }
            if let Some(flaw) = self.read_member(scanner, shape, place, at)? {
                found.get_or_insert(flaw);
            }
            (at, place) = (scanner.at(), place + 1);
        }
        if found.is_none() && self.unknown.len() > 1 {
            found = repeated(&self.unknown).map(Box::new);
        }
        Ok(found)
    }

    /// Reads members as long as they are the expected ones; where it stopped, and at which place.
    fn read_expected(
        &mut self,
        scanner: &mut Scanner<'a>,
        shape: &Shape,
        mut at: usize,
        mut place: usize,
    ) -> Result<(usize, usize), Broken> {
        let body = self.body.as_bytes();
        while let Some((expected, length)) = shape.expected(place, body.get(at..).unwrap_or_default()) {
            let value = at + length;
            let is_new = expected.slot == UNKNOWN || self.seen & 1 << expected.slot == 0;
            if !is_new || body.get(value).is_none_or(|byte| *byte <= b' ') {
                break;
            }
            let (to, passed) = scanner.value_end(value)?;
            let from = at + usize::from(expected.name.0);
            let member = Member {
                from: from as u32,
                value: value as u32,
                to: to as u32,
                passed,
                is_tidy: expected.is_tidy & !passed.breaks,
            };
            if expected.slot == UNKNOWN {
                self.take_unknown(from + 1..at + usize::from(expected.name.1) - 1, &member);
            } else {
                self.take(expected.slot, member);
            }
            (at, place) = (to, place + 1);
        }
        Ok((at, place))
    }

    #[inline(never)]
    fn take_unknown(&mut self, name: Range<usize>, member: &Member) {
        let raw = self.body.get(name).unwrap_or("");
        self.unknown.push((Key { raw, escapes: false }, self.raw(member)));
    }

    /// One that is not the expected one. `behind`: where the one before ended.
    #[inline(never)]
    fn read_member(
        &mut self,
        scanner: &mut Scanner<'a>,
        shape: &mut Shape,
        place: usize,
        behind: usize,
    ) -> Result<Option<Box<Found>>, Broken> {
        let from = scanner.at();
        let key = scanner.key()?;
        let name = key.decoded();
        let slot = name.as_ref().map_or(UNKNOWN, |name| self.protocol.slot(name));
        let value = scanner.offset();
        let place_now = (!key.escapes)
            .then(|| {
                let name = from - behind..from - behind + key.raw.len() + 2;
                let written = self.body.as_bytes().get(behind..value)?;
                Place::new(written, name, slot)
            })
            .flatten();
        shape.set(place, place_now);
        let passed = scanner.pass_value()?;
        let member = Member {
            from: from as u32,
            value: value as u32,
            to: scanner.at() as u32,
            passed,
            is_tidy: place_now.is_some_and(|place| place.is_tidy) && !passed.breaks,
        };
        if slot != UNKNOWN {
            if self.seen & 1 << slot != 0 {
                let name = self.protocol.known[usize::from(slot)].name;
                return Ok(Some(Box::new(duplicate(name))));
            }
            self.take(slot, member);
            return Ok(None);
        }
        self.unknown.push((key, self.raw(&member)));
        let is_text = name.is_some();
        Ok((!is_text).then(|| {
            let detail = "a member's name is not text";
            Box::new(Found::new(Flaw::InvalidType, "", detail))
        }))
    }

    /// Keeps a known member that was not there before.
    #[inline]
    fn take(&mut self, slot: u8, member: Member) {
        let (bit, index) = (1 << slot, usize::from(slot) % SLOTS);
        self.seen |= bit;
        let Passed { kind, escapes, .. } = member.passed;
        let is_sound = match kind {
            // Between its quotes there is something, and no more than may be.
            Kind::String => {
                !escapes && (member.to - member.value).wrapping_sub(3) < self.protocol.limits[index]
            }
            Kind::Object => self.protocol.objects & bit != 0,
            _ => false,
        };
        self.sound |= u32::from(is_sound) << slot;
        self.members[index] = member;
        self.order[self.count % SLOTS] = slot;
        self.count += 1;
    }

    fn raw(&self, member: &Member) -> Raw<'a> {
        let Passed {
            kind,
            breaks,
            escapes,
        } = member.passed;
        Raw {
            text: self
                .body
                .get(member.value as usize..member.to as usize)
                .unwrap_or(""),
            kind,
            breaks,
            escapes,
        }
    }

    /// A known member of this event.
    #[inline]
    pub(crate) fn get(&self, slot: usize) -> Option<Raw<'a>> {
        (self.seen & 1 << slot != 0).then(|| self.raw(&self.members[slot]))
    }

    /// Whether every rule of the protocol holds; the slots that go into the line.
    #[inline]
    pub(crate) fn check(&self) -> Result<u32, Found> {
        let protocol = self.protocol;
        let mut kept = self.sound;
        let mut left = (self.seen & protocol.columns | protocol.required) & !self.sound;
        while left != 0 {
            let slot = left.trailing_zeros() as usize;
            left &= left - 1;
            kept |= u32::from(self.is_kept(slot)?) << slot;
        }
        Ok(kept & protocol.columns)
    }

    #[inline(never)]
    fn is_kept(&self, slot: usize) -> Result<bool, Found> {
        let Known { name, rule, .. } = &self.protocol.known[slot];
        let raw = self.get(slot);
        Ok(match rule {
            Rule::Required(limit) => line::required(name, raw, *limit).map(|_| true)?,
            Rule::Text(limit) => line::text(name, raw, *limit)?.is_some(),
            Rule::Object => line::object(name, raw)?.is_some(),
            Rule::Own => false,
        })
    }

    /// Appends members to a line that has some already. Where they stand side by side in the body and need no change,
    /// they are copied as one.
    #[inline]
    pub(crate) fn push(&self, slots: u32, out: &mut Vec<u8>) {
        let body = self.body.as_bytes();
        let mut run = 0..0;
        for slot in &self.order[..self.count] {
            let bit = 1 << slot;
            if slots & bit == 0 {
                continue;
            }
            let member = &self.members[usize::from(*slot)];
            if !member.is_tidy || self.protocol.same & bit == 0 {
                push_run(out, &body[std::mem::replace(&mut run, 0..0)]);
                out.extend_from_slice(b",\"");
                out.extend_from_slice(self.protocol.known[usize::from(*slot)].column.as_bytes());
                out.extend_from_slice(b"\":");
                push_raw(out, &self.raw(member));
                continue;
            }
            // One byte between two members is their comma.
            let (from, to) = (member.from as usize, member.to as usize);
            if run.is_empty() || run.end + 1 != from {
                push_run(out, &body[run]);
                run = from..to;
            }
            run.end = to;
        }
        push_run(out, &body[run]);
    }
}

#[inline]
fn push_run(out: &mut Vec<u8>, run: &[u8]) {
    if !run.is_empty() {
        out.push(b',');
        out.extend_from_slice(run);
    }
}

fn too_large(event: &str, limit: usize) -> Option<Found> {
    (event.len() > limit).then(|| Found {
        flaw: Flaw::EventTooLarge,
        field: "".into(),
        detail: format!("{} bytes, over {limit}", event.len()).into(),
    })
}

fn duplicate(name: &str) -> Found {
    let name: String = name.chars().take(100).collect();
    Found {
        flaw: Flaw::DuplicateMember,
        field: name.into(),
        detail: "given more than once".into(),
    }
}

/// A name that occurs twice among the unknown members. Few are compared in place; many go through a set, so that
/// an event of thousands costs no square of them.
fn repeated(unknown: &[(Key<'_>, Raw<'_>)]) -> Option<Found> {
    let duplicate = |key: &Key<'_>| duplicate(&key.decoded().unwrap_or_default());
    if unknown.len() <= 8 && unknown.iter().all(|(key, _)| !key.escapes) {
        let twice = |index: usize| {
            unknown[..index]
                .iter()
                .any(|(before, _)| before.raw == unknown[index].0.raw)
        };
        return (1..unknown.len())
            .find(|index| twice(*index))
            .map(|index| duplicate(&unknown[index].0));
    }
    let mut names = HashSet::with_capacity(unknown.len());
    unknown
        .iter()
        .find(|(key, _)| !names.insert(key.decoded().unwrap_or_default()))
        .map(|(key, _)| duplicate(key))
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
