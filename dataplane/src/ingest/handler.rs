//! One request, from its head to its answer.
//!
//! ```text
//! route -> key -> gate -> body (within the budget) -> UTF-8 -> lines -> quota -> group -> acknowledged -> answer
//! ```
//! Everything before the group leaves nothing behind; from the group on, the answer follows what Kafka said, and that is
//! counted whether or not the client is still there.

use std::cell::RefCell;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::FutureExt as _;
use http::header::{CONNECTION, HOST, ORIGIN, SERVER};
use http::{HeaderMap, HeaderValue, Method, Request};
use hyper::body::Incoming;
use penstock_dataplane_config::{IngestLimits, Protocol};
use prometheus_client::metrics::counter::Counter;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::answer::{self, Answer, Code, Refusal};
use super::apps::{App, Apps, Writer};
use super::body::{self, Body, Bounds, Unread};
use super::budget::Budget;
use super::client::{self, Proxies, Sender, Shared};
use super::connection::Busy;
use super::cors;
use super::envelope::Envelope;
use super::fate::{Fate, Settled};
use super::flaw::{Flaw, Found, Rejection};
use super::group::Groups;
use super::histogram::Histogram;
use super::json::Fault;
use super::line::{Lines, Stamp};
use super::metrics::{HttpLabels, IngestMetrics};
use super::native::Native;
use super::request_log::{Entry, RequestLog};
use super::route::{self, Form, Route};
use super::segment::{self, Segment};
use super::tls::Tls;
use super::{head as request_head, key};
use crate::process::Shutdown;
use crate::utc::now_ms;

/// Answers a shard's requests.
#[derive(Debug)]
pub(crate) struct Handler {
    pub(crate) parts: Parts,
    scratch: RefCell<Lines>,
    random: RefCell<StdRng>,
    http: RefCell<Vec<Option<(Counter, Histogram)>>>,
}

/// What a shard serves requests with. Nothing in it is shared with another shard but counters, the budget, and the
/// Apps in force with their quotas.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) apps: Arc<ArcSwap<Apps>>,
    pub(crate) groups: Rc<Groups>,
    pub(crate) budget: Budget,
    pub(crate) limits: IngestLimits,
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) proxies: Proxies,
    /// Connections that the process may still open.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) tls: Option<Tls>,
    /// The `Server` header.
    pub(crate) server: Option<HeaderValue>,
    pub(crate) metrics: IngestMetrics,
    pub(crate) log: RequestLog,
    pub(crate) shutdown: Shutdown,
}

/// A request that takes longer to come needs a timer of its own.
pub(crate) const SLOW_TO_COME: Duration = Duration::from_millis(100);

/// What is known of a request when it is answered.
#[derive(Debug, Default)]
struct Seen {
    app: Option<Arc<App>>,
    code: &'static str,
    events: u32,
    bytes: usize,
}

