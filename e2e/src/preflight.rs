//! Whether this machine can run what is asked: tools, rights, memory, disk. Everything missing is named at once, with
//! the line that installs it; Debian's own packages are installed right away when we are root on Debian.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::component::Group;
use crate::containerd;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::progress::{Outcome, Progress};
use crate::run::run_logged;

/// A program that has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tool {
    program: &'static str,
    /// Debian's package, when it is good enough.
    debian: Option<&'static str>,
    /// What a person does about it elsewhere.
    elsewhere: &'static str,
    needed: Needed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needed {
    Always,
    For(Group),
    /// To build what is not in the cache yet.
    ToBuild(Group),
}

const NODE: &str = "install Node.js 20 or later from https://nodejs.org and put its bin folder on the PATH";

const fn tool(program: &'static str, debian: &'static str, elsewhere: &'static str, needed: Needed) -> Tool {
    Tool {
        program,
        debian: Some(debian),
        elsewhere,
        needed,
    }
}

const TOOLS: &[Tool] = &[
    tool("ip", "iproute2", "install iproute2", Needed::Always),
    tool("setsid", "util-linux", "install util-linux", Needed::Always),
    tool("tar", "tar", "install tar", Needed::Always),
    tool("cc", "gcc", "install a C compiler", Needed::Always),
    Tool {
        program: "cargo",
        debian: None,
        elsewhere: "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh",
        needed: Needed::Always,
    },
    Tool {
        program: "go",
        debian: None,
        elsewhere: "install Go 1.26 or later from https://go.dev/dl and put its bin folder on the PATH",
        needed: Needed::ToBuild(Group::Kubernetes),
    },
    tool(
        "containerd",
        "containerd",
        "install containerd 1.6 or later",
        Needed::For(Group::Kubernetes),
    ),
    tool(
        "ctr",
        "containerd",
        "install containerd 1.6 or later",
        Needed::For(Group::Kubernetes),
    ),
    tool("runc", "runc", "install runc", Needed::For(Group::Kubernetes)),
    tool(
        "buildah",
        "buildah",
        "install buildah",
        Needed::For(Group::Kubernetes),
    ),
    tool(
        "iptables",
        "iptables",
        "install iptables",
        Needed::For(Group::Kubernetes),
    ),
    tool(
        "nft",
        "nftables",
        "install nftables",
        Needed::For(Group::Kubernetes),
    ),
    tool(
        "conntrack",
        "conntrack",
        "install conntrack-tools",
        Needed::For(Group::Kubernetes),
    ),
    tool("socat", "socat", "install socat", Needed::For(Group::Kubernetes)),
    tool(
        "ldd",
        "libc-bin",
        "install the C library's tools",
        Needed::For(Group::Kubernetes),
    ),
    tool("make", "make", "install make", Needed::For(Group::Kubernetes)),
    tool(
        "redis-server",
        "redis-server",
        "install Redis 7 or later",
        Needed::For(Group::Redis),
    ),
    tool(
        "java",
        "default-jdk-headless",
        "install a JDK, 17 or later",
        Needed::For(Group::Kafka),
    ),
    tool(
        "mvn",
        "maven",
        "install Maven 3.6 or later",
        Needed::ToBuild(Group::Kafka),
    ),
    // Debian 12's Node.js is 18, and the SDK of the quickstart wants 20.
    Tool {
        program: "npm",
        debian: None,
        elsewhere: NODE,
        needed: Needed::ToBuild(Group::ClickHouse),
    },
    Tool {
        program: "node",
        debian: None,
        elsewhere: NODE,
        needed: Needed::For(Group::Kubernetes),
    },
];

/// The folder of CNI plugins is no program; it is checked beside the tools.
const CNI_DEBIAN: &str = "containernetworking-plugins";
const CNI_ELSEWHERE: &str = "install the CNI plugins into /opt/cni/bin";

/// What a Go build needs besides the results, and a cold Rust build.
const DISK_TO_BUILD_GB: u64 = 12;
const DISK_TO_RUN_GB: u64 = 3;
const MEMORY_FIRST_GB: u64 = 3;
/// Beside another instance that runs.
const MEMORY_SECOND_GB: u64 = 6;
const MEMORY_SERVICES_GB: u64 = 1;

/// Something that is not there, and what puts it there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Missing {
    what: String,
    debian: Option<&'static str>,
    elsewhere: &'static str,
}

pub(crate) fn must_be_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new("the kit makes network namespaces, mounts and cgroups, so it needs root").next(
        "put `sudo -E env \"PATH=$PATH\"` before the command; without root, docs/install.md tells how to use a cluster that \
         you have",
    ))
}

