//! Live figures in Redis: they are those of the rows, whatever dies, and hold nothing up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use redis::Commands as _;

use super::consumer::Consumer;
use super::events::{self, APP};
use super::pipeline::Pipeline;
use super::proxy::{Mode, Proxy};

const PATIENCE: Duration = Duration::from_secs(120);
const MINUTE_MS: u64 = 60_000;
const OTHER_APP: &str = "6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b12";
const WRITTEN: &str = "outcome=\"written\"";

/// The figures of one pipeline, as a reader finds them. The test's topic is the prefix and the pipeline's name.
pub(crate) struct Figures<'a> {
    pipeline: &'a Pipeline,
    base: String,
}

/// Every key with its content in words, and seconds to live.
type Everything = BTreeMap<String, (String, i64)>;

impl<'a> Figures<'a> {
    pub(crate) fn new(pipeline: &'a Pipeline) -> Self {
        let topic = &pipeline.topic;
        Self {
            base: format!("{topic}:hot:test/{topic}"),
            pipeline,
        }
    }

    /// Settings for Redis there.
    pub(crate) fn settings(&self, address: &str) -> String {
        format!(
            "redis: {{address: '{address}', prefix: {}, connectTimeout: 1s, commandTimeout: 500ms}}\n",
            self.pipeline.topic
        )
    }

    /// Settings for the instance's Redis.
    fn direct(&self) -> String {
        self.settings(&self.pipeline.kit.redis_address())
    }

    fn redis(&self) -> redis::Connection {
        redis::Client::open(format!("redis://{}", self.pipeline.kit.redis_address()))
            .and_then(|client| client.get_connection())
            .expect("Redis runs")
    }

    /// Counts by field, of one minute.
    fn ranges(&self, app: &str, minute: &str) -> BTreeMap<String, u64> {
        self.redis()
            .hgetall(format!("{}:{app}:minute:{minute}", self.base))
            .expect("counts")
    }

    /// Events by App and minute, as a reader adds them up.
    pub(crate) fn counts(&self) -> BTreeMap<(String, String), u64> {
        let keys: Vec<String> = self
            .redis()
            .keys(format!("{}:*:minute:*", self.base))
            .expect("keys");
        let name = |key: &str| {
            let rest = key.strip_prefix(&format!("{}:", self.base)).expect("the base");
            let (app, minute) = rest.split_once(":minute:").expect("a minute");
            (app.to_owned(), minute.to_owned())
        };
        keys.iter()
            .map(|key| {
                let (app, minute) = name(key);
                let sum = self.ranges(&app, &minute).values().sum();
                ((app, minute), sum)
            })
            .collect()
    }

    /// What the table says, of events since `since_ms`.
    fn counts_of_rows(&self, since_ms: u64) -> BTreeMap<(String, String), u64> {
        let rows = self.pipeline.sql(&format!(
            "SELECT toString(app_id), formatDateTime(event_timestamp, '%Y%m%d%H%i', 'UTC'), count() FROM {}
             WHERE toUnixTimestamp64Milli(event_timestamp) >= {since_ms} GROUP BY 1, 2 FORMAT TSV",
            self.pipeline.table()
        ));
        let parse = |line: &str| {
            let mut fields = line.split('\t').map(str::to_owned);
            let mut next = || fields.next().expect("three fields");
            ((next(), next()), next().parse().expect("a count"))
        };
        rows.lines().map(parse).collect()
    }

    fn score(&self, what: &str, app: &str) -> u64 {
        let score: f64 = self
            .redis()
            .zscore(format!("{}:{what}", self.base), app)
            .expect("a score");
        score as u64
    }

    fn everything(&self) -> Everything {
        let mut redis = self.redis();
        let keys: Vec<String> = redis.keys(format!("{}:*", self.base)).expect("keys");
        let mut read = |key: String| {
            let kind: String = redis::cmd("TYPE").arg(&key).query(&mut redis).expect("a kind");
            let content = match kind.as_str() {
                "hash" => {
                    let fields: BTreeMap<String, String> = redis.hgetall(&key).expect("fields");
                    format!("{fields:?}")
                }
                "zset" => {
                    let members: Vec<(String, f64)> = redis.zrange_withscores(&key, 0, -1).expect("members");
                    format!("{members:?}")
                }
                _ => format!("{:?}", redis.get::<_, Vec<u8>>(&key).expect("a HyperLogLog")),
            };
            let lives = redis.ttl(&key).expect("a time to live");
            (key, (content, lives))
        };
        keys.into_iter().map(&mut read).collect()
    }
}