impl Handler {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts,
            scratch: RefCell::default(),
            random: RefCell::new(StdRng::from_os_rng()),
            http: RefCell::new(vec![None; Route::COUNT * METHODS.len() * STATUSES.len()]),
        }
    }

    /// Answers one request; a panic inside is a 500.
    pub(crate) async fn handle(&self, request: Request<Incoming>, peer: IpAddr, busy: Busy) -> Answer {
        let began = Instant::now();
        let (head, incoming) = request.into_parts();
        let route = route::of(head.uri.path(), &self.parts.protocols);
        let mut seen = Seen::default();
        let unread = Unread {
            incoming,
            busy: busy.also(),
        };
        let serving = self.serve(&head, unread, &route, peer, began, &mut seen);
        let outcome = caught(serving).await;
        let id = request_head::request_id(&head.headers)
            .cloned()
            .unwrap_or_else(|| request_head::new_request_id(self.random.borrow_mut().random()));
        let mut answer = outcome.unwrap_or_else(|refusal| {
            seen.code = refusal.code.name();
            refusal.answer(&route)
        });
        if let Some(origin) = head.headers.get(ORIGIN) {
            match &seen.app {
                Some(app) => app.origins.tell(origin, &mut answer),
                None => self.parts.apps.load().origins().tell(origin, &mut answer),
            }
        }
        answer.headers_mut().insert(request_head::REQUEST_ID, id.clone());
        if let Some(server) = &self.parts.server {
            answer.headers_mut().insert(SERVER, server.clone());
        }
        if self.parts.shutdown.is_begun() {
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.count(
            &head.method,
            &route,
            answer.status().as_u16(),
            began.elapsed(),
            seen,
            id,
        );
        answer
    }

    async fn serve(
        &self,
        head: &http::request::Parts,
        unread: Unread,
        route: &Route<'_>,
        peer: IpAddr,
        began: Instant,
        seen: &mut Seen,
    ) -> Result<Answer, Refusal> {
        if head.method == Method::OPTIONS && *route != Route::Unknown {
            return Ok(cors::preflight(route));
        }
        if !route.allows(&head.method) {
            body::drain(unread);
            return Err(Code::MethodNotAllowed.into());
        }
        match route {
            Route::Health => return Ok(answer::healthy()),
            Route::SegmentSettings(key) => return self.settings(key, head, seen),
            Route::Unknown => {
                body::drain(unread);
                return Err(answer::not_found(&self.parts.protocols));
            }
            _ => {}
        }
        let known = match self.judge_head(head, route, seen) {
            Ok(known) => known,
            Err(refusal) => {
                body::drain(unread);
                return Err(refusal);
            }
        };
        let deadline = began + self.parts.limits.request_timeout.get();
        let limit = usize::try_from(self.parts.limits.body.get()).unwrap_or(usize::MAX);
        let bounds = Bounds {
            limit,
            deadline,
            // Whose key is in the body has shown none yet, and gets room for what he has sent.
            ahead: known.is_some(),
        };
        let Body { bytes, mut permit } =
            body::read(&head.headers, unread, &self.parts.budget, bounds).await?;
        seen.bytes = bytes.len();
        let text = simdutf8::compat::from_utf8(&bytes).map_err(|error| Fault {
            offset: error.valid_up_to(),
            expected: "UTF-8",
        })?;
        let writer = match known {
            Some(writer) => writer,
            // Segment's Python SDK has its key in the body and nowhere else.
            None => {
                let key = segment::write_key(text).ok_or(Code::MissingKey)?;
                self.writer(&key, &head.headers, seen)?
            }
        };
        let mut lines = self.scratch.take();
        lines.clear();
        let accepted = self.accept(head, route, peer, text, &writer, &mut lines);
        let app = writer.app;
        seen.events = lines.seen;
        self.parts.metrics.ahead.inc_by(u64::from(lines.ahead));
        self.parts
            .metrics
            .dropped_members
            .inc_by(u64::from(lines.dropped));
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(refusal) => {
                self.scratch.replace(lines);
                return Err(refusal);
            }
        };
        drop(bytes);
        let Accepted {
            events,
            charged,
            bytes,
            refusal,
        } = accepted;
        let groups = &self.parts.groups;
        if !lines.letters.is_empty() && !groups.take_letters() {
            self.scratch.replace(lines);
            app.quota.refund(charged, bytes);
            app.metrics.not_stored.inc_by(events as u64);
            return Err(Code::NotStored.into());
        }
        let letters = (!lines.letters.is_empty())
            .then(|| groups.quarantine(&app.id.to_string(), &lines.letters, &mut permit));
        let mut records = groups.append(&mut lines, events, permit);
        records.extend(letters);
        let account = Account {
            app,
            events,
            charged,
            bytes,
            rejected: std::mem::take(&mut lines.rejected),
            quarantined: lines.letters.iter().map(|letter| letter.flaw).collect(),
            began,
        };
        let last_id = lines.last_id;
        self.scratch.replace(lines);

        let mut settling = Settling {
            records,
            fate: Fate::Stored,
            account,
            seconds: &self.parts.metrics.seconds,
            is_counted: false,
        };
        // Groups settle within what the request's time leaves when it came at once; only one that was slow to come needs a
        // timer.
        let fate = if began.elapsed() < SLOW_TO_COME {
            (&mut settling).await
        } else {
            tokio::time::timeout_at(deadline.into(), &mut settling)
                .await
                .unwrap_or(Fate::Failed)
        };
        settling.count(fate);
        if fate == Fate::Failed {
            return Err(Code::NotStored.into());
        }
        let rejected = &settling.account.rejected;
        let mut answer = match route {
            Route::SegmentBatch if refusal.is_none() => answer::success(),
            Route::SegmentCall(_) if rejected.is_empty() => answer::success(),
            Route::Envelope => answer::received(seen.events, began.elapsed()),
            // A single event that is only too old is not the client's to repeat.
            _ if events == 0 => return Err(Refusal::all_rejected(rejected, refusal)),
            Route::Event => answer::accepted_one(&last_id),
            _ => answer::accepted_batch(events, rejected),
        };
        // Segment's SDKs take nothing but 200 for a success.
        fate.tell(&mut answer, route.is_segment());
        Ok(answer)
    }

    /// Who may write with a key, from where the request comes.
    fn writer(&self, key: &str, headers: &HeaderMap, seen: &mut Seen) -> Result<Writer, Refusal> {
        let writer = self.parts.apps.load().writer(key, now_ms())?;
        seen.app = Some(Arc::clone(&writer.app));
        writer.app.origins.check(headers)?;
        Ok(writer)
    }

    /// What the head alone can refuse: the key, and Kafka being away. `None` when the key may be in the body.
    fn judge_head(
        &self,
        head: &http::request::Parts,
        route: &Route<'_>,
        seen: &mut Seen,
    ) -> Result<Option<Writer>, Refusal> {
        let writer = match key::of_head(&head.headers, head.uri.query()) {
            Some(key) => Some(self.writer(&key, &head.headers, seen)?),
            None if route.is_segment() => None,
            None => return Err(Code::MissingKey.into()),
        };
        if !self.parts.groups.are_open() {
            return Err(Code::NotStored.into());
        }
        Ok(writer)
    }

    /// Reads the events into `lines` and applies the quota. Segment's batches and envelopes pass as a whole or not at
    /// all, for their protocols have no way to refuse a part.
    fn accept(
        &self,
        head: &http::request::Parts,
        route: &Route<'_>,
        peer: IpAddr,
        text: &str,
        writer: &Writer,
        lines: &mut Lines,
    ) -> Result<Accepted, Refusal> {
        let headers = &head.headers;
        let app = &*writer.app;
        let received_at = now_ms();
        let ip = self.parts.proxies.client(peer, headers).to_string();
        let sender = Sender {
            ip: &ip,
            user_agent: client::user_agent(headers),
        };
        let shared = Shared::new(&sender, route.source(), app.retention);
        let stamp = Stamp {
            app: app.id,
            head: &app.head,
            received_at,
            shared: &shared,
            on_behalf: writer.trusted.then_some(sender),
            source: route.source(),
            retention: app.retention,
            idempotency_key: request_head::idempotency_key(headers),
            event_limit: usize::try_from(self.parts.limits.event.get()).unwrap_or(usize::MAX),
            batch_limit: self.parts.limits.batch as usize,
        };
        let random = || random_id(&mut self.random.borrow_mut());
        let read = match route {
            Route::SegmentBatch => Segment {
                stamp: &stamp,
                random,
            }
            .batch(text, lines),
            Route::SegmentCall(call) => Segment {
                stamp: &stamp,
                random,
            }
            .single(text, *call, lines),
            Route::Envelope => Envelope {
                stamp: &stamp,
                owner: app,
                random,
            }
            .read(text, lines),
            Route::Event => Native {
                stamp: &stamp,
                owner: app,
                random,
            }
            .single(text, lines),
            _ => Native {
                stamp: &stamp,
                owner: app,
                random,
            }
            .batch(text, request_head::is_ndjson(headers), lines),
        };
        if let Err(refused) = read {
            // With the whole request each event of it, good or bad, as far as it was read.
            app.metrics.rejected(refused.flaw()).inc_by(u64::from(lines.seen));
            return Err(refused.into());
        }
        if *route == Route::Envelope && !lines.rejected.is_empty() {
            return Err(refused_envelope(app, lines));
        }
        let events = lines.lines.len();
        if route.form() != Form::Native {
            // Dead letters cost as events do, or a client could write any amount of them.
            let bytes = lines.bytes.len()
                + lines
                    .letters
                    .iter()
                    .map(|letter| letter.bytes.len())
                    .sum::<usize>();
            let asked = events + lines.letters.len();
            return match app.quota.admit_whole(received_at, asked, bytes).refusal {
                None => Ok(Accepted {
                    events,
                    charged: asked,
                    bytes,
                    refusal: None,
                }),
                Some(refusal) => {
                    app.metrics.rejected(Flaw::Quota).inc_by(asked as u64);
                    Err(Refusal::quota(refusal))
                }
            };
        }
        // Here, too, what there is room for after the events.
        let (ends, letters) = (&lines.lines, &lines.letters);
        let bytes_of = |count: usize| {
            let of_events = count.min(events).checked_sub(1).map_or(0, |last| ends[last].end);
            let letters = &letters[..count.saturating_sub(events)];
            of_events + letters.iter().map(|letter| letter.bytes.len()).sum::<usize>()
        };
        let admission = app.quota.admit(received_at, events + letters.len(), bytes_of);
        let (charged, bytes) = (admission.events, bytes_of(admission.events));
        let admitted = charged.min(events);
        lines.letters.truncate(charged - admitted);
        for line in &lines.lines[admitted..] {
            lines.rejected.push(Rejection {
                index: line.index,
                found: Found::new(Flaw::Quota, "", "over the App's quota"),
            });
        }
        lines.rejected.sort_by_key(|one| one.index);
        Ok(Accepted {
            events: admitted,
            charged,
            bytes,
            // Who sent a letter learns what was wrong with it, not that it was not kept.
            refusal: admission.refusal.filter(|_| admitted < events),
        })
    }

    fn settings(&self, key: &str, head: &http::request::Parts, seen: &mut Seen) -> Result<Answer, Refusal> {
        self.writer(key, &head.headers, seen)?;
        // HTTP/2 has it in the address of the request.
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        let authority = || head.uri.authority().map(http::uri::Authority::as_str);
        let host = host.or_else(authority).unwrap_or("localhost");
        Ok(answer::segment_settings(key, host))
    }

    fn count(
        &self,
        method: &Method,
        route: &Route<'_>,
        status: u16,
        duration: Duration,
        seen: Seen,
        id: HeaderValue,
    ) {
        let method_index = METHODS
            .iter()
            .position(|known| method.as_str() == *known)
            .unwrap_or(METHODS.len() - 1);
        let status_index = STATUSES.iter().position(|known| status == *known).unwrap_or(0);
        let index = (route.number() * METHODS.len() + method_index) * STATUSES.len() + status_index;
        if let Some(slot) = self.http.borrow_mut().get_mut(index) {
            let (counter, histogram) = slot.get_or_insert_with(|| {
                let labels = HttpLabels {
                    method: METHODS[method_index],
                    route: route.name(),
                    status: u32::from(status),
                };
                self.parts.metrics.http(&labels)
            });
            counter.inc();
            histogram.observe(duration);
        }
        if self.parts.log.wants(status, duration) {
            self.parts.log.write(Entry {
                method: METHODS[method_index],
                route: route.name(),
                status,
                id,
                code: seen.code,
                app: seen.app.map(|app| app.name.clone()).unwrap_or_default(),
                events: seen.events,
                bytes: seen.bytes,
                duration,
            });
        }
    }
}

