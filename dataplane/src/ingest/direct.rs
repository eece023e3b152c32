//! Past Kafka: while it is away, groups that it certainly does not hold go into the event table at once.
//!
//! A group is one INSERT under its name as token, so an attempt whose outcome is unknown is repeated without storing
//! it twice; its rows bear partition -1 and an offset made of the name, by which the table is asked whether they are
//! really there after such an attempt (a server that dies may know a token without its rows). Nothing is
//! acknowledged before.
//!
//! Every INSERT is a part that ClickHouse has to merge, so a shard has one on its way at a time, and begins one at
//! most every [`PACE`]; what arrives meanwhile gathers. A group is tried as long as its oldest request waits. When one is
//! given up the table counts as away, too, and what comes is refused but for a request every [`PAUSE`], which shows how it is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use penstock_dataplane_config::ClickHouseTarget;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use xxhash_rust::xxh3::xxh3_64;

use super::kafka::{Kept, PutAside};
use super::last::Last;
use super::spool::{Keep, Topic};
use crate::consume::clickhouse::ClickHouse;
use crate::consume::failure::Failure;
use crate::consume::position::{Part, Position};
use crate::consume::record::Content;
use crate::consume::target;
use crate::process::{Metrics, RoleError};

/// The partition that rows bear which never were in the topic.
const NO_PARTITION: i32 = -1;
const PACE: Duration = Duration::from_millis(250);
/// Between two attempts of one group.
const AGAIN: Duration = Duration::from_millis(500);
/// Between two requests that are let pass while the table is away.
const PAUSE: Duration = Duration::from_secs(1);
/// So long after the last group that was given up nothing is known of the table any more.
const KNOWN: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Where groups go. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Direct {
    groups: UnboundedSender<Keep>,
    gate: Arc<Gate>,
}

/// Whether the table takes groups, as far as is known.
#[derive(Debug)]
struct Gate {
    is_away: AtomicBool,
    /// When a group was given up.
    given_up: Last,
    /// When events last came to be tried.
    came: Last,
}

impl Gate {
    fn lets_pass(&self) -> bool {
        if !self.is_away.load(Relaxed) || !self.given_up.is_within(KNOWN) {
            return true;
        }
        !self.came.is_within(PAUSE)
    }

    fn close(&self) {
        self.given_up.now();
        self.is_away.store(true, Relaxed);
    }

    fn open(&self) {
        self.is_away.store(false, Relaxed);
    }
}

impl Direct {
    /// Starts the thread. What waits here is bounded by the shards, which hand over one group each at a time.
    pub(crate) fn start(clickhouse: &ClickHouseTarget, metrics: &Metrics) -> Result<Self, RoleError> {
        let groups = Family::<Outcome, Counter>::default();
        let count = |outcome| groups.get_or_create_owned(&Outcome { outcome });
        let gate = Arc::new(Gate {
            is_away: AtomicBool::new(false),
            given_up: Last::never(),
            came: Last::never(),
        });
        let inserter = Inserter {
            clickhouse: ClickHouse::new(clickhouse)?,
            gate: Arc::clone(&gate),
            stored: count("stored"),
            failed: count("failed"),
        };
        let help = "Groups for ClickHouse while Kafka was away";
        metrics.register(|registry| registry.register("ingest_direct_groups", help, groups));
        let (sender, receiver) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("direct".into())
            .spawn(move || runtime.block_on(inserter.run(receiver)))?;
        Ok(Self { groups: sender, gate })
    }

    /// Whether a request may come to the table. While that is away none may for a while after [`Self::comes`].
    pub(crate) fn takes_one(&self) -> bool {
        self.gate.lets_pass()
    }

    /// Events of a request have come, which nothing can refuse any more: only these show how the table is.
    pub(crate) fn comes(&self) {
        self.gate.came.now();
    }

    /// Has a group stored; the outcome comes to its shard. False when it is not even tried.
    pub(crate) fn insert(&self, group: Keep) -> bool {
        self.groups.send(group).is_ok()
    }
}

struct Inserter {
    clickhouse: ClickHouse,
    gate: Arc<Gate>,
    stored: Counter,
    failed: Counter,
}

impl Inserter {
    async fn run(self, mut groups: UnboundedReceiver<Keep>) {
        let (mut waiting, mut running) = (VecDeque::new(), FuturesUnordered::new());
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                group = groups.recv() => match group {
                    Some(group) => waiting.push_back(group),
                    None => return,
                },
                _ = pace.tick(), if !waiting.is_empty() => {
                    running.extend(waiting.drain(..).map(|group| self.store(group)));
                }
                Some(()) = running.next(), if !running.is_empty() => {}
            }
        }
    }

    async fn store(&self, group: Keep) {
        let name = group.record.name.clone();
        let outcome = match group.record.topic {
            Topic::Events => self.insert(&group).await,
            // There is no table for what cannot be stored.
            Topic::DeadLetters => Err("dead letters need Kafka".to_owned()),
        };
        let kept = match outcome {
            Ok(()) => {
                self.stored.inc();
                Some(Kept::Inserted)
            }
            Err(error) => {
                self.failed.inc();
                tracing::warn!(error, group = name, "a group was not stored in ClickHouse either");
                None
            }
        };
        group.outcomes.tell(PutAside {
            number: group.number,
            kept,
        });
    }

    /// Tries until the group is in the table for certain, or no time is left.
    async fn insert(&self, group: &Keep) -> Result<(), String> {
        let name = &group.record.name;
        // Where a topic's rows have an offset these have a number of the group's own.
        let number = i64::try_from(xxh3_64(name.as_bytes()) >> 1).unwrap_or(0);
        let mut content = Content::default();
        content
            .add(NO_PARTITION, number, None, &group.record.value)
            .map_err(|version| format!("lines of version {} are not known here", version.0))?;
        if let Some(dead) = content.dead.first() {
            return Err(dead.detail.clone());
        }
        let whole = Part {
            from: Position::new(number, 0),
            to: Position::new(number, u32::MAX),
        };
        let mut in_doubt = false;
        loop {
            let attempt = async {
                self.clickhouse
                    .insert(Arc::clone(&content.block), name, Box::new(|| true))
                    .await?;
                if in_doubt {
                    let missing =
                        target::missing(&self.clickhouse, NO_PARTITION, &content.block, whole).await?;
                    return Ok(!missing.contains(&true));
                }
                Ok::<_, Failure>(true)
            };
            let failure = match tokio::time::timeout_at(group.until.into(), attempt).await {
                Ok(Ok(true)) => {
                    self.gate.open();
                    return Ok(());
                }
                Ok(Ok(false)) => "acknowledged, but its rows are not to be seen".to_owned(),
                Ok(Err(failure)) => failure.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            in_doubt = true;
            if Instant::now() + AGAIN >= group.until {
                self.gate.close();
                return Err(failure);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
