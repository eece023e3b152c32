//! The keys of live figures, and the commands that write a batch's to them. `docs/hot-figures.md` is what readers go by.
//!
//! | key, all under `<prefix>:hot:<namespace>/<name>` | kind | what | lives |
//! |---|---|---|---|
//! | `:<app>:minute:<YYYYMMDDHHMM>` | HASH | events by range of offsets | 3 hours from the minute |
//! | `:<app>:users:<YYYYMMDD>` | HyperLogLog | users | 3 days from the day's start |
//! | `:newest`, `:received` | ZSET | App, and when its newest event happened and was received, ms | 2 days from the last batch |

use penstock_dataplane_config::PipelineRef;
use redis::{Cmd, cmd};
use uuid::Uuid;

use super::figures::{AppFigures, Figures};
use crate::utc::{DAY_MS, MINUTE_MS, day_name, minute_name};

const COUNTS_LIVE_MS: i64 = 180 * MINUTE_MS;
const USERS_LIVE_MS: i64 = 3 * DAY_MS;
const NEWEST_LIVE_SECONDS: i64 = 2 * 86_400;
/// Elements of one `PFADD` and members of one `ZADD`: what keeps Redis from others for less than a millisecond.
const AT_ONCE: usize = 1000;

#[derive(Clone, Debug)]
pub(super) struct Keys {
    base: String,
}

impl Keys {
    pub(super) fn new(prefix: &str, pipeline: &PipelineRef) -> Self {
        let PipelineRef { namespace, name } = pipeline;
        Self {
            base: format!("{prefix}:hot:{namespace}/{name}"),
        }
    }

    /// Everything that writes the figures.
    pub(super) fn commands(&self, figures: &Figures) -> impl Iterator<Item = Cmd> {
        let apps = figures.apps();
        let each = apps.iter().flat_map(move |app| self.of_app(figures, app));
        let newest = self.moved_forward("newest", apps, |app| app.newest);
        let received = self.moved_forward("received", apps, |app| app.received);
        each.chain(newest).chain(received)
    }

    fn of_app(&self, figures: &Figures, app: &AppFigures) -> Vec<Cmd> {
        let id = Uuid::from_u128(app.id);
        let mut commands = Vec::new();
        for (minute, count) in figures.counts(app) {
            let key = format!("{}:{id}:minute:{}", self.base, minute_name(minute));
            commands.push(cmd("HSET").arg(&key).arg(&figures.field).arg(count).take());
            commands.push(expire_at(&key, minute + COUNTS_LIVE_MS));
        }
        for (day, users) in figures.users(app) {
            let key = format!("{}:{id}:users:{}", self.base, day_name(day));
            let mut elements = users.elements().peekable();
            while elements.peek().is_some() {
                let mut add = cmd("PFADD");
                add.arg(&key);
                for element in elements.by_ref().take(AT_ONCE) {
                    add.arg(&element.to_le_bytes());
                }
                commands.push(add);
            }
            commands.push(expire_at(&key, day + USERS_LIVE_MS));
        }
        commands
    }

    /// Scores that only grow.
    fn moved_forward(&self, what: &str, apps: &[AppFigures], at: fn(&AppFigures) -> Option<i64>) -> Vec<Cmd> {
        let key = format!("{}:{what}", self.base);
        let scores: Vec<(i64, String)> = apps
            .iter()
            .filter_map(|app| at(app).map(|at| (at, Uuid::from_u128(app.id).to_string())))
            .collect();
        let mut commands: Vec<Cmd> = scores
            .chunks(AT_ONCE)
            .map(|some| cmd("ZADD").arg(&key).arg("GT").arg(some).take())
            .collect();
        if !commands.is_empty() {
            commands.push(cmd("EXPIRE").arg(&key).arg(NEWEST_LIVE_SECONDS).take());
        }
        commands
    }
}

/// At a fixed time, so that writing again changes nothing.
fn expire_at(key: &str, ms: i64) -> Cmd {
    cmd("EXPIREAT").arg(key).arg(ms / 1000).take()
}
