use super::*;
use crate::{
    ByteSize, ConsumeConfig, DrainConfig, Durability, Duration, IngestConfig, KafkaOutage, Protocol,
};

const INGEST: &str = "
version: 1
pipeline: {namespace: growth, name: events}
kafka: {bootstrap: 'kafka:9092', topic: growth.events, deadLetterTopic: growth.events.dlq}
appsFile: /etc/penstock/apps/apps.yaml
";

const CONSUME: &str = "
version: 1
pipeline: {namespace: growth, name: events}
kafka: {bootstrap: 'kafka:9092', topic: growth.events, deadLetterTopic: growth.events.dlq}
group: penstock.growth.events
clickhouse: {url: 'http://clickhouse:8123', database: growth, table: events}
";

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn ingest(extra: &str, pairs: &[(&str, &str)]) -> Result<Loaded<IngestConfig>, LoadError> {
    load(&format!("{INGEST}{extra}"), &environment(pairs))
}

#[test]
fn a_minimal_file_takes_the_defaults() {
    let loaded = ingest("", &[]).unwrap();
    assert_eq!(loaded.config.listen, "0.0.0.0:8080");
    assert_eq!(loaded.config.admin, "0.0.0.0:9090");
    assert_eq!(loaded.config.limits.batch, 1000);
    assert!(loaded.warnings.is_empty());
}

#[test]
fn variables_override_with_the_type_of_the_field() {
    let loaded = ingest(
        "",
        &[
            ("PENSTOCK_KAFKA__BOOTSTRAP", "a:1,b:2"),
            ("PENSTOCK_KAFKA__DEAD_LETTER_TOPIC", "1234"),
            ("PENSTOCK_LIMITS__BATCH", "5"),
            ("PENSTOCK_LIMITS__BODY", "1MB"),
            ("PENSTOCK_LIMITS__REQUEST_TIMEOUT", "20s"),
            ("PENSTOCK_PROTOCOLS", "Segment"),
            ("PENSTOCK_REDIS__ADDRESS", "redis:6379"),
            ("PENSTOCK_REDIS__DATABASE", "3"),
            ("PENSTOCK_TRUSTED_PROXIES", "10.0.0.0/8, fd00::/8"),
            ("PENSTOCK_TLS__CERT_FILE", "/tls/tls.crt"),
            ("PENSTOCK_TLS__KEY_FILE", "/tls/tls.key"),
        ],
    )
    .unwrap();
    let config = loaded.config;
    assert_eq!(config.kafka.bootstrap, "a:1,b:2");
    assert_eq!(
        config.kafka.dead_letter_topic, "1234",
        "a text field keeps text that looks like a number"
    );
    assert_eq!(config.limits.batch, 5);
    assert_eq!(config.limits.body, ByteSize::mb(1));
    assert_eq!(config.limits.request_timeout, Duration::from_secs(20));
    assert_eq!(config.protocols, [Protocol::Segment]);
    assert_eq!(config.redis.unwrap().database, 3);
    assert_eq!(config.trusted_proxies.len(), 2);
    assert_eq!(config.tls.unwrap().key_file.as_os_str(), "/tls/tls.key");
}

#[test]
fn what_nobody_knows_is_refused_by_name() {
    for (extra, pairs, word) in [
        ("bogus: 1\n", &[][..], "bogus"),
        ("limits: {batches: 1}\n", &[][..], "batches"),
        (
            "",
            &[("PENSTOCK_KAFKA__BOOTSTRP", "a:1")][..],
            "PENSTOCK_KAFKA__BOOTSTRP",
        ),
        (
            "",
            &[("PENSTOCK_LIMITS__BATCH", "many")][..],
            "PENSTOCK_LIMITS__BATCH",
        ),
        ("", &[("PENSTOCK_LISTEN__PORT", "1")][..], "PENSTOCK_LISTEN__PORT"),
        (
            "",
            &[("PENSTOCK_LIMITS____BATCH", "1")][..],
            "PENSTOCK_LIMITS____BATCH",
        ),
        ("limits: {body: 8 megabytes}\n", &[][..], "limits.body"),
    ] {
        let refused = ingest(extra, pairs).unwrap_err().to_string();
        assert!(refused.contains(word), "{extra}{pairs:?}: {refused}");
    }
    let loaded = ingest("", &[("PENSTOCK_INSTANCE", "dev")]).unwrap();
    assert!(loaded.warnings[0].contains("PENSTOCK_INSTANCE"));
}

