//! [`TableAdmin`] on ClickHouse, over HTTP.
//!
//! The mark of ownership is the comment of the table, which is made in the same statement as the table: there is no
//! moment in which a table is there and its mark is not. A table that is adopted keeps its own comment behind the
//! mark, and gets it back when it is given up.

#[cfg(test)]
mod cluster_tests;
pub(super) mod extra;
mod failure;
pub mod inspect;
pub(super) mod letters;
pub(super) mod observe;
pub(super) mod plan;
pub(super) mod rollup;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clickhouse::Client;
use hyper_util::rt::TokioExecutor;
use penstock_dataplane_config::ClientTls;
use penstock_dataplane_config::table::{EventTable, dedup_window, quote_identifier, quote_literal};

use self::observe::{Database, Table};
use self::plan::{Refusal, Step};
use self::rollup::Beside;
use super::error::ProvisionError;
use super::ownership::{self, Claim, Mark, Owner, Verdict};
use super::{Answer, Deletion, Ensured, Outcome, TableAdmin, TableSpec};

/// For a question.
const ANSWER: Duration = Duration::from_secs(4);
/// ClickHouse closes what is idle for three seconds.
const POOL_IDLE: Duration = Duration::from_secs(2);
/// For a statement that changes something; those used here touch only metadata.
const STATEMENT: Duration = Duration::from_secs(20);
/// TABLE_SIZE_EXCEEDS_MAX_DROP_SIZE_LIMIT
const TOO_LARGE_TO_DROP: u32 = 359;

/// A server, and the user that makes tables there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClickHouseServer {
    pub url: String,
    /// Files, read for every request: a rotated password needs no restart. Absent: the server's default user.
    pub username_file: Option<PathBuf>,
    pub password_file: Option<PathBuf>,
    /// How an `https` address is spoken to; absent: with the system's authorities.
    pub tls: Option<ClientTls>,
}

impl ClickHouseServer {
    /// One that lets its default user in without a password.
    pub fn open(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            username_file: None,
            password_file: None,
            tls: None,
        }
    }
}

/// Administers tables of any number of ClickHouse servers.
#[derive(Clone, Default)]
pub struct ClickHouseAdmin {
    /// For addresses that are not encrypted.
    client: Client,
}

/// A client for one `https` address. It is made for each job: certificates may have changed since the last.
fn encrypted(url: &str, tls: Option<&ClientTls>) -> Result<Client, ProvisionError> {
    let connector = penstock_connect::http::connector(true, tls)
        .map_err(|unusable| failure::unavailable(url, unusable.to_string()))?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE)
        .build(connector);
    Ok(Client::with_http_client(http))
}

impl fmt::Debug for ClickHouseAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouseAdmin").finish_non_exhaustive()
    }
}

/// One server, for one job.
#[derive(Clone)]
pub struct Server {
    client: Client,
    url: String,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.url)
    }
}

impl Server {
    /// As a person reaches it; without a user, the server's default one. `tls` is for an `https` address. `program` is what
    /// its log says who asked.
    pub fn new(
        url: &str,
        tls: &ClientTls,
        user: Option<&str>,
        password: Option<&str>,
        program: (&str, &str),
    ) -> Result<Self, ProvisionError> {
        let client = match url.starts_with("https://") {
            true => encrypted(url, Some(tls))?,
            false => Client::default(),
        };
        let mut client = client.with_product_info(program.0, program.1).with_url(url);
        if let Some(user) = user {
            client = client.with_user(user);
        }
        if let Some(password) = password {
            client = client.with_password(password);
        }
        Ok(Self {
            client,
            url: url.to_owned(),
        })
    }

    /// Runs one statement, which may take so long.
    pub async fn run(&self, statement: &str, limit: Duration) -> Result<(), ProvisionError> {
        self.within(limit, self.client.query_raw(statement).execute())
            .await
    }

    /// What one question about tables is answered, which is quick and small.
    pub async fn ask<R>(&self, question: &str) -> Result<Vec<R>, ProvisionError>
    where
        R: clickhouse::RowOwned + clickhouse::RowRead,
    {
        self.ask_within(question, ANSWER).await
    }

    /// What one question about rows is answered, which may take so long.
    pub async fn ask_within<R>(&self, question: &str, limit: Duration) -> Result<Vec<R>, ProvisionError>
    where
        R: clickhouse::RowOwned + clickhouse::RowRead,
    {
        self.within(limit, self.client.query_raw(question).fetch_all::<R>())
            .await
    }

