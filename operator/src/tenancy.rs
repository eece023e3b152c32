//! Which topics and databases a namespace may use on the installation's own connections.
//!
//! A pattern is literal but for `*` (any characters) and `{namespace}`. A pipeline that names a connection of its own
//! is not bound by it: there the administrator of that connection decides.

/// Patterns, any of which allows a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patterns(Vec<String>);

impl Patterns {
    pub const fn new(patterns: Vec<String>) -> Self {
        Self(patterns)
    }

    /// Whether `namespace` may use `name`. In a database's name the namespace is written with `_`, so both spellings
    /// are meant.
    pub fn allow(&self, namespace: &str, name: &str) -> bool {
        let spelled = namespace.replace('-', "_");
        self.0.iter().any(|pattern| {
            matches(&pattern.replace("{namespace}", namespace), name)
                || matches(&pattern.replace("{namespace}", &spelled), name)
        })
    }

    /// The patterns as they were given, for a message.
    pub fn describe(&self) -> String {
        self.0.join(", ")
    }
}

/// Greedy match with backtracking to the last `*`: linear in practice, quadratic at worst, both short.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    p = at + 1;
                    n = from + 1;
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (pattern, namespace, name, allowed) in [
            ("{namespace}*", "growth", "growth.events", true),
            ("{namespace}*", "growth", "growth", true),
            ("{namespace}*", "growth", "ads.events", false),
            ("{namespace}*", "my-team", "my_team", true),
            ("{namespace}*", "my-team", "my-team.events", true),
            ("{namespace}.*", "growth", "growthx.events", false),
            ("prod-{namespace}.*.v1", "growth", "prod-growth.events.v1", true),
            ("prod-{namespace}.*.v1", "growth", "prod-growth.events.v2", false),
            ("*", "growth", "anything", true),
            ("", "growth", "anything", false),
            ("a*b*c", "growth", "aXbXbXc", true),
            ("a*b*c", "growth", "aXbXb", false),
        ] {
            assert_eq!(
                Patterns::new(vec![pattern.into()]).allow(namespace, name),
                allowed,
                "{pattern} {namespace} {name}"
            );
        }
        assert!(
            !Patterns::new(vec![]).allow("growth", "growth"),
            "no pattern allows nothing"
        );
    }
}