/// Checks everything, and installs what Debian has.
pub(crate) fn check(
    instance: &Instance,
    progress: &Progress,
    groups: &[Group],
    to_build: &[Group],
) -> Result<()> {
    must_be_root()?;
    if cfg!(not(target_arch = "x86_64")) && groups.contains(&Group::ClickHouse) {
        return Err(Error::new("the ClickHouse engine that the kit fetches exists for x86-64 only")
            .next("`./e2e/kit up --only kubernetes,kafka,redis`, and name a ClickHouse of your own in the chart's values"));
    }
    let mut missing = missing_tools(groups, to_build, &on_path);
    let packages = packages(&missing);
    if !packages.is_empty() && is_debian() {
        let log = instance.cache().build_log("apt");
        progress.step(&format!("install {}", packages.join(" ")), Some(&log), || {
            apt_install(&packages, &log)?;
            Ok(Outcome::done("from Debian"))
        })?;
        missing = missing_tools(groups, to_build, &on_path);
    }
    if !missing.is_empty() {
        return Err(report(&missing, is_debian()));
    }
    check_versions(groups, to_build)?;
    check_disk(instance, !to_build.is_empty())?;
    check_memory(instance, groups)
}

fn is_needed(tool: &Tool, groups: &[Group], to_build: &[Group]) -> bool {
    match tool.needed {
        Needed::Always => true,
        Needed::For(group) => groups.contains(&group),
        Needed::ToBuild(group) => to_build.contains(&group),
    }
}

fn missing_tools(groups: &[Group], to_build: &[Group], found: &dyn Fn(&str) -> bool) -> Vec<Missing> {
    let mut missing: Vec<Missing> = TOOLS
        .iter()
        .filter(|tool| is_needed(tool, groups, to_build) && !found(tool.program))
        .map(|tool| Missing {
            what: tool.program.into(),
            debian: tool.debian,
            elsewhere: tool.elsewhere,
        })
        .collect();
    if groups.contains(&Group::Kubernetes) && containerd::cni_plugins().is_err() {
        missing.push(Missing {
            what: "the CNI plugins".into(),
            debian: Some(CNI_DEBIAN),
            elsewhere: CNI_ELSEWHERE,
        });
    }
    missing
}

fn packages(missing: &[Missing]) -> Vec<&'static str> {
    let mut packages: Vec<&'static str> = missing.iter().filter_map(|m| m.debian).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn report(missing: &[Missing], debian: bool) -> Error {
    let mut text = "this machine lacks:".to_owned();
    for Missing {
        what,
        debian: package,
        elsewhere,
    } in missing
    {
        let line = match package {
            Some(package) if debian => format!("apt-get install -y {package}"),
            _ => (*elsewhere).to_owned(),
        };
        text.push_str(&format!("\n    {what:<16} {line}"));
    }
    Error::new(text).next("install them, then run the same command again")
}

fn on_path(program: &str) -> bool {
    find(program).is_some()
}

/// A program on the PATH, or where the system keeps its own, which is not on every person's PATH.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    is_debian_release(&release) && on_path("apt-get")
}

/// Debian and what calls itself like it (Ubuntu among them).
fn is_debian_release(text: &str) -> bool {
    text.lines().any(|line| {
        let value = line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE="));
        value.is_some_and(|value| value.trim_matches('"').split(' ').any(|word| word == "debian"))
    })
}

fn apt_install(packages: &[&str], log: &Path) -> Result<()> {
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let line = format!("apt-get install -y {}", packages.join(" "));
    let explained = |error: Error| {
        error.next(format!(
            "install them by hand (`{line}`), then run the same command again"
        ))
    };
    run_logged(apt().args(["-q", "update"]), log).map_err(explained)?;
    run_logged(
        apt()
            .args(["-q", "install", "-y", "--no-install-recommends"])
            .args(packages),
        log,
    )
    .map_err(explained)
}

fn check_versions(groups: &[Group], to_build: &[Group]) -> Result<()> {
    let major = |program: &str, argument: &str| -> Option<(u32, u32)> {
        let output = Command::new(program).arg(argument).output().ok()?;
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        first_version(&text)
    };
    let checks = [
        (
            groups.contains(&Group::Kafka),
            "java",
            "-version",
            (17, 0),
            "Kafka runs on Java 17 or later",
        ),
        // An older Go fetches the one that the module asks for, from 1.21 on.
        (
            to_build.contains(&Group::Kubernetes),
            "go",
            "version",
            (1, 21),
            "the modules build with Go 1.21 or later",
        ),
        (
            groups.contains(&Group::Kubernetes),
            "node",
            "--version",
            (20, 0),
            "the SDK of the quickstart runs on Node.js 20 or later",
        ),
    ];
    for (needed, program, argument, least, why) in checks {
        if let (true, Some(found)) = (needed, major(program, argument))
            && found < least
        {
            return Err(
                Error::new(format!("`{program}` is version {}.{}; {why}", found.0, found.1))
                    .next("install a later one and put it first on the PATH"),
            );
        }
    }
    Ok(())
}

/// The first `N.M` or `N` after a blank, a quote or a letter, as version lines carry it.
fn first_version(text: &str) -> Option<(u32, u32)> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let digits: String = text[start..]
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    let mut parts = digits.split('.');
    let major = parts.next()?.parse().ok()?;
    Some((
        major,
        parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0),
    ))
}

