//! Who may use the engine: names, passwords and what each may do. Passwords stay in memory and are never printed.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

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

/// The users of this server. Without any, `default` without a password may do everything, as in a fresh server.
#[derive(Clone)]
pub(crate) struct Users(HashMap<String, User>);

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Users {
    /// Reads `name:password[:insert]` from the flags and from a file, one per line, `#` for comments. A file that its
    /// group or others can read is refused.
    pub(crate) fn load(flags: &[String], file: Option<&Path>) -> Result<Self, String> {
        let mut users = HashMap::new();
        for flag in flags {
            let (name, user) = parse(flag).map_err(|error| format!("--user: {error}"))?;
            users.insert(name, user);
        }
        if let Some(path) = file {
            let shown = path.display();
            let mode = std::fs::metadata(path)
                .map_err(|error| format!("{shown}: {error}"))?
                .permissions()
                .mode();
            if mode & 0o077 != 0 {
                return Err(format!(
                    "{shown} holds passwords and has mode {:o}: run chmod 600 on it",
                    mode & 0o777
                ));
            }
            let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
            for (index, line) in text.lines().enumerate() {
                if line.trim().is_empty() || line.starts_with('#') {
                    continue;
                }
                let (name, user) = parse(line).map_err(|error| format!("{shown}:{}: {error}", index + 1))?;
                users.insert(name, user);
            }
        }
        if users.is_empty() {
            users.insert(
                "default".to_string(),
                User {
                    password: String::new(),
                    role: Role::Admin,
                },
            );
        }
        Ok(Self(users))
    }

    /// The role of a user, when name and password are right. The answer does not tell a wrong name from a wrong
    /// password.
    pub(crate) fn authenticate(&self, name: &str, password: &str) -> Result<Role, Failure> {
        match self.0.get(name) {
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
        std::fs::write(&path, "no colon\n").expect("writes");
        assert!(
            Users::load(&[], Some(&path))
                .expect_err("refused")
                .contains(":1: wanted")
        );
    }
}
