//! Pipelines with a spool: an outage of Kafka that nobody notices who sends, pods that are held while events wait on
//! their volumes, and claims that go when nothing is left on them.

use std::time::Duration;

use penstock_e2e::trial::{APP, Acknowledged, PIPELINE, SpareKafka, Traffic, Trial, Turn, Volumes, within};
use penstock_e2e::{Error, Instance, Result};
use serde_json::Value;

/// Pods that spool soon when Kafka does not answer.
const LIMITS: &str = "limits: {kafkaTimeout: 1s, requestTimeout: 4s}";
const SET: &str = "statefulset/events-ingest";
const CLAIMS: [&str; 2] = ["spool-events-ingest-0", "spool-events-ingest-1"];

fn spooled(replicas: u32, more: &str) -> String {
    format!(
        "  ingest: {{scaling: {{replicas: {replicas}}}, {LIMITS}, spool: {{volume: {{size: 1Gi}}}}}}\n{more}"
    )
}

fn plain(replicas: u32, more: &str) -> String {
    format!("  ingest: {{scaling: {{replicas: {replicas}}}, {LIMITS}}}\n{more}")
}

/// A ready pipeline with a spool, and volumes for these claims.
fn start<'a>(kit: &'a Instance, name: &str, claims: &[&str], spec: &str) -> Result<(Trial<'a>, Volumes<'a>)> {
    let trial = Trial::empty(kit, name)?;
    let volumes = Volumes::make(&trial, claims)?;
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(spec))?;
    trial.ready()?;
    Ok((trial, volumes))
}

/// Status, reason and message of a condition, if the pipeline has it.
fn says(trial: &Trial<'_>, kind: &str) -> Result<Option<(String, String, String)>> {
    let text = trial.kubectl(&["get", "ingestionpipeline", PIPELINE, "-o", "json"])?;
    let pipeline: Value = serde_json::from_str(&text).map_err(|error| Error::new(error.to_string()))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let conditions = pipeline["status"]["conditions"].as_array().cloned();
    Ok(conditions
        .unwrap_or_default()
        .iter()
        .find(|condition| condition["type"] == kind)
        .map(|c| (text(&c["status"]), text(&c["reason"]), text(&c["message"]))))
}

fn field(trial: &Trial<'_>, what: &str, path: &str) -> Result<String> {
    let path = format!("jsonpath={{{path}}}");
    trial.kubectl(&["get", what, "--ignore-not-found", "-o", &path])
}

/// Names, by blanks.
fn names(trial: &Trial<'_>, kind: &str) -> Result<String> {
    field(trial, kind, ".items[*].metadata.name")
}

/// Waits until answers say that events are spooled.
fn spooling(traffic: &Traffic) -> Result<()> {
    within(20, "events are spooled", || {
        let (status, told) = traffic.once_told()?;
        assert_eq!(status, 200, "nobody who sends notices");
        Ok(told.as_deref() == Some("spooled"))
    })?;
    Ok(())
}