#[test]
fn inequalities_hold_before_a_port_is_bound() {
    for (extra, field) in [
        ("limits: {kafkaTimeout: 10s}\n", "limits.requestTimeout"),
        ("limits: {kafkaTimeout: 9500ms}\n", "limits.requestTimeout"),
        ("limits: {event: 9MB}\n", "limits.event"),
        ("limits: {event: 200kB, body: 100kB}\n", "limits.body"),
        ("limits: {memory: 8MB}\n", "limits.memory"),
        ("limits: {batch: 0}\n", "limits.batch"),
        ("listen: localhost\n", "listen"),
        ("admin: 0.0.0.0:8080\n", "admin"),
        ("protocols: []\n", "protocols"),
        ("redis: {address: nowhere}\n", "redis.address"),
        ("limits: {connections: 0}\n", "limits.connections"),
        ("limits: {connections: 1000001}\n", "limits.connections"),
        ("serverHeader: ''\n", "serverHeader"),
        ("serverHeader: \"a\\nb\"\n", "serverHeader"),
        ("trustedProxies: [10.0.0.1]\n", "trustedProxies"),
        ("tls: {certFile: a}\n", "tls"),
        ("recordFormat: Avro\n", "recordFormat"),
        (
            "redis: {address: 'r:6379', usernameFile: /u}\n",
            "redis.usernameFile",
        ),
        ("redis: {address: 'r:6379', tls: {certFile: /c}}\n", "redis.tls"),
        ("recordKey: UserId\n", "recordKey: is for recordFormat `Single`"),
        ("durability: Spooled\n", "durability: `Spooled` needs spool"),
        ("onKafkaOutage: Spool\n", "onKafkaOutage: `Spool` needs spool"),
        (
            "durability: Spooled\nonKafkaOutage: Reject\nspool: {dir: /s, maxBytes: 1GB}\n",
            "onKafkaOutage",
        ),
        (
            "onKafkaOutage: Reject\nspool: {dir: /s, maxBytes: 1GB}\n",
            "spool: is not used",
        ),
        ("spool: {dir: s, maxBytes: 1GB}\n", "spool.dir"),
        ("spool: {dir: /s, maxBytes: 15MB}\n", "spool.maxBytes"),
        ("spool: {dir: /s}\n", "maxBytes"),
        (
            "onKafkaOutage: Direct\n",
            "clickhouse: is for onKafkaOutage `Direct`",
        ),
        (
            "clickhouse: {url: 'http://c:1', database: d, table: t}\n",
            "clickhouse: is for",
        ),
        (
            "onKafkaOutage: Direct\nclickhouse: {url: 'c:1', database: d, table: t}\n",
            "clickhouse.url",
        ),
    ] {
        let refused = ingest(extra, &[]).unwrap_err().to_string();
        assert!(refused.contains(field), "{extra}: {refused}");
    }
    let consume = |pairs: &[(&str, &str)]| load::<ConsumeConfig>(CONSUME, &environment(pairs));
    assert!(consume(&[]).is_ok());
    let refused = consume(&[("PENSTOCK_CLICKHOUSE__INSERT_TIMEOUT", "5m")])
        .unwrap_err()
        .to_string();
    assert!(refused.contains("clickhouse.insertTimeout"), "{refused}");
    assert_eq!(consume(&[]).unwrap().config.redis, None);
    let refused = consume(&[("PENSTOCK_REDIS__ADDRESS", "redis")])
        .unwrap_err()
        .to_string();
    assert!(refused.contains("redis.address"), "{refused}");
    let events = consume(&[]).unwrap().config.clickhouse.table;
    for table in ["", events.as_str()] {
        let refused = consume(&[("PENSTOCK_DEAD_LETTER_TABLE", table)])
            .unwrap_err()
            .to_string();
        assert!(refused.contains("deadLetterTable"), "{table}: {refused}");
    }
}

