//! What the figures were measured on, and with which versions.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use time::OffsetDateTime;

/// Lines of `name: value` for the head of the report.
pub fn describe(repository: &Path, load: f64) -> Vec<(&'static str, String)> {
    vec![
        ("date", today()),
        ("commit", commit(repository)),
        ("CPU", cpu()),
        ("memory", memory()),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("cores busy before", format!("{load:.2}")),
        ("Rust", output(repository, "rustc", &["--version"])),
        ("Go", output(repository, "go", &["version"])),
        ("Kafka", kafka()),
    ]
}

/// With what it was told of its memory, see `run`.
fn kafka() -> String {
    let heap = std::env::var("KAFKA_HEAP_OPTS").unwrap_or_else(|_| "the kit's memory".into());
    format!("{}, one broker, {heap}", penstock_e2e::versions::KAFKA)
}

fn today() -> String {
    let now = OffsetDateTime::now_utc();
    format!("{} {:02}:{:02} UTC", now.date(), now.hour(), now.minute())
}

/// The commit; `+` when the tree has changes beside it.
fn commit(repository: &Path) -> String {
    let commit = output(repository, "git", &["rev-parse", "--short=12", "HEAD"]);
    // The report itself is what the run before may have changed.
    let changed = output(
        repository,
        "git",
        &[
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            ".",
            ":!docs",
        ],
    );
    if changed.is_empty() {
        commit
    } else {
        format!("{commit}+")
    }
}

fn cpu() -> String {
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    format!("{model}, {cores} cores")
}

fn memory() -> String {
    let info = read("/proc/meminfo");
    let kilobytes: f64 = info
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .unwrap_or(0.0);
    format!("{:.0} GB", kilobytes * 1024.0 / 1e9)
}

/// How long is looked for what others do.
const LOOK: Duration = Duration::from_secs(3);

/// Cores that are busy now, while nothing is measured. The load average would count what was compiled a minute ago.
pub fn load() -> f64 {
    let before = busy_ticks();
    std::thread::sleep(LOOK);
    let ticks = busy_ticks().saturating_sub(before) as f64;
    // 100 a second and core, whatever the kernel's clock.
    ticks / (100.0 * LOOK.as_secs_f64())
}

/// User, nice and system time of all cores since the boot.
fn busy_ticks() -> u64 {
    let stat = read("/proc/stat");
    let fields = stat.lines().next().unwrap_or_default().split_whitespace();
    fields
        .skip(1)
        .take(3)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// What a program prints; nothing when it cannot be run.
fn output(directory: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
