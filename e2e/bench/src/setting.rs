//! Where benchmarks of storing are taken: Kafka and ClickHouse of a kit instance, on the load's core, and the two stacks
//! that are measured there.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use penstock_e2e::progress::Progress;
use penstock_e2e::{Component, Error, Instance, Result};
use serde::Serialize;

use crate::measure::Bench;
use crate::server::{Kind, LOAD_CORE, Server};
use crate::store::pipeline::Stack;
use crate::store::sink::{self, Sink};
use crate::store::table::Store;
use crate::topic::PARTITIONS;
use crate::{machine, process};

/// What the replaced consumer was measured with before; its batches are one of its settings.
const REPLACED_BATCH: usize = 10_000;

/// The instance, entered.
#[derive(Debug)]
pub struct Setting {
    kit: Instance,
    pub bench: Bench,
    pub store: Store,
    /// Cores that others kept busy.
    pub load_before: f64,
    /// Of a core, see [`Store::rest`].
    rest: f64,
}

impl Setting {
    /// Steps into the instance's network and keeps this process, Kafka and ClickHouse on the load's core.
    pub fn enter() -> Result<Self> {
        let kit = Instance::from_environment("bench")?;
        kit.must_exist()?;
        let load_before = machine::load();
        kit.enter()?;
        process::stay_on(LOAD_CORE)?;
        let kafka = kit.process(Component::Kafka(1)).ok_or_else(|| {
            Error::new("Kafka does not run").next(kit.command("up --only kafka,clickhouse"))
        })?;
        process::keep_on(kafka.pid, LOAD_CORE)?;
        let store = Store::of(&kit, PARTITIONS.cast_unsigned())?;
        let rest = store.rest()?;
        let bench = Bench::new(kit.kafka_bootstrap()?, Duration::ZERO, Duration::ZERO)?;
        Ok(Self {
            kit,
            bench,
            store,
            load_before,
            rest,
        })
    }

    /// Lines for the head of a part.
    pub fn machine(&self) -> Result<Vec<(&'static str, String)>> {
        let mut lines = machine::describe(self.kit.repository(), self.load_before);
        let version = self.store.version()?;
        lines.push((
            "ClickHouse",
            format!("the engine {version} behind the kit's HTTP front"),
        ));
        let rest = self.rest * 100.0;
        lines.push((
            "ClickHouse at rest",
            format!("{rest:.1} % of a core, which is taken off its figures a row"),
        ));
        Ok(lines)
    }

    /// The page, unless another is named.
    pub fn page(&self, other: Option<&Path>) -> PathBuf {
        let own = || self.kit.repository().join("docs/benchmarks-store.md");
        other.map_or_else(own, Path::to_path_buf)
    }
}

/// What is measured.
#[derive(Debug)]
pub struct Stacks {
    pub penstock: Stack,
    /// The same with two rollups.
    pub counted: Stack,
    pub replaced: Stack,
}

impl Stacks {
    /// Builds what is not there yet. Not within the instance's network, from which no registry can be reached.
    pub fn build() -> Result<Self> {
        let kit = Instance::from_environment("bench")?;
        let progress = Progress::start();
        let server = |kind: Kind, program: PathBuf| Server {
            kind,
            name: kind.title().to_owned(),
            program,
        };
        let dataplane = kit.program("penstock-dataplane");
        let penstock = |name, counted| Stack {
            name,
            server: server(Kind::Ingest, dataplane.clone()),
            sink: Sink {
                kind: sink::Kind::Penstock,
                program: dataplane.clone(),
            },
            counted,
        };
        Ok(Self {
            penstock: penstock("Penstock", false),
            counted: penstock("Penstock, two rollups", true),
            replaced: Stack {
                name: "Fiber, kafka-go, clickhouse-go",
                // With ingest's promise, which in batches is also the cheaper of its two modes.
                server: server(
                    Kind::FiberSync,
                    kit.go_program(&progress, "bench-fiber", "e2e/bench/peers/fiber")?,
                ),
                sink: Sink {
                    kind: sink::Kind::Go {
                        batch: REPLACED_BATCH,
                    },
                    program: kit.go_program(&progress, "bench-gosink", "e2e/bench/peers/gosink")?,
                },
                counted: false,
            },
        })
    }
}

/// Every run's figures, one JSON object a line, beside what cargo builds: the page is what counts, this is for who wants
/// to look closer.
#[derive(Debug)]
pub struct RawFile(Option<File>);

impl RawFile {
    pub fn create(name: &str) -> Self {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(true);
        Self(options.open(target.join(format!("{name}.jsonl"))).ok())
    }

    pub fn add(&mut self, sample: &impl Serialize) {
        if let (Some(file), Ok(line)) = (&mut self.0, serde_json::to_string(sample)) {
            let _ = writeln!(file, "{line}");
        }
    }
}