    /// Gives the answer to one question to `each`, piece by piece, as ClickHouse formats it. All of it may take any time, as long
    /// as there is never nothing for as long as `silence`.
    pub async fn stream<E: From<ProvisionError>>(
        &self,
        question: &str,
        format: &str,
        silence: Duration,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |error| E::from(failure::of(&self.url, &error));
        let mut cursor = self
            .client
            .query_raw(question)
            .fetch_bytes(format)
            .map_err(failed)?;
        loop {
            let next = tokio::time::timeout(silence, cursor.next()).await;
            let next = next.map_err(|_| {
                let why = format!("no answer in time: nothing came for {silence:?}");
                failure::unavailable(&self.url, why)
            })?;
            match next.map_err(failed)? {
                Some(piece) => each(&piece)?,
                None => return Ok(()),
            }
        }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        job: impl Future<Output = Result<T, clickhouse::error::Error>>,
    ) -> Result<T, ProvisionError> {
        let job = async {
            tokio::time::timeout(limit, job)
                .await
                .unwrap_or(Err(clickhouse::error::Error::TimedOut))
        };
        job.await.map_err(|error| failure::of(&self.url, &error))
    }

    async fn execute(&self, statement: &str) -> Result<(), ProvisionError> {
        self.within(STATEMENT, self.client.query_raw(statement).execute())
            .await
    }
}

impl ClickHouseAdmin {
    pub fn new() -> Self {
        Self::default()
    }

    async fn server(&self, of: &ClickHouseServer) -> Result<Server, ProvisionError> {
        let url = of.url.as_str();
        let client = match url.starts_with("https://") {
            true => encrypted(url, of.tls.as_ref())?,
            false => self.client.clone(),
        };
        let mut client = client
            .with_product_info("penstock-operator", env!("CARGO_PKG_VERSION"))
            .with_url(url);
        if let Some(file) = &of.username_file {
            client = client.with_user(credential(url, file).await?);
        }
        if let Some(file) = &of.password_file {
            client = client.with_password(credential(url, file).await?);
        }
        Ok(Server {
            client,
            url: url.to_owned(),
        })
    }
}

async fn credential(url: &str, file: &PathBuf) -> Result<String, ProvisionError> {
    match tokio::fs::read_to_string(file).await {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(failure::unavailable(url, format!("{}: {error}", file.display()))),
    }
}

impl TableAdmin for ClickHouseAdmin {
    fn ensure_table<'a>(
        &'a self,
        server: &'a ClickHouseServer,
        spec: &'a TableSpec,
        claim: &'a Claim,
    ) -> Answer<'a, Ensured> {
        Box::pin(async move { ensure(&self.server(server).await?, spec, claim).await })
    }

    fn delete_table<'a>(
        &'a self,
        server: &'a ClickHouseServer,
        spec: &'a TableSpec,
        owner: &'a Owner,
    ) -> Answer<'a, Deletion> {
        Box::pin(async move { delete(&self.server(server).await?, spec, owner).await })
    }

    fn ping<'a>(&'a self, server: &'a ClickHouseServer) -> Answer<'a, ()> {
        Box::pin(async move {
            let server = self.server(server).await?;
            server
                .within(ANSWER, server.client.query_raw("SELECT 1").execute())
                .await
        })
    }
}

fn full_name(spec: &TableSpec) -> String {
    spec.quoted(&spec.table)
}

fn create_database(spec: &TableSpec, comment: &str) -> String {
    format!(
        "CREATE DATABASE IF NOT EXISTS {}{} COMMENT {}",
        quote_identifier(&spec.database),
        spec.on_cluster(),
        quote_literal(comment)
    )
}

fn drop_database(spec: &TableSpec) -> String {
    format!(
        "DROP DATABASE IF EXISTS {}{}",
        quote_identifier(&spec.database),
        spec.on_cluster()
    )
}

/// SYNC: a table of the same name may be made right after.
fn drop_table_statement(spec: &TableSpec, table: &str) -> String {
    format!(
        "DROP TABLE IF EXISTS {}{} SYNC",
        spec.quoted(table),
        spec.on_cluster()
    )
}

