//! The variables by which programs find an instance: `kit env` prints them, `kit exec` sets them.

use crate::component::Group;
use crate::error::Result;
use crate::instance::Instance;
use crate::quickstart;

/// Name and value, in the order they are printed. Only what the instance runs has a variable.
pub fn variables(instance: &Instance) -> Result<Vec<(&'static str, String)>> {
    instance.must_exist()?;
    let groups = instance.record()?.groups;
    let mut variables = Vec::new();
    if groups.contains(&Group::Kubernetes) {
        variables.push(("KUBECONFIG", instance.kubeconfig().display().to_string()));
    }
    if groups.contains(&Group::Kafka) {
        variables.push(("KAFKA_BOOTSTRAP", instance.kafka_bootstrap()?));
    }
    if groups.contains(&Group::ClickHouse) {
        let admin = instance.clickhouse_users()?.admin;
        variables.push(("CLICKHOUSE_URL", instance.clickhouse_url()));
        variables.push(("CLICKHOUSE_USER", admin.user));
        variables.push(("CLICKHOUSE_PASSWORD", admin.password));
    }
    if groups.contains(&Group::Redis) {
        variables.push(("REDIS_URL", format!("redis://{}", instance.redis_address())));
    }
    if groups.contains(&Group::Kubernetes)
        && let Some(endpoint) = quickstart::endpoint(instance)
    {
        variables.push(("PENSTOCK_INGEST_URL", endpoint.url));
        variables.push(("PENSTOCK_WRITE_KEY", endpoint.key));
        variables.push(("PENSTOCK_APP_ID", endpoint.app_id));
        variables.push(("CLICKHOUSE_DATABASE", endpoint.database));
    }
    Ok(variables)
}

/// A line that any shell reads.
pub fn export_line(name: &str, value: &str) -> String {
    format!("export {name}='{}'", value.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_for_the_shell() {
        assert_eq!(export_line("A", "b c"), "export A='b c'");
        assert_eq!(export_line("A", "it's"), "export A='it'\\''s'");
    }
}
