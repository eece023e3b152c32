//! Sets a group back: its consumers away, its offsets changed, its consumers back.
//!
//! Kafka changes the offsets of a group without members only. So that the operator does not start consumers meanwhile,
//! the pipeline is paused by its annotation. Whatever fails, consumers come back and the pipeline goes on, also when a person
//! stops this with Ctrl-C; where this program itself is killed, the pipeline says `Paused`, and running it again goes on.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::exit::{Failure, Result};
use crate::kafka::Committed;
use crate::output::Waiting;
use crate::stop::Critical;
use crate::stored::Stored;

/// Consumers finish what they have begun, which is bounded by their grace.
const LEAVE: Duration = Duration::from_secs(180);
/// Says that it was a replay that paused the pipeline, so that no replay goes on with what a person has paused.
const PAUSED_BY: &str = "penstock.dev/paused-by";
const REPLAY: &str = "penstock-replay";

/// Whether a replay has left the pipeline paused.
pub fn was_cut_short(stored: &Stored) -> bool {
    // Who has it go on by hand may have left the other annotation.
    stored.annotation(penstock_crds::PAUSED) == Some("true") && stored.annotation(PAUSED_BY) == Some(REPLAY)
}

/// Sets partitions back to these offsets, and waits until all that the topic held has been passed again.
pub async fn run(
    cluster: &Cluster,
    stored: &Stored,
    group: &Committed,
    back: &[(i32, i64)],
    limit: Duration,
) -> Result<()> {
    if stored.annotation(penstock_crds::PAUSED) == Some("true") && !was_cut_short(stored) {
        return Err(Failure::Failed(format!(
            "the pipeline {} is paused, so its consumers cannot be stopped and started: remove its annotation {} first",
            stored.name(),
            penstock_crds::PAUSED
        )));
    }
    let critical = Critical::begin()?;
    annotate(cluster, stored, [Some("true"), Some(REPLAY)]).await?;
    let outcome = set_back(cluster, stored, group, back, &critical).await;
    // Both, whatever came of the other.
    let resumed = start(cluster, stored).await;
    drop(critical);
    outcome.and(resumed)?;
    wait(group, limit).await
}

/// What a replay that was cut short has left to be done.
pub async fn resume(cluster: &Cluster, stored: &Stored, group: &Committed, limit: Duration) -> Result<()> {
    start(cluster, stored).await?;
    wait(group, limit).await
}

async fn annotate(cluster: &Cluster, stored: &Stored, values: [Option<&str>; 2]) -> Result<()> {
    let annotations = [(penstock_crds::PAUSED, values[0]), (PAUSED_BY, values[1])];
    cluster.annotate_pipeline(&stored.pipeline, &annotations).await
}

fn deployment(stored: &Stored) -> String {
    format!("{}-consume", stored.name())
}

/// Consumers come back, and the operator goes on.
async fn start(cluster: &Cluster, stored: &Stored) -> Result<()> {
    let wanted = stored.pipeline.spec.consume.scaling.replicas;
    let scaled = cluster.scale(&deployment(stored), wanted).await;
    // With it the operator would scale it, too.
    annotate(cluster, stored, [None, None]).await?;
    scaled
}

async fn wait(group: &Committed, limit: Duration) -> Result<()> {
    let mut waiting = Waiting::new(limit);
    while let Some(behind) = group.behind()? {
        waiting
            .tick(
                &format!("{behind} records are still to be read again"),
                "consumers go on with it",
            )
            .await?;
    }
    Ok(())
}

async fn set_back(
    cluster: &Cluster,
    stored: &Stored,
    group: &Committed,
    back: &[(i32, i64)],
    critical: &Critical,
) -> Result<()> {
    cluster.scale(&deployment(stored), 0).await?;
    let mut waiting = Waiting::new(LEAVE);
    loop {
        if critical.is_stopped() {
            return Err(Failure::Failed(
                "stopped: nothing was set back, and consumers are started again".into(),
            ));
        }
        // A group of the newer protocol does not list its members; then the attempt tells.
        if group.members()? == 0 && group.set_back(back)? {
            return Ok(());
        }
        waiting
            .tick(
                "consumers are still in their group",
                "nothing was set back; do others than the pipeline's read in it?",
            )
            .await?;
    }
}
