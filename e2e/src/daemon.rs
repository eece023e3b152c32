//! Starting, stopping and watching one component.
//!
//! A component runs in the instance's network namespace and cgroup, in a session of its own, its output in
//! `logs/NAME.log`, who it is in `run/NAME.json`. Starting one that runs and is ready does nothing; one whose command
//! line or files have changed since is started anew.

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::component::Component;
use crate::error::{Context, Error, Result};
use crate::file;
use crate::instance::Instance;
use crate::process::Identity;
use crate::run::run_logged;

const POLL: Duration = Duration::from_millis(100);
/// What a component sees of the environment: no proxy setting or locale of a person's shell changes what it does.
const KEPT_VARIABLES: [&str; 5] = ["HOME", "JAVA_HOME", "TMPDIR", "LANG", "USER"];
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a component is run.
#[derive(Debug, Hash)]
pub(crate) struct Daemon {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) files: Vec<ConfigFile>,
    pub(crate) directories: Vec<PathBuf>,
    /// A command that has to succeed first, unless its file exists already.
    pub(crate) before: Option<Before>,
}

#[derive(Debug, Hash)]
pub(crate) struct ConfigFile {
    pub(crate) path: PathBuf,
    pub(crate) contents: String,
    pub(crate) mode: u32,
}

#[derive(Debug, Hash)]
pub(crate) struct Before {
    pub(crate) unless: PathBuf,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
}

impl Daemon {
    pub(crate) fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            files: Vec::new(),
            directories: Vec::new(),
            before: None,
        }
    }

    pub(crate) fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// `--name=value`
    pub(crate) fn flag(self, name: &str, value: impl Into<OsString>) -> Self {
        let mut argument = OsString::from(format!("--{name}="));
        argument.push(value.into());
        self.argument(argument)
    }

    pub(crate) fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directories.push(path.into());
        self
    }

    pub(crate) fn file(mut self, path: impl Into<PathBuf>, contents: impl Into<String>) -> Self {
        self.files.push(ConfigFile {
            path: path.into(),
            contents: contents.into(),
            mode: 0o644,
        });
        self
    }

    fn fingerprint(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

/// What `run/NAME.json` says of a started component.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PidFile {
    #[serde(flatten)]
    identity: Identity,
    fingerprint: String,
}

/// What `start` found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    Already,
    Now,
    Again,
}

impl Started {
    pub fn note(self) -> &'static str {
        match self {
            Self::Already => "already running",
            Self::Now => "started",
            Self::Again => "started anew: its configuration has changed",
        }
    }
}

/// How a component is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Ready,
    NotReady,
    Stopped,
}

impl Instance {
    fn pid_file(&self, component: Component) -> PathBuf {
        self.run_dir().join(format!("{}.json", component.name()))
    }

    fn running(&self, component: Component) -> Option<PidFile> {
        let bytes = fs::read(self.pid_file(component)).ok()?;
        let file: PidFile = serde_json::from_slice(&bytes).ok()?;
        file.identity.is_alive().then_some(file)
    }

    /// The process of a component, for tests that kill it; `None` when it does not run.
    pub fn process(&self, component: Component) -> Option<Identity> {
        Some(self.running(component)?.identity)
    }

    pub fn health(&self, component: Component) -> Health {
        if self.running(component).is_none() {
            return Health::Stopped;
        }
        match self.inside(|| Ok(component.is_ready(self))) {
            Ok(true) => Health::Ready,
            _ => Health::NotReady,
        }
    }