fn check_disk(instance: &Instance, to_build: bool) -> Result<()> {
    let needed = if to_build {
        DISK_TO_BUILD_GB
    } else {
        DISK_TO_RUN_GB
    };
    for folder in [instance.cache().root(), instance.state_dir()] {
        let Some(existing) = folder.ancestors().find(|path| path.exists()) else {
            continue;
        };
        let Ok(stat) = nix::sys::statvfs::statvfs(existing) else {
            continue;
        };
        let free = stat.blocks_available() * stat.fragment_size() / 1_000_000_000;
        if free < needed {
            return Err(Error::new(format!(
                "{} has {free} GB free; {needed} GB are needed",
                existing.display()
            ))
            .next("make room, or set PENSTOCK_CACHE and PENSTOCK_STATE to folders on another disk"));
        }
    }
    Ok(())
}

fn check_memory(instance: &Instance, groups: &[Group]) -> Result<()> {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let Some(available) = available_gb(&text) else {
        return Ok(());
    };
    // What runs already has its memory.
    let components = instance.components()?;
    if components
        .iter()
        .any(|component| instance.process(*component).is_some())
    {
        return Ok(());
    }
    let others = others_running(instance);
    let needed = match (groups.contains(&Group::Kubernetes), others.is_empty()) {
        (false, _) => MEMORY_SERVICES_GB,
        (true, true) => MEMORY_FIRST_GB,
        (true, false) => MEMORY_SECOND_GB,
    };
    if available >= needed as f64 {
        return Ok(());
    }
    let (beside, next) = match others.first() {
        Some(other) => (
            format!(" beside the running instance `{other}`"),
            format!("`./e2e/kit --instance {other} down`"),
        ),
        None => (String::new(), "end what uses the memory".to_owned()),
    };
    Err(Error::new(format!(
        "{available:.1} GB of memory are free; a cluster{beside} needs {needed} GB"
    ))
    .next(format!("{next}, then run the same command again")))
}

fn others_running(instance: &Instance) -> Vec<String> {
    let Some(Ok(entries)) = instance.state_dir().parent().map(fs::read_dir) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name != instance.name())
        .filter(|name| Instance::named(name).is_ok_and(|other| !other.cgroup_processes().is_empty()))
        .collect()
}

fn available_gb(meminfo: &str) -> Option<f64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024.0 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_is_required() {
        let needed = |groups: &[Group], build: &[Group]| -> Vec<&str> {
            TOOLS
                .iter()
                .filter(|t| is_needed(t, groups, build))
                .map(|t| t.program)
                .collect()
        };
        let redis = needed(&[Group::Redis], &[]);
        assert!(redis.contains(&"redis-server") && redis.contains(&"ip"));
        assert!(!redis.contains(&"containerd") && !redis.contains(&"java") && !redis.contains(&"go"));
        assert!(
            !needed(&Group::ALL, &[]).contains(&"go"),
            "what is in the cache needs no compiler"
        );
        assert!(needed(&Group::ALL, &Group::ALL).contains(&"go"));
    }

    #[test]
    fn everything_missing_is_named_with_its_line() {
        let missing = missing_tools(&Group::ALL, &Group::ALL, &|program| {
            program != "runc" && program != "go" && program != "ctr"
        });
        let names: Vec<&str> = missing.iter().map(|m| m.what.as_str()).collect();
        assert!(names.starts_with(&["go", "ctr", "runc"]), "{names:?}");
        assert!(
            packages(&missing).starts_with(&["containerd", "runc"])
                || packages(&missing).contains(&CNI_DEBIAN)
        );
        let debian = report(&missing, true).to_string();
        assert!(
            debian.contains("apt-get install -y runc") && debian.contains("https://go.dev/dl"),
            "{debian}"
        );
        let other = report(&missing, false).to_string();
        assert!(
            other.contains("install runc") && !other.contains("apt-get"),
            "{other}"
        );
    }

    #[test]
    fn debian_and_its_family_are_recognised() {
        assert!(is_debian_release("NAME=x\nID=debian\n"));
        assert!(is_debian_release("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian_release("ID=fedora\nID_LIKE=\"rhel\"\n"));
    }

    #[test]
    fn versions_are_found_in_what_tools_print() {
        let cases = [
            ("openjdk version \"17.0.15\" 2025-04-15", (17, 0)),
            ("go version go1.26.8 linux/amd64", (1, 26)),
            ("v20.20.2", (20, 20)),
            ("openjdk version \"25\" 2025-09-16", (25, 0)),
        ];
        for (text, version) in cases {
            assert_eq!(first_version(text), Some(version), "{text}");
        }
        assert_eq!(first_version("none"), None);
    }

    #[test]
    fn memory_is_what_is_available_not_what_is_free() {
        let text = "MemTotal: 24000000 kB\nMemFree: 1 kB\nMemAvailable:   6000000 kB\n";
        assert!((available_gb(text).unwrap() - 6.144).abs() < 0.001);
    }
}