impl Drop for Figures<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for key in self.everything().into_keys() {
                let _: redis::RedisResult<()> = self.redis().del(key);
            }
        }
    }
}

/// The contents alone.
fn contents(everything: &Everything) -> BTreeMap<&String, &String> {
    everything
        .iter()
        .map(|(key, (content, _))| (key, content))
        .collect()
}

/// Whole minutes before the current one, but not so many that they leave the window while the test runs.
fn minutes_ago(minutes: u64) -> u64 {
    let now = events::now_ms();
    now - now % MINUTE_MS - minutes * MINUTE_MS
}

#[test]
fn figures_are_those_of_the_rows() {
    let pipeline = Pipeline::new("hot", 3);
    let figures = Figures::new(&pipeline);
    let mut consumer = Consumer::start_at(&pipeline, &pipeline.kit.clickhouse_url(), &figures.direct());
    let (events, users) = (120_000, 50_000);
    for first in (0..events).step_by(500) {
        let lines: String = (first..first + 500)
            .map(|number| {
                // From an hour and a half ago until now, so that some are too old for a minute of their own.
                let at = events::now_ms() - number % 90 * MINUTE_MS;
                let line = events::line_at(pipeline.run, number, &format!("user-{}", number % users), at);
                if number % 10 == 0 {
                    line.replace(APP, OTHER_APP)
                } else {
                    line
                }
            })
            .collect();
        pipeline.produce((first / 500) as i32 % 3, lines.as_bytes());
    }
    pipeline.flush();
    pipeline.expect_rows(events, PATIENCE);
    consumer.wait_for("figures of every INSERT", PATIENCE, |c| {
        c.metric("penstock_consume_hot_figures_total", WRITTEN)
            == c.metric("penstock_consume_batches_total", "")
    });

    let since = minutes_ago(50);
    let stored = figures.counts_of_rows(since);
    assert!(stored.len() >= 50, "51 minutes: {stored:?}");
    let counted = figures.counts();
    for (minute, rows) in &stored {
        assert_eq!(counted.get(minute), Some(rows), "{minute:?}");
    }
    let hour_ago = pipeline.sql(&format!(
        "SELECT formatDateTime(fromUnixTimestamp64Milli({}), '%Y%m%d%H%i', 'UTC') FORMAT TSV",
        minutes_ago(70)
    ));
    assert!(
        counted
            .keys()
            .all(|(_, minute)| minute.as_str() > hour_ago.trim()),
        "older minutes are not counted: {counted:?}"
    );

    let by_day = pipeline.sql(&format!(
        "SELECT toString(app_id), formatDateTime(event_timestamp, '%Y%m%d', 'UTC'), uniqExact(user_id) FROM {} GROUP BY 1, 2 FORMAT TSV",
        pipeline.table()
    ));
    for line in by_day.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let key = format!("{}:{}:users:{}", figures.base, fields[0], fields[1]);
        let exact: f64 = fields[2].parse().expect("users");
        let estimate: f64 = figures.redis().pfcount(&key).expect("a HyperLogLog");
        println!("{key}: {estimate} of {exact} users");
        assert!(
            (estimate / exact - 1.0).abs() < 0.02,
            "{key}: {estimate} of {exact}"
        );
    }

    let newest = pipeline.sql(&format!(
        "SELECT toString(app_id), max(toUnixTimestamp64Milli(event_timestamp)), max(toUnixTimestamp64Milli(received_at)) FROM {} GROUP BY 1 FORMAT TSV",
        pipeline.table()
    ));
    for line in newest.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        assert_eq!(figures.score("newest", fields[0]).to_string(), fields[1]);
        assert_eq!(figures.score("received", fields[0]).to_string(), fields[2]);
    }

    for (key, (_, lives)) in figures.everything() {
        let most = match key {
            key if key.contains(":minute:") => 3 * 3600,
            key if key.contains(":users:") => 3 * 86_400,
            _ => 2 * 86_400,
        };
        assert!((1..=most).contains(&lives), "{lives} s");
    }
}

