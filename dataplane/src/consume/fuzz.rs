//! The parser of records, for [`crate::fuzz`].

use super::record::{Content, MOST_DEAD};

/// Every line of a record becomes a row or a dead letter, or the record is refused whole. Where more of them are dead than are
/// letters of their own, the last letter has the rest.
pub fn record(bytes: &[u8]) {
    let mut content = Content::default();
    let Ok(added) = content.add(0, 0, None, bytes) else {
        assert!(content.block.is_empty() && content.dead.is_empty());
        return;
    };
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let lines = usize::from(!bytes.is_empty()) + memchr::memchr_iter(b'\n', body).count();
    let judged = added.rows as usize + added.dead as usize;
    assert!(judged == lines || added.dead as usize > MOST_DEAD && judged < lines);
    let dead: usize = content.dead.iter().map(|dead| dead.lines as usize).sum();
    assert_eq!(added.rows as usize + dead, lines);
    assert_eq!(content.block.row_ids().count(), added.rows as usize);
}