#[test]
fn an_outage_is_spooled_where_there_is_a_spool_and_refused_elsewhere() {
    let outage = |extra: &str| ingest(extra, &[]).unwrap().config.kafka_outage();
    assert_eq!(outage(""), KafkaOutage::Reject);
    assert_eq!(outage("durability: Memory\n"), KafkaOutage::Reject);
    assert_eq!(outage("spool: {dir: /s, maxBytes: 1GB}\n"), KafkaOutage::Spool);
    let variables = [
        ("PENSTOCK_SPOOL__DIR", "/s"),
        ("PENSTOCK_SPOOL__MAX_BYTES", "64MB"),
        ("PENSTOCK_DURABILITY", "Spooled"),
    ];
    let config = ingest("", &variables).unwrap().config;
    assert_eq!(
        (config.durability, config.kafka_outage()),
        (Durability::Spooled, KafkaOutage::Spool)
    );
    assert_eq!(config.spool.unwrap().max_bytes, ByteSize::mb(64));
}

#[test]
fn replaced_variables_fill_gaps_outside_a_cluster_only() {
    let pairs = [("PORT", "8081"), ("KAFKA_BROKERS", "old:9092"), ("DEBUG", "1")];
    let loaded = ingest("", &pairs).unwrap();
    assert_eq!(loaded.config.listen, "0.0.0.0:8081");
    assert_eq!(loaded.config.kafka.bootstrap, "kafka:9092", "the file wins");
    let text = loaded.warnings.join("\n");
    for word in ["PENSTOCK_LISTEN", "KAFKA_BROKERS is ignored", "RUST_LOG"] {
        assert!(text.contains(word), "{text}");
    }
    let inside = [&pairs[..], &[("KUBERNETES_SERVICE_HOST", "10.96.0.1")]].concat();
    let loaded = ingest("", &inside).unwrap();
    assert_eq!(loaded.config.listen, "0.0.0.0:8080");
    assert!(loaded.warnings.is_empty());
}

#[test]
fn a_port_for_clients_is_nothing_to_a_role_without_any() {
    for variable in ["PORT", "SERVICE_PORT"] {
        let loaded = load::<ConsumeConfig>(CONSUME, &environment(&[(variable, "8081")])).unwrap();
        let said = format!("{variable} is ignored");
        assert!(loaded.warnings[0].contains(&said), "{:?}", loaded.warnings);
    }
}

/// What docs/by-hand.md shows is taken, and says of the defaults what they are.
#[test]
fn the_files_of_the_guide_are_taken() {
    let guide = include_str!("../../../docs/by-hand.md");
    let files: Vec<&str> = guide
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    let [shown, apps, consume] = files[..] else {
        panic!("{} files of YAML", files.len());
    };
    let nothing = Environment::new();
    let mut shown = load::<IngestConfig>(shown, &nothing).unwrap().config;
    assert!(shown.redis.take().is_some());
    shown.apps_file = "/etc/penstock/apps/apps.yaml".into();
    assert_eq!(shown, ingest("", &[]).unwrap().config, "the defaults");
    let apps = load::<crate::AppsFile>(apps, &nothing).unwrap().config;
    assert_eq!(apps.apps[0].keys[0].name, "web");
    let shown = load::<ConsumeConfig>(consume, &nothing).unwrap().config;
    let defaults = load::<ConsumeConfig>(CONSUME, &nothing).unwrap().config;
    assert_eq!(shown.batch, defaults.batch);
    assert_eq!(shown.group_protocol, defaults.group_protocol);
    assert_eq!(
        shown.clickhouse.insert_timeout,
        defaults.clickhouse.insert_timeout
    );
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    let extra =
        "redis: {address: 'redis:6379'}\ntls: {certFile: a, keyFile: b}\ntrustedProxies: [10.0.0.0/8]\n";
    let config = ingest(extra, &[]).unwrap().config;
    let text = render(&config).unwrap();
    assert_eq!(
        load::<IngestConfig>(&text, &Environment::new()).unwrap().config,
        config
    );
}

