//! apps.yaml changes under a running process.

use super::harness::{Ingest, apps};

const EVENT: &str = r#"{"event_type":"a"}"#;

#[test]
fn keys_come_and_go_without_a_restart() {
    let ingest = Ingest::start();
    assert_eq!(ingest.write("/v1/events", EVENT).status, 200);
    ingest.write_apps("{version: 1, replicas: 1, apps: []}");
    ingest.wait_for("the key to be refused", || {
        ingest.write("/v1/events", EVENT).status == 401
    });
    ingest.write_apps(&apps(""));
    ingest.wait_for("the key to be accepted", || {
        ingest.write("/v1/events", EVENT).status == 200
    });
}

#[test]
fn a_broken_file_changes_nothing_but_is_told() {
    let ingest = Ingest::start();
    ingest.write_apps("apps: [");
    let refused = r#"penstock_ingest_apps_reloads_total{outcome="refused"}"#;
    ingest.wait_for("the file to be refused", || ingest.metric(refused) >= 1.0);
    assert_eq!(ingest.write("/v1/events", EVENT).status, 200);
    let readyz = ingest.readyz();
    assert_eq!(
        (readyz.status, readyz.body["status"].as_str()),
        (200, Some("degraded"))
    );
    ingest.write_apps(&apps("eventsPerDay: 100"));
    ingest.wait_for("the next file", || ingest.readyz().body["status"] == "ready");
}
