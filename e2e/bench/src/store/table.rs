//! ClickHouse, and the event table of one run.

use std::cell::Cell;
use std::time::{Duration, Instant};

use penstock_e2e::clickhouse::Credentials;
use penstock_e2e::error::Context as _;
use penstock_e2e::{Component, Error, Instance, Result};
use penstock_provision::{Claim, ClickHouseAdmin, ClickHouseServer, Owner, TableAdmin as _, TableSpec};
use tempfile::TempDir;

use crate::process;
use crate::server::LOAD_CORE;

const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at how many rows there are.
const LOOK: Duration = Duration::from_millis(100);
/// Merges are over when none ran and no part came or went for so long, or when there is no end to them.
const SETTLED: Duration = Duration::from_secs(3);
const ENDLESS: Duration = Duration::from_secs(60);

/// The ClickHouse of a kit instance.
#[derive(Debug)]
pub struct Store {
    client: Client,
    pub url: String,
    /// Who inserts.
    pub consumer: Credentials,
    pid: u32,
    partitions: u32,
    /// Makes tables, as it does for the operator.
    maker: ClickHouseServer,
    runtime: tokio::runtime::Runtime,
    _credentials: TempDir,
    /// Of a core, see [`Store::rest`].
    at_rest: Cell<f64>,
    sequence: Cell<u32>,
}

/// A moment from which on the CPU time of ClickHouse is counted.
#[derive(Clone, Copy, Debug)]
pub struct Since {
    cpu: Duration,
    at: Instant,
}

/// Asks as the administrator.
#[derive(Clone, Debug)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
    pub admin: Credentials,
}

impl Client {
    /// Runs one statement and gives back the answer.
    pub fn ask(&self, statement: &str) -> Result<String> {
        let mut answer = self
            .agent
            .post(&self.url)
            .header("X-ClickHouse-User", &self.admin.user)
            .header("X-ClickHouse-Key", &self.admin.password)
            .send(statement)
            .doing("asking ClickHouse")?;
        let status = answer.status();
        let text = answer
            .body_mut()
            .read_to_string()
            .doing("reading ClickHouse's answer")?;
        if status.is_success() {
            return Ok(text);
        }
        Err(Error::new(format!(
            "ClickHouse answered {status} to {statement}: {}",
            text.trim()
        )))
    }

    fn numbers(&self, statement: &str) -> Result<Vec<u64>> {
        let answer = self.ask(statement)?;
        answer
            .split_whitespace()
            .map(|number| number.parse().doing(format_args!("reading {number}")))
            .collect()
    }

    fn number(&self, statement: &str) -> Result<u64> {
        // Of a counter that nothing has counted yet there is no row.
        Ok(self.numbers(statement)?.first().copied().unwrap_or(0))
    }
}

