//! Every manifest that the examples lead to, in full: a change of a template shows in review.

use clap::Parser;
use k8s_openapi::api::core::v1::PodSpec;
use penstock_crds::{App, IngestionPipeline};
use serde::Serialize;
use uuid::Uuid;

use super::apps::{Bound, Unreadable};
use super::build::{Runner, build, drain_job, secret};
use super::target::Target;
use super::validate::{Credentials, Validated, validate};
use crate::controllers::app::keyring::{AppKeys, KnownKey, SecretVersion};
use crate::controllers::subject::Subject;
use crate::identity::{ApiKey, derived_app_id};
use crate::settings::{Args, Settings};

const CLUSTER: &str = "11111111-2222-3333-4444-555555555555";

fn settings(image: &str) -> Settings {
    Args::parse_from([
        "penstock-operator",
        "--image",
        image,
        "--kafka-bootstrap=kafka.platform:9092",
        "--clickhouse-url=http://clickhouse.platform:8123",
        "--redis-address=redis.platform:6379",
    ])
    .try_into()
    .unwrap()
}

fn example<T: serde::de::DeserializeOwned>(file: &str) -> T {
    let path = format!("{}/../examples/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn quickstart(image: &str) -> Validated {
    let mut app: App = example("quickstart/app.yaml");
    app.metadata.uid = Some("uid-of-shop".into());
    let mut pipeline: IngestionPipeline = example("quickstart/pipeline.yaml");
    pipeline.metadata.uid = Some("uid-of-events".into());
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
    let subject = Subject::of(&pipeline);
    let target = Target::of(&pipeline, &subject, CLUSTER, &settings).unwrap();
    validate(
        &pipeline,
        &subject,
        target,
        vec![bound],
        Unreadable::default(),
        true,
        &settings,
    )
    .unwrap()
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
fn with_ingest(ingest: &str, credentials: bool) -> Result<Validated, super::target::Invalid> {
    let mut pipeline: IngestionPipeline = example("quickstart/pipeline.yaml");
    pipeline.metadata.uid = Some("uid-of-events".into());
    pipeline.spec.ingest = serde_yaml::from_str(ingest).unwrap();
    let settings = settings("penstock.local/penstock:1");
    let subject = Subject::of(&pipeline);
    let target = Target::of(&pipeline, &subject, CLUSTER, &settings).unwrap();
    let (bound, unreadable) = (vec![], Unreadable::default());
    validate(
        &pipeline,
        &subject,
        target,
        bound,
        unreadable,
        credentials,
        &settings,
    )
}

#[test]
fn spool_manifests() {
    let spool = "{scaling: {replicas: 2}, spool: {volume: {size: 10Gi, storageClassName: fast}}}";
    let pipeline = with_ingest(spool, true).unwrap();
    let objects = build(&pipeline, Some("7"));
    for (name, yaml) in [
        ("ingest-config", yaml(&objects.ingest.config)),
        ("ingest-set", runner(&objects.ingest.runner)),
        ("drain-config", yaml(&objects.drain_config)),
        ("drain-job", yaml(&drain_job(&pipeline, 3, "uid-of-claim"))),
    ] {
        insta::assert_snapshot!(format!("spool-{name}"), yaml);
    }
    let secrets = |pod: PodSpec| {
        pod.volumes
            .iter()
            .flatten()
            .filter(|v| v.secret.is_some())
            .count()
    };
    assert_eq!(secrets(pod(objects.ingest.runner)), 0, "it stores nothing itself");
}

#[test]
fn what_pods_do_without_kafka_is_in_their_configuration() {
    let config = |ingest: &str| {
        let objects = build(&with_ingest(ingest, true).unwrap(), Some("7"));
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
                "passwordFile: /etc/penstock/clickhouse/password",
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
    let refused = with_ingest("{spool: {volume: {size: 1G}, maxBytes: 950MB}}", true).unwrap_err();
    assert!(
        refused.message.contains("ingest.spool.maxBytes"),
        "{}",
        refused.message
    );
}

/// Only who stores in ClickHouse logs in there, and restarts with another password.
#[test]
fn ingest_has_credentials_only_where_it_stores_directly() {
    let direct = with_ingest("{onKafkaOutage: Direct}", true).unwrap();
    let hash =
        |version: &str| super::rollout::Live::of_runner(&build(&direct, Some(version)).ingest.runner).hash;
    assert_ne!(hash("7"), hash("8"));
    let pod = pod(build(&direct, Some("7")).ingest.runner);
    let secrets: Vec<_> = pod
        .volumes
        .iter()
        .flatten()
        .filter_map(|v| v.secret.as_ref()?.secret_name.clone())
        .collect();
    assert_eq!(secrets, ["events-consume"]);
}

#[test]
fn quickstart_manifests() {
    let pipeline = quickstart("penstock.local/penstock:1");
    let objects = build(&pipeline, Some("7"));
    let credentials = Credentials {
        username: "consumer".into(),
        password: "secret".into(),
    };
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
        ("consume-secret", yaml(&secret(&pipeline, &credentials))),
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
    let base = build(&one, Some("7"));
    assert_eq!(
        hash(&base),
        hash(&build(&quickstart("penstock.local/penstock:2"), Some("7"))),
        "another image"
    );

    let mut another_app = one.clone();
    another_app.apps.file.apps.clear();
    let revised = build(&another_app, Some("7"));
    assert_eq!(hash(&base), hash(&revised), "another list of Apps");
    assert_ne!(base.apps_revision, revised.apps_revision);

    let rotated = build(&one, Some("8"));
    assert_eq!(
        hash(&base).0,
        hash(&rotated).0,
        "ingest does not read the credentials"
    );
    assert_ne!(hash(&base).1, hash(&rotated).1);

    let mut limits = one;
    limits.ingest.config.limits.batch = 500;
    let limited = build(&limits, Some("7"));
    assert_ne!(hash(&base).0, hash(&limited).0);
    assert_eq!(hash(&base).1, hash(&limited).1);
}

#[test]
fn the_edge_of_a_pipeline_reaches_its_pods() {
    let mut given: IngestionPipeline = example("quickstart/pipeline.yaml");
    given.spec.endpoint = serde_yaml::from_str("{tls: {secretName: shop-tls}, serverHeader: edge}").unwrap();
    given.spec.ingest.trusted_proxies = vec!["10.0.0.0/8".into(), "fd00::/8".into()];
    given.spec.ingest.limits.connections = 500;
    let made = |pipeline: &IngestionPipeline| {
        let settings = settings("penstock.local/penstock:1");
        let subject = Subject::of(pipeline);
        let target = Target::of(pipeline, &subject, CLUSTER, &settings).unwrap();
        let (bound, unreadable) = (vec![], Unreadable::default());
        validate(pipeline, &subject, target, bound, unreadable, false, &settings)
    };
    let objects = build(&made(&given).unwrap(), None);
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
    let secrets = |pod: &PodSpec| -> Vec<_> {
        let volumes = pod.volumes.iter().flatten();
        volumes
            .filter_map(|volume| volume.secret.as_ref()?.secret_name.clone())
            .collect()
    };
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
fn no_key_and_no_password_leaves_its_secret() {
    let pipeline = quickstart("penstock.local/penstock:1");
    let objects = build(&pipeline, Some("7"));
    let all = format!("{objects:?}");
    assert!(!all.contains("psk_not-a-real-key"));
    let credentials = Credentials {
        username: "consumer".into(),
        password: "p4ss".into(),
    };
    assert!(!format!("{credentials:?}").contains("p4ss"));
}

#[test]
fn pods_are_pulled_with_the_secrets_of_the_installation() {
    let mut pipeline = quickstart("penstock.local/penstock:1");
    pipeline.image_pull_secrets = vec!["pull".into(), "other".into()];
    let objects = build(&pipeline, None);
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
