//! The `ingest` role before a real Kafka and Redis, outside the cluster: what a mock cannot show.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails where it stands"
)]

mod outage;
mod quota;
mod redis;
pub(crate) mod setup;

use penstock_e2e::Result;
use penstock_e2e::trial::Turn;
use setup::{Setup, batch, wait_for};
use uuid::Uuid;

#[test]
fn a_topic_that_is_missing_is_named_until_it_is_there() -> Result<()> {
    let kit = Turn::beside_others()?;
    let setup = Setup::new(&kit)?;
    setup.write_apps("");
    let pod = setup.start();
    wait_for("the topic to be named", || {
        let (status, body) = pod.readyz();
        status == 503 && body.contains(&setup.topic)
    });
    assert_eq!(pod.send(&batch(&[Uuid::new_v4().to_string()])).0, 503);
    setup.create_topics(1);
    pod.wait_ready();
    assert_eq!(pod.send(&batch(&[Uuid::new_v4().to_string()])).0, 200);
    Ok(())
}