/// The group's offset of the only partition, and its metadata.
fn committed(pipeline: &Pipeline) -> Option<(i64, String)> {
    let mut list = TopicPartitionList::new();
    list.add_partition(&pipeline.topic, 0);
    let found = pipeline
        .in_group()
        .committed_offsets(list, Duration::from_secs(10))
        .expect("the group answers");
    let element = found.find_partition(&pipeline.topic, 0)?;
    match element.offset() {
        Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
        _ => None,
    }
}

/// As if what was committed since had never arrived. The group must have forgotten its dead first.
fn set_back(pipeline: &Pipeline, (offset, metadata): &(i64, String)) {
    let group: BaseConsumer = pipeline.in_group();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&pipeline.topic, 0, Offset::Offset(*offset))
        .expect("a list");
    list.find_partition(&pipeline.topic, 0)
        .expect("listed")
        .set_metadata(metadata.as_str());
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = group.commit(&list, CommitMode::Sync) {
        assert!(Instant::now() < deadline, "cannot set the offset back: {error}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn what_is_written_again_after_a_death_changes_nothing() {
    let pipeline = Pipeline::new("hotagain", 1);
    let figures = Figures::new(&pipeline);
    let proxy = Proxy::start(&pipeline.kit.clickhouse_url());
    let settings = format!("batch: {{maxAge: 100ms}}\n{}", figures.direct());
    let mut consumer = Consumer::start_at(&pipeline, &proxy.url(), &settings);
    consumer.wait_for("assignment", PATIENCE, |c| {
        c.metric("penstock_consume_assigned_partitions", "") == 1.0
    });
    pipeline.produce_events(0, 2000, 100);
    pipeline.flush();
    pipeline.expect_rows(2000, PATIENCE);
    consumer.wait_for("its figures", PATIENCE, |_| {
        figures.counts().values().sum::<u64>() == 2000
    });

    // It dies after its rows are stored and before it knows.
    proxy.set(Mode::Stall);
    pipeline.produce_events(2000, 3000, 100);
    pipeline.flush();
    consumer.wait_for("stored rows", PATIENCE, |_| pipeline.counts().0 > 2000);
    let open = committed(&pipeline).expect("an open intent");
    assert!(open.1.contains("\"last\""), "{open:?}");
    consumer.kill();
    assert_eq!(
        figures.counts().values().sum::<u64>(),
        2000,
        "nothing is told before it is known"
    );

    let direct = pipeline.kit.clickhouse_url();
    let mut next = Consumer::start_at(&pipeline, &direct, &settings);
    pipeline.expect_rows(5000, PATIENCE);
    let newest = pipeline.sql(&format!(
        "SELECT max(toUnixTimestamp64Milli(received_at)) FROM {} FORMAT TSV",
        pipeline.table()
    ));
    // That is the last that is written of a batch.
    next.wait_for("the figures of what was found stored", PATIENCE, |_| {
        figures.counts().values().sum::<u64>() == 5000
            && figures.score("received", APP).to_string() == newest.trim()
    });
    assert_eq!(next.metric("penstock_consume_recovered_total", ""), 1.0);
    next.kill();
    let before = figures.everything();

    // The commit that completed the batch is lost with the second: the third tells of it again.
    set_back(&pipeline, &open);
    let mut last = Consumer::start_at(&pipeline, &direct, &settings);
    last.wait_for("the open batch and all behind it", PATIENCE, |c| {
        c.metric("penstock_consume_recovered_total", "") == 1.0
            && c.metric("penstock_consume_hot_figures_total", WRITTEN) >= 1.0
            && c.metric("penstock_consume_lag_records", "") == 0.0
    });
    pipeline.expect_rows(5000, PATIENCE);
    let after = figures.everything();
    assert_eq!(contents(&before), contents(&after));
    assert_eq!(figures.counts(), figures.counts_of_rows(0));
}

#[test]
fn parts_of_a_refused_batch_are_counted_once_and_without_what_was_refused() {
    let pipeline = Pipeline::new("hotpoison", 1);
    let figures = Figures::new(&pipeline);
    let table = pipeline.table();
    pipeline.sql(&format!(
        "ALTER TABLE {table} ADD CONSTRAINT sane CHECK user_id NOT LIKE 'poison%'"
    ));
    for record in 0..20_u64 {
        let lines: String = (record * 50..record * 50 + 50)
            .map(|number| {
                let kind = if [3, 517].contains(&number) { "poison" } else { "u" };
                events::line(pipeline.run, number, &format!("{kind}-{number}"))
            })
            .collect();
        pipeline.produce(0, lines.as_bytes());
    }
    pipeline.flush();
    // Killed in the middle of the search.
    let direct = pipeline.kit.clickhouse_url();
    let mut consumer = Consumer::start_at(&pipeline, &direct, &figures.direct());
    consumer.wait_for("a refusal", PATIENCE, |c| {
        c.metric("penstock_consume_insert_retries_total", "data") >= 5.0
    });
    consumer.kill();
    let mut next = Consumer::start_at(&pipeline, &direct, &figures.direct());
    pipeline.expect_rows(998, PATIENCE);
    next.wait_for("all figures", PATIENCE, |_| {
        figures.counts().values().sum::<u64>() == 998
    });
    assert_eq!(figures.counts(), figures.counts_of_rows(0));
    let minute = figures.counts().into_keys().next().expect("a minute").1;
    let ranges = figures.ranges(APP, &minute);
    assert!(
        ranges.keys().any(|range| range.contains('.')),
        "parts: {ranges:?}"
    );
}

#[test]
fn without_redis_rows_are_stored_and_figures_come_when_it_is_back() {
    let pipeline = Pipeline::new("hotaway", 1);
    let figures = Figures::new(&pipeline);
    let proxy = Proxy::start(&pipeline.kit.redis_address());
    let address = proxy.url().replace("http://", "");
    let settings = format!("batch: {{maxAge: 100ms}}\n{}", figures.settings(&address));
    let mut consumer = Consumer::start_at(&pipeline, &pipeline.kit.clickhouse_url(), &settings);
    let up = |c: &Consumer| c.metric("penstock_dependency_up", "redis");
    consumer.wait_for("Redis", PATIENCE, |c| up(c) == 1.0);
    let mut events = 0;
    for (outage, mode) in [Mode::Refuse, Mode::Stall].into_iter().enumerate() {
        let failures = consumer.metric("penstock_consume_hot_figures_total", "outcome=\"failed\"");
        proxy.set(mode);
        pipeline.produce_events(events, 1000, 100);
        pipeline.flush();
        events += 1000;
        pipeline.expect_rows(events, Duration::from_secs(30));
        consumer.wait_for("failures", PATIENCE, |c| {
            c.metric("penstock_consume_hot_figures_total", "outcome=\"failed\"") >= failures + 3.0
        });
        assert_eq!((up(&consumer), consumer.readyz().0), (0.0, 200), "{mode:?}");
        assert_eq!(consumer.metric("penstock_consume_lag_records", ""), 0.0);
        proxy.set(Mode::Pass);
        consumer.wait_for("the figures", PATIENCE, |c| {
            up(c) == 1.0 && figures.counts().values().sum::<u64>() == events
        });
        let log = consumer.log();
        let of_redis = |what: &str| {
            let lines = log.lines().filter(|line| line.contains("redis"));
            lines.filter(|line| line.contains(what)).count()
        };
        assert_eq!(of_redis("dependency lost"), outage + 1, "once an outage: {log}");
        assert_eq!(of_redis("dependency found"), outage + 2);
    }
    assert_eq!(figures.counts(), figures.counts_of_rows(0));
    assert_eq!(
        consumer.metric("penstock_consume_hot_figures_total", "outcome=\"dropped\""),
        0.0
    );
    // What Redis refuses loses that batch's figures alone.
    let newest = format!("{}:newest", figures.base);
    let _: () = figures.redis().set(&newest, "of another kind").expect("set");
    pipeline.produce_events(events, 1000, 1000);
    pipeline.flush();
    events += 1000;
    consumer.wait_for("a refusal", PATIENCE, |c| {
        c.metric("penstock_consume_hot_figures_total", "outcome=\"dropped\"") == 1.0
    });
    let _: () = figures.redis().del(&newest).expect("deleted");
    let written = consumer.metric("penstock_consume_hot_figures_total", WRITTEN);
    pipeline.produce_events(events, 1000, 1000);
    pipeline.flush();
    events += 1000;
    consumer.wait_for("figures", PATIENCE, |c| {
        up(c) == 1.0 && c.metric("penstock_consume_hot_figures_total", WRITTEN) == written + 1.0
    });
    // A process that stops does not wait for a Redis that is away.
    proxy.set(Mode::Refuse);
    pipeline.produce_events(events, 1000, 100);
    pipeline.flush();
    pipeline.expect_rows(events + 1000, PATIENCE);
    assert!(consumer.stop() < Duration::from_secs(10));
}
