//! Reading a request's body: within the budget, the limit and the time, decompressed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::poll_immediate;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::answer::{Code, Refusal};
use super::budget::{Budget, Permit};
use super::connection::Busy;
use super::encoding::{self, Encoding};

/// A client that sends nothing for so long is cut.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(5);
/// Room is taken in such steps while a body's length is unknown.
const STEP: usize = 64 * 1024;
/// What is read of a body that nobody wants, so that the client gets to read the answer.
const DRAINED_BYTES: usize = 64 * 1024;
const DRAINED_TIME: Duration = Duration::from_secs(1);

/// A body, and the room it takes.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    pub(crate) permit: Permit,
}

/// A body that has not come yet. Its connection is busy with it.
pub(crate) struct Unread {
    pub(crate) incoming: Incoming,
    pub(crate) busy: Busy,
}

/// What a body may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes, also when decompressed.
    pub(crate) limit: usize,
    pub(crate) deadline: Instant,
    /// Whether the room that its head asks for is taken before it comes.
    pub(crate) ahead: bool,
}

/// Reads the whole body. On a refusal the rest is drained in the background.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut unread: Unread,
    budget: &Budget,
    bounds: Bounds,
) -> Result<Body, Refusal> {
    match read_whole(headers, &mut unread.incoming, budget, bounds).await {
        Ok(body) => Ok(body),
        Err(refusal) => {
            drain(unread);
            Err(refusal)
        }
    }
}

/// Reads on for a moment, up to a bound, so that a client that still sends can read its answer. The connection is busy
/// meanwhile: what comes is not the next request's head.
pub(crate) fn drain(unread: Unread) {
    let Unread { mut incoming, busy } = unread;
    if incoming.is_end_stream() {
        return;
    }
    tokio::task::spawn_local(async move {
        let reading = async {
            let mut left = DRAINED_BYTES;
            while let Some(Ok(frame)) = incoming.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        };
        // Whichever comes first, the body is dropped with it.
        let _ = tokio::time::timeout(DRAINED_TIME, reading).await;
        drop(busy);
    });
}

async fn read_whole(
    headers: &HeaderMap,
    incoming: &mut Incoming,
    budget: &Budget,
    bounds: Bounds,
) -> Result<Body, Refusal> {
    let Bounds {
        limit,
        deadline,
        ahead,
    } = bounds;
    let encoding = Encoding::of_head(headers)?;
    let too_large = || Refusal::over(Code::BodyTooLarge, limit as u64);
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let overloaded = |_| Refusal::from(Code::Overloaded);
    let mut reserved = match length {
        Some(length) if ahead => length,
        Some(length) => length.min(STEP),
        None => STEP,
    };
    let mut permit = budget.take(reserved).await.map_err(overloaded)?;
    let mut first = Bytes::new();
    let mut whole = Vec::new();
    let mut read = 0;
    while let Some(chunk) = next_chunk(incoming, deadline).await? {
        read += chunk.len();
        if read > limit {
            return Err(too_large());
        }
        if read > reserved {
            budget
                .more(&mut permit, STEP.max(chunk.len()), deadline)
                .await
                .map_err(overloaded)?;
            reserved += STEP.max(chunk.len());
        }
        // A small body comes in one piece and is used where it lies.
        if first.is_empty() && whole.is_empty() {
            first = chunk;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(length.filter(|_| ahead).unwrap_or(first.len() + chunk.len()));
            whole.extend_from_slice(&first);
        }
        whole.extend_from_slice(&chunk);
    }
    let bytes = if whole.is_empty() {
        first
    } else {
        Bytes::from(whole)
    };
    match encoding.or_evident(&bytes) {
        Encoding::Plain => Ok(Body { bytes, permit }),
        encoding => decoded(encoding, &bytes, permit, reserved, budget, bounds).await,
    }
}

async fn next_chunk(incoming: &mut Incoming, deadline: Instant) -> Result<Option<Bytes>, Refusal> {
    loop {
        // What is there already needs no timer.
        let frame = match poll_immediate(incoming.frame()).await {
            Some(frame) => frame,
            None => {
                let left = deadline
                    .saturating_duration_since(Instant::now())
                    .min(CHUNK_TIMEOUT);
                match tokio::time::timeout(left, incoming.frame()).await {
                    Ok(frame) => frame,
                    Err(_) => return Err(Code::Timeout.into()),
                }
            }
        };
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(chunk) = frame.into_data() {
                    return Ok(Some(chunk));
                }
            }
            // It ends too early, or in chunks that are none. Its client may still read, having closed its half only; of
            // one that went away nobody does.
            Some(Err(_)) => return Err(Code::InvalidBody.into()),
        }
    }
}

