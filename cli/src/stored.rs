//! Where a pipeline's rows are, and how to get to them: its tables as the resource says, at an address and with a user
//! that the person may choose.

use std::path::PathBuf;

use clap::Args;
use penstock_crds::IngestionPipeline;
use penstock_crds::pipeline::AdoptionPolicy;
use penstock_provision::clickhouse::Server;
use penstock_provision::clickhouse::inspect::{Inspection, inspect};
use penstock_provision::{ProvisionError, TableSpec};

use crate::cluster::Cluster;
use crate::exit::{Failure, Result};

/// How ClickHouse is reached.
#[derive(Clone, Debug, Default, Args)]
pub struct Reach {
    /// ClickHouse's HTTP address; default: what the pipeline's pods use
    #[arg(long, value_name = "URL", env = "CLICKHOUSE_URL")]
    pub clickhouse: Option<String>,
    /// Its user, who may do what is asked for; default: the server's default user
    #[arg(long, value_name = "NAME", env = "CLICKHOUSE_USER")]
    pub clickhouse_user: Option<String>,
    /// The file that holds the user's password; default: what $CLICKHOUSE_PASSWORD says
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

impl Reach {
    fn password(&self) -> Result<Option<String>> {
        let Some(file) = &self.password_file else {
            return Ok(std::env::var("CLICKHOUSE_PASSWORD").ok());
        };
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::Usage(format!("--password-file {}: {error}", file.display())))?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

/// A pipeline's tables.
#[derive(Debug)]
pub struct Stored {
    pub namespace: String,
    pub pipeline: IngestionPipeline,
    pub spec: TableSpec,
    pub server: Server,
}

impl Stored {
    pub async fn find(cluster: &Cluster, name: &str, reach: &Reach) -> Result<Self> {
        let pipeline = cluster.readable_pipeline(name).await?;
        Self::of(cluster, pipeline, reach).await
    }

    pub async fn of(cluster: &Cluster, pipeline: IngestionPipeline, reach: &Reach) -> Result<Self> {
        let spec = TableSpec::of(&pipeline).map_err(Failure::Failed)?;
        let name = pipeline.metadata.name.clone().unwrap_or_default();
        let url = match (&reach.clickhouse, &pipeline.spec.clickhouse.url) {
            (Some(url), _) | (None, Some(url)) => url.clone(),
            (None, None) => cluster.consumer(&name).await?.clickhouse.url,
        };
        let password = reach.password()?;
        let program = ("penstock-cli", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            server: Server::new(
                &url,
                reach.clickhouse_user.as_deref(),
                password.as_deref(),
                program,
            ),
            namespace: cluster.namespace.clone(),
            pipeline,
            spec,
        })
    }

    pub fn name(&self) -> &str {
        self.pipeline.metadata.name.as_deref().unwrap_or_default()
    }

    /// `database.table`.
    pub fn table(&self) -> String {
        format!("{}.{}", self.spec.database, self.spec.table)
    }

    pub async fn inspect(&self) -> Result<Inspection> {
        let adopt = self.pipeline.spec.adoption_policy == AdoptionPolicy::Adopt;
        Ok(inspect(&self.server, &self.spec, (&self.namespace, self.name()), adopt).await?)
    }
}

impl From<ProvisionError> for Failure {
    fn from(error: ProvisionError) -> Self {
        match error {
            ProvisionError::Unavailable { .. } => Self::Unreachable(format!(
                "{error}. Run this where that address resolves, as in a pod of the cluster, or give one that does with --clickhouse URL"
            )),
            ProvisionError::Rejected { ref detail, .. } if is_login(detail) => Self::Failed(format!(
                "{error}. Choose a user with --clickhouse-user NAME, and give the password in $CLICKHOUSE_PASSWORD or with --password-file FILE"
            )),
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Not who he says, or not allowed to.
fn is_login(detail: &str) -> bool {
    [
        "AUTHENTICATION_FAILED",
        "ACCESS_DENIED",
        "REQUIRED_PASSWORD",
        "WRONG_PASSWORD",
        "UNKNOWN_USER",
    ]
    .iter()
    .any(|name| detail.contains(name))
}
