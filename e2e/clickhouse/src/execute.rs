//! Runs one request's statement on one connection: prepares the connection, judges the statement, sends rows apart
//! from it. Blocking; called on the pool for blocking work.

use bytes::Bytes;

use crate::body;
use crate::engine::{Connection, Output};
use crate::failure::{Code, Failure};
use crate::frames;
use crate::policy::{Policy, ROWS_ARE_VALUES, denied};
use crate::request::Request;
use crate::statement::{Shape, Source, Statement};
use crate::users::Role;

/// What came with a request besides its parameters.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) role: Role,
    /// The body as it arrived, whole.
    pub(crate) body: Bytes,
    /// Bounds what a compressed body may grow to.
    pub(crate) limit: usize,
}

/// A statement's result, with what the reply's headers say about it.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) output: Output,
    pub(crate) format: String,
}

impl Job {
    /// Decodes the body; afterwards `request.query` and `body` hold what they say. Fails without side effects.
    fn decode(&mut self) -> Result<Vec<Bytes>, Failure> {
        let mut body = std::mem::take(&mut self.body);
        if let Some(encoding) = self.request.content_encoding {
            body = encoding.decode(&body, self.limit)?;
        }
        if let Some(boundary) = self.request.form_boundary.take() {
            self.request.take_form(&body, &boundary)?;
            return Ok(Vec::new());
        }
        if self.request.decompress {
            return frames::decode(&body, self.limit);
        }
        Ok(if body.is_empty() { Vec::new() } else { vec![body] })
    }

    /// The text of the statement and the rows that follow it in the body.
    fn text_and_rows(&mut self) -> Result<(Bytes, Vec<Bytes>), Failure> {
        let chunks = self.decode()?;
        let query = std::mem::take(&mut self.request.query);
        if query.is_empty() {
            return Ok((join(chunks), Vec::new()));
        }
        let query = Bytes::from(query);
        // What does not parse by itself may be the beginning of what does.
        let takes_rows = match Statement::parse(&query) {
            Ok(Some(Statement {
                shape: Shape::Insert(insert),
                ..
            })) => {
                matches!(&insert.source, Source::Rows { head, .. } if head.len() < query.len())
            }
            _ => false,
        };
        if takes_rows || chunks.is_empty() {
            return Ok((query, chunks));
        }
        // As the server does: what the URL begins, the body goes on with.
        let mut parts = vec![query, Bytes::from_static(b"\n")];
        parts.extend(chunks);
        Ok((join(parts), Vec::new()))
    }
}

fn join(mut chunks: Vec<Bytes>) -> Bytes {
    match chunks.len() {
        1 => chunks.remove(0),
        _ => chunks.concat().into(),
    }
}

/// What a job is about to run, for the query log: the statement without its rows.
pub(crate) type Shown = String;

/// Runs a job. The text that the log shows is written to `shown` as soon as it is known.
pub(crate) fn run(
    connection: &mut Connection,
    job: &mut Job,
    policy: &Policy,
    shown: &mut Shown,
) -> Result<Done, Failure> {
    let (text, body_rows) = job.text_and_rows()?;
    let statement = Statement::parse(&text)?.ok_or_else(|| Failure::new(Code::SyntaxError, "Empty query"))?;
    let sql_end = match &statement.shape {
        Shape::Insert(insert) => match &insert.source {
            Source::Rows { data_start, .. } => *data_start,
            _ => text.len(),
        },
        _ => text.len(),
    };
    *shown = String::from_utf8_lossy(&text[..sql_end]).trim_end().to_string();
    refuse_files(&statement)?;
    if job.role == Role::Insert {
        policy.check(&statement)?;
        for (setting, _) in &job.request.settings {
            policy.check_setting(setting)?;
        }
        if let Some(database) = &job.request.database {
            policy.check_database(database)?;
        }
    }
    let read_only = job.request.read_only
        || job
            .request
            .settings
            .iter()
            .any(|(name, value)| name == "readonly" && value != "0");
    let undo = match job.request.session {
        Some(_) => Some(Undo::of(connection, &job.request)?),
        None => None,
    };
    prepare(connection, &job.request)?;
    let outcome = judge(connection, job.role, read_only, &statement, sql_end)
        .and_then(|()| run_statement(connection, job, &statement, &text, body_rows));
    if let Some(undo) = undo {
        let used = matches!(&statement.shape, Shape::Other(word) if word == "USE");
        undo.apply(connection, used)?;
    }
    outcome
}

fn run_statement(
    connection: &mut Connection,
    job: &Job,
    statement: &Statement<'_>,
    text: &Bytes,
    body_rows: Vec<Bytes>,
) -> Result<Done, Failure> {
    let default_format = job.request.default_format.as_deref().unwrap_or("TabSeparated");
    let params = &job.request.params;
    if let Shape::Insert(insert) = &statement.shape {
        match &insert.source {
            Source::Rows {
                head,
                format,
                data_start,
            } => {
                let mut rows = vec![text.slice(*data_start..)];
                rows.extend(body_rows);
                if job.role == Role::Insert && format.eq_ignore_ascii_case("values") {
                    let off = ROWS_ARE_VALUES.map(|name| format!("{name} = 0")).join(", ");
                    connection.query(format!("SET {off}").as_bytes(), "Null", &[])?;
                }
                // The line break ends a comment that the head may end in.
                let output = connection.insert(format!("{head}\n").as_bytes(), format, params, &rows)?;
                return Ok(Done {
                    output,
                    format: default_format.to_string(),
                });
            }
            Source::Input => {
                return Err(Failure::new(
                    Code::NotImplemented,
                    "INSERT … SELECT … FROM input() is not supported here",
                ));
            }
            Source::Query | Source::Infile => {}
        }
    }
    let output = connection.query(text, default_format, params)?;
    let format = statement
        .output_format()
        .unwrap_or_else(|| default_format.to_string());
    Ok(Done { output, format })
}