impl Store {
    /// Keeps the ClickHouse of the instance on the load's core. The caller is in the instance's network.
    pub fn of(kit: &Instance, partitions: u32) -> Result<Self> {
        let users = kit.clickhouse_users()?;
        let running = kit.process(Component::ClickHouse).ok_or_else(|| {
            Error::new("ClickHouse does not run").next(kit.command("up --only kafka,clickhouse"))
        })?;
        process::keep_on(running.pid, LOAD_CORE)?;
        let credentials = tempfile::tempdir().doing("making a folder")?;
        let file = |name: &str, text: &str| {
            let path = credentials.path().join(name);
            std::fs::write(&path, text)
                .doing(format_args!("writing {}", path.display()))
                .map(|()| path)
        };
        let maker = ClickHouseServer {
            url: kit.clickhouse_url(),
            username_file: Some(file("username", &users.admin.user)?),
            password_file: Some(file("password", &users.admin.password)?),
            tls: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .doing("starting a runtime")?;
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .proxy(None)
            .http_status_as_error(false)
            .build()
            .into();
        Ok(Self {
            client: Client {
                agent,
                url: kit.clickhouse_url(),
                admin: users.admin,
            },
            url: kit.clickhouse_url(),
            consumer: users.consumer,
            pid: running.pid.cast_unsigned(),
            partitions,
            maker,
            runtime,
            _credentials: credentials,
            at_rest: Cell::new(0.0),
            sequence: Cell::new(0),
        })
    }

    /// Measures what ClickHouse takes, of a core, when nothing is stored and it is asked as often as runs ask it. From now
    /// on that is no run's cost: a slow consumer would pay for it longest.
    pub fn rest(&self) -> Result<f64> {
        const TIME: Duration = Duration::from_secs(5);
        let table = self.table(false)?;
        let since = self.now()?;
        while since.at.elapsed() < TIME {
            table.rows()?;
            std::thread::sleep(LOOK);
        }
        let share = self.spent(since)?.as_secs_f64() / since.at.elapsed().as_secs_f64();
        self.at_rest.set(share);
        Ok(share)
    }

    pub fn now(&self) -> Result<Since> {
        Ok(Since {
            cpu: process::cpu(self.pid)?,
            at: Instant::now(),
        })
    }

    /// User and system time since then, less what it takes at rest.
    pub fn spent(&self, since: Since) -> Result<Duration> {
        let all = process::cpu(self.pid)?.saturating_sub(since.cpu);
        Ok(all.saturating_sub(since.at.elapsed().mul_f64(self.at_rest.get())))
    }

    /// The share of a core that was taken since then, rest and all.
    pub fn share(&self, since: Since) -> Result<f64> {
        let all = process::cpu(self.pid)?.saturating_sub(since.cpu);
        Ok(all.as_secs_f64() / since.at.elapsed().as_secs_f64())
    }

    /// INSERTs so far, of all clients.
    pub fn inserts(&self) -> Result<u64> {
        self.client
            .number("SELECT value FROM system.events WHERE event = 'InsertQuery' FORMAT TSV")
    }

    /// Whether this build of the engine reads Kafka by itself.
    pub fn reads_kafka(&self) -> Result<bool> {
        let found = self
            .client
            .number("SELECT count() FROM system.table_engines WHERE name = 'Kafka' FORMAT TSV")?;
        Ok(found > 0)
    }

    pub fn version(&self) -> Result<String> {
        Ok(self.client.ask("SELECT version() FORMAT TSV")?.trim().to_owned())
    }

    /// An empty event table in a database of its own, made as the operator makes it. `counted`: with the two rollups of
    /// docs/tables.md.
    pub fn table(&self, counted: bool) -> Result<Table> {
        let number = self.sequence.get() + 1;
        self.sequence.set(number);
        let table = Table {
            client: self.client.clone(),
            database: database(number),
        };
        let mut spec = TableSpec::new(&table.database, "events", self.partitions);
        if counted {
            let rollups = serde_json::json!([
                {"name": "per_minute", "count": "Events", "every": "Minute", "by": ["event_name"]},
                {"name": "users_per_day", "count": "Users", "every": "Day"},
            ]);
            spec.rollups = serde_json::from_value(rollups).doing("reading rollups")?;
        }
        let claim = Claim::new(Owner::new("bench", &table.database, "events"), false);
        self.runtime
            .block_on(ClickHouseAdmin::new().ensure_table(&self.maker, &spec, &claim))
            .doing("making a table")?;
        Ok(table)
    }
}

/// Tables go together in the end. A file system that has just deleted thousands of files is slow to make new ones: ext4 looks
/// at each inode that was deleted within the last minutes, and the next run would pay for that.
impl Drop for Store {
    fn drop(&mut self) {
        for number in 1..=self.sequence.get() {
            // The instance goes, or its next run names its databases otherwise.
            let _ = self
                .client
                .ask(&format!("DROP DATABASE IF EXISTS {} SYNC", database(number)));
        }
    }
}

fn database(number: u32) -> String {
    format!("{}{number}", databases())
}

/// What the names of all of them begin with.
fn databases() -> String {
    format!("bench_{}_", std::process::id())
}

/// The event table `events` of a database of its own.
#[derive(Debug)]
pub struct Table {
    pub client: Client,
    pub database: String,
}

impl Table {
    /// Rows, from the table's own count: reads no column.
    pub fn rows(&self) -> Result<u64> {
        self.client.number(&format!(
            "SELECT count() FROM {}.events FORMAT TSV",
            self.database
        ))
    }

