//! The variables of the services that Penstock replaces, accepted outside a cluster with a warning that names the
//! new setting. They fill what the file leaves open; they never override it.

use serde_json::{Map, Value};

use crate::load::{Environment, set};

/// Old names, the setting that took their place, and how to read the value.
const SETTINGS: &[(&str, &[&str], Reading)] = &[
    ("PORT", &["listen"], Reading::Port),
    ("SERVICE_PORT", &["listen"], Reading::Port),
    ("KAFKA_BROKERS", &["kafka", "bootstrap"], Reading::Text),
    ("KAFKA_TOPIC", &["kafka", "topic"], Reading::Text),
    ("REDIS_ADDR", &["redis", "address"], Reading::Text),
    ("REDIS_ADDRESS", &["redis", "address"], Reading::Text),
    ("REDIS_URL", &["redis", "address"], Reading::RedisUrl),
    ("REDIS_DB", &["redis", "database"], Reading::Number),
    ("CLICKHOUSE_URL", &["clickhouse", "url"], Reading::Text),
    ("CLICKHOUSE_DATABASE", &["clickhouse", "database"], Reading::Text),
    ("CLICKHOUSE_DB", &["clickhouse", "database"], Reading::Text),
    ("CLICKHOUSE_TABLE", &["clickhouse", "table"], Reading::Text),
];

/// Old names that are one setting only together: host, port, the port's default, the setting, what goes before it.
const ADDRESSES: &[(&str, &str, &str, &[&str], &str)] = &[
    ("REDIS_HOST", "REDIS_PORT", "6379", &["redis", "address"], ""),
    (
        "CLICKHOUSE_HOST",
        "CLICKHOUSE_PORT",
        "8123",
        &["clickhouse", "url"],
        "http://",
    ),
];

/// Old names that nothing reads any more, and why.
const GONE: &[(&str, &str)] = &[
    (
        "REDIS_PASSWORD",
        "credentials come from files: set redis.passwordFile",
    ),
    (
        "CLICKHOUSE_USER",
        "credentials come from files: set clickhouse.usernameFile",
    ),
    (
        "CLICKHOUSE_USERNAME",
        "credentials come from files: set clickhouse.usernameFile",
    ),
    (
        "CLICKHOUSE_PASSWORD",
        "credentials come from files: set clickhouse.passwordFile",
    ),
    ("DEBUG", "set RUST_LOG=debug"),
    ("DATABASE_URL", "this role uses no PostgreSQL"),
    ("SECRET_KEY", "this role signs nothing"),
];

#[derive(Clone, Copy)]
enum Reading {
    Text,
    Number,
    Port,
    RedisUrl,
}

/// Fills `tree` from the old names in `environment`.
pub(crate) fn fill(
    tree: &mut Map<String, Value>,
    serves: bool,
    environment: &Environment,
    warnings: &mut Vec<String>,
) {
    for (variable, path, reading) in SETTINGS {
        if matches!(reading, Reading::Port) && !serves {
            if environment.contains_key(*variable) {
                warnings.push(format!("{variable} is ignored: only ingest serves clients"));
            }
            continue;
        }
        if let Some(text) = environment.get(*variable)
            && let Some(value) = read(*reading, text)
        {
            offer(tree, path, value, variable, warnings);
        }
    }
    for (host, port, default, path, before) in ADDRESSES {
        if let Some(name) = environment.get(*host) {
            let port = environment.get(*port).map_or(*default, String::as_str);
            offer(
                tree,
                path,
                Value::String(format!("{before}{name}:{port}")),
                host,
                warnings,
            );
        }
    }
    for (variable, why) in GONE {
        if environment.contains_key(*variable) {
            warnings.push(format!("{variable} is ignored: {why}"));
        }
    }
}

fn read(reading: Reading, text: &str) -> Option<Value> {
    Some(match reading {
        Reading::Text => Value::String(text.into()),
        Reading::Number => Value::from(text.parse::<u64>().ok()?),
        Reading::Port => Value::String(format!("0.0.0.0:{}", text.trim_start_matches(':'))),
        // Only the address: a password in the URL would be a secret in a variable.
        Reading::RedisUrl => {
            let rest = text.strip_prefix("redis://")?;
            let rest = rest.rsplit_once('@').map_or(rest, |(_, address)| address);
            Value::String(rest.split('/').next()?.into())
        }
    })
}

fn offer(
    tree: &mut Map<String, Value>,
    path: &[&str],
    value: Value,
    variable: &str,
    warnings: &mut Vec<String>,
) {
    // A group that the role does not have (redis for consume) must not appear only because a variable exists.
    let group_is_known = path.len() == 1 || tree.contains_key(path[0]) || path[0] == "kafka";
    let new_name = path
        .iter()
        .map(|part| screaming(part))
        .collect::<Vec<_>>()
        .join("__");
    if !group_is_known {
        warnings.push(format!(
            "{variable} is ignored: this role's file has no `{}`",
            path[0]
        ));
    } else if present(tree, path) {
        warnings.push(format!("{variable} is ignored: the file sets {}", path.join(".")));
    } else {
        let owned: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
        if set(tree, &owned, value).is_ok() {
            warnings.push(format!(
                "{variable} is the replaced service's name: use PENSTOCK_{new_name}"
            ));
        }
    }
}

fn present(tree: &Map<String, Value>, path: &[&str]) -> bool {
    match path {
        [] => true,
        [name] => tree.get(*name).is_some_and(|value| !value.is_null()),
        [group, rest @ ..] => tree
            .get(*group)
            .and_then(Value::as_object)
            .is_some_and(|tree| present(tree, rest)),
    }
}

fn screaming(camel: &str) -> String {
    let mut name = String::with_capacity(camel.len() + 4);
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
