//! Top-level members of an event: each at most once, whoever knows them.

use std::collections::HashSet;

use super::flaw::{Flaw, Found};
use super::json::{Fault, Key, Kind, Raw, Scanner};

/// Reads the next value as an event of at most `limit` bytes: its text, and what is wrong with it before any protocol
/// has looked. `known` and `unknown` as for [`read`].
#[inline]
pub(crate) fn event<'a>(
    scanner: &mut Scanner<'a>,
    unknown: &mut Vec<(Key<'a>, Raw<'a>)>,
    limit: usize,
    known: impl FnMut(&[u8], Raw<'a>) -> Taken,
) -> Result<(&'a str, Option<Found>), Fault> {
    let start = scanner.offset();
    if scanner.peek()? != Kind::Object {
        scanner.value()?;
        let found = Found::new(Flaw::InvalidType, "", "an event must be an object");
        return Ok((scanner.since(start), Some(found)));
    }
    let found = read(scanner, unknown, known)?;
    let text = scanner.since(start);
    Ok((text, found.or_else(|| too_large(text, limit))))
}

fn too_large(event: &str, limit: usize) -> Option<Found> {
    (event.len() > limit).then(|| Found {
        flaw: Flaw::EventTooLarge,
        field: "".into(),
        detail: format!("{} bytes, over {limit}", event.len()).into(),
    })
}

/// Reads an event's members. Known ones go to `known`, which says whether it took the member; the rest to `unknown`.
///
/// The scan goes on to the event's end whatever it finds, so the caller stays in step with the text; the first flaw
/// is returned beside. `unknown` is cleared first, and is the caller's so that it is allocated once.
fn read<'a>(
    scanner: &mut Scanner<'a>,
    unknown: &mut Vec<(Key<'a>, Raw<'a>)>,
    mut known: impl FnMut(&[u8], Raw<'a>) -> Taken,
) -> Result<Option<Found>, Fault> {
    unknown.clear();
    scanner.object_start()?;
    let (mut first, mut seen, mut found) = (true, 0u32, None);
    let mut place = 0;
    while let Some(key) = scanner.object_next_at(&mut first, place)? {
        place += 1;
        let value = scanner.value()?;
        let taken = if key.escapes {
            match key.decoded() {
                Some(name) => known(name.as_bytes(), value),
                None => {
                    found.get_or_insert(Found::new(Flaw::InvalidType, "", "a member's name is not text"));
                    continue;
                }
            }
        } else {
            known(key.raw.as_bytes(), value)
        };
        match taken {
            Taken::As(bit) if seen & 1 << bit != 0 => {
                found.get_or_insert_with(|| duplicate(&key));
            }
            Taken::As(bit) => seen |= 1 << bit,
            Taken::No => unknown.push((key, value)),
        }
    }
    if found.is_none() {
        found = repeated(unknown);
    }
    Ok(found)
}

/// What became of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Known, under a number below 32 that is its own.
    As(u32),
    No,
}

fn duplicate(key: &Key<'_>) -> Found {
    let name: String = key.decoded().unwrap_or_default().chars().take(100).collect();
    Found {
        flaw: Flaw::DuplicateMember,
        field: name.into(),
        detail: "given more than once".into(),
    }
}

/// A name that occurs twice among the unknown members. Few are compared in place; many go through a set, so that
/// an event of thousands costs no square of them.
fn repeated(unknown: &[(Key<'_>, Raw<'_>)]) -> Option<Found> {
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
mod tests {
    use super::*;

    fn found(text: &str) -> Option<Found> {
        let mut unknown = Vec::new();
        let known = |name: &[u8], _: Raw<'_>| match name {
            b"a" => Taken::As(0),
            b"b" => Taken::As(1),
            _ => Taken::No,
        };
        read(&mut Scanner::new(text), &mut unknown, known).unwrap()
    }

    #[test]
    fn a_member_comes_once() {
        let many: String = (0..50).map(|index| format!("\"k{index}\":1,")).collect();
        for (text, field) in [
            (r#"{"a":1,"b":2}"#.to_owned(), None),
            (r#"{"a":1,"a":2}"#.to_owned(), Some("a")),
            (r#"{"a":1,"\u0061":2}"#.to_owned(), Some("a")),
            (r#"{"x":1,"y":2,"x":3}"#.to_owned(), Some("x")),
            (r#"{"x":1,"\u0078":3}"#.to_owned(), Some("x")),
            (format!("{{{many}\"k7\":1}}"), Some("k7")),
            (format!("{{{many}\"k\":1}}"), None),
        ] {
            let found = found(&text);
            assert_eq!(found.as_ref().map(|found| &*found.field), field, "{text}");
            assert!(found.is_none_or(|found| found.flaw == Flaw::DuplicateMember));
        }
    }
}