/// Sends until every pod has events on its spool: which of them a connection reaches is chance.
fn all_spool(trial: &Trial<'_>, traffic: &Traffic, sent: &mut Acknowledged) -> Result<()> {
    within(60, "every pod has spooled events", || {
        sent.merge(traffic.send(80, 10, 4, Duration::ZERO, Duration::from_secs(60))?);
        for pod in trial.pods("ingest")? {
            let metrics = trial.metrics(&pod)?;
            if metrics
                .lines()
                .any(|line| line == "penstock_ingest_spool_groups 0")
            {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    Ok(())
}

fn uids(trial: &Trial<'_>) -> Result<Vec<(String, String)>> {
    let mut pods: Vec<(String, String)> = trial
        .pods("ingest")?
        .into_iter()
        .map(|pod| (pod.name, pod.uid))
        .collect();
    pods.sort();
    Ok(pods)
}

fn all_ready(trial: &Trial<'_>, count: usize) -> Result<bool> {
    let pods = trial.pods("ingest")?;
    Ok(pods.len() == count && pods.iter().all(|pod| pod.ready))
}

#[test]
fn an_outage_of_kafka_is_bridged_and_pods_are_held_meanwhile() -> Result<()> {
    let (kit, kafka) = SpareKafka::turn()?;
    let kafka = kafka.start(&kit)?;
    let (trial, _volumes) = start(&kit, "bridge", &CLAIMS, &spooled(2, &kafka.spec()))?;
    assert_eq!(field(&trial, "deployment/events-ingest", ".metadata.name")?, "");
    let traffic = trial.traffic(APP)?;
    let minute = Duration::from_secs(60);
    let mut sent = traffic.send(200, 10, 1, Duration::ZERO, minute)?;
    assert_eq!(says(&trial, "DurabilityDegraded")?, None);

    kafka.kill()?;
    spooling(&traffic)?;
    sent.merge(traffic.send(500, 10, 2, Duration::ZERO, minute)?);
    let (reason, took) = trial.condition("DurabilityDegraded", "True", Duration::from_secs(90))?;
    println!("DurabilityDegraded=True/{reason} after {took:?}");
    assert_eq!(reason, "Spooling");
    let (_, _, message) = says(&trial, "DurabilityDegraded")?.unwrap_or_default();
    assert!(
        message.contains("groups of events wait for Kafka") && message.contains("events-ingest-"),
        "{message}"
    );
    trial.condition("TopicsReady", "False", Duration::from_secs(90))?;
    trial.condition("Ready", "True", Duration::from_secs(90))?;

    // A changed spec and someone's restart: neither touches a pod.
    let before = uids(&trial)?;
    let limited = spooled(2, &kafka.spec()).replace(
        LIMITS,
        "limits: {kafkaTimeout: 1s, requestTimeout: 4s, batch: 500}",
    );
    trial.apply(&trial.pipeline(&limited))?;
    trial.kubectl(&["rollout", "restart", SET])?;
    within(30, "the status says what the rollout waits for", || {
        let said = says(&trial, "Reconciling")?;
        Ok(said.is_some_and(|(_, _, message)| message.contains("what waits in spools: events-ingest-")))
    })?;
    assert_eq!(
        field(&trial, SET, ".spec.updateStrategy.rollingUpdate.partition")?,
        "2"
    );
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(uids(&trial)?, before, "a pod was replaced while events wait");
    trial.condition("Ready", "True", Duration::from_secs(90))?;

    // One dies where it stands, another is deleted: both go on with their volumes, without Kafka.
    let killed = trial.kill("ingest")?;
    println!("killed {killed}");
    within(60, "the killed process is back", || {
        let restarted = trial.pods("ingest")?.iter().any(|pod| pod.restarts > 0);
        Ok(restarted && all_ready(&trial, 2)?)
    })?;
    trial.kubectl(&["delete", "pod", "events-ingest-1", "--timeout=60s"])?;
    within(60, "the deleted pod has a successor", || all_ready(&trial, 2))?;
    let after = uids(&trial)?;
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    sent.merge(traffic.send(200, 10, 2, Duration::ZERO, minute)?);
    let (_, told) = traffic.once_told()?;
    assert_eq!(told.as_deref(), Some("spooled"));

    kafka.start()?;
    let took = within(90, "the condition is gone", || {
        Ok(says(&trial, "DurabilityDegraded")?.is_none())
    })?;
    println!("DurabilityDegraded is gone {took:?} after Kafka's start");
    let took = within(180, "the rollout goes on", || {
        let now = uids(&trial)?;
        let replaced = now.len() == 2 && now.iter().zip(&after).all(|(now, then)| now.1 != then.1);
        let limited = field(&trial, "configmap/events-ingest-spool", ".data")?.contains("batch: 500");
        let revisions = field(&trial, SET, ".status['currentRevision','updateRevision']")?;
        let same = revisions.split_once(' ').is_some_and(|(one, other)| one == other);
        Ok(replaced && limited && same && all_ready(&trial, 2)?)
    })?;
    println!("rolled {took:?} later");
    trial.ready()?;
    within(30, "nothing is held any more", || {
        Ok(field(&trial, SET, ".spec.updateStrategy.rollingUpdate.partition")? == "0")
    })?;
    sent.merge(traffic.send(100, 10, 1, Duration::ZERO, minute)?);
    trial.settle(&sent, Duration::from_secs(90))?;
    let events = trial.kubectl(&["get", "events.events.k8s.io", "-o", "jsonpath={.items[*].reason}"])?;
    assert!(events.contains("Spooling"), "{events}");
    Ok(())
}

#[test]
fn a_scale_in_waits_for_the_spools_and_leaves_no_claim_behind() -> Result<()> {
    let (kit, kafka) = SpareKafka::turn()?;
    let kafka = kafka.start(&kit)?;
    let (trial, _volumes) = start(&kit, "shrink", &CLAIMS, &spooled(2, &kafka.spec()))?;
    let traffic = trial.traffic(APP)?;
    let minute = Duration::from_secs(60);
    let mut sent = traffic.send(10, 10, 1, Duration::ZERO, minute)?;
    kafka.kill()?;
    spooling(&traffic)?;
    all_spool(&trial, &traffic, &mut sent)?;
    trial.condition("DurabilityDegraded", "True", Duration::from_secs(90))?;
    trial.apply(&trial.pipeline(&spooled(1, &kafka.spec())))?;
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(trial.pods("ingest")?.len(), 2, "scaled in while events wait");
    kafka.start()?;
    within(90, "one pod is left", || Ok(trial.pods("ingest")?.len() == 1))?;
    let took = within(120, "the claim of the other is gone, and its Job", || {
        Ok(names(&trial, "persistentvolumeclaims")? == CLAIMS[0] && names(&trial, "jobs")?.is_empty())
    })?;
    println!("the claim was gone {took:?} after the scale-in");
    trial.ready()?;
    trial.settle(&sent, Duration::from_secs(90))
}

/// Deployment to StatefulSet and back, without a request that fails; and to a larger volume in the end.
#[test]
fn a_spool_is_added_and_removed_under_load() -> Result<()> {
    // No request may fail, however busy the machine is: as patient as a pipeline is by default.
    let patient = |spec: String| spec.replace(&format!(", {LIMITS}"), "");
    let (spooled, plain) = (patient(spooled(2, "")), patient(plain(2, "")));
    let kit = Turn::beside_others()?;
    let trial = Trial::empty(&kit, "fro")?;
    let _volumes = Volumes::make(&trial, &[CLAIMS, CLAIMS].concat())?;
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(&plain))?;
    trial.ready()?;
    let traffic = trial.traffic(APP)?;
    let there = |what: &str| -> Result<bool> { Ok(!field(&trial, what, ".metadata.name")?.is_empty()) };
    let send = || traffic.send(80, 10, 4, Duration::from_millis(250), Duration::from_secs(60));
    let (sent, ()) = Acknowledged::meanwhile(send, || {
        std::thread::sleep(Duration::from_secs(2));
        trial.apply(&trial.pipeline(&spooled))?;
        let took = within(120, "the StatefulSet has taken over", || {
            Ok(there(SET)? && !there("deployment/events-ingest")? && all_ready(&trial, 2)?)
        })?;
        println!("a Deployment became a StatefulSet in {took:?}");
        trial.apply(&trial.pipeline(&plain))?;
        let took = within(120, "the Deployment has taken over", || {
            Ok(there("deployment/events-ingest")? && !there(SET)? && all_ready(&trial, 2)?)
        })?;
        println!("a StatefulSet became a Deployment in {took:?}");
        Ok(())
    })?;
    assert_eq!((sent.failed, &sent.errors), (0, &Vec::new()));
    within(120, "no claim is left", || {
        Ok(names(&trial, "persistentvolumeclaims")?.is_empty() && names(&trial, "jobs")?.is_empty())
    })?;
    trial.ready()?;
    trial.apply(&trial.pipeline(&spooled.replace("1Gi", "2Gi")))?;
    within(120, "the pods have larger volumes", || {
        let sizes = field(
            &trial,
            "persistentvolumeclaims",
            ".items[*].spec.resources.requests.storage",
        )?;
        Ok(sizes == "2Gi 2Gi" && all_ready(&trial, 2)?)
    })?;
    trial.settle(&sent, Duration::from_secs(60))
}

/// What a deleted pipeline leaves on its claims is brought to Kafka by the next one of its name.
#[test]
fn claims_of_a_deleted_pipeline_are_drained_when_it_is_made_again() -> Result<()> {
    let (kit, kafka) = SpareKafka::turn()?;
    let kafka = kafka.start(&kit)?;
    let (trial, _volumes) = start(&kit, "heir", &CLAIMS, &spooled(2, &kafka.spec()))?;
    let traffic = trial.traffic(APP)?;
    let minute = Duration::from_secs(60);
    let mut sent = traffic.send(100, 10, 1, Duration::ZERO, minute)?;
    kafka.kill()?;
    spooling(&traffic)?;
    all_spool(&trial, &traffic, &mut sent)?;
    trial.kubectl(&["delete", "ingestionpipeline", PIPELINE, "--timeout=60s"])?;
    within(90, "the pods are gone", || Ok(trial.pods("ingest")?.is_empty()))?;
    assert_eq!(names(&trial, "persistentvolumeclaims")?, CLAIMS.join(" "));
    trial.apply(&trial.pipeline(&plain(1, &kafka.spec())))?;
    within(60, "Jobs drain the claims, and wait for Kafka", || {
        let pods = trial.pods("drain")?;
        Ok(pods.len() == 2 && pods.iter().all(|pod| pod.ready))
    })?;
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(names(&trial, "persistentvolumeclaims")?, CLAIMS.join(" "));
    kafka.start()?;
    let took = within(120, "the claims are drained and gone", || {
        Ok(names(&trial, "persistentvolumeclaims")?.is_empty() && names(&trial, "jobs")?.is_empty())
    })?;
    println!("drained {took:?} after Kafka's start");
    trial.ready()?;
    trial.settle(&sent, Duration::from_secs(90))
}

#[test]
fn a_claim_that_cannot_be_drained_is_kept_and_told_of() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::empty(&kit, "undrained")?;
    let claim = "spool-events-ingest-7";
    let volumes = Volumes::make(&trial, &[claim])?;
    // No process can lock this spool.
    let lock = volumes.folder(0).join("lock");
    std::fs::create_dir(&lock).map_err(|error| Error::new(error.to_string()))?;
    trial.apply(&format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  name: {claim}\n  namespace: {}\n  labels: \
         {{app.kubernetes.io/managed-by: penstock-operator, penstock.dev/pipeline: events}}\nspec: {{storageClassName: local, \
         accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}\n",
        trial.namespace()
    ))?;
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(&plain(1, "")))?;
    trial.ready()?;
    let (reason, took) = trial.condition("DurabilityDegraded", "True", Duration::from_secs(180))?;
    println!("DurabilityDegraded=True/{reason} after {took:?}");
    assert_eq!(reason, "DrainFailed");
    let (_, _, message) = says(&trial, "DurabilityDegraded")?.unwrap_or_default();
    assert!(message.contains(claim), "{message}");
    trial.condition("Ready", "True", Duration::from_secs(90))?;
    assert_eq!(names(&trial, "persistentvolumeclaims")?, claim);

    std::fs::remove_dir(&lock).map_err(|error| Error::new(error.to_string()))?;
    trial.kubectl(&["delete", "job", "events-drain-7"])?;
    within(90, "the claim is drained and gone", || {
        Ok(names(&trial, "persistentvolumeclaims")?.is_empty()
            && says(&trial, "DurabilityDegraded")?.is_none())
    })?;
    Ok(())
}

#[test]
fn with_delete_the_claims_go_with_the_pipeline() -> Result<()> {
    let kit = Turn::beside_others()?;
    let spec = spooled(1, "  deletionPolicy: Delete\n");
    let (trial, _volumes) = start(&kit, "erased", &CLAIMS[..1], &spec)?;
    assert_eq!(names(&trial, "persistentvolumeclaims")?, CLAIMS[0]);
    // Looked at again and again, and not written to.
    let versions = || {
        let objects = "ingestionpipeline,statefulset,configmap,persistentvolumeclaim";
        field(&trial, objects, ".items[*].metadata.resourceVersion")
    };
    within(90, "nothing is written for 20 s", || {
        let before = versions()?;
        std::thread::sleep(Duration::from_secs(20));
        Ok(versions()? == before)
    })?;
    trial.kubectl(&["delete", "ingestionpipeline", PIPELINE, "--timeout=120s"])?;
    within(30, "the claim is gone", || {
        Ok(names(&trial, "persistentvolumeclaims")?.is_empty())
    })?;
    Ok(())
}

/// The disk of a pod is full long before its spool has what it may have.
#[test]
fn a_full_volume_refuses_what_it_cannot_hold_and_keeps_the_rest() -> Result<()> {
    let (kit, kafka) = SpareKafka::turn()?;
    let kafka = kafka.start(&kit)?;
    let trial = Trial::empty(&kit, "full")?;
    let mut volumes = Volumes::make(&trial, &CLAIMS[..1])?;
    volumes.shrink(0, 4_000_000)?;
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(&spooled(1, &kafka.spec())))?;
    trial.ready()?;
    let traffic = trial.traffic(APP)?;
    let send = || traffic.send(1000, 50, 2, Duration::ZERO, Duration::from_secs(240));

    kafka.kill()?;
    spooling(&traffic)?;
    let (mut sent, refused) = Acknowledged::meanwhile(send, || {
        within(60, "the disk is full", || Ok(traffic.once()? == 503))?;
        // Once it is, nothing changes until Kafka is back.
        std::thread::sleep(Duration::from_secs(3));
        let pods = trial.pods("ingest")?;
        let metrics = trial.metrics(&pods[0])?;
        let counted = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse::<f64>().ok())
        };
        assert_eq!(counted("penstock_panics_total"), Some(0.0));
        let held = counted("penstock_ingest_spool_disk_bytes").unwrap_or_default();
        assert!((1e6..4e6).contains(&held), "{held} bytes on a disk of 4 MB");
        let refused = counted(r#"penstock_ingest_spooled_groups_total{outcome="refused"}"#);
        kafka.start()?;
        within(90, "the spool is drained", || {
            let pods = trial.pods("ingest")?;
            let metrics = trial.metrics(&pods[0])?;
            Ok(metrics
                .lines()
                .any(|line| line == "penstock_ingest_spool_groups 0"))
        })?;
        Ok(refused)
    })?;
    println!(
        "{} events acknowledged, {} attempts refused",
        sent.ids.len(),
        sent.failed
    );
    assert!(
        refused >= Some(1.0) && sent.failed > 0,
        "{refused:?} {}",
        sent.failed
    );
    // A pod that takes nothing is not ready for long: then nobody is there to ask.
    let expected = |error: &&String| error.starts_with("503 ") || error.contains("Connection refused");
    let refusals = sent.errors.iter().filter(expected).count();
    assert_eq!(refusals, sent.errors.len(), "{:?}", sent.errors);
    assert!(trial.pods("ingest")?.iter().all(|pod| pod.restarts == 0));
    sent.merge(traffic.send(200, 10, 1, Duration::ZERO, Duration::from_secs(60))?);
    trial.settle(&sent, Duration::from_secs(90))
}

