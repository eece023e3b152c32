//! The `clickhouse` crate as it ships.

use clickhouse::{Client, Compression, Row};
use serde::{Deserialize, Serialize};

use crate::server::{ADMIN, Server, WRITER};

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Event {
    id: u64,
    name: String,
    note: Option<String>,
    tags: Vec<String>,
    value: f64,
}

fn client(server: &Server, user: (&str, &str)) -> Client {
    Client::default()
        .with_url(server.url())
        .with_user(user.0)
        .with_password(user.1)
}

fn events(from: u64, count: u64) -> Vec<Event> {
    (from..from + count)
        .map(|id| Event {
            id,
            // What a split of the statement at each semicolon would cut at.
            name: format!("name;{id}\n\0';--"),
            note: (id % 3 == 0).then(|| "é".repeat((id % 50) as usize)),
            tags: (0..id % 4).map(|tag| tag.to_string()).collect(),
            value: id as f64 / 7.0,
        })
        .collect()
}

fn table(server: &Server) {
    server.must(
        "CREATE TABLE events (id UInt64, name String, note Nullable(String), tags Array(String), value Float64) \
         ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000",
    );
}

async fn insert(client: &Client, events: &[Event]) -> clickhouse::error::Result<()> {
    let mut insert = client.insert::<Event>("events").await?;
    for event in events {
        insert.write(event).await?;
    }
    insert.end().await
}

#[tokio::test]
async fn rows_come_back_as_they_were_sent() {
    let server = Server::start();
    table(&server);
    let mut sent = Vec::new();
    for (index, compression) in [Compression::None, Compression::Lz4].into_iter().enumerate() {
        for validation in [true, false] {
            for user in [ADMIN, WRITER] {
                let client = client(&server, user)
                    .with_compression(compression)
                    .with_validation(validation);
                let batch = events(sent.len() as u64, 20_000 + index as u64);
                insert(&client, &batch).await.expect("inserts");
                sent.extend(batch);
                let query = client.query("SELECT ?fields FROM events ORDER BY id");
                let stored = query.fetch_all::<Event>().await.expect("reads");
                assert!(
                    stored == sent,
                    "{compression:?}, validation {validation}: {} rows",
                    stored.len()
                );
            }
        }
    }
}

#[tokio::test]
async fn values_are_bound() {
    let server = Server::start();
    table(&server);
    let client = client(&server, WRITER);
    insert(&client, &events(0, 100)).await.expect("inserts");
    let text = "it's \\ {b:String} ? \"quoted\"\n";
    let bound = client.query("SELECT ? AS x, toUInt64(? + 1)").bind(text).bind(41);
    assert_eq!(
        bound.fetch_one::<(String, u64)>().await.expect("reads"),
        (text.to_string(), 42)
    );
    let given = client.query("SELECT {t:String}, count() FROM events WHERE id < {n:UInt64}");
    let given = given.param("t", text).param("n", 10);
    assert_eq!(
        given.fetch_one::<(String, u64)>().await.expect("reads"),
        (text.to_string(), 10)
    );
}

#[tokio::test]
async fn a_token_stores_a_batch_once() {
    let server = Server::start();
    table(&server);
    let client = client(&server, WRITER).with_setting("async_insert", "0");
    for token in ["t/0/0-9", "t/0/0-9", "t/0/10-19", "t/0/0-9"] {
        let client = client.clone().with_setting("insert_deduplication_token", token);
        insert(&client, &events(0, 10)).await.expect("inserts");
    }
    assert_eq!(server.count("events"), 20);
}

#[tokio::test]
async fn errors_arrive_as_errors() {
    let server = Server::start();
    let wrong = client(&server, (ADMIN.0, "guess"))
        .query("SELECT 1")
        .fetch_one::<u8>()
        .await;
    let text = wrong.expect_err("refused").to_string();
    assert!(text.contains("Code: 516"), "{text}");
    let admin = client(&server, ADMIN);
    let missing = admin
        .query("SELECT * FROM nowhere")
        .fetch_all::<u8>()
        .await
        .expect_err("refused")
        .to_string();
    assert!(
        missing.contains("Code: 60") && missing.contains("UNKNOWN_TABLE"),
        "{missing}"
    );
    // The error comes in the middle of the rows, after the engine has begun.
    let late = admin
        .query("SELECT throwIf(number = 100000) FROM numbers(200000)")
        .fetch_all::<u8>()
        .await;
    assert!(late.expect_err("refused").to_string().contains("Code: 395"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inserters_run_side_by_side() {
    let server = Server::start();
    table(&server);
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..16u64 {
        let client = client(&server, WRITER).with_compression(Compression::Lz4);
        tasks.spawn(async move {
            for batch in 0..10 {
                insert(&client, &events((writer * 10 + batch) * 100, 100))
                    .await
                    .expect("inserts");
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a writer ends well");
    }
    assert_eq!(
        server.must("SELECT count(), uniqExact(id) FROM events"),
        "16000\t16000"
    );
}
