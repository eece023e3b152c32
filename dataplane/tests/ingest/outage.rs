//! Kafka goes away and comes back: refused at once meanwhile, well again without help, and nothing that was
//! acknowledged is missing.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::Value;

use super::broker::Broker;
use super::harness::{Ingest, LETTERS, TOPIC, apps};

const IMPATIENT: &str = "limits: {requestTimeout: 4s, kafkaTimeout: 3s}";

fn refused_quickly(ingest: &Ingest) -> bool {
    let before = Instant::now();
    let reply = ingest.write("/v1/events", r#"{"event_type":"refused"}"#);
    reply.status == 503 && before.elapsed() < Duration::from_millis(500)
}

#[test]
fn what_was_acknowledged_survives_an_outage() {
    let ingest = Ingest::start_with(IMPATIENT, &apps(""));
    let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new(BTreeSet::new()));
    let (ingest, client) = (&ingest, *ingest);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let id = uuid::Uuid::new_v4().to_string();
                    let body = format!(r#"{{"event_type":"a","event_id":"{id}"}}"#);
                    match client.write("/v1/events", body).status {
                        200 => {
                            acknowledged.lock().unwrap().insert(id);
                        }
                        503 => std::thread::sleep(Duration::from_millis(20)),
                        status => panic!("{status}"),
                    }
                }
            });
        }
        let count = || acknowledged.lock().unwrap().len();
        ingest.wait_for("events to be accepted", || count() > 50);
        ingest.kafka.down();
        ingest.wait_for("refusals", || refused_quickly(ingest));
        let reply = ingest.write("/v1/events", r#"{"event_type":"refused"}"#);
        assert_eq!(
            (
                reply.body["error"].as_str(),
                reply.headers["retry-after"].as_str()
            ),
            (Some("failed to store events"), "1")
        );
        let readyz = ingest.readyz();
        assert_eq!(
            (readyz.status, &readyz.body["status"]),
            (200, &Value::from("degraded")),
            "{readyz:?}"
        );
        let kafka = readyz.body["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == "kafka")
            .unwrap();
        assert!(
            kafka["ok"] == false && kafka["ageSeconds"].is_number() && kafka["detail"] != "",
            "{kafka}"
        );
        ingest.kafka.up();
        let before = count();
        ingest.wait_for("events to be accepted again", || count() > before + 50);
        stop.store(true, Relaxed);
    });
    let acknowledged = acknowledged.into_inner().unwrap();
    let stored = ingest.stored(acknowledged.len());
    let ids: Vec<_> = stored
        .iter()
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect();
    let distinct: BTreeSet<_> = ids.iter().cloned().collect();
    assert_eq!(distinct.len(), ids.len(), "no event twice");
    let missing: Vec<_> = acknowledged.difference(&distinct).collect();
    assert!(
        missing.is_empty(),
        "{} acknowledged events are not stored",
        missing.len()
    );
    assert!(
        stored.iter().all(|event| event["event_type"] == "a"),
        "what was refused at the gate is not stored"
    );
}

#[test]
fn it_starts_without_kafka_and_says_so() {
    let kafka = Broker::new();
    kafka.create_topic(TOPIC, 3, 1).unwrap();
    kafka.create_topic(LETTERS, 1, 1).unwrap();
    kafka.down();
    let ingest = Ingest::start_on(kafka, IMPATIENT, &apps(""));
    ingest.wait_for("an answer", || ingest.readyz().status == 503);
    assert_eq!(ingest.request("GET", "/health", &[], b"").status, 200);
    assert!(refused_quickly(&ingest));
    let reply = ingest.post("/v1/events", &[], "{}");
    assert_eq!(reply.status, 401, "who has no key learns it first");
    ingest.kafka.up();
    ingest.wait_for("readiness", || ingest.readyz().status == 200);
    assert_eq!(ingest.write("/v1/events", r#"{"event_type":"a"}"#).status, 200);
}

#[test]
fn a_producer_that_can_do_nothing_more_is_replaced() {
    let kafka = Broker::new();
    kafka.create_topic(TOPIC, 3, 1).unwrap();
    kafka.create_topic(LETTERS, 1, 1).unwrap();
    // To the idempotent producer this is fatal, for good.
    kafka.request_errors(
        RDKafkaApiKey::InitProducerId,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED],
    );
    let ingest = Ingest::start_on(kafka, "shards: 1", &apps(""));
    ingest.wait_for("readiness", || ingest.readyz().status == 200);
    ingest.wait_for("another producer", || {
        ingest.metric("penstock_ingest_producers_rebuilt_total") == 1.0
    });
    assert_eq!(ingest.write("/v1/events", r#"{"event_type":"a"}"#).status, 200);
    assert_eq!(ingest.stored(1).len(), 1);
}

#[test]
fn a_record_that_the_broker_refuses_is_refused_to_the_client() {
    let ingest = Ingest::start_with("shards: 1", &apps(""));
    ingest.kafka.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED],
    );
    let reply = ingest.write("/v1/events", r#"{"event_type":"refused"}"#);
    assert_eq!(
        (reply.status, reply.body["code"].as_str()),
        (503, Some("not_stored"))
    );
    ingest.wait_for("the next to be stored", || {
        ingest.write("/v1/events", r#"{"event_type":"a"}"#).status == 200
    });
    assert!(ingest.stored(1).iter().all(|event| event["event_type"] == "a"));
    let failed = r#"penstock_ingest_events_total{app="growth/shop",outcome="failed",reason="not_stored"}"#;
    assert!(ingest.metric(failed) >= 1.0);
}
