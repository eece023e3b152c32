//! Resources that must be refused, each with the words that must name the field; and the largest that must not be.

mod access;
mod durability;
mod edge;
mod largest;
mod tables;

pub(crate) use largest::largest;

/// One bad resource.
pub(crate) struct Case {
    pub what: &'static str,
    pub yaml: String,
    /// All of them are in the answer.
    pub says: Vec<&'static str>,
}

fn app(what: &'static str, spec: &str, says: &[&'static str]) -> Case {
    let yaml = format!(
        "apiVersion: penstock.dev/v1alpha1\nkind: App\nmetadata: {{name: bad, namespace: default}}\nspec: {spec}\n"
    );
    Case {
        what,
        yaml,
        says: says.to_vec(),
    }
}

fn pipeline(what: &'static str, spec: &str, says: &[&'static str]) -> Case {
    let yaml = format!(
        "apiVersion: penstock.dev/v1alpha1\nkind: IngestionPipeline\nmetadata: {{name: bad, namespace: default}}\nspec: {{apps: {{selector: {{}}}}, {spec}}}\n"
    );
    Case {
        what,
        yaml,
        says: says.to_vec(),
    }
}

fn bound(what: &'static str, apps: &str, says: &[&'static str]) -> Case {
    let yaml = format!(
        "apiVersion: penstock.dev/v1alpha1\nkind: IngestionPipeline\nmetadata: {{name: bad, namespace: default}}\nspec: {{apps: {apps}}}\n"
    );
    Case {
        what,
        yaml,
        says: says.to_vec(),
    }
}

fn named(what: &'static str, kind: &str, name: &str) -> Case {
    let spec = if kind == "App" {
        "{}"
    } else {
        "{apps: {selector: {}}}"
    };
    let yaml = format!(
        "apiVersion: penstock.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: default}}\nspec: {spec}\n"
    );
    Case {
        what,
        yaml,
        says: vec!["metadata.name"],
    }
}

