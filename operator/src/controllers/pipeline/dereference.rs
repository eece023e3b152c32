//! Reading what a pipeline refers to: Apps and their keys, other claimants, credentials. Nothing is written here.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Resource as _, ResourceExt};
use penstock_crds::pipeline::KafkaOutage;
use penstock_crds::{IngestionPipeline, Reason};
use penstock_dataplane_config::AppsFile;

use super::Context;
use super::apps::{Bound, Unreadable};
use super::build::{APPS_FILE, apps_name};
use super::named::Kept;
use super::secrets::{self, Credentials};
use super::target::{Claimant, Invalid, Target, gives_way_to, invalid};
use super::validate::{Validated, validate};
use crate::api::ApiError;
use crate::controllers::app;
use crate::controllers::context::Shared;
use crate::controllers::subject::Subject;

/// A pipeline as a claimant, if its spec leads anywhere.
pub fn claimant(pipeline: &IngestionPipeline, shared: &Shared) -> Option<Claimant> {
    let subject = Subject::of(pipeline);
    let target = Target::of(pipeline, &subject, &shared.cluster, &shared.settings).ok()?;
    Some(Claimant {
        since: pipeline.creation_timestamp().map(|t| t.0),
        subject,
        target,
    })
}

/// What was read.
pub(super) enum Dereferenced {
    /// All that is needed, credentials as far as they are there, and what is named but missing.
    Whole(Box<Validated>, Option<Credentials>, Option<Invalid>),
    Waiting,
}

/// Reads what the pipeline refers to, and validates the whole.
pub(super) async fn dereference(
    pipeline: &IngestionPipeline,
    subject: &Subject,
    context: &Context,
) -> Result<Dereferenced, Invalid> {
    let Shared {
        settings,
        cluster,
        keys,
        ..
    } = &context.shared;
    let kept = match keep(pipeline, subject, context).await {
        Ok(kept) => kept,
        Err(error) => {
            tracing::warn!(pipeline = subject.path(), %error, "its Secrets cannot be read");
            return Ok(Dereferenced::Waiting);
        }
    };
    let target = Target::of(pipeline, subject, cluster, settings)?;
    let us = Claimant {
        subject: subject.clone(),
        since: pipeline.creation_timestamp().map(|t| t.0),
        target: target.clone(),
    };
    let others: Vec<Claimant> = context
        .caches
        .pipelines
        .state()
        .iter()
        .filter_map(|other| claimant(other.0.as_ref().ok()?, &context.shared))
        .collect();
    if let Some((winner, what)) = gives_way_to(&us, &others) {
        let message = format!("{what} is used by the older pipeline {winner}");
        return Err(invalid(Reason::ResourceConflict, message));
    }
    let mut bound = Vec::new();
    let mut unreadable = BTreeSet::new();
    for guard in context.caches.apps_in(&subject.namespace) {
        if guard.meta().deletion_timestamp.is_some()
            || !pipeline.spec.apps.selects(&guard.name_any(), guard.labels())
        {
            continue;
        }
        let Ok(app) = &guard.0 else {
            unreadable.insert(Subject::of(&*guard).path());
            continue;
        };
        let of = Subject::of(app);
        let Some(keys) = keys.get(&of.namespace, &of.name, &of.uid) else {
            return Ok(Dereferenced::Waiting);
        };
        bound.push(Bound {
            id: app::effective_id(cluster, &of, app),
            app: app.clone(),
            keys,
        });
    }
    let missing: Vec<&str> = pipeline
        .spec
        .apps
        .names
        .iter()
        .flatten()
        .map(String::as_str)
        .filter(|name| !bound.iter().any(|b| b.app.name_any() == *name))
        .filter(|name| !unreadable.contains(&format!("{}/{name}", subject.namespace)))
        .collect();
    let incomplete = (!missing.is_empty()).then(|| {
        let message = format!(
            "apps.names: there is no App {} in this namespace",
            missing.join(", ")
        );
        invalid(Reason::AppNotFound, message)
    });
    let incomplete = incomplete.or_else(|| without_certificate(pipeline, subject, context));
    let unreadable = match in_force(unreadable, subject, context).await {
        Ok(unreadable) => unreadable,
        Err(error) => {
            tracing::warn!(pipeline = subject.path(), %error, "the list of Apps in force cannot be read");
            return Ok(Dereferenced::Waiting);
        }
    };
    let direct = pipeline.spec.ingest.kafka_outage() == KafkaOutage::Direct;
    // Without them what concerns Apps is done all the same: a revoked key stops.
    let credentials = match kept.never {
        true => None,
        false => Some(secrets::read(&target.connections, direct).await?),
    };
    let incomplete = kept.missing.or(incomplete);
    let validated = validate(pipeline, subject, target, bound, unreadable, settings)?;
    Ok(Dereferenced::Whole(Box::new(validated), credentials, incomplete))
}

/// Reads the Secrets that the pipeline names for services of its own.
pub(super) async fn keep(
    pipeline: &IngestionPipeline,
    subject: &Subject,
    context: &Context,
) -> Result<Kept, ApiError> {
    let Shared {
        settings, monitor, ..
    } = &context.shared;
    let kept = settings
        .secret_files
        .keep(pipeline, subject, &context.caches, &context.writer)
        .await?;
    for place in &kept.replaced {
        monitor.forget(place);
    }
    Ok(kept)
}

/// New pods wait until the Secret of their certificate is there; running ones go on with what they have read.
fn without_certificate(
    pipeline: &IngestionPipeline,
    subject: &Subject,
    context: &Context,
) -> Option<Invalid> {
    let name = &pipeline.spec.endpoint.tls.as_ref()?.secret_name;
    if context.caches.secret(&subject.namespace, name).is_some() {
        return None;
    }
    let message = format!("endpoint.tls.secretName: there is no Secret {name} in this namespace");
    Some(invalid(Reason::SecretNotFound, message))
}

/// What pods have been told of Apps that cannot be read. Asked only where there are such.
async fn in_force(
    names: BTreeSet<String>,
    subject: &Subject,
    context: &Context,
) -> Result<Unreadable, ApiError> {
    if names.is_empty() {
        return Ok(Unreadable::default());
    }
    let name = apps_name(&subject.name);
    let found = context
        .writer
        .api::<ConfigMap>(&subject.namespace)
        .get_opt(&name)
        .await
        .map_err(|error| ApiError::from(format!("ConfigMap {}/{name}", subject.namespace), &error))?;
    let file: Option<AppsFile> = found.and_then(|map| serde_yaml::from_str(map.data?.get(APPS_FILE)?).ok());
    Ok(Unreadable::of(
        names,
        file.map_or_else(Vec::new, |file| file.apps),
    ))
}
