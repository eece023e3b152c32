//! Getting what the cluster is made of into the cache: Go programs built from their modules, Kafka's jars from Maven,
//! the ClickHouse engine from npm.
//!
//! Each function is quick when its folder is there. Otherwise it works beside the final folder and renames, so that an
//! interrupted run leaves nothing that looks complete; and it takes a lock, so that two runs do not do the work twice.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};
use crate::instance::Instance;
use crate::progress::{Outcome, Progress};
use crate::run::run_logged;
use crate::versions;

/// One `go.mod` of `e2e/tools`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GoTool {
    Kubernetes,
    Helm,
    CoreDns,
}

impl GoTool {
    pub(crate) const ALL: [Self; 3] = [Self::Kubernetes, Self::Helm, Self::CoreDns];

    fn module(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Helm => "helm",
            Self::CoreDns => "coredns",
        }
    }

    fn version(self) -> &'static str {
        match self {
            Self::Kubernetes => versions::KUBERNETES,
            Self::Helm => versions::HELM,
            Self::CoreDns => versions::COREDNS,
        }
    }

    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Kubernetes => &[
                "etcd",
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "kube-proxy",
                "kubectl",
            ],
            Self::Helm => &["helm"],
            Self::CoreDns => &["coredns"],
        }
    }

    /// About how long a build takes on two cores, for the person who waits.
    fn estimate(self) -> &'static str {
        match self {
            Self::Kubernetes => "5 min",
            Self::Helm | Self::CoreDns => "2 min",
        }
    }

    fn linker_flags(self) -> String {
        let mut flags = "-s -w".to_owned();
        if self == Self::Kubernetes {
            let mut parts = versions::KUBERNETES.split('.');
            let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            for (name, value) in [
                ("gitVersion", format!("v{}", self.version())),
                ("gitMajor", major.into()),
                ("gitMinor", minor.into()),
            ] {
                flags.push_str(&format!(" -X k8s.io/component-base/version.{name}={value}"));
            }
        }
        flags
    }

    fn folder(self, instance: &Instance) -> PathBuf {
        match self {
            Self::Kubernetes => instance.cache().kubernetes(),
            Self::Helm => instance.cache().helm(),
            Self::CoreDns => instance.cache().coredns(),
        }
    }

    pub(crate) fn is_built(self, instance: &Instance) -> bool {
        let folder = self.folder(instance);
        self.programs()
            .iter()
            .all(|program| folder.join(program).exists())
    }
}

pub(crate) fn go_tool(instance: &Instance, progress: &Progress, tool: GoTool) -> Result<()> {
    if tool.is_built(instance) {
        return Ok(());
    }
    let log = instance.cache().build_log(tool.module());
    let name = format!("build {} {}", tool.module(), tool.version());
    progress.step(&name, Some(&log), || {
        let _lock = lock(instance, tool.module())?;
        if tool.is_built(instance) {
            return Ok(Outcome::done("another run has just built it"));
        }
        let folder = tool.folder(instance);
        let work = fresh(&beside(&folder))?;
        let mut build = Command::new("go");
        build
            .current_dir(instance.repository().join("e2e/tools").join(tool.module()))
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "")
            .args(["build", "-v", "-trimpath", "-ldflags", &tool.linker_flags(), "-o"])
            .arg(&work)
            .arg("tool");
        run_logged(&mut build, &log).map_err(|error| {
            error.next("check that the Go module proxy is reachable (`go env GOPROXY`), then run the same command again; what is compiled is kept")
        })?;
        // etcd's module calls its program by what it is in its own tree.
        if work.join("server").exists() {
            fs::rename(work.join("server"), work.join("etcd")).doing("naming etcd")?;
        }
        replace(&work, &folder)?;
        Ok(Outcome::done(format!("into {}", folder.display())))
    })
}

