//! Where a pipeline's rows are, and how to get to them: its tables as the resource says, at an address and with a user
//! that the person may choose.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use penstock_crds::IngestionPipeline;
use penstock_crds::pipeline::AdoptionPolicy;
use penstock_dataplane_config::ClientTls;
use penstock_provision::clickhouse::Server;
use penstock_provision::clickhouse::inspect::{Inspection, inspect};
use penstock_provision::{ProvisionError, TableSpec};

use crate::cluster::Cluster;
use crate::exit::{Failure, Result};

/// For a question that looks through many rows.
pub const SCAN: Duration = Duration::from_secs(600);

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
    /// For an https address: the file with who may have signed its certificate; default: the system's authorities
    #[arg(long, value_name = "FILE", env = "CLICKHOUSE_CA_FILE")]
    pub clickhouse_ca: Option<PathBuf>,
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
        if password.is_some() && reach.clickhouse.is_none() {
            return Err(Failure::Usage(format!(
                "the password is not sent to an address that only a resource names: if {url} is the ClickHouse that you mean, say --clickhouse {url}"
            )));
        }
        let program = ("penstock-cli", env!("CARGO_PKG_VERSION"));
        let tls = ClientTls {
            ca_file: reach.clickhouse_ca.clone(),
            ..ClientTls::default()
        };
        Ok(Self {
            server: Server::new(
                &url,
                &tls,
                reach.clickhouse_user.as_deref(),
                password.as_deref(),
                program,
            )
            .map_err(|error| Failure::Usage(error.to_string()))?,
            namespace: cluster.namespace.clone(),
            pipeline,
            spec,
        })
    }

    pub fn name(&self) -> &str {
        self.pipeline.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        let all = self.pipeline.metadata.annotations.as_ref()?;
        all.get(key).map(String::as_str)
    }

    /// `database.table`.
    pub fn table(&self) -> String {
        format!("{}.{}", self.spec.database, self.spec.table)
    }

    /// The event table, for a question.
    pub fn quoted(&self) -> String {
        self.spec.quoted(&self.spec.table)
    }

    /// Whether there is an event table. `system.tables` would hide it from a user without grants.
    async fn exists(&self) -> Result<bool> {
        let asked: std::result::Result<Vec<u8>, _> = self
            .server
            .ask(&format!("SELECT 1 FROM {} LIMIT 0", self.quoted()))
            .await;
        match asked {
            Ok(_) => Ok(true),
            Err(ProvisionError::Rejected { detail, .. })
                if ["UNKNOWN_TABLE", "UNKNOWN_DATABASE"]
                    .iter()
                    .any(|code| detail.contains(code)) =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub async fn inspect(&self) -> Result<Inspection> {
        let adopt = self.pipeline.spec.adoption_policy == AdoptionPolicy::Adopt;
        let pipeline = (self.namespace.as_str(), self.name());
        let found = inspect(&self.server, &self.spec, pipeline, adopt).await?;
        if found.stored.is_none() && self.exists().await? {
            return Err(Failure::Failed(format!(
                "there is a table {}, whose definition this user may not see: choose another with --clickhouse-user, or grant it SHOW and SELECT there",
                self.table()
            )));
        }
        Ok(found)
    }

    /// The same of a table that is there and this pipeline's; `None` where there is none. What is another's is not touched.
    pub async fn inspect_own(&self) -> Result<Option<Inspection>> {
        let found = self.inspect().await?;
        match &found.stored {
            None => Ok(None),
            Some(_) if found.is_of(&self.namespace, self.name()) => Ok(Some(found)),
            Some(stored) => Err(Failure::Failed(format!(
                "the table {} is not that of the pipeline {}: {}",
                self.table(),
                self.name(),
                match &stored.owner {
                    Some(owner) => format!("it belongs to {owner}"),
                    None => "Penstock has neither made nor adopted it".to_owned(),
                }
            ))),
        }
    }
}

impl From<ProvisionError> for Failure {
    fn from(error: ProvisionError) -> Self {
        match error {
            ProvisionError::Unavailable { ref detail, .. } if is_busy(detail) => Self::Failed(format!(
                "{error}. It is reached, and too busy for the question, or the question too large for it: try again"
            )),
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

fn is_busy(detail: &str) -> bool {
    [
        "no answer in time",
        "TIMEOUT_EXCEEDED",
        "MEMORY_LIMIT_EXCEEDED",
        "TOO_MANY_SIMULTANEOUS_QUERIES",
    ]
    .iter()
    .any(|sign| detail.contains(sign))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_line_of_its_file() {
        let file = std::env::temp_dir().join(format!("penstock-password-{}", std::process::id()));
        let reach = Reach {
            password_file: Some(file.clone()),
            ..Reach::default()
        };
        for (written, password) in [
            ("secret\n", "secret"),
            (" se cret\r\n", " se cret"),
            ("secret", "secret"),
        ] {
            std::fs::write(&file, written).unwrap();
            assert_eq!(
                reach.password().unwrap().as_deref(),
                Some(password),
                "{written:?}"
            );
        }
        std::fs::remove_file(&file).unwrap();
        let failure = reach.password().unwrap_err();
        assert_eq!(failure.code(), 2);
        assert!(
            failure
                .to_string()
                .starts_with(&format!("--password-file {}: ", file.display())),
            "{failure}"
        );
    }
}
