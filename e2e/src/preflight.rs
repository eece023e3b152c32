//! Whether this machine can run what is asked: tools and rights here, room in `capacity`. Everything missing is named at once, with
//! the line that installs it; Debian's own packages are installed right away when we are root on Debian.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::capacity;
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
    // Penstock's Kafka client is compiled against them.
    tool(
        "pkg-config",
        "pkg-config",
        "install pkg-config",
        Needed::For(Group::Kubernetes),
    ),
    tool(
        "openssl.pc",
        "libssl-dev",
        "install the headers of OpenSSL 3",
        Needed::For(Group::Kubernetes),
    ),
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
    capacity::disk(instance, !to_build.is_empty())?;
    capacity::memory(instance, groups)
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

/// A program, or a library to compile against, by what pkg-config knows it as.
fn on_path(program: &str) -> bool {
    match program.strip_suffix(".pc") {
        Some(library) => Command::new("pkg-config")
            .args(["--exists", library])
            .status()
            .is_ok_and(|status| status.success()),
        None => find(program).is_some(),
    }
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
}
