//! A running `clickhouse-front`, and requests to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) const ADMIN: (&str, &str) = ("admin", "a secret");
pub(crate) const WRITER: (&str, &str) = ("writer", "another");

pub(crate) struct Server {
    child: Child,
    folder: TempDir,
    flags: Vec<String>,
    port: u16,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_string()
    }

    /// The status and the error code, if any.
    pub(crate) fn outcome(&self) -> (u16, Option<u32>) {
        (
            self.status,
            self.header("x-clickhouse-exception-code")
                .map(|code| code.parse().expect("a number")),
        )
    }
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let (child, port) = spawn(&folder, &flags, 0);
        Self {
            child,
            folder,
            flags,
            port,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kills");
        self.child.wait().expect("waits");
    }

    /// Starts again on the same data and the same port.
    pub(crate) fn restart(&mut self) {
        (self.child, self.port) = spawn(&self.folder, &self.flags, self.port);
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().expect("waits") {
                return status;
            }
            assert!(Instant::now() < deadline, "the program does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a request as a user. `parameters` go into the URL as they are.
    pub(crate) fn send(
        &self,
        user: (&str, &str),
        parameters: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut request = agent().post(format!("{}/?{parameters}", self.url()));
        request = request
            .header("X-ClickHouse-User", user.0)
            .header("X-ClickHouse-Key", user.1);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.send(body).expect("an answer"))
    }

    pub(crate) fn get(&self, user: (&str, &str), path: &str) -> Answer {
        let request = agent().get(format!("{}{path}", self.url()));
        let request = request
            .header("X-ClickHouse-User", user.0)
            .header("X-ClickHouse-Key", user.1);
        answer(request.call().expect("an answer"))
    }

    pub(crate) fn query(&self, sql: &str) -> Answer {
        self.send(ADMIN, "", &[], sql.as_bytes())
    }

    /// Runs a statement that must succeed.
    pub(crate) fn must(&self, sql: &str) -> String {
        let answer = self.query(sql);
        assert_eq!(answer.status, 200, "{sql}: {}", answer.text());
        answer.text()
    }

    pub(crate) fn count(&self, table: &str) -> u64 {
        self.must(&format!("SELECT count() FROM {table}"))
            .parse()
            .expect("a number")
    }

    /// Waits until a statement with these words in it is in the engine, beside the one that asks.
    pub(crate) fn wait_until_running(&self, words: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let ask = format!("SELECT count() FROM system.processes WHERE query LIKE '%{words}%'");
        while self.must(&ask) != "2" {
            assert!(Instant::now() < deadline, "{words} does not run");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends bytes as they are, ends the sending side, and reads until the server closes.
    pub(crate) fn send_raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connects");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("sets");
        stream.write_all(bytes).expect("writes");
        stream.shutdown(Shutdown::Write).expect("ends");
        let mut answer = Vec::new();
        // A reset is as good an end as a close.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &TempDir, flags: &[String], port: u16) -> (Child, u16) {
    let mut child = command(&folder.path().join("data"))
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .args(flags)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped"))
        .read_line(&mut line)
        .expect("reads");
    let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
    (
        child,
        port.unwrap_or_else(|| panic!("the program does not say where it listens: {line:?}")),
    )
}

pub(crate) fn command(data: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clickhouse-front"));
    command
        .arg("--lib")
        .arg(crate::library::path())
        .arg("--path")
        .arg(data)
        .args(["--user", &format!("{}:{}", ADMIN.0, ADMIN.1)])
        .args(["--user", &format!("{}:{}:insert", WRITER.0, WRITER.1)]);
    command
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .into()
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> Answer {
    Answer {
        status: response.status().as_u16(),
        headers: response
            .headers()
            .iter()
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect(),
        body: response
            .body_mut()
            .with_config()
            .limit(1 << 30)
            .read_to_vec()
            .expect("a whole body"),
    }
}

/// One block of the Native format with the columns `a UInt64, b String`.
pub(crate) fn native_block(rows: &[(u64, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    push_length(&mut block, 2);
    push_length(&mut block, rows.len());
    push_text(&mut block, "a");
    push_text(&mut block, "UInt64");
    rows.iter()
        .for_each(|(a, _)| block.extend_from_slice(&a.to_le_bytes()));
    push_text(&mut block, "b");
    push_text(&mut block, "String");
    rows.iter().for_each(|(_, b)| push_text(&mut block, b));
    block
}

fn push_text(block: &mut Vec<u8>, text: &str) {
    push_length(block, text.len());
    block.extend_from_slice(text.as_bytes());
}

fn push_length(block: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        block.push(length as u8 | 0x80);
        length >>= 7;
    }
    block.push(length as u8);
}
