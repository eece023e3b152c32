//! Reading a request's body: within the budget, the limit and the time, decompressed.

use std::io::Read as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use futures::future::poll_immediate;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::answer::{Code, Refusal};
use super::budget::{Budget, Permit};

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Plain,
    Gzip,
}

/// Reads the whole body. On a refusal the rest is drained in the background.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut incoming: Incoming,
    budget: &Budget,
    limit: usize,
    deadline: Instant,
) -> Result<Body, Refusal> {
    match read_whole(headers, &mut incoming, budget, limit, deadline).await {
        Ok(body) => Ok(body),
        Err(refusal) => {
            drain(incoming);
            Err(refusal)
        }
    }
}

/// Reads on for a moment, up to a bound, so that a client that still sends can read its answer.
pub(crate) fn drain(mut incoming: Incoming) {
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
    });
}

async fn read_whole(
    headers: &HeaderMap,
    incoming: &mut Incoming,
    budget: &Budget,
    limit: usize,
    deadline: Instant,
) -> Result<Body, Refusal> {
    let encoding = encoding_of(headers)?;
    let too_large = || Refusal::over(Code::BodyTooLarge, limit as u64);
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let overloaded = |_| Refusal::from(Code::Overloaded);
    let mut reserved = length.unwrap_or(STEP);
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
                .more(&mut permit, STEP.max(chunk.len()))
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
            whole.reserve(length.unwrap_or(first.len() + chunk.len()));
            whole.extend_from_slice(&first);
        }
        whole.extend_from_slice(&chunk);
    }
    let bytes = if whole.is_empty() {
        first
    } else {
        Bytes::from(whole)
    };
    // Some browsers' SDKs compress without saying so.
    if encoding == Encoding::Gzip || bytes.starts_with(&[0x1f, 0x8b]) {
        return inflate(&bytes, permit, reserved, budget, limit).await;
    }
    Ok(Body { bytes, permit })
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
            // The client went away; nobody reads the answer.
            Some(Err(_)) => return Err(Code::Timeout.into()),
        }
    }
}

fn encoding_of(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let Some(value) = headers.get(CONTENT_ENCODING) else {
        return Ok(Encoding::Plain);
    };
    match value.to_str().unwrap_or("?").trim() {
        encoding if encoding.eq_ignore_ascii_case("gzip") || encoding.eq_ignore_ascii_case("x-gzip") => {
            Ok(Encoding::Gzip)
        }
        encoding if encoding.eq_ignore_ascii_case("identity") || encoding.is_empty() => Ok(Encoding::Plain),
        _ => Err(Code::UnsupportedEncoding.into()),
    }
}

async fn inflate(
    compressed: &[u8],
    mut permit: Permit,
    mut reserved: usize,
    budget: &Budget,
    limit: usize,
) -> Result<Body, Refusal> {
    let mut decoder = MultiGzDecoder::new(compressed);
    let mut out = Vec::with_capacity(STEP);
    let mut buffer = vec![0u8; STEP];
    loop {
        let read = decoder
            .read(&mut buffer)
            .map_err(|_| Refusal::from(Code::InvalidEncoding))?;
        if read == 0 {
            return Ok(Body {
                bytes: Bytes::from(out),
                permit,
            });
        }
        if out.len() + read > limit {
            return Err(Refusal::over(Code::BodyTooLarge, limit as u64));
        }
        out.extend_from_slice(&buffer[..read]);
        if out.len() > reserved {
            budget
                .more(&mut permit, 4 * STEP)
                .await
                .map_err(|_| Refusal::from(Code::Overloaded))?;
            reserved += 4 * STEP;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn inflated(bytes: &[u8], limit: usize) -> Result<Bytes, Code> {
        let budget = Budget::new(20_000_000);
        let permit = budget.take(bytes.len()).await.unwrap();
        let body = inflate(bytes, permit, bytes.len(), &budget, limit).await;
        body.map(|body| body.bytes).map_err(|refusal| refusal.code)
    }

    #[tokio::test]
    async fn a_bomb_goes_off_nowhere() {
        let bomb = gzip(&vec![b'x'; 50_000_000]);
        assert!(bomb.len() < 100_000);
        assert_eq!(inflated(&bomb, 1_000_000).await, Err(Code::BodyTooLarge));
        assert_eq!(inflated(&gzip(b"{}"), 2).await.as_deref(), Ok(&b"{}"[..]));
        let two = [gzip(b"{"), gzip(b"}")].concat();
        assert_eq!(
            inflated(&two, 10).await.as_deref(),
            Ok(&b"{}"[..]),
            "members follow one another"
        );
        let cut = gzip(b"some text that is cut");
        assert_eq!(
            inflated(&cut[..cut.len() - 4], 100).await,
            Err(Code::InvalidEncoding)
        );
        assert_eq!(
            inflated(b"\x1f\x8bnonsense", 100).await,
            Err(Code::InvalidEncoding)
        );
    }

    #[test]
    fn encodings_are_told_apart() {
        for (value, expected) in [
            (None, Ok(Encoding::Plain)),
            (Some("gzip"), Ok(Encoding::Gzip)),
            (Some("GZIP"), Ok(Encoding::Gzip)),
            (Some("identity"), Ok(Encoding::Plain)),
            (Some("br"), Err(Code::UnsupportedEncoding)),
            (Some("gzip, br"), Err(Code::UnsupportedEncoding)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(
                encoding_of(&headers).map_err(|refusal| refusal.code),
                expected,
                "{value:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_stumble(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let _ = inflated(&bytes, 1000).await;
                let round = inflated(&gzip(&bytes), 1000).await;
                assert_eq!(round.as_deref(), Ok(&bytes[..]));
            });
        }
    }
}
