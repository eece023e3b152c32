//! Who may use the engine: names, passwords and what each may do. Passwords stay in memory and are never printed.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::failure::{Code, Failure};

/// What a user may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Admin,
    /// INSERT into tables and SELECT from tables, nothing else.
    Insert,
}

#[derive(Clone)]
struct User {
    password: String,
    role: Role,
}

type ByName = HashMap<String, User>;

/// The users of this server. Without any, `default` without a password may do everything, as in a fresh server.
#[derive(Clone)]
pub(crate) struct Users(Arc<Mutex<Known>>);

struct Known {
    flags: ByName,
    file: Option<PathBuf>,
    /// When the file was changed that `users` has.
    changed: Option<SystemTime>,
    users: ByName,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.known().users.keys()).finish()
    }
}

impl Users {
    /// Reads `name:password[:insert]` from the flags and from a file, one per line, `#` for comments. The file is read again
    /// when it has changed. One that its group or others can read is refused.
    pub(crate) fn load(flags: &[String], file: Option<&Path>) -> Result<Self, String> {
        let mut known = Known {
            flags: HashMap::new(),
            file: file.map(Path::to_owned),
            changed: None,
            users: HashMap::new(),
        };
        for flag in flags {
            let (name, user) = parse(flag).map_err(|error| format!("--user: {error}"))?;
            known.flags.insert(name, user);
        }
        known.users = known.flags.clone();
        known.refresh()?;
        if known.users.is_empty() {
            let open = User {
                password: String::new(),
                role: Role::Admin,
            };
            known.users.insert("default".to_string(), open);
        }
        Ok(Self(Arc::new(Mutex::new(known))))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The role of a user, when name and password are right. The answer does not tell a wrong name from a wrong
    /// password.
    pub(crate) fn authenticate(&self, name: &str, password: &str) -> Result<Role, Failure> {
        let mut known = self.known();
        if let Err(error) = known.refresh() {
            eprintln!("clickhouse-front: the users stay as they were: {error}");
        }
        match known.users.get(name) {
            Some(user) if same(&user.password, password) => Ok(user.role),
            _ => Err(Failure::new(
                Code::AuthenticationFailed,
                format_args!(
                    "{name}: Authentication failed: password is incorrect, or there is no user with such name"
                ),
            )),
        }
    }
}

impl Known {
    fn refresh(&mut self) -> Result<(), String> {
        let Some(path) = &self.file else { return Ok(()) };
        let shown = path.display();
        let unreadable = |error: std::io::Error| format!("{shown}: {error}");
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        let changed = Some(metadata.modified().map_err(unreadable)?);
        if self.changed == changed {
            return Ok(());
        }
        let mode = metadata.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(format!(
                "{shown} holds passwords and has mode {:o}: run chmod 600 on it",
                mode & 0o777
            ));
        }
        let mut users = self.flags.clone();
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, user) = parse(line).map_err(|error| format!("{shown}:{}: {error}", index + 1))?;
            users.insert(name, user);
        }
        (self.users, self.changed) = (users, changed);
        Ok(())
    }
}

fn parse(entry: &str) -> Result<(String, User), String> {
    let wanted = "wanted name:password or name:password:insert";
    let (name, rest) = entry.split_once(':').ok_or(wanted)?;
    if name.is_empty() {
        return Err(wanted.to_string());
    }
    let (password, role) = match rest.strip_suffix(":insert") {
        Some(password) => (password, Role::Insert),
        None => (rest, Role::Admin),
    };
    Ok((
        name.to_string(),
        User {
            password: password.to_string(),
            role,
        },
    ))
}

/// Compares in a time that depends on the lengths only.
fn same(left: &str, right: &str) -> bool {
    left.len() == right.len()
        && left
            .bytes()
            .zip(right.bytes())
            .fold(0, |diff, (a, b)| diff | (a ^ b))
            == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(users: &Users, name: &str, password: &str) -> Result<Role, u32> {
        users
            .authenticate(name, password)
            .map_err(|failure| failure.number())
    }

    #[test]
    fn names_passwords_and_roles() {
        let users = Users::load(
            &["admin:a:b".into(), "writer:secret:insert".into(), "open:".into()],
            None,
        )
        .expect("loads");
        assert_eq!(role(&users, "admin", "a:b"), Ok(Role::Admin));
        assert_eq!(role(&users, "writer", "secret"), Ok(Role::Insert));
        assert_eq!(role(&users, "open", ""), Ok(Role::Admin));
        for (name, password) in [
            ("admin", "a:c"),
            ("writer", "secret:insert"),
            ("nobody", ""),
            ("default", ""),
        ] {
            assert_eq!(role(&users, name, password), Err(516), "{name}");
        }
        assert!(!format!("{users:?}").contains("secret"));
    }

    #[test]
    fn without_users_default_is_open() {
        let users = Users::load(&[], None).expect("loads");
        assert_eq!(role(&users, "default", ""), Ok(Role::Admin));
        assert_eq!(role(&users, "default", "x"), Err(516));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("users");
        std::fs::write(&path, "# who\n\nwriter:w:insert\n").expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("mode");
        assert!(
            Users::load(&[], Some(&path))
                .expect_err("refused")
                .contains("mode 640")
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        assert_eq!(
            role(&Users::load(&[], Some(&path)).expect("loads"), "writer", "w"),
            Ok(Role::Insert)
        );
        let users = Users::load(&[], Some(&path)).expect("loads");
        let change = |text: &str, second| {
            std::fs::write(&path, text).expect("writes");
            let file = std::fs::File::options().write(true).open(&path).expect("opens");
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second);
            file.set_modified(time).expect("a time");
        };
        change("writer:another:insert\n", 1);
        assert_eq!(role(&users, "writer", "another"), Ok(Role::Insert), "read again");
        change("no colon\n", 2);
        assert_eq!(role(&users, "writer", "another"), Ok(Role::Insert), "it stays");
        assert!(
            Users::load(&[], Some(&path))
                .expect_err("refused")
                .contains(":1: wanted")
        );
    }
}