/// What is to be counted of a request's events, once it is known what became of them.
#[derive(Clone, Debug)]
struct Account {
    app: Arc<App>,
    events: usize,
    /// Events and bytes that the quota was charged.
    charged: usize,
    bytes: usize,
    rejected: Vec<Rejection>,
    quarantined: Vec<Flaw>,
    began: Instant,
}

impl Account {
    fn count(&self, fate: Fate, seconds: &Histogram) {
        seconds.observe(self.began.elapsed());
        let metrics = &self.app.metrics;
        self.rejected.iter().for_each(|one| {
            metrics.rejected(one.found.flaw).inc();
        });
        if fate == Fate::Failed {
            self.app.quota.refund(self.charged, self.bytes);
            metrics.not_stored.inc_by(self.events as u64);
            return;
        }
        metrics.accepted.inc_by(self.events as u64);
        self.quarantined.iter().for_each(|flaw| {
            metrics.quarantined(*flaw).inc();
        });
    }
}

/// Resolves to the worst fate of what groups were given of a request.
///
/// A client that takes back a request of HTTP/2, or goes away from it, has hyper drop whatever serves it, and the events may be
/// stored all the same. Then a task of the shard waits in its place, and counts them.
#[derive(Debug)]
struct Settling<'h> {
    records: Vec<Settled>,
    fate: Fate,
    account: Account,
    seconds: &'h Histogram,
    is_counted: bool,
}

