//! Every manifest that the examples lead to, in full: a change of a template shows in review.

use clap::Parser;
use k8s_openapi::api::core::v1::PodSpec;
use penstock_crds::{App, IngestionPipeline};
use serde::Serialize;
use uuid::Uuid;

use super::apps::{Bound, Unreadable};
use super::build::{Runner, build, drain_job};
use super::secrets::{Credentials, Files};
use super::target::Target;
use super::validate::{Validated, validate};
use crate::controllers::app::keyring::{AppKeys, KnownKey, SecretVersion};
use crate::controllers::subject::Subject;
use crate::identity::{ApiKey, derived_app_id};
use crate::settings::{Args, Settings};

const CLUSTER: &str = "11111111-2222-3333-4444-555555555555";

fn settings(image: &str) -> Settings {
    settings_with(image, &[])
}

fn settings_with(image: &str, flags: &[&str]) -> Settings {
    let own = [
        "penstock-operator",
        "--image",
        image,
        "--kafka-bootstrap=kafka.platform:9092",
        "--clickhouse-url=http://clickhouse.platform:8123",
        "--clickhouse-consumer-username-file=/c/username",
        "--clickhouse-consumer-password-file=/c/password",
        "--redis-address=redis.platform:6379",
    ];
    let all = own.into_iter().chain(flags.iter().copied());
    Args::parse_from(all).try_into().unwrap()
}