fn set_comment(spec: &TableSpec, comment: &str) -> String {
    format!("{} MODIFY COMMENT {}", spec.alter(), quote_literal(comment))
}

/// The statement that makes the event table, with that comment.
fn create_event_table(spec: &TableSpec, comment: &str) -> String {
    EventTable {
        database: &spec.database,
        table: &spec.table,
        cluster: spec.cluster.as_deref(),
        comment,
        dedup_window: dedup_window(spec.partitions),
    }
    .create_statement()
}

async fn ensure(server: &Server, spec: &TableSpec, claim: &Claim) -> Result<Ensured, ProvisionError> {
    let outcome = ensure_events(server, spec, claim).await?;
    let changes = changes_beside(spec, &observe::beside(server, spec).await?, claim)?;
    let (changed, letters) = make_beside(server, changes).await?;
    let outcome = match outcome {
        Outcome::Unchanged if !changed.is_empty() => Outcome::Updated(changed),
        Outcome::Updated(before) => Outcome::Updated([before, changed].concat()),
        other => other,
    };
    Ok(Ensured { outcome, letters })
}

/// What to do beside the event table.
#[derive(Debug)]
pub(super) struct ChangesBeside {
    /// For rollups.
    pub(super) steps: Vec<Step>,
    /// For the table of dead letters, or why there is none for it. It comes last, and keeps nothing else.
    pub(super) letters: Result<Option<Step>, ProvisionError>,
}

/// What to do so that all that is asked for beside the event table is there.
pub(super) fn changes_beside(
    spec: &TableSpec,
    beside: &[Beside],
    claim: &Claim,
) -> Result<ChangesBeside, ProvisionError> {
    Ok(ChangesBeside {
        steps: rollup::changes(spec, beside, claim)?,
        letters: letters::changes(spec, beside, claim),
    })
}

/// Takes them; what was done, and why the table of dead letters is not as asked.
async fn make_beside(
    server: &Server,
    changes: ChangesBeside,
) -> Result<(Vec<String>, Option<ProvisionError>), ProvisionError> {
    let mut done = run(server, changes.steps).await?;
    let letters = match changes.letters {
        Ok(step) => run(server, step).await,
        Err(refused) => Err(refused),
    };
    let failed = letters.map(|made| done.extend(made)).err();
    Ok((done, failed))
}

/// The database and the event table.
async fn ensure_events(server: &Server, spec: &TableSpec, claim: &Claim) -> Result<Outcome, ProvisionError> {
    let created = Mark::created_for(&claim.owner);
    if !fits_in(server, spec).await? {
        server.execute(&create_database(spec, &created.comment())).await?;
    }
    let mut there = observe::table(server, spec).await?;
    let verdict = judge(spec, there.as_ref(), claim)?;
    if verdict == Verdict::Create {
        let statement = create_event_table(spec, &created.comment());
        server.execute(&statement).await?;
        // IF NOT EXISTS: someone may have been faster.
        there = observe::table(server, spec).await?;
        if judge(spec, there.as_ref(), claim)? != Verdict::Keep {
            return Err(ProvisionError::NotYet(format!(
                "{} appeared while it was being created",
                full_name(spec)
            )));
        }
    }
    let Some(table) = there else {
        return Err(ProvisionError::NotYet(format!("{} vanished", full_name(spec))));
    };
    let steps = plan::changes(spec, &table.observed, is_ours(&table, claim))
        .or_else(|refusal| refused(spec, refusal))?;
    if verdict == Verdict::Adopt {
        comment(server, spec, &adopted(&table, claim)).await?;
    }
    let changed = run(server, steps).await?;
    Ok(match verdict {
        Verdict::Create => Outcome::Created,
        Verdict::Adopt => Outcome::Adopted,
        Verdict::Keep if changed.is_empty() => Outcome::Unchanged,
        Verdict::Keep => Outcome::Updated(changed),
    })
}

/// What a refusal comes to: the steps that a person has agreed to, or the error.
pub(super) fn refused(spec: &TableSpec, refusal: Refusal) -> Result<Vec<Step>, ProvisionError> {
    Err(match refusal {
        Refusal::Rewrite(rewrite) if spec.approved.as_ref() == Some(&rewrite.fingerprint()) => {
            return Ok(rewrite.steps());
        }
        Refusal::Rewrite(rewrite) => ProvisionError::SchemaConflict(rewrite.to_string()),
        Refusal::Schema(text) => ProvisionError::SchemaConflict(text),
        Refusal::Sharded(text) => ProvisionError::Sharded(text),
        Refusal::Window(text) => ProvisionError::DedupWindowTooSmall(text),
    })
}

