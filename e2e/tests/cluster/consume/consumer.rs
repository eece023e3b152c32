//! A consumer as a process: started, killed, stopped, asked for its metrics.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use penstock_e2e::trial::port;

use super::pipeline::Pipeline;

pub(crate) struct Consumer {
    child: Child,
    admin: u16,
    log: PathBuf,
}

impl Consumer {
    /// Starts one that reaches ClickHouse at `url`; `settings` are lines of YAML.
    pub(crate) fn start_at(pipeline: &Pipeline, url: &str, settings: &str) -> Self {
        Self::start_with(pipeline, url, settings, &[])
    }

    /// The same with variables, which go before the file.
    pub(crate) fn start_with(
        pipeline: &Pipeline,
        url: &str,
        settings: &str,
        variables: &[(String, String)],
    ) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = pipeline.folder.path();
        let users = pipeline.kit.clickhouse_users().expect("users");
        let secret = |name: &str, value: &str| {
            let path = folder.join(name);
            std::fs::write(&path, value).expect("written");
            path.display().to_string()
        };
        let username = secret("username", &users.consumer.user);
        let password = secret("password", &users.consumer.password);
        let admin = port();
        pipeline.admins.lock().expect("not poisoned").push(admin);
        let config = folder.join(format!("consume-{number}.yaml"));
        let yaml = format!(
            "version: 1\npipeline: {{namespace: test, name: {topic}}}\nadmin: 127.0.0.1:{admin}\n\
             kafka: {{bootstrap: '{bootstrap}', topic: {topic}, deadLetterTopic: {letters}}}\n\
             group: penstock.test.{topic}\n\
             clickhouse:\n  url: '{url}'\n  database: {database}\n  table: events\n  usernameFile: {username}\n  \
             passwordFile: {password}\n  insertTimeout: 10s\n{settings}",
            topic = pipeline.topic,
            bootstrap = pipeline.kit.kafka_bootstrap().expect("Kafka runs"),
            letters = pipeline.letters_topic(),
            database = pipeline.database,
        );
        std::fs::write(&config, yaml).expect("written");
        let log = folder.join(format!("consume-{number}.log"));
        let out = File::create(&log).expect("a log");
        let child = Command::new(pipeline.kit.program("penstock-dataplane"))
            .args(["consume", "--config"])
            .arg(&config)
            .env_clear()
            .envs(variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("the log again"))
            .stderr(out)
            .spawn()
            .expect("the consumer starts");
        Self { child, admin, log }
    }

    pub(crate) fn start(pipeline: &Pipeline) -> Self {
        Self::start_at(pipeline, &pipeline.kit.clickhouse_url(), "")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("signalled");
    }

    pub(crate) fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("dead");
    }

    /// Stops it as Kubernetes does, and says how long it took.
    pub(crate) fn stop(mut self) -> Duration {
        let begun = Instant::now();
        self.signal(Signal::SIGTERM);
        while begun.elapsed() < Duration::from_secs(30) {
            if let Some(status) = self.child.try_wait().expect("waited") {
                assert!(status.success(), "{status}: {}", self.log());
                return begun.elapsed();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it did not stop within 30 s: {}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// User and system time so far, and the most memory that it ever had, in bytes.
    pub(crate) fn usage(&self) -> (Duration, u64) {
        let read = |file: &str| {
            std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("it runs")
        };
        let stat = read("stat");
        let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
        let ticks: u64 =
            fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
        let status = read("status");
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
            .expect("VmHWM");
        (Duration::from_millis(ticks * 10), peak * 1024)
    }

    /// `/readyz`: status and body; 0 while nobody answers.
    pub(crate) fn readyz(&self) -> (u16, String) {
        get(self.admin, "/readyz").unwrap_or_default()
    }

    /// The sum of a metric over all its labels that contain `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, text) = get(self.admin, "/metrics").unwrap_or_default();
        text.lines()
            .filter(|line| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
            })
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    pub(crate) fn wait_for(&mut self, what: &str, patience: Duration, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + patience;
        while !holds(self) {
            assert!(
                self.is_running(),
                "it ended while waiting for {what}: {}",
                self.log()
            );
            assert!(
                Instant::now() < deadline,
                "no {what} within {patience:?}: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Asks the admin port of a consumer; status and body.
pub(super) fn get(admin: u16, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", admin))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