/// Decodes within the budget. While it waits for room it holds nothing but the compressed body, and begins anew when
/// there is some: a body that waits must not hold a decoder's memory, which no budget counts.
async fn decoded(
    encoding: Encoding,
    compressed: &[u8],
    mut permit: Permit,
    mut reserved: usize,
    budget: &Budget,
    Bounds { limit, deadline, .. }: Bounds,
) -> Result<Body, Refusal> {
    loop {
        let whole = encoding::decode(encoding, compressed, limit, |size| {
            let step = (4 * STEP).max(size.saturating_sub(reserved));
            let fits = size <= reserved || budget.try_more(&mut permit, step).is_ok();
            if fits && size > reserved {
                reserved += step;
            }
            fits
        })?;
        if let Some(bytes) = whole {
            return Ok(Body {
                bytes: Bytes::from(bytes),
                permit,
            });
        }
        // Twice as much each time, so that a body begins anew only a few times.
        let step = reserved.clamp(4 * STEP, limit.max(4 * STEP));
        budget
            .more(&mut permit, step, deadline)
            .await
            .map_err(|_| Refusal::from(Code::Overloaded))?;
        reserved += step;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::ingest::budget::LONGEST_WAIT;

    async fn read(budget: &Budget, bytes: &[u8], limit: usize) -> Result<Body, Code> {
        read_within(budget, bytes, limit, Duration::from_secs(3600)).await
    }

    async fn read_within(budget: &Budget, bytes: &[u8], limit: usize, time: Duration) -> Result<Body, Code> {
        let permit = budget.take(bytes.len()).await.unwrap();
        let bounds = Bounds {
            limit,
            deadline: Instant::now() + time,
            ahead: true,
        };
        let body = decoded(Encoding::Gzip, bytes, permit, bytes.len(), budget, bounds).await;
        body.map_err(|refusal| refusal.code)
    }

    fn zeros(count: usize) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&vec![0; count]).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_decoded_is_within_the_budget() {
        let budget = Budget::new(20_000_000);
        let body = read(&budget, &zeros(3_000_000), 4_000_000).await.unwrap();
        assert_eq!(body.bytes.len(), 3_000_000);
        assert!(
            (9_000_000..12_000_000).contains(&budget.used()),
            "{}",
            budget.used()
        );
        drop(body);
        assert_eq!(budget.used(), 0);
        let refused = read(&budget, &zeros(5_000_000), 4_000_000).await.map(|_| ());
        assert_eq!(refused, Err(Code::BodyTooLarge));
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn without_room_a_body_waits_and_begins_anew() {
        let budget = Budget::new(20_000_000);
        let other = budget.take(5_000_000).await.unwrap();
        let refused = read(&budget, &zeros(3_000_000), 4_000_000).await.map(|_| ());
        assert_eq!(refused, Err(Code::Overloaded), "nobody gave any back in time");
        // So long that it is worth waiting again.
        tokio::time::sleep(2 * LONGEST_WAIT).await;
        let waiting = {
            let budget = budget.clone();
            tokio::spawn(async move {
                read(&budget, &zeros(3_000_000), 4_000_000)
                    .await
                    .map(|body| body.bytes.len())
            })
        };
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(other);
        assert_eq!(waiting.await.unwrap(), Ok(3_000_000));
    }

    #[tokio::test(start_paused = true)]
    async fn without_room_a_body_waits_no_longer_than_its_request_may_take() {
        let budget = Budget::new(20_000_000);
        let _other = budget.take(5_000_000).await.unwrap();
        let before = tokio::time::Instant::now();
        let refused = read_within(&budget, &zeros(3_000_000), 4_000_000, LONGEST_WAIT / 4).await;
        assert_eq!(refused.map(|_| ()), Err(Code::Overloaded));
        assert!(before.elapsed() < LONGEST_WAIT / 2, "{:?}", before.elapsed());
    }
}