    /// Starts a component and waits until it does its work.
    pub fn start(&self, component: Component) -> Result<Started> {
        let daemon = component.daemon(self)?;
        let fingerprint = daemon.fingerprint();
        let mut started = Started::Now;
        if let Some(running) = self.running(component) {
            if running.fingerprint == fingerprint {
                self.wait_ready(component, &running.identity)?;
                return Ok(Started::Already);
            }
            started = Started::Again;
            running.identity.stop(component.grace())?;
        }
        for directory in &daemon.directories {
            fs::create_dir_all(directory).doing(format_args!("creating {}", directory.display()))?;
        }
        for config in &daemon.files {
            file::write(&config.path, config.contents.as_bytes(), config.mode)?;
        }
        let name = component.name();
        if let Some(before) = &daemon.before
            && !before.unless.exists()
        {
            let log = self.log_file(&format!("{name}-prepare"));
            run_logged(Command::new(&before.program).args(&before.arguments), &log)?;
        }
        let identity = self.inside(|| self.spawn(component, &daemon))?;
        let pid_file = PidFile {
            identity,
            fingerprint,
        };
        let bytes = serde_json::to_vec(&pid_file).doing("writing a pid file")?;
        file::write(&self.pid_file(component), &bytes, 0o644)?;
        self.wait_ready(component, &pid_file.identity)?;
        Ok(started)
    }

    /// Called on a thread inside the instance's network: the child is born there.
    fn spawn(&self, component: Component, daemon: &Daemon) -> Result<Identity> {
        let name = component.name();
        let log = self.log_file(&name);
        if log.exists() {
            let older = self.log_file(&format!("{name}.previous"));
            fs::rename(&log, &older).doing(format_args!("keeping {}", older.display()))?;
        }
        fs::create_dir_all(self.log_dir()).doing("creating the folder of logs")?;
        let output = File::create(&log).doing(format_args!("creating {}", log.display()))?;
        let errors = output
            .try_clone()
            .doing(format_args!("opening {}", log.display()))?;
        // setsid(1) becomes the program, so its pid is the component's; a closed terminal does not reach it.
        let mut command = Command::new("setsid");
        command.arg(&daemon.program).args(&daemon.arguments);
        command.env_clear();
        for variable in KEPT_VARIABLES {
            if let Some(value) = std::env::var_os(variable) {
                command.env(variable, value);
            }
        }
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{SYSTEM_PATH}:{path}"));
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        let child = command.spawn().doing(format_args!("starting {name}"))?;
        let pid = child.id().cast_signed();
        let identity = Identity::of(pid)?;
        self.adopt(pid)?;
        Ok(identity)
    }

    fn wait_ready(&self, component: Component, identity: &Identity) -> Result<()> {
        let name = component.name();
        let patience = component.start_deadline();
        let deadline = Instant::now() + patience;
        let failed = |what: String| {
            Error::new(what).log(self.log_file(&name)).next(format!(
                "read the log, mend the cause, then `{}`; it goes on where it stopped",
                self.command("up")
            ))
        };
        self.inside(|| {
            while !component.is_ready(self) {
                if !identity.is_alive() {
                    return Err(failed(format!("{name} ended while starting")));
                }
                if Instant::now() >= deadline {
                    return Err(failed(format!(
                        "{name} is not ready after {} s",
                        patience.as_secs()
                    )));
                }
                std::thread::sleep(POLL);
            }
            // Something else may have answered in its place, on a port that it could not bind.
            if !identity.is_alive() {
                return Err(failed(format!("{name} ended while starting")));
            }
            Ok(())
        })
    }

    /// Stops a component; one that does not run is fine. Says whether it ran.
    pub fn stop(&self, component: Component) -> Result<bool> {
        self.stop_within(component, component.grace())
    }

    /// Ends a component at once, as a crash does.
    pub fn kill(&self, component: Component) -> Result<bool> {
        self.stop_within(component, Duration::ZERO)
    }

    fn stop_within(&self, component: Component, grace: Duration) -> Result<bool> {
        let running = self.running(component);
        if let Some(running) = &running {
            running.identity.stop(grace)?;
        }
        match fs::remove_file(self.pid_file(component)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::new(format!(
                "removing the pid file of {}: {error}",
                component.name()
            ))),
            _ => Ok(running.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_or_flag_is_another_daemon() {
        let one = || Daemon::new("/bin/x").flag("a", "1").file("/f", "text");
        assert_eq!(one().fingerprint(), one().fingerprint());
        assert_ne!(one().fingerprint(), one().flag("b", "2").fingerprint());
        assert_ne!(
            one().fingerprint(),
            Daemon::new("/bin/x")
                .flag("a", "1")
                .file("/f", "other")
                .fingerprint()
        );
        assert_eq!(one().arguments, ["--a=1"]);
    }
}
