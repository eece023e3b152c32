//! A pipeline of a test's own: a namespace with an App and an IngestionPipeline, traffic into it, rows out of it.
//!
//! Tests run beside each other on one instance, each in its [`Turn`], so each has a [`Trial`] of its own; its namespace,
//! and with it all that the operator made there, is deleted when the trial is dropped.

mod meanwhile;
mod order;
mod pods;
mod spare;
mod traffic;
mod turn;
mod volumes;

use std::collections::HashSet;
use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub use meanwhile::meanwhile;
pub use pods::{Pod, kill_operator};
pub use spare::SpareKafka;
pub use traffic::{Acknowledged, Traffic};
pub use turn::Turn;
pub use volumes::Volumes;

use crate::error::{Context, Error, Result};
use crate::instance::Instance;
use crate::quickstart;
use crate::run::run;
use crate::secret;

/// The App of every trial, and its key.
pub const APP: &str = "shop";
/// The IngestionPipeline of every trial.
pub const PIPELINE: &str = "events";

const INGEST_RESOURCES: &str = "resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 512Mi}}";
const CONSUME_RESOURCES: &str = "resources: {requests: {cpu: 10m, memory: 128Mi}, limits: {memory: 1Gi}}";

/// A spec in which the section of a component, a flow mapping, has these resources.
fn small(spec: &str, component: &str, resources: &str) -> String {
    let section = format!("  {component}: {{");
    if spec.contains(&section) {
        return spec.replacen(&section, &format!("{section}{resources}, "), 1);
    }
    format!("{section}{resources}}}\n{spec}")
}

/// One namespace with a pipeline in it.
#[derive(Debug)]
pub struct Trial<'a> {
    kit: &'a Instance,
    namespace: String,
}