/// The table.
pub(crate) fn all() -> Vec<Case> {
    [
        names(),
        apps(),
        selections(),
        kafka(),
        tables::cases(),
        redis_and_policies(),
        workloads(),
        limits(),
        edge::cases(),
        durability::cases(),
        access::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn names() -> Vec<Case> {
    let long = "a123456789b123456789c123456789d123456789e";
    vec![
        named("an App's name of 41 characters", "App", long),
        named("an App's name that begins with a digit", "App", "1shop"),
        named("an App's name with a dot", "App", "shop.ios"),
        named("a pipeline's name of 41 characters", "IngestionPipeline", long),
        named(
            "a pipeline's name that begins with a digit",
            "IngestionPipeline",
            "9events",
        ),
        named("a pipeline's name with a dot", "IngestionPipeline", "events.web"),
    ]
}

fn apps() -> Vec<Case> {
    let keys = |count: usize| {
        let keys: Vec<String> = (0..count).map(|n| format!("{{name: k{n}}}")).collect();
        format!("{{keys: [{}]}}", keys.join(", "))
    };
    let aliases = |count: usize| {
        let aliases: Vec<String> = (0..count).map(|n| format!("a{n}")).collect();
        format!("{{aliases: [{}]}}", aliases.join(", "))
    };
    vec![
        app("an id that is no UUID", "{id: shop}", &["spec.id"]),
        app(
            "an id in capitals",
            "{id: 6F0C4A4E-5D0B-5C58-9A52-0D9C9A8F3B11}",
            &["spec.id"],
        ),
        app(
            "an empty display name",
            "{displayName: ''}",
            &["spec.displayName"],
        ),
        app(
            "a display name of 101 characters",
            &format!("{{displayName: {}}}", "x".repeat(101)),
            &["spec.displayName"],
        ),
        app("17 keys", &keys(17), &["spec.keys", "16"]),
        app(
            "two keys of one name",
            "{keys: [{name: a}, {name: a}]}",
            &["spec.keys[1]"],
        ),
        app(
            "a key without a name",
            "{keys: [{scope: Write}]}",
            &["spec.keys[0].name"],
        ),
        app(
            "a key's name in capitals",
            "{keys: [{name: IOS}]}",
            &["spec.keys[0].name"],
        ),
        app(
            "a key's name of 21 characters",
            "{keys: [{name: abcdefghijklmnopqrstu}]}",
            &["spec.keys[0].name"],
        ),
        app(
            "a scope that there is not",
            "{keys: [{name: a, scope: Admin}]}",
            &["spec.keys[0].scope"],
        ),
        app(
            "a Secret without a name",
            "{keys: [{name: a, secretRef: {key: k}}]}",
            &["spec.keys[0].secretRef.name"],
        ),
        app(
            "a Secret's name in capitals",
            "{keys: [{name: a, secretRef: {name: S}}]}",
            &["spec.keys[0].secretRef.name"],
        ),
        app(
            "a Secret's key with a slash",
            "{keys: [{name: a, secretRef: {name: s, key: a/b}}]}",
            &["spec.keys[0].secretRef.key"],
        ),
        app(
            "a Secret of another namespace",
            "{keys: [{name: a, secretRef: {name: s, namespace: other}}]}",
            &["spec.keys[0].secretRef.namespace"],
        ),
        app(
            "one secret value twice",
            "{keys: [{name: a, secretRef: {name: s}}, {name: b, secretRef: {name: s}}]}",
            &["spec.keys", "secretRef"],
        ),
        app(
            "an expiry that is no time",
            "{keys: [{name: a, expiresAt: tomorrow}]}",
            &["spec.keys[0].expiresAt"],
        ),
        app(
            "an expiry without a zone",
            "{keys: [{name: a, expiresAt: '2030-01-01T00:00:00'}]}",
            &["spec.keys[0].expiresAt"],
        ),
        app(
            "no events per second",
            "{quota: {eventsPerSecond: 0}}",
            &["spec.quota.eventsPerSecond"],
        ),
        app(
            "a negative quota",
            "{quota: {eventsPerDay: -1}}",
            &["spec.quota.eventsPerDay"],
        ),
        app(
            "a quota that is no number",
            "{quota: {eventsPerSecond: many}}",
            &["spec.quota.eventsPerSecond"],
        ),
        app(
            "a burst below 1000",
            "{quota: {eventsPerSecond: 5, burst: 999}}",
            &["spec.quota.burst", "1000"],
        ),
        app(
            "a burst without a rate",
            "{quota: {burst: 1000}}",
            &["spec.quota.burst", "eventsPerSecond"],
        ),
        app(
            "bytes without a unit",
            "{quota: {bytesPerDay: '10'}}",
            &["spec.quota.bytesPerDay"],
        ),
        app(
            "bytes of an unknown unit",
            "{quota: {bytesPerDay: 10TB}}",
            &["spec.quota.bytesPerDay"],
        ),
        app("a retention in hours", "{retention: 48h}", &["spec.retention"]),
        app("no retention", "{retention: 0d}", &["spec.retention"]),
        app("suspended with a word", "{suspended: 'yes'}", &["spec.suspended"]),
        app("17 aliases", &aliases(17), &["spec.aliases", "16"]),
        app("one alias twice", "{aliases: [a, a]}", &["spec.aliases[1]"]),
        app(
            "an alias with a space",
            "{aliases: ['a b']}",
            &["spec.aliases[0]"],
        ),
        app("an empty alias", "{aliases: ['']}", &["spec.aliases[0]"]),
        app("a field that there is not", "{origin: x}", &["spec.origin"]),
    ]
}

fn selections() -> Vec<Case> {
    vec![
        bound("neither selector nor names", "{}", &["spec.apps", "exactly one"]),
        bound(
            "both selector and names",
            "{selector: {}, names: [a]}",
            &["spec.apps", "exactly one"],
        ),
        bound("no names", "{names: []}", &["spec.apps.names"]),
        bound("one name twice", "{names: [a, a]}", &["spec.apps.names[1]"]),
        bound(
            "a name that no App can have",
            "{names: [A_B]}",
            &["spec.apps.names[0]"],
        ),
        bound(
            "an operator that there is not",
            "{selector: {matchExpressions: [{key: a, operator: Like}]}}",
            &["spec.apps.selector.matchExpressions[0].operator"],
        ),
        bound(
            "In without values",
            "{selector: {matchExpressions: [{key: a, operator: In}]}}",
            &["spec.apps.selector.matchExpressions[0].values"],
        ),
        bound(
            "Exists with values",
            "{selector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            &["spec.apps.selector.matchExpressions[0].values"],
        ),
        bound(
            "a label of 64 characters",
            &format!("{{selector: {{matchLabels: {{a: {}}}}}}}", "x".repeat(64)),
            &["spec.apps.selector.matchLabels"],
        ),
        bound(
            "Apps of another namespace",
            "{selector: {}, namespace: other}",
            &["spec.apps.namespace"],
        ),
    ]
}

fn kafka() -> Vec<Case> {
    vec![
        pipeline(
            "brokers without a port",
            "kafka: {bootstrap: kafka}",
            &["spec.kafka.bootstrap"],
        ),
        pipeline(
            "a broker's port above 65535",
            "kafka: {bootstrap: 'kafka:65536'}",
            &["spec.kafka.bootstrap"],
        ),
        pipeline(
            "brokers as a URL",
            "kafka: {bootstrap: 'http://kafka:9092'}",
            &["spec.kafka.bootstrap"],
        ),
        pipeline(
            "a topic with a space",
            "kafka: {topic: 'a b'}",
            &["spec.kafka.topic"],
        ),
        pipeline(
            "a topic that begins with an underscore",
            "kafka: {topic: __consumer_offsets}",
            &["spec.kafka.topic"],
        ),
        pipeline(
            "a topic of 201 characters",
            &format!("kafka: {{topic: {}}}", "t".repeat(201)),
            &["spec.kafka.topic"],
        ),
        pipeline(
            "no partitions",
            "kafka: {partitions: 0}",
            &["spec.kafka.partitions"],
        ),
        pipeline(
            "1025 partitions",
            "kafka: {partitions: 1025}",
            &["spec.kafka.partitions"],
        ),
        pipeline(
            "no replication",
            "kafka: {replication: 0}",
            &["spec.kafka.replication"],
        ),
        pipeline(
            "a retention in weeks",
            "kafka: {retention: 2w}",
            &["spec.kafka.retention"],
        ),
        pipeline(
            "no retention",
            "kafka: {retention: 0d}",
            &["spec.kafka.retention"],
        ),
        pipeline(
            "retention.ms beside retention",
            "kafka: {config: {retention.ms: '1'}}",
            &["spec.kafka.config", "retention.ms"],
        ),
        pipeline(
            "compaction",
            "kafka: {config: {cleanup.policy: compact}}",
            &["spec.kafka.config", "cleanup.policy"],
        ),
        pipeline(
            "min.insync.replicas by hand",
            "kafka: {config: {min.insync.replicas: '1'}}",
            &["spec.kafka.config", "min.insync.replicas"],
        ),
        pipeline(
            "a setting in capitals",
            "kafka: {config: {Segment: '1'}}",
            &["spec.kafka.config"],
        ),
        pipeline(
            "a setting that is a number",
            "kafka: {config: {segment.bytes: 1000000}}",
            &["spec.kafka.config.segment.bytes"],
        ),
        pipeline(
            "one topic for both",
            "kafka: {topic: a, deadLetter: {topic: a}}",
            &["spec.kafka.deadLetter.topic"],
        ),
        pipeline(
            "a format that is none",
            "kafka: {recordFormat: Avro}",
            &["spec.kafka.recordFormat"],
        ),
        pipeline(
            "a key of many events",
            "kafka: {key: DeviceId}",
            &["spec.kafka.key", "recordFormat Single"],
        ),
        pipeline(
            "a key that is no member",
            "kafka: {recordFormat: Single, key: Country}",
            &["spec.kafka.key"],
        ),
        pipeline(
            "dead letters for no time",
            "kafka: {deadLetter: {retention: 0h}}",
            &["spec.kafka.deadLetter.retention"],
        ),
    ]
}

fn redis_and_policies() -> Vec<Case> {
    vec![
        pipeline(
            "Redis as a URL",
            "redis: {address: 'redis://redis:6379'}",
            &["spec.redis.address"],
        ),
        pipeline(
            "a negative Redis database",
            "redis: {database: -1}",
            &["spec.redis.database"],
        ),
        pipeline(
            "a deletion policy that there is not",
            "deletionPolicy: Orphan",
            &["spec.deletionPolicy"],
        ),
        pipeline(
            "an adoption policy that there is not",
            "adoptionPolicy: Maybe",
            &["spec.adoptionPolicy"],
        ),
    ]
}

fn workloads() -> Vec<Case> {
    vec![
        pipeline(
            "a protocol that there is not",
            "endpoint: {protocols: [Kafka]}",
            &["spec.endpoint.protocols[0]"],
        ),
        pipeline(
            "no protocol",
            "endpoint: {protocols: []}",
            &["spec.endpoint.protocols"],
        ),
        pipeline(
            "one protocol twice",
            "endpoint: {protocols: [Native, Native]}",
            &["spec.endpoint.protocols[1]"],
        ),
        pipeline(
            "no ingest pod",
            "ingest: {scaling: {replicas: 0}}",
            &["spec.ingest.scaling.replicas"],
        ),
        pipeline(
            "501 ingest pods",
            "ingest: {scaling: {replicas: 501}}",
            &["spec.ingest.scaling.replicas"],
        ),
        pipeline(
            "scaling without replicas",
            "ingest: {scaling: {mode: Fixed}}",
            &["spec.ingest.scaling.replicas"],
        ),
        pipeline(
            "a mode that there is not",
            "ingest: {scaling: {mode: Magic, replicas: 1}}",
            &["spec.ingest.scaling.mode"],
        ),
        pipeline(
            "more consumers than partitions",
            "consume: {scaling: {replicas: 4}}",
            &["spec.consume.scaling.replicas", "partitions"],
        ),
        pipeline(
            "a CPU that is no amount",
            "ingest: {resources: {requests: {cpu: fast}}}",
            &["spec.ingest.resources.requests.cpu"],
        ),
        pipeline(
            "a memory in MB",
            "ingest: {resources: {limits: {memory: 256MB}}}",
            &["spec.ingest.resources.limits.memory"],
        ),
        pipeline(
            "more CPU asked for than allowed",
            "consume: {resources: {requests: {cpu: '2'}, limits: {cpu: 500m}}}",
            &["spec.consume.resources.requests.cpu"],
        ),
        pipeline(
            "more memory asked for than allowed",
            "consume: {resources: {requests: {memory: 2Gi}, limits: {memory: 1Gi}}}",
            &["spec.consume.resources.requests.memory"],
        ),
        pipeline(
            "a resource that there is not",
            "ingest: {resources: {limits: {gpu: '1'}}}",
            &["spec.ingest.resources.limits.gpu"],
        ),
    ]
}

fn limits() -> Vec<Case> {
    vec![
        pipeline(
            "an event larger than a body",
            "ingest: {limits: {event: 300kB, body: 200kB}}",
            &["spec.ingest.limits.event"],
        ),
        pipeline(
            "an event that no record holds",
            "ingest: {limits: {event: 501kB}}",
            &["spec.ingest.limits.event", "500kB"],
        ),
        pipeline(
            "a body above 64MB",
            "ingest: {limits: {body: 65MB, memory: 200MB}}",
            &["spec.ingest.limits.body", "64MB"],
        ),
        pipeline(
            "memory for less than two bodies",
            "ingest: {limits: {body: 40MB, memory: 64MB}}",
            &["spec.ingest.limits.memory", "twice"],
        ),
        pipeline(
            "memory beyond the pod's",
            "ingest: {limits: {memory: 300MB}}",
            &["spec.ingest.limits", "resources.limits.memory"],
        ),
        pipeline(
            "more connections than the pod's memory holds",
            "ingest: {limits: {connections: 10000}}",
            &["spec.ingest.limits", "72kB for each"],
        ),
        pipeline(
            "a batch of none",
            "ingest: {limits: {batch: 0}}",
            &["spec.ingest.limits.batch"],
        ),
        pipeline(
            "a batch of 10001",
            "ingest: {limits: {batch: 10001}}",
            &["spec.ingest.limits.batch"],
        ),
        pipeline(
            "an answer before Kafka's",
            "ingest: {limits: {requestTimeout: 5s}}",
            &["spec.ingest.limits.requestTimeout", "kafkaTimeout"],
        ),
        pipeline(
            "a timeout without a unit",
            "ingest: {limits: {kafkaTimeout: '5'}}",
            &["spec.ingest.limits.kafkaTimeout"],
        ),
        pipeline(
            "a Kafka timeout of 50 ms",
            "ingest: {limits: {kafkaTimeout: 50ms}}",
            &["spec.ingest.limits.kafkaTimeout"],
        ),
        pipeline(
            "a batch of a thousand rows",
            "consume: {batch: {maxRows: 1000}}",
            &["spec.consume.batch.maxRows"],
        ),
        pipeline(
            "a batch of a million and one rows",
            "consume: {batch: {maxRows: 1000001}}",
            &["spec.consume.batch.maxRows"],
        ),
        pipeline(
            "a batch of 65 MB",
            "consume: {batch: {maxBytes: 68MB}}",
            &["spec.consume.batch.maxBytes"],
        ),
        pipeline(
            "a batch of 10 kB",
            "consume: {batch: {maxBytes: 10kB}}",
            &["spec.consume.batch.maxBytes"],
        ),
        pipeline(
            "a batch that waits two minutes",
            "consume: {batch: {maxAge: 2m}}",
            &["spec.consume.batch.maxAge"],
        ),
        pipeline(
            "a batch that waits 10 ms",
            "consume: {batch: {maxAge: 10ms}}",
            &["spec.consume.batch.maxAge"],
        ),
        pipeline("a section that there is not", "alerts: {}", &["spec.alerts"]),
    ]
}
