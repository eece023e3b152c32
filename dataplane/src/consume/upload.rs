//! Request bodies: bytes, or a block that is sent from where it lies.
//!
//! A block's body is handed over piece by piece, and before each the sender is asked whether it may go
//! on. When it may not, the body ends early, the request with it, and ClickHouse inserts nothing.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};

use super::compressed::Compressed;
use super::native::{Block, Piece};

/// Whether the batch may still be sent.
pub type StillAllowed = Box<dyn Fn() -> bool + Send + Sync>;

/// A request body of known length.
pub struct Upload {
    block: Arc<Block>,
    pieces: std::vec::IntoIter<Piece>,
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
        Self::bytes(text.into_bytes())
    }

    pub(super) fn bytes(bytes: Vec<u8>) -> Self {
        let length = bytes.len() as u64;
        Self {
            block: Arc::default(),
            pieces: vec![Piece::Head(bytes)].into_iter(),
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
                Piece::Values(column, piece) => block.values(*column, *piece).len(),
            })
            .sum::<usize>() as u64;
        Self {
            block,
            pieces: pieces.into_iter(),
            left: length,
            length,
            allowed,
        }
    }

    /// The same bytes compressed, which are held until they are sent.
    pub(super) fn compressed(mut self) -> Self {
        let mut compressed = Compressed::default();
        while let Some(stretch) = self.next_stretch() {
            compressed.push(stretch.chunk());
        }
        let blocks = compressed.finish();
        let length = blocks.iter().map(Vec::len).sum::<usize>() as u64;
        let pieces: Vec<Piece> = blocks.into_iter().map(Piece::Head).collect();
        Self {
            block: Arc::default(),
            pieces: pieces.into_iter(),
            left: length,
            length,
            allowed: self.allowed,
        }
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    fn next_stretch(&mut self) -> Option<Stretch> {
        loop {
            let stretch = match self.pieces.next()? {
                Piece::Head(bytes) => Stretch::Head(bytes.into()),
                Piece::Values(column, piece) => Stretch::Values {
                    block: Arc::clone(&self.block),
                    column,
                    piece,
                    sent: 0,
                },
            };
            if stretch.has_remaining() {
                return Some(stretch);
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
    Values {
        block: Arc<Block>,
        column: usize,
        piece: usize,
        sent: usize,
    },
}

impl fmt::Debug for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stretch({} bytes)", self.remaining())
    }
}

impl Buf for Stretch {
    fn remaining(&self) -> usize {
        self.chunk().len()
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Head(bytes) => bytes,
            Self::Values {
                block,
                column,
                piece,
                sent,
            } => &block.values(*column, *piece)[*sent..],
        }
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining(), "cannot advance past the end");
        match self {
            Self::Head(bytes) => bytes.advance(count),
            Self::Values { sent, .. } => *sent += count,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::BodyExt;
    use penstock_dataplane_config::table::inserted_columns;

    use super::super::line::parse;
    use super::super::position::Position;
    use super::*;

    /// Rows with that many bytes of data each.
    fn block(rows: u32, data: usize) -> Arc<Block> {
        let text = format!(
            r#"{{"v":1,"app_id":"6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11","event_id":"0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f","received_at":1,"timestamp":2,"client_timestamp":3,"ip":"","user_agent":"","library":"","source":"","event_type":"e","event_data":{{"x":"{}"}}}}"#,
            "x".repeat(data)
        );
        let mut block = Block::new();
        for row in 0..rows {
            block.push(0, Position::new(0, row), &parse(text.as_bytes()).unwrap());
        }
        Arc::new(block)
    }

    #[tokio::test]
    async fn the_body_is_as_long_as_it_says() {
        for (rows, data) in [(1, 0), (1, 100), (1, 3_000_000), (20_000, 10), (300, 3000)] {
            let upload = Upload::block(block(rows, data), Box::new(|| true));
            let length = upload.length();
            assert_eq!(upload.size_hint().exact(), Some(length));
            let body = upload.collect().await.unwrap().to_bytes();
            assert_eq!(body.len() as u64, length);
            assert_eq!(usize::from(body[0]), inserted_columns().count());
            assert!(
                rows > 1 || body[1..].starts_with(b"\x01\x08event_id\x04UUID"),
                "one row"
            );
        }
    }

    #[tokio::test]
    async fn compressed_it_is_as_long_as_it_says_and_less() {
        let plain = Upload::block(block(20_000, 100), Box::new(|| true));
        let before = plain.length();
        let upload = plain.compressed();
        let length = upload.length();
        assert!(length < before / 4, "{length} of {before}");
        let body = upload.collect().await.unwrap().to_bytes();
        assert_eq!(body.len() as u64, length);
    }

    #[tokio::test]
    async fn it_breaks_off_when_it_may_not_go_on() {
        let allowed = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&allowed);
        let mut upload = Upload::block(block(20_000, 10), Box::new(move || asked.load(Ordering::Relaxed)));
        let mut sent = 0;
        while sent < 1_000_000 {
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
