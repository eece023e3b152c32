//! The ClickHouse engine behind its HTTP interface, and the two users it has: one that may do all, one that only
//! inserts and reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::daemon::{ConfigFile, Daemon};
use crate::error::{Context, Error, Result};
use crate::instance::{CLICKHOUSE_PORT, Instance, NODE_ADDRESS};
use crate::secured::CLICKHOUSE_TLS_PORT;
use crate::{file, probe, secret};

/// May do everything: the operator's user.
pub const ADMIN: &str = "penstock";
/// May insert and select only: the consumers' user.
pub const CONSUMER: &str = "penstock_consumer";
/// Half a million ids are 18 MB.
const LARGEST_ANSWER: u64 = 1 << 30;

/// The program, from the package penstock-e2e-clickhouse.
pub(crate) const FRONT: &str = "clickhouse-front";

/// A user's name and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

/// The users of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Users {
    pub admin: Credentials,
    pub consumer: Credentials,
}

pub(crate) fn daemon(instance: &Instance) -> Result<Daemon> {
    let users = instance.clickhouse_users()?;
    let directory = instance.data_dir("clickhouse");
    let users_file = directory.join("users");
    let services = instance.services_certificate();
    let mut daemon = Daemon::new(installed_front(instance))
        .directory(directory.join("data"))
        .argument("--lib")
        .argument(instance.cache().libchdb())
        .argument("--path")
        .argument(directory.join("data"))
        .argument("--listen")
        .argument(format!("{NODE_ADDRESS}:{CLICKHOUSE_PORT}"))
        .argument("--listen-tls")
        .argument(format!("{NODE_ADDRESS}:{CLICKHOUSE_TLS_PORT}"))
        .argument("--cert")
        .argument(services.chain)
        .argument("--key")
        .argument(services.key)
        .argument("--users-file")
        .argument(&users_file);
    daemon.files.push(ConfigFile {
        path: users_file,
        contents: render_users(&users),
        mode: 0o600,
    });
    Ok(daemon)
}

pub(crate) fn is_ready(instance: &Instance) -> bool {
    probe::http_ok(&format!("{}/ping", instance.clickhouse_url()))
}

/// The instance runs a copy of its own: a build that replaces the program does not disturb a running instance until
/// its next `up`.
pub(crate) fn installed_front(instance: &Instance) -> PathBuf {
    instance.data_dir("clickhouse").join(FRONT)
}

impl Instance {
    fn clickhouse_passwords(&self) -> PathBuf {
        self.data_dir("clickhouse").join("passwords.json")
    }

    /// Makes the users' passwords, unless they are there.
    pub(crate) fn make_clickhouse_users(&self) -> Result<()> {
        let path = self.clickhouse_passwords();
        if path.exists() {
            return Ok(());
        }
        let passwords = [secret::password()?, secret::password()?];
        let bytes = serde_json::to_vec(&passwords).doing("writing the passwords of ClickHouse")?;
        file::write(&path, &bytes, 0o600)
    }

    /// The users of the instance's ClickHouse.
    pub fn clickhouse_users(&self) -> Result<Users> {
        let path = self.clickhouse_passwords();
        let bytes = fs::read(&path).map_err(|error| {
            Error::new(format!(
                "ClickHouse has no users yet ({}: {error})",
                path.display()
            ))
            .next(self.command("up"))
        })?;
        let [admin, consumer]: [String; 2] =
            serde_json::from_slice(&bytes).doing(format_args!("reading {}", path.display()))?;
        Ok(Users {
            admin: Credentials {
                user: ADMIN.into(),
                password: admin,
            },
            consumer: Credentials {
                user: CONSUMER.into(),
                password: consumer,
            },
        })
    }

    /// Makes a user of ClickHouse beside the instance's own, one that inserts or one that may do all, or changes a password.
    /// The next `up` forgets it.
    pub fn set_clickhouse_password(&self, user: &str, password: &str, may_all: bool) -> Result<()> {
        // Tests do this side by side.
        static FILE: Mutex<()> = Mutex::new(());
        let _alone = FILE.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.data_dir("clickhouse").join("users");
        let before = fs::read_to_string(&path).doing(format_args!("reading {}", path.display()))?;
        let others = before
            .lines()
            .filter(|line| !line.starts_with(&format!("{user}:")));
        let role = if may_all { "" } else { ":insert" };
        let own = format!("{user}:{password}{role}");
        let after: Vec<&str> = others.chain([own.as_str()]).collect();
        file::write(&path, (after.join("\n") + "\n").as_bytes(), 0o600)
    }

    /// Runs one statement as the administrator and gives back what ClickHouse answered. Works from any network.
    pub fn clickhouse(&self, statement: &str) -> Result<String> {
        let admin = self.clickhouse_users()?.admin;
        self.inside(|| {
            let mut response = probe::agent(Duration::from_secs(60))
                .post(self.clickhouse_url())
                .config()
                .http_status_as_error(false)
                .build()
                .header("X-ClickHouse-User", &admin.user)
                .header("X-ClickHouse-Key", &admin.password)
                .send(statement)
                .doing("asking ClickHouse")?;
            let status = response.status();
            let text = response
                .body_mut()
                .with_config()
                .limit(LARGEST_ANSWER)
                .read_to_string()
                .doing("reading ClickHouse's answer")?;
            if status.is_success() {
                return Ok(text);
            }
            Err(Error::new(format!(
                "ClickHouse answered {status}: {}",
                text.trim()
            )))
        })
    }
}

fn render_users(users: &Users) -> String {
    let Users { admin, consumer } = users;
    format!(
        "{}:{}\n{}:{}:insert\n",
        admin.user, admin.password, consumer.user, consumer.password
    )
}

/// Copies the built program into the instance, if it differs from the one there.
pub(crate) fn install_front(instance: &Instance, built: &Path) -> Result<bool> {
    let target = installed_front(instance);
    let new = fs::read(built).doing(format_args!("reading {}", built.display()))?;
    if fs::read(&target).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    file::write(&target, &new, 0o755)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_made_once_and_kept_private() {
        use std::os::unix::fs::PermissionsExt;
        let base = std::env::temp_dir().join(format!("penstock-clickhouse-{}", std::process::id()));
        let instance = Instance::below(&base);
        assert!(
            instance
                .clickhouse_users()
                .unwrap_err()
                .to_string()
                .contains("kit --instance x up")
        );
        instance.make_clickhouse_users().unwrap();
        let users = instance.clickhouse_users().unwrap();
        instance.make_clickhouse_users().unwrap();
        assert_eq!(instance.clickhouse_users().unwrap(), users);
        let mode = fs::metadata(instance.clickhouse_passwords())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let daemon = daemon(&instance).unwrap();
        assert_eq!(daemon.files[0].mode, 0o600);
        assert!(
            daemon.files[0]
                .contents
                .contains(&format!("{CONSUMER}:{}:insert\n", users.consumer.password))
        );
        let shown = format!("{:?}", daemon.arguments);
        assert!(!shown.contains(&users.admin.password) && !shown.contains(&users.consumer.password));
        fs::remove_dir_all(base).unwrap();
    }
}