impl Instance {
    /// Builds the Go program in a folder of the checkout into the cache, under `name` and the sum of its sources;
    /// gives back the program.
    pub fn go_program(&self, progress: &Progress, name: &str, folder: &str) -> Result<PathBuf> {
        let sources = self.repository().join(folder);
        let mut hash = Sha256::new();
        for file in ["go.mod", "go.sum", "main.go"] {
            let path = sources.join(file);
            hash.update(fs::read(&path).doing(format_args!("reading {}", path.display()))?);
        }
        let sum: String = hash
            .finalize()
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let built = self.cache().program(name, &sum);
        let program = built.join(name);
        if program.exists() {
            return Ok(program);
        }
        let log = self.cache().build_log(name);
        progress.step(&format!("build {name}"), Some(&log), || {
            let _lock = lock(self, name)?;
            let work = fresh(&beside(&built))?;
            let mut build = Command::new("go");
            build
                .current_dir(&sources)
                .env("CGO_ENABLED", "0")
                .env("GOFLAGS", "")
                .args(["build", "-v", "-trimpath", "-ldflags", "-s -w", "-o"])
                .arg(work.join(name))
                .arg(".");
            run_logged(&mut build, &log).map_err(|error| {
                error.next("check that the Go module proxy is reachable (`go env GOPROXY`), then run the same command again")
            })?;
            replace(&work, &built)?;
            Ok(Outcome::done(format!("into {}", built.display())))
        })?;
        Ok(program)
    }
}

pub(crate) fn announce(tool: GoTool) -> String {
    format!("{} {} (about {})", tool.module(), tool.version(), tool.estimate())
}

pub(crate) fn kafka(instance: &Instance, progress: &Progress) -> Result<()> {
    let folder = instance.cache().kafka();
    if folder.exists() {
        return Ok(());
    }
    let log = instance.cache().build_log("kafka");
    progress.step(&format!("fetch kafka {}", versions::KAFKA), Some(&log), || {
        let _lock = lock(instance, "kafka")?;
        if folder.exists() {
            return Ok(Outcome::done("another run has just fetched it"));
        }
        let work = fresh(&beside(&folder))?;
        let pom = instance.repository().join("e2e/tools/kafka/pom.xml");
        let mut maven = Command::new("mvn");
        maven
            .args(["-q", "-B", "-f"])
            .arg(pom)
            .arg("dependency:copy-dependencies")
            .arg(argument("-DoutputDirectory=", work.join("libs").as_os_str()))
            .arg("-DincludeScope=runtime");
        run_logged(&mut maven, &log)
            .map_err(|error| error.next("check that Maven Central or your mirror is reachable (~/.m2/settings.xml), then run the same command again"))?;
        replace(&work, &folder)?;
        Ok(Outcome::done("jars from Maven"))
    })
}

pub(crate) fn chdb(instance: &Instance, progress: &Progress) -> Result<()> {
    let library = instance.cache().libchdb();
    if library.exists() {
        return Ok(());
    }
    let folder = library.parent().unwrap_or(instance.cache().root());
    let log = instance.cache().build_log("chdb");
    progress.step(
        &format!("fetch clickhouse engine {}", versions::CHDB),
        Some(&log),
        || {
            let _lock = lock(instance, "chdb")?;
            if library.exists() {
                return Ok(Outcome::done("another run has just fetched it"));
            }
            let work = fresh(&beside(folder))?;
            let package = format!("@chdb/lib-linux-x64-gnu@{}", versions::CHDB);
            let mut pack = Command::new("npm");
            pack.args(["pack", &package, "--pack-destination"])
                .arg(&work)
                .current_dir(&work);
            run_logged(&mut pack, &log).map_err(|error| {
                error.next(
                    "check that the npm registry is reachable (`npm ping`), then run the same command again",
                )
            })?;
            let tarball = only_tarball(&work)?;
            let sum = sha256(&tarball)?;
            if sum != versions::CHDB_SHA256 {
                return Err(Error::new(format!(
                    "{package} has the sha256 {sum}, not {}",
                    versions::CHDB_SHA256
                ))
                .next("do not use it: what the registry serves is not what this version was tested with"));
            }
            run_logged(
                Command::new("tar").arg("-xzf").arg(&tarball).arg("-C").arg(&work),
                &log,
            )?;
            fs::rename(work.join("package/libchdb.so"), work.join("libchdb.so"))
                .doing("taking libchdb.so out of its package")?;
            fs::remove_file(&tarball).doing("removing the tarball")?;
            replace(&work, folder)?;
            Ok(Outcome::done("from npm, checksum good"))
        },
    )
}

