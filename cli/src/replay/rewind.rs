//! Sets a group back: its consumers away, its offsets changed, its consumers back.
//!
//! Kafka changes the offsets of a group without members only. So that the operator does not start consumers meanwhile,
//! the pipeline is paused by its annotation. Whatever fails, consumers come back and the pipeline goes on; where this
//! program itself is killed, the pipeline says `Paused`, and running it again goes on.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::exit::{Failure, Result};
use crate::kafka::Committed;
use crate::stored::Stored;
use crate::text::age;

/// Consumers finish what they have begun, which is bounded by their grace.
const LEAVE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_secs(1);

/// Sets partitions back to these offsets, and waits until all that the topic held has been passed again.
pub async fn run(
    cluster: &Cluster,
    stored: &Stored,
    group: &Committed,
    back: &[(i32, i64)],
    limit: Duration,
) -> Result<()> {
    let deployment = format!("{}-consume", stored.name());
    let wanted = stored.pipeline.spec.consume.scaling.replicas;
    cluster
        .annotate_pipeline(&stored.pipeline, penstock_crds::PAUSED, Some("true"))
        .await?;
    let outcome = set_back(cluster, &deployment, group, back).await;
    // Both, whatever came of the other.
    let scaled = cluster.scale(&deployment, wanted).await;
    cluster
        .annotate_pipeline(&stored.pipeline, penstock_crds::PAUSED, None)
        .await?;
    scaled?;
    outcome?;
    let began = Instant::now();
    while let Some(behind) = group.behind()? {
        if began.elapsed() > limit {
            return Err(Failure::Failed(format!(
                "after {} {behind} records are still to be read again; consumers go on with it",
                age(limit)
            )));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn set_back(cluster: &Cluster, deployment: &str, group: &Committed, back: &[(i32, i64)]) -> Result<()> {
    cluster.scale(deployment, 0).await?;
    let began = Instant::now();
    while group.members()? > 0 {
        if began.elapsed() > LEAVE {
            return Err(Failure::Failed(format!(
                "consumers have not left their group within {}; do others than the pipeline's read in it?",
                age(LEAVE)
            )));
        }
        tokio::time::sleep(POLL).await;
    }
    group.set_back(back)
}
