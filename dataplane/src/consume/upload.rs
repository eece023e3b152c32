//! Request bodies: a short text, or a block that is sent from where it lies.
//!
//! A block's body is handed over a megabyte at a time, and before each piece the sender is asked whether it may go
//! on. When it may not, the body ends early, the request with it, and ClickHouse inserts nothing.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};

use super::native::{Block, Piece};

/// The largest stretch that goes out unasked.
const STRETCH: usize = 1 << 20;

/// Whether the batch may still be sent.
pub type StillAllowed = Box<dyn Fn() -> bool + Send + Sync>;

/// A request body of known length.
pub struct Upload {
    block: Arc<Block>,
    pieces: std::vec::IntoIter<Piece>,
    /// The column being sent and how much of it went out.
    column: Option<(usize, usize)>,
    left: u64,
    length: u64,
    allowed: StillAllowed,
}

/// The batch may not be sent any more.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the partition is no longer this process's, or the intent is too old")]
pub struct NotAllowed;

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({} of {} bytes left)", self.left, self.length)
    }
}

impl Upload {
    pub fn text(text: String) -> Self {
        let length = text.len() as u64;
        Self {
            block: Arc::default(),
            pieces: vec![Piece::Head(text.into_bytes())].into_iter(),
            column: None,
            left: length,
            length,
            allowed: Box::new(|| true),
        }
    }

    pub fn block(block: Arc<Block>, allowed: StillAllowed) -> Self {
        let pieces = block.pieces();
        let length = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Head(bytes) => bytes.len(),
                Piece::Column(index) => block.column(*index).len(),
            })
            .sum::<usize>() as u64;
        Self {
            block,
            pieces: pieces.into_iter(),
            column: None,
            left: length,
            length,
            allowed,
        }
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    fn next_stretch(&mut self) -> Option<Stretch> {
        loop {
            if let Some((column, from)) = self.column {
                let to = self.block.column(column).len().min(from + STRETCH);
                self.column = (from < to).then_some((column, to));
                if from < to {
                    let block = Arc::clone(&self.block);
                    return Some(Stretch::Column {
                        block,
                        column,
                        from,
                        to,
                    });
                }
            }
            match self.pieces.next()? {
                Piece::Head(bytes) => return Some(Stretch::Head(bytes.into())),
                Piece::Column(column) => self.column = Some((column, 0)),
            }
        }
    }
}

impl Body for Upload {
    type Data = Stretch;
    type Error = NotAllowed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Stretch>, NotAllowed>>> {
        if self.left > 0 && !(self.allowed)() {
            return Poll::Ready(Some(Err(NotAllowed)));
        }
        let stretch = self.next_stretch();
        if let Some(stretch) = &stretch {
            self.left -= stretch.remaining() as u64;
        }
        Poll::Ready(stretch.map(|stretch| Ok(Frame::data(stretch))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Bytes on their way, without a copy.
pub enum Stretch {
    Head(Bytes),
    Column {
        block: Arc<Block>,
        column: usize,
        from: usize,
        to: usize,
    },
}

impl fmt::Debug for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stretch({} bytes)", self.remaining())
    }
}

impl Buf for Stretch {
    fn remaining(&self) -> usize {
        match self {
            Self::Head(bytes) => bytes.len(),
            Self::Column { from, to, .. } => to - from,
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Head(bytes) => bytes,
            Self::Column {
                block,
                column,
                from,
                to,
            } => &block.column(*column)[*from..*to],
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Head(bytes) => bytes.advance(count),
            Self::Column { from, to, .. } => {
                assert!(count <= *to - *from, "cannot advance past the end");
                *from += count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::BodyExt;

    use super::super::line::parse;
    use super::super::position::Position;
    use super::*;

    fn block(data: usize) -> Arc<Block> {
        let text = format!(
            r#"{{"v":1,"app_id":"6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11","event_id":"0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f","received_at":1,"timestamp":2,"client_timestamp":3,"ip":"","user_agent":"","library":"","source":"","event_type":"e","event_data":{{"x":"{}"}}}}"#,
            "x".repeat(data)
        );
        let mut block = Block::new();
        block.push(0, Position::new(0, 0), &parse(text.as_bytes()).unwrap());
        Arc::new(block)
    }

    #[tokio::test]
    async fn the_body_is_as_long_as_it_says() {
        for data in [0, 100, STRETCH - 1, STRETCH, 3 * STRETCH + 7] {
            let upload = Upload::block(block(data), Box::new(|| true));
            let length = upload.length();
            assert_eq!(upload.size_hint().exact(), Some(length));
            let body = upload.collect().await.unwrap().to_bytes();
            assert_eq!(body.len() as u64, length);
            assert!(
                body.starts_with(b"\x16\x01\x08event_id\x04UUID"),
                "22 columns, one row"
            );
        }
    }

    #[tokio::test]
    async fn it_breaks_off_when_it_may_not_go_on() {
        let allowed = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&allowed);
        let mut upload = Upload::block(
            block(3 * STRETCH),
            Box::new(move || asked.load(Ordering::Relaxed)),
        );
        let mut sent = 0;
        while sent < STRETCH {
            sent += upload
                .frame()
                .await
                .unwrap()
                .unwrap()
                .into_data()
                .unwrap()
                .remaining();
        }
        allowed.store(false, Ordering::Relaxed);
        assert!(upload.frame().await.unwrap().is_err());
        assert!(
            upload.size_hint().exact().unwrap() > 0,
            "what is missing is still owed"
        );
    }
}
