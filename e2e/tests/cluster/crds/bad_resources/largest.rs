//! The largest resources that the schema accepts.

use serde_json::{Value, json};

/// Resources with every field set and every list at its longest.
pub(crate) fn largest() -> Vec<(&'static str, Value)> {
    let name = "a".repeat(40);
    let keys: Vec<Value> = (0..16)
        .map(|n| {
            json!({
                "name": format!("k{n:019}"),
                "scope": "Read",
                "trusted": true,
                "secretRef": {"name": format!("{}{n:03}", "s".repeat(250)), "key": "k".repeat(253)},
                "expiresAt": "2030-01-01T00:00:00Z"
            })
        })
        .collect();
    let app = json!({
        "apiVersion": "penstock.dev/v1alpha1", "kind": "App",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "id": "6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11",
            "displayName": "D".repeat(100),
            "keys": keys,
            "quota": {
                "eventsPerSecond": 1_000_000_000, "burst": 10_000_000_000_i64,
                "eventsPerDay": 1_000_000_000_000_000_i64, "bytesPerDay": "999999999GiB"
            },
            "suspended": true,
            "origins": (0..32).map(|n| format!("https://{}{n:02}:65535", "x".repeat(239))).collect::<Vec<_>>(),
            "aliases": (0..16).map(|n| format!("{}{n:02}", "x".repeat(62))).collect::<Vec<_>>()
        }
    });
    let config: serde_json::Map<String, Value> = (0..32)
        .map(|n| (format!("{}.a{n}", "s".repeat(90)), json!("v".repeat(256))))
        .collect();
    let proxies: Vec<String> = (0..64)
        .map(|n| format!("{}{n:04}:255.255.255.255/128", "ffff:".repeat(5)))
        .collect();
    let amounts = json!({"cpu": "999999.999", "memory": "999999999999Gi"});
    let column = |n: usize| format!("{}{n:02}", "n".repeat(61));
    let path = format!("properties{}", format!(".{}", "p".repeat(22)).repeat(8));
    let columns: Vec<Value> = (0..64)
        .map(|n| json!({"name": column(n), "type": "Timestamp", "from": path, "nullable": true}))
        .collect();
    let rollups: Vec<Value> = (0..16)
        .map(|n| {
            let by: Vec<String> = (60..64).map(column).collect();
            let own = format!("{}{n:02}", "r".repeat(38));
            json!({"name": own, "count": "Events", "every": "Minute", "by": by, "retention": "9999d"})
        })
        .collect();
    let secret = "s".repeat(253);
    let pipeline = |apps: Value| {
        json!({
            "apiVersion": "penstock.dev/v1alpha1", "kind": "IngestionPipeline",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "apps": apps,
                "endpoint": {
                    "protocols": ["Envelope", "Segment", "Native"], "serverHeader": "s".repeat(128),
                    "tls": {"secretName": "t".repeat(253)}
                },
                "ingest": {
                    "scaling": {"mode": "Fixed", "replicas": 500},
                    "resources": {"requests": amounts, "limits": amounts},
                    "trustedProxies": proxies,
                    "durability": "Spooled", "onKafkaOutage": "Spool",
                    "spool": {
                        "volume": {"size": "999999999999Ti", "storageClassName": "c".repeat(253)}, "maxBytes": "1000GB"
                    },
                    "limits": {
                        "body": "64MB", "event": "500kB", "batch": 10_000, "memory": "4GB", "connections": 1_000_000,
                        "requestTimeout": "999999m", "kafkaTimeout": "999998m"
                    }
                },
                "kafka": {
                    "bootstrap": format!("{}:65535", "b".repeat(1018)), "topic": "t".repeat(200),
                    "partitions": 1024, "replication": 9, "retention": "99999d", "config": config,
                    "recordFormat": "Single", "key": "SessionId",
                    "tls": {"caSecret": secret, "certSecret": secret, "adminCertSecret": secret},
                    "sasl": {"mechanism": "ScramSha512", "secret": secret, "adminSecret": secret},
                    "deadLetter": {"topic": "d".repeat(200), "retention": "99999d"}
                },
                "consume": {
                    "scaling": {"mode": "Fixed", "replicas": 500},
                    "resources": {"requests": amounts, "limits": amounts},
                    "batch": {"maxRows": 1_000_000, "maxBytes": "64MiB", "maxAge": "1m"},
                    "groupProtocol": "Consumer"
                },
                "clickhouse": {
                    "url": "https://clickhouse:65535", "caSecret": secret, "secret": secret, "adminSecret": secret,
                    "database": "d".repeat(63), "table": "t".repeat(63),
                    "cluster": "c".repeat(63),
                    "columns": columns, "rollups": rollups, "deadLetterTable": "None", "compression": "LZ4"
                },
                "redis": {"address": "redis:6379", "database": 1023, "tls": {"caSecret": secret}, "secret": secret},
                "deletionPolicy": "Delete", "adoptionPolicy": "Adopt"
            }
        })
    };
    let names: Vec<String> = (0..256).map(|n| format!("{}{n:03}", "a".repeat(37))).collect();
    let expressions: Vec<Value> = (0..16)
        .map(|n| {
            let values: Vec<String> = (0..32).map(|v| format!("{}{v:02}", "v".repeat(61))).collect();
            json!({"key": format!("{}{n:02}", "k".repeat(315)), "operator": "NotIn", "values": values})
        })
        .collect();
    let labels: serde_json::Map<String, Value> = (0..16)
        .map(|n| (format!("l{n}"), json!("v".repeat(63))))
        .collect();
    vec![
        ("an App", app),
        ("a pipeline of names", pipeline(json!({"names": names}))),
        (
            "a pipeline of labels",
            pipeline(json!({"selector": {"matchLabels": labels, "matchExpressions": expressions}})),
        ),
    ]
}