/// Takes the steps; what was done.
async fn run(server: &Server, steps: impl IntoIterator<Item = Step>) -> Result<Vec<String>, ProvisionError> {
    let mut done = Vec::new();
    for step in steps {
        server.execute(&step.statement).await?;
        done.push(step.does);
    }
    Ok(done)
}

fn judge(spec: &TableSpec, there: Option<&Table>, claim: &Claim) -> Result<Verdict, ProvisionError> {
    let mark = there.and_then(Table::mark);
    ownership::decide(there.is_some(), mark.as_ref(), claim)
        .map_err(|why| ProvisionError::refused(format!("table {}.{}", spec.database, spec.table), why))
}

/// Whether the database is there; refuses what no table can be made in.
async fn fits_in(server: &Server, spec: &TableSpec) -> Result<bool, ProvisionError> {
    if let Some(cluster) = &spec.cluster {
        fit_cluster(cluster, observe::shards(server, cluster).await?)?;
    }
    let database = observe::database(server, &spec.database).await?;
    if let Some(database) = &database {
        refuse_cluster(spec, database)?;
    }
    Ok(database.is_some())
}

/// Whether Penstock made the table, for this pipeline.
fn is_ours(table: &Table, claim: &Claim) -> bool {
    table
        .mark()
        .is_some_and(|mark| mark.owner == claim.owner && mark.created)
}

/// The comment of a table that is adopted.
fn adopted(table: &Table, claim: &Claim) -> String {
    let mark = Mark {
        owner: claim.owner.clone(),
        created: false,
    };
    observe::with_mark(&mark, &table.comment)
}

/// A pipeline writes to one server, whose rows the others of the cluster copy.
fn fit_cluster(cluster: &str, shards: u64) -> Result<(), ProvisionError> {
    match shards {
        1 => Ok(()),
        0 => Err(ProvisionError::NotSupported(format!(
            "clickhouse.cluster: the server knows no cluster {cluster}; `SELECT DISTINCT cluster FROM system.clusters` \
             lists those that it knows"
        ))),
        shards => Err(ProvisionError::Sharded(format!(
            "clickhouse.cluster: {cluster} has {shards} shards, and a pipeline writes to one"
        ))),
    }
}

/// A Replicated database is a cluster's; a pipeline writes to one server.
fn refuse_cluster(spec: &TableSpec, database: &Database) -> Result<(), ProvisionError> {
    let name = quote_identifier(&spec.database);
    match (database.engine.as_str(), database.shards) {
        ("Replicated", shards) if shards > 1 => Err(ProvisionError::Sharded(format!(
            "database {name} spans {shards} shards, and a pipeline writes to one"
        ))),
        ("Replicated", _) => Err(ProvisionError::NotSupported(format!(
            "database {name} has the engine Replicated: a table made in it would hold other rows on every replica. \
             Create a ReplicatedReplacingMergeTree table in an Atomic database and adopt it"
        ))),
        _ => Ok(()),
    }
}

async fn comment(server: &Server, spec: &TableSpec, text: &str) -> Result<(), ProvisionError> {
    server.execute(&set_comment(spec, text)).await
}

async fn delete(server: &Server, spec: &TableSpec, owner: &Owner) -> Result<Deletion, ProvisionError> {
    for name in rollup::owned(spec, &observe::beside(server, spec).await?, owner) {
        drop_table(server, spec, &name).await?;
    }
    let there = observe::table(server, spec).await?;
    let deletion = match &there {
        None => Deletion::Absent,
        Some(table) => match table.mark() {
            Some(mark) if mark.owner == *owner && mark.created => {
                drop_table(server, spec, &spec.table).await?;
                Deletion::Deleted
            }
            Some(mark) if mark.owner == *owner => {
                comment(server, spec, observe::without_mark(&table.comment)).await?;
                Deletion::Kept
            }
            _ => Deletion::Kept,
        },
    };
    if deletion != Deletion::Kept
        && let Some(database) = observe::database(server, &spec.database).await?
        && database.tables == 0
        && observe::mark_of(&database.comment).is_some_and(|mark| mark.owner == *owner && mark.created)
    {
        server.execute(&drop_database(spec)).await?;
    }
    Ok(deletion)
}