/// Only pods that store in ClickHouse get who to log in there as.
#[test]
fn events_are_stored_directly_while_kafka_is_away() -> Result<()> {
    let (kit, kafka) = SpareKafka::turn()?;
    let kafka = kafka.start(&kit)?;
    let spec = format!(
        "  ingest: {{scaling: {{replicas: 1}}, {LIMITS}, onKafkaOutage: Direct}}\n{}",
        kafka.spec()
    );
    let trial = Trial::start(&kit, "direct", &spec)?;
    let traffic = trial.traffic(APP)?;
    let mut sent = traffic.send(100, 10, 1, Duration::ZERO, Duration::from_secs(60))?;
    kafka.kill()?;
    within(30, "events are stored directly", || {
        let (_, told) = traffic.once_told()?;
        Ok(told.as_deref() == Some("direct"))
    })?;
    sent.merge(traffic.send(100, 10, 1, Duration::ZERO, Duration::from_secs(60))?);
    let stored = trial.stored()?;
    assert!(
        sent.ids.iter().filter(|id| stored.contains(*id)).count() >= 100,
        "they are in the table while Kafka is away"
    );
    kafka.start()?;
    trial.ready()?;
    trial.settle(&sent, Duration::from_secs(90))
}

#[test]
fn what_stands_behind_an_answer_is_what_the_pipeline_says() -> Result<()> {
    let (kit, kafka) = SpareKafka::turn()?;
    let kafka = kafka.start(&kit)?;
    let every = spooled(1, &kafka.spec()).replace("spool:", "durability: Spooled, spool:");
    let (trial, _volumes) = start(&kit, "promise", &CLAIMS[..1], &every)?;
    let traffic = trial.traffic(APP)?;
    let minute = Duration::from_secs(60);
    let spooled_answer = (200, Some("spooled".to_owned()));
    assert_eq!(traffic.once_told()?, spooled_answer, "while Kafka is there");
    let mut sent = traffic.send(100, 10, 1, Duration::ZERO, minute)?;
    kafka.kill()?;
    assert_eq!(traffic.once_told()?, spooled_answer, "while Kafka is away");
    sent.merge(traffic.send(100, 10, 1, Duration::ZERO, minute)?);
    // What was answered is on the volume, not in the process.
    trial.kill("ingest")?;
    kafka.start()?;
    trial.ready()?;
    trial.settle(&sent, Duration::from_secs(90))?;

    let before = trial.rows()?;
    trial.apply(
        &trial.pipeline(&plain(1, &kafka.spec()).replace("scaling:", "durability: Memory, scaling:")),
    )?;
    within(120, "answers promise no more than memory", || {
        Ok(traffic.once_told()? == (202, Some("memory".to_owned())))
    })?;
    within(30, "they are stored all the same", || {
        Ok(trial.rows()?.0 > before.0)
    })?;
    Ok(())
}