/// The engine's library would read and write files of this machine for any client; the server does neither.
fn refuse_files(statement: &Statement<'_>) -> Result<(), Failure> {
    if statement.has_words(&["INTO", "OUTFILE"]) {
        return Err(Failure::new(
            Code::IntoOutfileNotAllowed,
            "INTO OUTFILE is not allowed",
        ));
    }
    match &statement.shape {
        Shape::Insert(insert) if insert.source == Source::Infile => Err(Failure::new(
            Code::BadArguments,
            "Query has infile and was sent directly to the server",
        )),
        _ => Ok(()),
    }
}

/// Asks the engine's parser: it must agree with this program about an insert-only user's statement, and a request that
/// may only read must only read.
fn judge(
    connection: &mut Connection,
    role: Role,
    read_only: bool,
    statement: &Statement<'_>,
    sql_end: usize,
) -> Result<(), Failure> {
    if role == Role::Admin && !read_only {
        return Ok(());
    }
    let analysis = connection.classify(&statement.text[..sql_end]);
    let reads = analysis.statements == 1 && analysis.read_only;
    if read_only {
        let session_only = matches!(&statement.shape, Shape::Other(word) if word == "SET" || word == "USE");
        // What does not parse is refused by the engine, with its own words.
        if analysis.statements > 0 && !reads && !session_only {
            return Err(Failure::new(
                Code::Readonly,
                "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. \
                 You should use method POST for modifying queries",
            ));
        }
    }
    if role == Role::Insert {
        match &statement.shape {
            Shape::Select if analysis.statements > 0 && !reads => {
                Err(denied("a SELECT that changes something"))
            }
            Shape::Insert(_) if analysis.statements > 1 => Err(denied("more than one statement")),
            _ => Ok(()),
        }
    } else {
        Ok(())
    }
}

/// Sets the request's database and settings on its connection.
fn prepare(connection: &mut Connection, request: &Request) -> Result<(), Failure> {
    let mut sql = String::new();
    if let Some(database) = &request.database {
        sql.push_str(&format!("USE {};", quoted(database, '`')));
    }
    let settings: Vec<String> = request
        .settings
        .iter()
        .filter(|(name, _)| name != "readonly")
        .map(|(name, value)| format!("{name} = {}", quoted(value, '\'')))
        .collect();
    if !settings.is_empty() {
        sql.push_str(&format!("SET {}", settings.join(", ")));
    }
    if !sql.is_empty() {
        connection.query(sql.as_bytes(), "Null", &[])?;
    }
    Ok(())
}

fn quoted(text: &str, quote: char) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(quote);
    for c in text.chars() {
        if c == quote || c == '\\' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push(quote);
    quoted
}

/// In a session, what a request sets by its URL holds for that request only.
#[derive(Debug)]
struct Undo {
    database: Option<String>,
    settings: Option<String>,
}

impl Undo {
    fn of(connection: &mut Connection, request: &Request) -> Result<Self, Failure> {
        let database = match request.database {
            Some(_) => {
                let output = connection.query(b"SELECT currentDatabase()", "RawBLOB", &[])?;
                Some(String::from_utf8_lossy(&output.data).into_owned())
            }
            None => None,
        };
        let names: Vec<String> = request
            .settings
            .iter()
            .map(|(name, _)| quoted(name, '\''))
            .collect();
        let mut settings = None;
        if !names.is_empty() {
            let sql = format!(
                "SELECT name, value, changed FROM system.settings WHERE name IN ({})",
                names.join(", ")
            );
            let output = connection.query(sql.as_bytes(), "TabSeparated", &[])?;
            let text = String::from_utf8_lossy(&output.data).into_owned();
            let assignments: Vec<String> = text
                .lines()
                .filter(|line| !line.starts_with("readonly\t"))
                .filter_map(|line| {
                    let mut fields = line.split('\t');
                    let (name, value, changed) = (fields.next()?, fields.next()?, fields.next()?);
                    // Tab-separated text escapes as a string literal does.
                    Some(if changed == "1" {
                        format!("{name} = '{value}'")
                    } else {
                        format!("{name} = DEFAULT")
                    })
                })
                .collect();
            settings = (!assignments.is_empty()).then(|| format!("SET {}", assignments.join(", ")));
        }
        Ok(Self { database, settings })
    }

    fn apply(self, connection: &mut Connection, used: bool) -> Result<(), Failure> {
        if let Some(database) = self.database.filter(|_| !used) {
            connection.query(format!("USE {}", quoted(&database, '`')).as_bytes(), "Null", &[])?;
        }
        if let Some(settings) = self.settings {
            connection.query(settings.as_bytes(), "Null", &[])?;
        }
        Ok(())
    }
}

/// Bounds checked before a body is read, and by `frames` and `body` while it grows.
pub(crate) fn check_length(announced: Option<u64>, limit: usize) -> Result<(), Failure> {
    match announced {
        Some(length) if length > limit as u64 => Err(body::too_large(limit)),
        _ => Ok(()),
    }
}