fn example<T: serde::de::DeserializeOwned>(file: &str) -> T {
    let path = format!("{}/../examples/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn quickstart(image: &str) -> Validated {
    quickstart_with(image, |_| ())
}

fn quickstart_with(image: &str, change: impl FnOnce(&mut IngestionPipeline)) -> Validated {
    let mut app: App = example("quickstart/app.yaml");
    app.metadata.uid = Some("uid-of-shop".into());
    let mut pipeline: IngestionPipeline = example("quickstart/pipeline.yaml");
    pipeline.metadata.uid = Some("uid-of-events".into());
    change(&mut pipeline);
    let digest = ApiKey::from_secret(b"psk_not-a-real-key").unwrap().digest();
    let secret = SecretVersion {
        name: "shop-default".into(),
        data_key: "key".into(),
        uid: String::new(),
        version: String::new(),
    };
    let bound = Bound {
        id: derived_app_id(CLUSTER, "growth", "shop"),
        app,
        keys: AppKeys {
            uid: "uid-of-shop".into(),
            keys: [("default".to_owned(), KnownKey { secret, digest })].into(),
        },
    };
    assert_ne!(bound.id, Uuid::nil());
    let settings = settings(image);
    validated(&pipeline, vec![bound], &settings).unwrap()
}

fn validated(
    pipeline: &IngestionPipeline,
    bound: Vec<Bound>,
    settings: &Settings,
) -> Result<Validated, super::target::Invalid> {
    let subject = Subject::of(pipeline);
    let target = Target::of(pipeline, &subject, CLUSTER, settings).unwrap();
    validate(pipeline, &subject, target, bound, Unreadable::default(), settings)
}

fn yaml(object: &impl Serialize) -> String {
    serde_yaml::to_string(object).unwrap()
}

fn runner(runner: &Runner) -> String {
    match runner {
        Runner::Deployment(deployment) => yaml(&**deployment),
        Runner::StatefulSet(set) => yaml(&**set),
    }
}

fn pod(runner: Runner) -> PodSpec {
    let template = match runner {
        Runner::Deployment(deployment) => deployment.spec.unwrap().template,
        Runner::StatefulSet(set) => set.spec.unwrap().template,
    };
    template.spec.unwrap()
}

/// The pipeline of the quickstart with another `ingest`.
fn with_ingest(ingest: &str) -> Result<Validated, super::target::Invalid> {
    let mut pipeline: IngestionPipeline = example("quickstart/pipeline.yaml");
    pipeline.metadata.uid = Some("uid-of-events".into());
    pipeline.spec.ingest = serde_yaml::from_str(ingest).unwrap();
    validated(&pipeline, vec![], &settings("penstock.local/penstock:1"))
}

/// What the two roles log in to ClickHouse with; ingest only where it stores directly.
fn credentials(password: &str, direct: bool) -> Credentials {
    let user = Files::of(&[
        ("clickhouse-username", "consumer"),
        ("clickhouse-password", password),
    ]);
    Credentials {
        ingest: if direct { user.clone() } else { Files::default() },
        consume: user,
    }
}

/// The Secrets that a pod has files of.
fn secrets(pod: &PodSpec) -> Vec<String> {
    let volumes = pod.volumes.iter().flatten();
    volumes
        .filter_map(|volume| volume.secret.as_ref()?.secret_name.clone())
        .collect()
}

#[test]
fn spool_manifests() {
    let spool = "{scaling: {replicas: 2}, spool: {volume: {size: 10Gi, storageClassName: fast}}}";
    let pipeline = with_ingest(spool).unwrap();
    let objects = build(&pipeline, &credentials("secret", false));
    for (name, yaml) in [
        ("ingest-config", yaml(&objects.ingest.config)),
        ("ingest-set", runner(&objects.ingest.runner)),
        ("drain-config", yaml(&objects.drain_config)),
        ("drain-job", yaml(&drain_job(&pipeline, 3, "uid-of-claim"))),
    ] {
        insta::assert_snapshot!(format!("spool-{name}"), yaml);
    }
    assert!(
        secrets(&pod(objects.ingest.runner)).is_empty(),
        "it stores nothing itself"
    );
}

#[test]
fn what_pods_do_without_kafka_is_in_their_configuration() {
    let config = |ingest: &str| {
        let objects = build(&with_ingest(ingest).unwrap(), &credentials("secret", true));
        objects.ingest.config.data.unwrap()["config.yaml"].clone()
    };
    for (ingest, lines) in [
        ("{}", &["durability: Replicated"][..]),
        ("{durability: Memory}", &["durability: Memory"]),
        (
            "{durability: Spooled, spool: {volume: {size: 1G}}}",
            &[
                "durability: Spooled",
                "maxBytes: 800MB",
                "dir: /var/lib/penstock/spool",
            ],
        ),
        (
            "{onKafkaOutage: Spool, spool: {volume: {size: 1Gi}, maxBytes: 100MB}}",
            &["onKafkaOutage: Spool", "maxBytes: 100MB"],
        ),
        (
            "{onKafkaOutage: Direct}",
            &[
                "onKafkaOutage: Direct",
                "table: events",
                "passwordFile: /etc/penstock/connections/clickhouse-password",
            ],
        ),
    ] {
        let config = config(ingest);
        for line in lines {
            assert!(config.contains(line), "{line} is not in\n{config}");
        }
        assert_eq!(
            config.contains("clickhouse"),
            ingest.contains("Direct"),
            "{config}"
        );
    }
    let refused = with_ingest("{spool: {volume: {size: 1G}, maxBytes: 950MB}}").unwrap_err();
    assert!(
        refused.message.contains("ingest.spool.maxBytes"),
        "{}",
        refused.message
    );
}

/// Only who stores in ClickHouse logs in there, and reads who it is for each request.
#[test]
fn ingest_has_credentials_only_where_it_stores_directly() {
    let direct = with_ingest("{onKafkaOutage: Direct}").unwrap();
    let with = |password| build(&direct, &credentials(password, true));
    let hash = |objects: &super::build::Objects| super::rollout::Live::of_runner(&objects.ingest.runner).hash;
    assert_eq!(hash(&with("7")), hash(&with("8")));
    assert_ne!(with("7").revision, with("8").revision);
    assert_eq!(secrets(&pod(with("7").ingest.runner)), ["events-ingest"]);
}

/// What the installation asks of its clients reaches pods as files, and Kafka's in the Job that drains a claim.
#[test]
fn secured_connections_reach_the_pods() {
    let flags = [
        "--kafka-tls=true",
        "--kafka-ca-file=/k/ca.crt",
        "--kafka-sasl-mechanism=ScramSha512",
        "--kafka-username-file=/a/username",
        "--kafka-password-file=/a/password",
        "--kafka-pod-username-file=/p/username",
        "--kafka-pod-password-file=/p/password",
        "--redis-tls=true",
        "--redis-ca-file=/r/ca.crt",
        "--redis-password-file=/r/password",
    ];
    let settings = settings_with("penstock.local/penstock:1", &flags);
    let made = |kafka: &str| {
        let mut pipeline: IngestionPipeline = example("quickstart/pipeline.yaml");
        pipeline.spec.kafka.bootstrap = (!kafka.is_empty()).then(|| kafka.to_owned());
        validated(&pipeline, vec![], &settings).unwrap()
    };
    let own = made("");
    for config in [
        yaml(&own.ingest.config),
        yaml(&own.consume.config),
        yaml(&own.drain),
    ] {
        for line in [
            "caFile: /etc/penstock/connections/kafka-ca.crt",
            "mechanism: ScramSha512",
            "passwordFile: /etc/penstock/connections/kafka-password",
        ] {
            assert!(config.contains(line), "{line} is not in\n{config}");
        }
    }
    let redis = own.consume.config.redis.unwrap();
    assert!(redis.tls.is_some() && redis.username_file.is_none());
    // A list that names one of the installation's brokers beside another is another Kafka.
    for other in ["other:9092", "kafka.platform:9092,other:9092"] {
        let other = made(other);
        assert!(other.ingest.config.kafka.sasl.is_none() && other.drain.kafka.tls.is_none());
        assert!(other.ingest.config.redis.unwrap().tls.is_some());
    }
    let files = Files::of(&[("kafka-password", "p4ss")]);
    let secured = build(
        &made(""),
        &Credentials {
            ingest: files.clone(),
            consume: files,
        },
    );
    for role in [&secured.ingest, &secured.consume] {
        let data = role.secret.as_ref().unwrap().data.as_ref().unwrap();
        assert_eq!(data["kafka-password"].0, b"p4ss");
    }
    let job = drain_job(&made(""), 0, "uid")
        .spec
        .unwrap()
        .template
        .spec
        .unwrap();
    assert_eq!(secrets(&job), ["events-ingest"]);
}

#[test]
fn quickstart_manifests() {
    let pipeline = quickstart("penstock.local/penstock:1");
    let objects = build(&pipeline, &credentials("secret", false));
    assert!(objects.ingest.secret.is_none());
    for (name, yaml) in [
        ("apps", yaml(&objects.apps)),
        ("service", yaml(&objects.service)),
        ("ingest-account", yaml(&objects.ingest.account)),
        ("ingest-config", yaml(&objects.ingest.config)),
        ("ingest-budget", yaml(&objects.ingest.budget)),
        ("ingest-deployment", runner(&objects.ingest.runner)),
        ("consume-account", yaml(&objects.consume.account)),
        ("consume-config", yaml(&objects.consume.config)),
        ("consume-budget", yaml(&objects.consume.budget)),
        ("consume-deployment", runner(&objects.consume.runner)),
        ("consume-secret", yaml(&objects.consume.secret)),
    ] {
        insta::assert_snapshot!(format!("quickstart-{name}"), yaml);
    }
}

#[test]
fn pods_restart_only_for_what_they_read_at_start() {
    let hash = |objects: &super::build::Objects| {
        let of = |runner| super::rollout::Live::of_runner(runner).hash;
        (of(&objects.ingest.runner), of(&objects.consume.runner))
    };
    let one = quickstart("penstock.local/penstock:1");
    let same = credentials("7", false);
    let base = build(&one, &same);
    assert_eq!(
        hash(&base),
        hash(&build(&quickstart("penstock.local/penstock:2"), &same)),
        "another image"
    );

    let longer = quickstart_with("penstock.local/penstock:1", |pipeline| {
        pipeline.spec.kafka.retention = penstock_dataplane_config::Duration::from_secs(30 * 24 * 3600);
    });
    assert_eq!(
        hash(&base),
        hash(&build(&longer, &same)),
        "a topic that keeps events longer"
    );

    let mut another_app = one.clone();
    another_app.apps.file.apps.clear();
    let revised = build(&another_app, &same);
    assert_eq!(hash(&base), hash(&revised), "another list of Apps");
    assert_ne!(base.revision, revised.revision);

    let rotated = build(&one, &credentials("8", false));
    assert_eq!(hash(&base), hash(&rotated), "another password of ClickHouse");
    assert_ne!(base.revision, rotated.revision);

    assert_eq!(hash(&base), hash(&build(&one.with_letters(true), &same)));
    let without = build(&one.with_letters(false), &same);
    assert_eq!(hash(&base).0, hash(&without).0);
    assert_ne!(hash(&base).1, hash(&without).1, "no table for dead letters");
    let told = yaml(&without.consume.config);
    assert!(
        yaml(&base.consume.config).contains("deadLetterTable") && !told.contains("deadLetterTable"),
        "{told}"
    );

    let mut limits = one;
    limits.ingest.config.limits.batch = 500;
    let limited = build(&limits, &same);
    assert_ne!(hash(&base).0, hash(&limited).0);
    assert_eq!(hash(&base).1, hash(&limited).1);
}

#[test]
fn the_edge_of_a_pipeline_reaches_its_pods() {
    let mut given: IngestionPipeline = example("quickstart/pipeline.yaml");
    given.spec.endpoint = serde_yaml::from_str("{tls: {secretName: shop-tls}, serverHeader: edge}").unwrap();
    given.spec.ingest.trusted_proxies = vec!["10.0.0.0/8".into(), "fd00::/8".into()];
    given.spec.ingest.limits.connections = 500;
    let made =
        |pipeline: &IngestionPipeline| validated(pipeline, vec![], &settings("penstock.local/penstock:1"));
    let objects = build(&made(&given).unwrap(), &Credentials::default());
    let config = &objects.ingest.config.data.unwrap()["config.yaml"];
    for line in [
        "certFile: /etc/penstock/tls/tls.crt",
        "keyFile: /etc/penstock/tls/tls.key",
        "serverHeader: edge",
        "- 10.0.0.0/8",
        "connections: 500",
    ] {
        assert!(config.contains(line), "{line} is not in\n{config}");
    }
    let ingest = pod(objects.ingest.runner);
    assert_eq!(secrets(&ingest), ["shop-tls"]);
    let mounts = ingest.containers[0].volume_mounts.as_ref().unwrap();
    let mount = mounts.iter().find(|mount| mount.name == "tls").unwrap();
    assert_eq!(
        (mount.mount_path.as_str(), &mount.sub_path),
        ("/etc/penstock/tls", &None),
        "kubelet renews no subPath"
    );
    assert!(secrets(&pod(objects.consume.runner)).is_empty());
    let port = objects.service.spec.unwrap().ports.unwrap().remove(0);
    assert_eq!(port.app_protocol.as_deref(), Some("https"));

    // The schema lets pass what only looks like an address.
    given.spec.ingest.trusted_proxies = vec!["fd00:::::/8".into()];
    let refused = made(&given).unwrap_err();
    assert!(
        refused.message.contains("ingest.trustedProxies: `fd00:::::/8`"),
        "{}",
        refused.message
    );
}

#[test]
fn how_events_are_kept_and_stored_reaches_the_pods() {
    let made = quickstart_with("penstock.local/penstock:1", |pipeline| {
        pipeline.spec.kafka = serde_yaml::from_str("{recordFormat: Single, key: DeviceId}").unwrap();
        pipeline.spec.clickhouse.compression = penstock_crds::pipeline::Compression::Lz4;
        pipeline.spec.consume = serde_yaml::from_str(
            "{groupProtocol: Consumer, batch: {maxRows: 12345, maxBytes: 5MB, maxAge: 700ms}}",
        )
        .unwrap();
    });
    let objects = build(&made, &Credentials::default());
    let ingest = &objects.ingest.config.data.unwrap()["config.yaml"];
    let consume = &objects.consume.config.data.unwrap()["config.yaml"];
    for (config, line) in [
        (ingest, "recordFormat: Single"),
        (ingest, "recordKey: DeviceId"),
        (consume, "groupProtocol: Consumer"),
        (consume, "compression: LZ4"),
        (consume, "maxRows: 12345"),
        (consume, "maxBytes: 5MB"),
        (consume, "maxAge: 700ms"),
    ] {
        assert!(config.contains(line), "{line} is not in\n{config}");
    }
}

#[test]
fn no_key_and_no_password_leaves_its_secret() {
    let pipeline = quickstart("penstock.local/penstock:1");
    let objects = build(&pipeline, &credentials("p4ss", true));
    let all = format!("{objects:?}");
    assert!(!all.contains("psk_not-a-real-key"));
    let bytes = format!("{:?}", b"p4ss").replace(['[', ']'], "");
    for secret in ["p4ss", bytes.as_str(), "cDRzcw"] {
        assert!(!all.contains(secret), "{secret}");
    }
}

#[test]
fn pods_are_pulled_with_the_secrets_of_the_installation() {
    let mut pipeline = quickstart("penstock.local/penstock:1");
    pipeline.image_pull_secrets = vec!["pull".into(), "other".into()];
    let objects = build(&pipeline, &Credentials::default());
    for role in [objects.ingest, objects.consume] {
        let names: Vec<_> = pod(role.runner)
            .image_pull_secrets
            .unwrap()
            .into_iter()
            .map(|s| s.name)
            .collect();
        assert_eq!(names, ["pull", "other"]);
    }
}