    /// Rows and distinct events.
    pub fn stored(&self) -> Result<Stored> {
        let counts = self.client.numbers(&format!(
            "SELECT count(), uniqExact(event_id) FROM {}.events FORMAT TSV",
            self.database
        ))?;
        Ok(Stored {
            rows: counts.first().copied().unwrap_or(0),
            distinct: counts.get(1).copied().unwrap_or(0),
        })
    }

    /// Waits for `rows` rows and gives back when it first saw some, how many those were, and when it saw all. `must_go_on`
    /// fails when nobody stores any more.
    pub fn wait_for_rows(&self, rows: u64, mut must_go_on: impl FnMut() -> Result<()>) -> Result<Filling> {
        let (mut first, mut last, mut grew) = (None, 0, Instant::now());
        loop {
            let (now, at) = (self.rows()?, Instant::now());
            if now > 0 {
                first.get_or_insert((at, now));
            }
            if now > last {
                (last, grew) = (now, at);
            }
            if now >= rows {
                let (began, already) = first.unwrap_or((at, now));
                return Ok(Filling {
                    began,
                    already,
                    ended: at,
                });
            }
            if grew.elapsed() > PATIENCE {
                return Err(Error::new(format!(
                    "{last} of {rows} rows are stored, and none more since {PATIENCE:?}"
                )));
            }
            must_go_on()?;
            std::thread::sleep(LOOK);
        }
    }

    /// Of all tables, for rollups are tables of their own.
    pub fn stop_merges(&self) -> Result<()> {
        self.client.ask("SYSTEM STOP MERGES").map(drop)
    }

    /// Lets merges go on and waits until there is nothing more to merge, here or in the tables of other runs.
    pub fn merge(&self) -> Result<()> {
        self.client.ask("SYSTEM START MERGES")?;
        let question = format!(
            "SELECT (SELECT count() FROM system.merges WHERE database LIKE '{0}%'),
             (SELECT sum(cityHash64(database, name)) FROM system.parts WHERE active AND database LIKE '{0}%') FORMAT TSV",
            databases()
        );
        let (began, mut last, mut since) = (Instant::now(), Vec::new(), Instant::now());
        while since.elapsed() < SETTLED && began.elapsed() < ENDLESS {
            let now = self.client.numbers(&question)?;
            if now.first() != Some(&0) || now != last {
                (last, since) = (now, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        Ok(())
    }
}

/// How a table was filled.
#[derive(Clone, Copy, Debug)]
pub struct Filling {
    pub began: Instant,
    /// Rows that were there at `began`.
    pub already: u64,
    pub ended: Instant,
}

impl Filling {
    /// Rows a second behind the first, so that joining the group is no part of it; none where all came at once.
    pub fn rate(&self, rows: u64) -> Option<f64> {
        let time = (self.ended - self.began).as_secs_f64();
        (time > 0.0).then(|| (rows - self.already) as f64 / time)
    }
}

/// What a table holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stored {
    pub rows: u64,
    pub distinct: u64,
}

impl Stored {
    /// Whether every event sent is there once.
    pub fn is(self, sent: u64) -> bool {
        self.rows == sent && self.distinct == sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_leaves_out_what_was_there_first() {
        let began = Instant::now();
        let filling = Filling {
            began,
            already: 200,
            ended: began + Duration::from_secs(2),
        };
        assert_eq!(filling.rate(1000), Some(400.0));
        let at_once = Filling {
            ended: began,
            ..filling
        };
        assert_eq!(at_once.rate(200), None);
    }

    #[test]
    fn rows_alone_do_not_tell_that_all_is_there() {
        let stored = |rows, distinct| Stored { rows, distinct };
        assert!(stored(5, 5).is(5));
        for wrong in [stored(5, 4), stored(4, 4), stored(6, 5), stored(6, 6)] {
            assert!(!wrong.is(5), "{wrong:?}");
        }
    }
}
