//! `kit exec`: a command inside the instance's network, with its variables, kubectl and helm on the PATH, and cluster
//! names that resolve.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::component::Group;
use crate::controlplane::NO_DISCOVERY_CACHE;
use crate::environment::variables;
use crate::error::{Context, Error, Result};
use crate::file;
use crate::instance::{DNS_ADDRESS, Instance};

const RESOLV_CONF: &str = "/etc/resolv.conf";

impl Instance {
    /// Becomes the command; returns only when that fails.
    pub fn exec(&self, command: &[OsString]) -> Result<std::convert::Infallible> {
        let [program, arguments @ ..] = command else {
            return Err(Error::new("no command to run").next(self.command("exec -- COMMAND")));
        };
        let variables = variables(self)?;
        self.enter_with_names()?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(variables)
            .env("PENSTOCK_INSTANCE", self.name())
            .env(NO_DISCOVERY_CACHE.0, NO_DISCOVERY_CACHE.1);
        let mut path = OsString::from(self.cache().kubernetes());
        path.push(":");
        path.push(self.cache().helm());
        if let Some(rest) = std::env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        // The PATH also decides which program this is.
        command.env("PATH", path);
        // Nothing in here is reached through a proxy, and many clients would try.
        for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(proxy).env_remove(proxy.to_uppercase());
        }
        Err(Error::new(format!(
            "running `{}`: {}",
            program.to_string_lossy(),
            command.exec()
        )))
    }

    /// Like [`Instance::inside`], with names of Services.
    pub fn inside_with_names<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter_with_names()?;
                work()
            });
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Like [`Instance::enter`], and names of Services resolve too: in a mount namespace of the calling thread, where
    /// /etc/resolv.conf is another file. All other mounts are as before, those of the cgroups among them.
    pub fn enter_with_names(&self) -> Result<()> {
        self.enter()?;
        if !self.record()?.groups.contains(&Group::Kubernetes) || !Path::new(RESOLV_CONF).exists() {
            return Ok(());
        }
        let own = self.state_dir().join("resolv.conf");
        // `kit exec` may have mounted this very file already; a file that is replaced under its mount cannot be mounted on.
        if fs::read_to_string(&own).ok().as_deref() != Some(resolv_conf().as_str()) {
            file::write(&own, resolv_conf().as_bytes(), 0o644)?;
        }
        unshare(CloneFlags::CLONE_NEWNS).doing("making a mount namespace")?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .doing("keeping mounts to ourselves")?;
        mount(Some(&own), RESOLV_CONF, none, MsFlags::MS_BIND, none)
            .doing(format_args!("replacing {RESOLV_CONF}"))
    }
}

fn resolv_conf() -> String {
    format!(
        "nameserver {DNS_ADDRESS}\nsearch svc.cluster.local cluster.local\noptions ndots:4 timeout:2 attempts:3\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_of_the_cluster() {
        assert!(resolv_conf().starts_with("nameserver 10.96.0.10\nsearch svc.cluster.local"));
    }
}