#[test]
fn a_key_shared_by_two_apps_is_refused() {
    let digest = "0".repeat(64);
    let text = format!(
        "{{version: 1, replicas: 1, apps: [
          {{id: 6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11, name: a/b, keys: [{{name: k, digest: '{digest}', scope: Write}}]}},
          {{id: 6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b12, name: a/c, keys: [{{name: k, digest: '{digest}', scope: Read}}]}}]}}"
    );
    let refused = load::<crate::AppsFile>(&text, &Environment::new())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("apps[1].keys[0].digest"), "{refused}");
}

#[test]
fn a_drain_needs_a_directory_and_kafka() {
    let file = "version: 1\npipeline: {namespace: growth, name: events}\ndir: /s\n\
         kafka: {bootstrap: 'kafka:9092', topic: growth.events, deadLetterTopic: growth.events.dlq}\n";
    let load = |yaml: &str| load::<DrainConfig>(yaml, &environment(&[])).map(|loaded| loaded.config);
    let config = load(file).unwrap();
    assert_eq!(config.admin, "0.0.0.0:9090");
    assert_eq!(config.kafka_timeout, Duration::from_secs(8));
    for (from, to, field) in [
        ("dir: /s\n", "", "dir"),
        ("/s", "s", "dir"),
        ("kafka:9092", "kafka", "kafka.bootstrap"),
        ("dir: /s\n", "dir: /s\nmaxBytes: 1GB\n", "maxBytes"),
        ("dir: /s\n", "dir: /s\nkafkaTimeout: 1ms\n", "kafkaTimeout"),
    ] {
        let refused = load(&file.replace(from, to)).unwrap_err().to_string();
        assert!(refused.contains(field), "{to}: {refused}");
    }
}

#[test]
fn secured_connections_are_whole() {
    let consume = |pairs: &[(&str, &str)]| load::<ConsumeConfig>(CONSUME, &environment(pairs));
    let sasl = |mechanism| {
        [
            ("PENSTOCK_KAFKA__SASL__MECHANISM", mechanism),
            ("PENSTOCK_KAFKA__SASL__USERNAME_FILE", "/k/username"),
            ("PENSTOCK_KAFKA__SASL__PASSWORD_FILE", "/k/password"),
        ]
    };
    let secured = [
        ("PENSTOCK_KAFKA__TLS__CA_FILE", "/k/ca.crt"),
        ("PENSTOCK_CLICKHOUSE__URL", "https://clickhouse:8443"),
        ("PENSTOCK_CLICKHOUSE__TLS__CA_FILE", "/c/ca.crt"),
        ("PENSTOCK_REDIS__ADDRESS", "redis:6380"),
        ("PENSTOCK_REDIS__TLS__CA_FILE", "/r/ca.crt"),
        ("PENSTOCK_REDIS__PASSWORD_FILE", "/r/password"),
    ];
    for mechanism in ["ScramSha512", "ScramSha256", "Plain"] {
        let config = consume(&[&secured[..], &sasl(mechanism)].concat())
            .unwrap()
            .config;
        let cluster = config.kafka.cluster();
        assert!(cluster.tls.is_some() && cluster.sasl.is_some(), "{cluster:?}");
    }
    for (pairs, field) in [
        (&sasl("Plain")[..], "kafka.sasl.mechanism"),
        (&sasl("GssApi"), "PENSTOCK_KAFKA__SASL__MECHANISM"),
        (&[("PENSTOCK_KAFKA__TLS__KEY_FILE", "/k/tls.key")], "kafka.tls"),
        (
            &[("PENSTOCK_CLICKHOUSE__TLS__CA_FILE", "/c/ca.crt")],
            "clickhouse.tls",
        ),
        (
            &[("PENSTOCK_CLICKHOUSE__URL", "ftp://clickhouse")],
            "clickhouse.url",
        ),
    ] {
        let refused = consume(pairs).unwrap_err().to_string();
        assert!(refused.contains(field), "{pairs:?}: {refused}");
    }
}