impl Settling<'_> {
    fn count(&mut self, fate: Fate) {
        self.is_counted = true;
        self.account.count(fate, self.seconds);
    }
}

impl Future for Settling<'_> {
    type Output = Fate;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Fate> {
        let this = self.get_mut();
        while let Some(last) = this.records.last_mut() {
            this.fate = this.fate.max(ready!(Pin::new(last).poll(context)));
            this.records.pop();
        }
        Poll::Ready(this.fate)
    }
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        if self.is_counted {
            return;
        }
        let records = std::mem::take(&mut self.records);
        let (mut fate, account, seconds) = (self.fate, self.account.clone(), self.seconds.clone());
        tokio::task::spawn_local(async move {
            for record in records {
                fate = fate.max(record.await);
            }
            account.count(fate, &seconds);
        });
    }
}

/// Counts the events of an envelope that falls for some of them.
fn refused_envelope(app: &App, lines: &Lines) -> Refusal {
    for one in &lines.rejected {
        app.metrics.rejected(one.found.flaw).inc();
    }
    let others = lines.seen as usize - lines.rejected.len();
    app.metrics.rejected(Flaw::Envelope).inc_by(others as u64);
    Refusal::all_rejected(&lines.rejected, None)
}

/// A panic ends the request that it came from, nothing else.
async fn caught<T>(serving: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    match std::panic::AssertUnwindSafe(serving).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(_) => Err(Code::Internal.into()),
    }
}