/// Builds programs of this workspace and gives back the folder they are in.
pub(crate) fn cargo(
    instance: &Instance,
    progress: &Progress,
    name: &str,
    packages: &[&str],
) -> Result<PathBuf> {
    let log = instance.cache().build_log(name);
    progress.step(&format!("build {name}"), Some(&log), || {
        let _lock = lock(instance, name)?;
        let mut build = Command::new("cargo");
        build
            .current_dir(instance.repository())
            .args(["build", "--release", "--bins"]);
        for package in packages {
            build.args(["-p", package]);
        }
        run_logged(&mut build, &log)?;
        Ok(Outcome::of(release_folder(instance), ""))
    })
}

impl Instance {
    /// A program of this workspace as it ships; `kit up` builds it.
    pub fn program(&self, name: &str) -> PathBuf {
        release_folder(self).join(name)
    }
}

/// Where [`cargo`] puts what it builds.
pub(crate) fn release_folder(instance: &Instance) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    instance.repository().join(target).join("release")
}

/// The sha256 of a file, in hexadecimal.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let reading = || format!("reading {}", path.display());
    let mut file = fs::File::open(path).doing(reading())?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).doing(reading())?;
        if count == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..count]);
    }
}

/// Held while something is put into the cache; a second run waits here.
pub(crate) fn lock(instance: &Instance, name: &str) -> Result<Flock<fs::File>> {
    let folder = instance.cache().root().join("locks");
    fs::create_dir_all(&folder).doing(format_args!("creating {}", folder.display()))?;
    let path = folder.join(name);
    let file = fs::File::create(&path).doing(format_args!("creating {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| Error::new(format!("locking {}: {error}", path.display())))
}

/// Where the work for a folder is done.
pub(crate) fn beside(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    folder.with_file_name(name)
}

/// An empty folder, whatever an interrupted run left there.
pub(crate) fn fresh(folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder).doing(format_args!("clearing {}", folder.display()))?;
    }
    fs::create_dir_all(folder).doing(format_args!("creating {}", folder.display()))?;
    Ok(folder.to_path_buf())
}

fn replace(work: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).doing(format_args!("removing the incomplete {}", folder.display()))?;
    }
    fs::rename(work, folder).doing(format_args!("completing {}", folder.display()))
}

fn only_tarball(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).doing(format_args!("listing {}", folder.display()))?;
    let mut tarballs = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some(OsStr::new("tgz")));
    tarballs
        .next()
        .ok_or_else(|| Error::new("`npm pack` succeeded but wrote no tarball"))
}

fn argument(flag: &str, value: &OsStr) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(flag);
    argument.push(value);
    argument
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_tells_its_version() {
        let flags = GoTool::Kubernetes.linker_flags();
        assert!(
            flags.contains("version.gitVersion=v1.34.4") && flags.contains("gitMinor=34"),
            "{flags}"
        );
        assert_eq!(GoTool::Helm.linker_flags(), "-s -w");
    }

    #[test]
    fn an_interrupted_build_does_not_look_complete() {
        let base = std::env::temp_dir().join(format!("penstock-fetch-{}", std::process::id()));
        let folder = base.join("tool-v1");
        let work = fresh(&beside(&folder)).unwrap();
        fs::write(work.join("half"), "x").unwrap();
        assert!(!folder.exists());
        let again = fresh(&beside(&folder)).unwrap();
        assert!(!again.join("half").exists(), "the next run begins anew");
        fs::write(again.join("whole"), "x").unwrap();
        replace(&again, &folder).unwrap();
        assert!(folder.join("whole").exists() && !work.exists());
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn sums_are_hexadecimal() {
        let path = std::env::temp_dir().join(format!("penstock-sum-{}", std::process::id()));
        fs::write(&path, "abc").unwrap();
        assert_eq!(
            sha256(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        fs::remove_file(path).unwrap();
    }
}