async fn drop_table(server: &Server, spec: &TableSpec, table: &str) -> Result<(), ProvisionError> {
    let statement = drop_table_statement(spec, table);
    let dropped = tokio::time::timeout(STATEMENT, server.client.query_raw(&statement).execute()).await;
    match dropped.unwrap_or(Err(clickhouse::error::Error::TimedOut)) {
        // A guard against a slip of the hand; deletionPolicy: Delete is none.
        Err(error) if failure::code(&error) == Some(TOO_LARGE_TO_DROP) => {
            let unguarded = server
                .client
                .query_raw(&statement)
                .with_setting("max_table_size_to_drop", "0");
            server.within(STATEMENT, unguarded.execute()).await
        }
        other => other.map_err(|error| failure::of(&server.url, &error)),
    }
}

#[cfg(test)]
mod tests {
    use penstock_crds::Reason;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Refuses statements that speak of dead letters, and takes all others.
    async fn refusing_letters(listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut request, mut piece) = (Vec::new(), [0; 4096]);
            // Each statement here is one word, which the body ends with.
            while !request.ends_with(b"LETTERS") && !request.ends_with(b"ROLLUP") {
                match stream.read(&mut piece).await {
                    Ok(read @ 1..) => request.extend_from_slice(&piece[..read]),
                    _ => break,
                }
            }
            let (status, body) = match request.ends_with(b"LETTERS") {
                true => ("500 Refused", "Code: 497. DB::Exception: Not enough privileges."),
                false => ("200 OK", ""),
            };
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    }

    #[tokio::test]
    async fn a_table_of_dead_letters_that_cannot_be_made_keeps_no_rollup() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = tokio::spawn(refusing_letters(listener));
        let server = Server::new(&url, &ClientTls::default(), None, None, ("test", "1")).unwrap();
        let step = |statement: &str, does: &str| Step {
            statement: statement.into(),
            does: does.into(),
        };
        let changes = |letters| ChangesBeside {
            steps: vec![step("ROLLUP", "rollup made")],
            letters,
        };
        for (letters, reason) in [
            (Ok(None), None),
            (
                Ok(Some(step("LETTERS", "letters made"))),
                Some(Reason::ClickHouseRejected),
            ),
            (
                Err(ProvisionError::SchemaConflict("no".into())),
                Some(Reason::SchemaConflict),
            ),
        ] {
            let (done, failed) = make_beside(&server, changes(letters)).await.unwrap();
            assert_eq!(
                (done, failed.map(|why| why.reason())),
                (vec!["rollup made".into()], reason)
            );
        }
        let both = changes(Ok(Some(step("ROLLUP", "letters made"))));
        let (done, failed) = make_beside(&server, both).await.unwrap();
        assert_eq!((done.len(), failed), (2, None));
        served.abort();
    }

    /// Sends the beginning of an answer, and then nothing; returns when the client has gone.
    async fn stalling(listener: TcpListener, beginning: String) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut piece = [0; 4096];
        // What comes before a question is no answer.
        let _ = stream.read(&mut piece).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        while let Ok(1..) = stream.read(&mut piece).await {}
    }

    #[tokio::test]
    async fn an_answer_that_stops_coming_is_given_up() {
        const HEAD: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        for (beginning, seen) in [
            (String::new(), ""),
            (HEAD.to_owned(), ""),
            (format!("{HEAD}3\r\n{{}}\n\r\n"), "{}\n"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let served = tokio::spawn(stalling(listener, beginning));
            let server = Server::new(&url, &ClientTls::default(), None, None, ("test", "1")).unwrap();
            let mut read = Vec::new();
            let answer = server.stream("Q", "JSONEachRow", Duration::from_millis(300), |piece| {
                read.extend_from_slice(piece);
                Ok::<_, ProvisionError>(())
            });
            let ended = tokio::time::timeout(Duration::from_secs(60), answer).await;
            let failed = ended.expect("it ends").unwrap_err();
            assert_eq!(
                failed.to_string(),
                format!("ClickHouse at {url} cannot be reached: no answer in time: nothing came for 300ms")
            );
            assert_eq!(read, seen.as_bytes());
            served.abort();
        }
    }
}