/// Label values; what is none of them counts as the last.
const METHODS: [&str; 5] = ["POST", "GET", "HEAD", "OPTIONS", "other"];
/// Every status that an answer may have.
const STATUSES: [u16; 14] = [
    200, 202, 204, 400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503,
];

/// What is to be stored.
#[derive(Debug)]
struct Accepted {
    events: usize,
    /// Events and bytes that the quota was charged.
    charged: usize,
    bytes: usize,
    refusal: Option<super::quota::Refusal>,
}

fn random_id(random: &mut StdRng) -> Uuid {
    let mut bytes = [0u8; 16];
    random.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use penstock_dataplane_config::load::{Environment, load};
    use tokio::task::LocalSet;

    use super::*;
    use crate::ingest::fate::Outcome;
    use crate::process::Metrics;

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        assert_eq!(
            caught::<()>(async { panic!("on purpose") }).await,
            Err(Code::Internal.into())
        );
        assert_eq!(caught(async { Ok(7) }).await, Ok(7));
    }

    /// One event, for which the quota has been charged.
    fn settling<'h>(app: &Arc<App>, outcome: &Rc<Outcome>, seconds: &'h Histogram) -> Settling<'h> {
        Settling {
            records: vec![Settled(Rc::clone(outcome))],
            fate: Fate::Stored,
            account: Account {
                app: Arc::clone(app),
                events: 1,
                charged: 1,
                bytes: 10,
                rejected: Vec::new(),
                quarantined: Vec::new(),
                began: Instant::now(),
            },
            seconds,
            is_counted: false,
        }
    }

    #[test]
    fn what_a_client_took_back_is_counted_when_it_is_settled() {
        const TURNS: usize = 10;
        let metrics = IngestMetrics::new(&Metrics::new());
        let file = "{version: 1, replicas: 1, apps: [{id: 6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11, name: a/b, \
                    quota: {eventsPerDay: 2}}]}";
        let file = load(file, &Environment::new()).unwrap().config;
        let apps = Apps::build(&file, &Apps::default(), &metrics).unwrap();
        let app = Arc::clone(&apps.list()[0]);
        let admit = || app.quota.admit_whole(0, 1, 10).refusal.is_none();
        let counted = || (app.metrics.accepted.get(), app.metrics.not_stored.get());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let shard = LocalSet::new();
        shard.block_on(&runtime, async {
            for (fate, before, after) in [
                (Fate::Stored, (0, 0), (1, 0)),
                (Fate::Failed, (1, 0), (1, 1)),
                (Fate::Stored, (1, 1), (2, 1)),
            ] {
                assert!(admit(), "what failed was given back");
                let outcome = Outcome::of(1);
                drop(settling(&app, &outcome, &metrics.seconds));
                tokio::task::yield_now().await;
                assert_eq!(counted(), before);
                outcome.settle(fate);
                for _ in 0..TURNS {
                    tokio::task::yield_now().await;
                }
                assert_eq!(counted(), after);
            }
            assert!(!admit());
            // A shard that ends drops what is left, this side of a client's going away and beyond.
            drop(settling(&app, &Outcome::of(1), &metrics.seconds));
            let (app, seconds) = (Arc::clone(&app), metrics.seconds.clone());
            tokio::task::spawn_local(async move { settling(&app, &Outcome::of(1), &seconds).await });
            tokio::task::yield_now().await;
        });
        drop(shard);
        assert_eq!(counted(), (2, 1));
    }

    #[test]
    fn random_ids_are_random_uuids() {
        let mut random = StdRng::from_os_rng();
        let (a, b) = (random_id(&mut random), random_id(&mut random));
        assert!(a != b && a.get_version_num() == 4);
    }
}