impl<'a> Trial<'a> {
    /// An empty namespace under the strictest Pod Security level.
    pub fn empty(kit: &'a Instance, name: &str) -> Result<Self> {
        let namespace = format!("{name}-{}", secret::short_id()?);
        let trial = Self { kit, namespace };
        trial.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {}\n  labels: {{pod-security.kubernetes.io/enforce: restricted}}\n",
            trial.namespace
        ))?;
        Ok(trial)
    }

    /// A namespace with an App and a pipeline; `spec` is YAML that goes below the pipeline's `spec:`, indented by two.
    pub fn start(kit: &'a Instance, name: &str, spec: &str) -> Result<Self> {
        let trial = Self::empty(kit, name)?;
        trial.apply(&trial.app(APP))?;
        trial.apply(&trial.pipeline(spec))?;
        trial.ready()?;
        Ok(trial)
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// An App of that name which the trial's pipeline accepts.
    pub fn app(&self, name: &str) -> String {
        format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: App\nmetadata: {{name: {name}, namespace: {}, labels: {{team: trial}}}}\n\
             spec: {{displayName: Trial}}\n",
            self.namespace
        )
    }

    /// The pipeline. Its pods reserve less CPU than by default: of those that run beside each other some would wait for
    /// room on the node.
    pub fn pipeline(&self, spec: &str) -> String {
        let spec = small(
            &small(spec, "ingest", INGEST_RESOURCES),
            "consume",
            CONSUME_RESOURCES,
        );
        format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: IngestionPipeline\nmetadata: {{name: {PIPELINE}, namespace: {}}}\n\
             spec:\n  apps: {{selector: {{matchLabels: {{team: trial}}}}}}\n{spec}",
            self.namespace
        )
    }

    /// Runs kubectl in the trial's namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["-n", &self.namespace];
        all.extend(arguments);
        self.kit.kubectl_output(&all)
    }

    /// `kubectl apply` of YAML.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.kit.inside(|| {
            let mut command = self.kit.kubectl();
            command.args(["apply", "-f", "-"]);
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .doing("starting kubectl apply")?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin
                    .write_all(yaml.as_bytes())
                    .doing("handing YAML to kubectl")?;
            }
            let output = child.wait_with_output().doing("waiting for kubectl apply")?;
            if output.status.success() {
                return Ok(());
            }
            Err(Error::new(format!(
                "kubectl apply: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )))
        })
    }

    /// Waits until the pipeline is ready, and until the node's proxy has heard of it, which takes a moment more.
    pub fn ready(&self) -> Result<()> {
        self.condition("Ready", "True", Duration::from_secs(120))?;
        let deadline = Instant::now() + Duration::from_secs(10);
        let health = format!("{}/health", self.url());
        while !self
            .kit
            .inside_with_names(|| Ok(crate::probe::http_ok(&health)))?
        {
            if Instant::now() > deadline {
                return Err(self.in_vain(format!("the pipeline is ready, but {health} does not answer")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Waits until a condition of the pipeline has a status, and gives back its reason and how long that took.
    pub fn condition(&self, kind: &str, status: &str, within: Duration) -> Result<(String, Duration)> {
        let started = Instant::now();
        loop {
            // One program that watches: asking again and again starts one for each question, and leaves no CPU for what is
            // waited for. It looks at the generation, too.
            let left = within.saturating_sub(started.elapsed()).as_secs() + 1;
            let met = self.kubectl(&[
                "wait",
                "ingestionpipelines",
                PIPELINE,
                &format!("--for=condition={kind}={status}"),
                &format!("--timeout={left}s"),
            ]);
            let text = self.kubectl(&["get", "ingestionpipelines", PIPELINE, "-o", "json"])?;
            let pipeline: serde_json::Value = serde_json::from_str(&text).doing("reading the pipeline")?;
            let current = pipeline["status"]["observedGeneration"] == pipeline["metadata"]["generation"];
            let conditions = pipeline["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            if let Some(found) = conditions
                .iter()
                .find(|c| current && c["type"] == kind && c["status"] == status)
            {
                return Ok((
                    found["reason"].as_str().unwrap_or_default().to_owned(),
                    started.elapsed(),
                ));
            }
            if met.is_err() && started.elapsed() > within {
                return Err(self.in_vain(format!(
                    "after {} s the pipeline is not {kind}={status}; it says: {}",
                    within.as_secs(),
                    serde_json::Value::from(conditions)
                )));
            }
            std::thread::sleep(pause(started.elapsed()));
        }
    }

    /// The key of an App, out of its generated Secret.
    pub fn key(&self, app: &str) -> Result<String> {
        let encoded = self.kubectl(&[
            "get",
            "secret",
            &format!("{app}-default"),
            "-o",
            "jsonpath={.data.key}",
        ])?;
        quickstart::decode_base64(&encoded)
            .ok_or_else(|| Error::new(format!("the key of {app} is not base64")))
    }

    /// The id that an App's events are stored under.
    pub fn app_id(&self, app: &str) -> Result<String> {
        self.kubectl(&["get", "apps", app, "-o", "jsonpath={.status.appId}"])
    }

    /// Where to send events.
    pub fn url(&self) -> String {
        format!("http://{PIPELINE}-ingest.{}.svc:8080", self.namespace)
    }

    /// A client of this pipeline with the App's key. To be used from a thread that knows the cluster's names.
    pub fn traffic(&self, app: &str) -> Result<Traffic> {
        Traffic::new(self.url(), self.key(app)?)
    }

    /// `database.table`.
    pub fn table(&self) -> String {
        format!("{}.{PIPELINE}", self.namespace.replace('-', "_"))
    }

    /// Rows, and distinct event ids among them; without FINAL, so a row that is stored twice counts twice.
    pub fn rows(&self) -> Result<(u64, u64)> {
        let answer = self.kit.clickhouse(&format!(
            "SELECT count(), uniqExact(event_id) FROM {}",
            self.table()
        ))?;
        let mut numbers = answer.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(rows)), Some(Ok(distinct))) => Ok((rows, distinct)),
            _ => Err(Error::new(format!("ClickHouse counted `{}`", answer.trim()))),
        }
    }

    /// The error of a wait, after what tells why.
    fn in_vain(&self, message: String) -> Error {
        self.tell();
        Error::new(message)
    }

    /// What a person would look at after a failure, into the test's output.
    fn tell(&self) {
        let ours = "app.kubernetes.io/managed-by=penstock-operator";
        for arguments in [
            &["get", "apps,ingestionpipelines", "-o", "yaml"][..],
            &["get", "pods", "-o", "wide"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "-l", ours, "--prefix", "--tail=40"],
        ] {
            let text = self.kubectl(arguments).unwrap_or_else(|error| error.to_string());
            eprintln!(
                "==> kubectl -n {} {}\n{text}",
                self.namespace,
                arguments.join(" ")
            );
        }
    }

    /// Every stored event id.
    pub fn stored(&self) -> Result<HashSet<String>> {
        let answer = self.kit.clickhouse(&format!(
            "SELECT DISTINCT event_id FROM {} FORMAT TSV",
            self.table()
        ))?;
        Ok(answer.lines().map(str::to_owned).collect())
    }

    /// Waits until every acknowledged event is stored and the count no longer moves, then holds the promise against
    /// what is there: all that was acknowledged, nothing that was never sent, nothing twice.
    pub fn settle(&self, sent: &Acknowledged, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let mut before = (0, 0);
        loop {
            let rows = self.rows()?;
            let still = rows == before;
            before = rows;
            let stored = self.stored()?;
            let missing = sent.ids.iter().filter(|id| !stored.contains(*id)).count();
            if missing == 0 && still {
                let foreign = stored.iter().filter(|id| !sent.knows(id)).count();
                if foreign > 0 || rows.0 != rows.1 {
                    return Err(self.in_vain(format!(
                        "{} rows, {} distinct, {} acknowledged, {foreign} never sent",
                        rows.0,
                        rows.1,
                        sent.ids.len()
                    )));
                }
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.in_vain(format!(
                    "after {} s {missing} of {} acknowledged events are not stored; {} rows, {} distinct",
                    within.as_secs(),
                    sent.ids.len(),
                    rows.0,
                    rows.1
                )));
            }
            std::thread::sleep(Duration::from_secs(2));
        }
    }
}

/// Whether tests are to take their time, as `make test-full` says: outages last a minute, and what is measured is measured
/// for as long as is promised.
pub fn at_length() -> bool {
    std::env::var_os("PENSTOCK_TEST_FULL").is_some()
}

/// A port that no other test of this program is given, below those that the kernel hands out to connections. Asking the
/// kernel for a free one would not do: servers share ports, so two that were given the same one would both start.
pub fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Programs that run at the same time differ in their ids.
    let first = 20_000 + (std::process::id() % 100) as u16 * 100;
    first + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Polls until it holds; how long that took, or what was waited for in vain.
///
/// It asks less often the longer it waits: most questions start a `kubectl`, and several tests that ask without a pause
/// leave no CPU for what they wait for.
pub fn within(seconds: u64, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let started = Instant::now();
    loop {
        if holds()? {
            return Ok(started.elapsed());
        }
        if started.elapsed() > Duration::from_secs(seconds) {
            return Err(Error::new(format!("not within {seconds} s: {what}")));
        }
        std::thread::sleep(pause(started.elapsed()));
    }
}

/// Between two questions, after so long.
fn pause(waited: Duration) -> Duration {
    (waited / 8).clamp(Duration::from_millis(50), Duration::from_millis(500))
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        // Deleted after a failure too: other tests need a cluster that holds nothing of it.
        let deleted = self.kit.inside(|| {
            run(self
                .kit
                .kubectl()
                .args(["delete", "namespace", &self.namespace, "--wait=false"]))
        });
        if let Err(error) = deleted {
            eprintln!("namespace {} is left: {error}", self.namespace);
        }
    }
}
