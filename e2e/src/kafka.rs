//! Apache Kafka in KRaft mode: one broker or three, each a controller too.
//!
//! Brokers listen on and advertise the node's address. Timeouts of spare ones, which are killed again and again, are
//! short, so that a killed broker is taken out and comes back within seconds; with the defaults a restart after kill -9
//! takes 12 s, with these about 4.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use crate::daemon::{Before, Daemon};
use crate::error::{Context, Result};
use crate::file;
use crate::instance::{Instance, NODE_ADDRESS, kafka_port};
use crate::secret;
use crate::secured::{self, USER};

const LOG4J: &str = include_str!("../manifests/kafka-log4j2.properties");
const STARTED: &str = "Kafka Server started";
/// Kafka's own variable for the options of its JVM's memory.
const HEAP: &str = "KAFKA_HEAP_OPTS";

/// Clusters that `up` does not start: what stops one of them hurts nobody else.
pub(crate) const SPARES: [&[u8]; 4] = [&[8], &[9], &[10], &[5, 6, 7]];

fn is_spare(id: u8) -> bool {
    SPARES.iter().any(|spare| spare.contains(&id))
}

/// The brokers of the cluster that a broker belongs to.
fn cluster_of(instance: &Instance, id: u8) -> Result<Vec<u8>> {
    if let Some(spare) = SPARES.into_iter().find(|spare| spare.contains(&id)) {
        return Ok(spare.to_vec());
    }
    Ok((1..=instance.record()?.brokers.unwrap_or(1)).collect())
}

pub(crate) fn daemon(instance: &Instance, id: u8) -> Result<Daemon> {
    let brokers = cluster_of(instance, id)?;
    let directory = directory(instance, id);
    let properties = directory.join("server.properties");
    let mut text = server_properties(id, &brokers, &directory.join("data").display().to_string());
    if !is_spare(id) {
        text.push_str(&secured_properties(instance));
    }
    let log4j = directory.join("log4j2.properties");
    let hosts = directory.join("hosts");
    let classpath = format!("{}/*", instance.cache().kafka().join("libs").display());
    let heap = heap(brokers.len(), std::env::var(HEAP).ok().filter(|_| !is_spare(id)));
    // Spare ones are started often and have little to do, so the second compiler is not worth its work there: JVMs took
    // two fifths of the CPU of the end-to-end tests.
    let machine: &[&str] = if is_spare(id) {
        &["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    } else {
        &["-XX:+UseG1GC"]
    };
    let password = instance.service_password()?;
    let scram = |mechanism: &str| format!("{mechanism}=[name={USER},password={password}]");
    let mut daemon = Daemon::new("java")
        .directory(directory.join("data"))
        .file(&properties, text)
        .file(&log4j, LOG4J)
        .file(&hosts, format!("127.0.0.1 localhost\n{NODE_ADDRESS} node\n"))
        .arguments(machine.iter().copied())
        .arguments(heap)
        .argument("-Djava.awt.headless=true")
        .argument(format!("-Dlog4j2.configurationFile={}", log4j.display()))
        // For SASL a broker looks up its own name, and where no resolver answers that takes 18 s for each connection.
        .argument(format!("-Djdk.net.hosts.file={}", hosts.display()))
        .arguments(["-cp", &classpath, "kafka.Kafka"])
        .argument(&properties);
    daemon.before = Some(Before {
        unless: directory.join("data/meta.properties"),
        program: "java".into(),
        arguments: [
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Xmx128m",
            "-cp",
            &classpath,
            "kafka.tools.StorageTool",
            "format",
            "--ignore-formatted",
            "--cluster-id",
            &cluster_id(instance)?,
            "--config",
            &properties.display().to_string(),
            "--add-scram",
            &scram("SCRAM-SHA-512"),
            "--add-scram",
            &scram("SCRAM-SHA-256"),
        ]
        .map(Into::into)
        .to_vec(),
    });
    Ok(daemon)
}

/// The port opens a little before the broker serves, so the log is what tells.
pub(crate) fn is_ready(instance: &Instance, id: u8) -> bool {
    let name = crate::component::Component::Kafka(id).name();
    fs::read_to_string(instance.log_file(&name)).is_ok_and(|log| log.contains(STARTED))
}

/// What the JVM is told of its memory: what `asked` says, or little, which is enough for tests. With little a broker
/// stands still for 10 to 20 ms, up to twice a second, to collect its garbage.
fn heap(brokers: usize, asked: Option<String>) -> Vec<String> {
    let little = if brokers == 1 {
        "-Xms64m -Xmx512m"
    } else {
        "-Xms64m -Xmx384m"
    };
    let options = asked.unwrap_or_else(|| little.to_owned());
    options.split_whitespace().map(str::to_owned).collect()
}

fn directory(instance: &Instance, id: u8) -> PathBuf {
    instance.data_dir("kafka").join(id.to_string())
}

/// Makes the one id of all brokers, unless there is one. Called before the first of them starts.
pub(crate) fn make_cluster_id(instance: &Instance) -> Result<()> {
    let path = cluster_id_file(instance);
    if path.exists() {
        return Ok(());
    }
    file::write(&path, secret::kafka_uuid()?.as_bytes(), 0o644)
}

fn cluster_id_file(instance: &Instance) -> PathBuf {
    instance.data_dir("kafka").join("cluster-id")
}

fn cluster_id(instance: &Instance) -> Result<String> {
    let path = cluster_id_file(instance);
    fs::read_to_string(&path).doing(format_args!("reading {}", path.display()))
}

fn server_properties(id: u8, brokers: &[u8], data: &str) -> String {
    let voters: Vec<String> = brokers
        .iter()
        .map(|&voter| format!("{voter}@{NODE_ADDRESS}:{}", kafka_port(voter) + 1))
        .collect();
    let port = kafka_port(id);
    // Listeners beside the plain one: name, protocol, port.
    let secured: &[(&str, &str, u16)] = match is_spare(id) {
        true => &[],
        false => &[
            ("SECURED", "SASL_SSL", secured::kafka_port(id)),
            ("MUTUAL", "SSL", secured::kafka_port(id) + 1),
        ],
    };
    let listed = |each: &dyn Fn(&str, &str, u16) -> String| -> String {
        let texts = secured
            .iter()
            .map(|(name, protocol, port)| each(name, protocol, *port));
        texts.collect()
    };
    let address = |name: &str, _: &str, port: u16| format!(",{name}://{NODE_ADDRESS}:{port}");
    let (replicas, in_sync) = if brokers.len() >= 3 { (3, 2) } else { (1, 1) };
    let mut text = String::new();
    let mut set = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}={value}");
    };
    set("process.roles", "broker,controller");
    set("node.id", &id.to_string());
    set("controller.quorum.voters", &voters.join(","));
    set(
        "listeners",
        &format!(
            "PLAINTEXT://{NODE_ADDRESS}:{port},CONTROLLER://{NODE_ADDRESS}:{}{}",
            port + 1,
            listed(&address)
        ),
    );
    set(
        "advertised.listeners",
        &format!("PLAINTEXT://{NODE_ADDRESS}:{port}{}", listed(&address)),
    );
    set("controller.listener.names", "CONTROLLER");
    set(
        "listener.security.protocol.map",
        &format!(
            "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT{}",
            listed(&|name, protocol, _| format!(",{name}:{protocol}"))
        ),
    );
    set("inter.broker.listener.name", "PLAINTEXT");
    set("log.dirs", data);
    set("num.network.threads", "2");
    set("num.io.threads", "4");
    set("num.partitions", "3");
    set("offsets.topic.num.partitions", "4");
    set("transaction.state.log.num.partitions", "4");
    set("share.coordinator.state.topic.num.partitions", "2");
    for topic in [
        "offsets.topic",
        "transaction.state.log",
        "share.coordinator.state.topic",
    ] {
        set(&format!("{topic}.replication.factor"), &replicas.to_string());
    }
    for topic in ["transaction.state.log", "share.coordinator.state.topic"] {
        set(&format!("{topic}.min.isr"), &in_sync.to_string());
    }
    set("group.initial.rebalance.delay.ms", "0");
    set("auto.create.topics.enable", "false");
    set("log.segment.bytes", "67108864");
    set("log.cleaner.dedupe.buffer.size", "8388608");
    set("log.cleaner.threads", "1");
    // One that everybody uses must not be taken out because its machine was busy for two seconds: its topics would have no
    // leader, and no topic could be made.
    set(
        "broker.session.timeout.ms",
        if is_spare(id) { "2000" } else { "6000" },
    );
    set("broker.heartbeat.interval.ms", "500");
    text
}

/// What the listeners for those who say who they are need.
fn secured_properties(instance: &Instance) -> String {
    let keystore = instance.services_keystore();
    let ca = instance.services_certificate().ca;
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    format!(
        "ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
         sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256\n\
         listener.name.secured.scram-sha-512.sasl.jaas.config={scram}\n\
         listener.name.secured.scram-sha-256.sasl.jaas.config={scram}\n\
         listener.name.mutual.ssl.client.auth=required\n",
        keystore.display(),
        ca.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broker_keeps_one_replica() {
        let text = server_properties(1, &[1], "/d");
        for line in [
            "controller.quorum.voters=1@10.240.0.1:9093",
            "advertised.listeners=PLAINTEXT://10.240.0.1:9092,SECURED://10.240.0.1:9192,MUTUAL://10.240.0.1:9193",
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURED:SASL_SSL,MUTUAL:SSL",
            "offsets.topic.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "broker.session.timeout.ms=6000",
            "log.dirs=/d",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_spare_broker_that_is_killed_is_soon_back() {
        let text = server_properties(8, &[8], "/d");
        assert!(
            text.lines().any(|line| line == "broker.session.timeout.ms=2000"),
            "{text}"
        );
    }

    #[test]
    fn three_brokers_vote_and_replicate() {
        let text = server_properties(2, &[1, 2, 3], "/d");
        for line in [
            "node.id=2",
            "controller.quorum.voters=1@10.240.0.1:9093,2@10.240.0.1:9095,3@10.240.0.1:9097",
            "listeners=PLAINTEXT://10.240.0.1:9094,CONTROLLER://10.240.0.1:9095,SECURED://10.240.0.1:9194,MUTUAL://10.240.0.1:9195",
            "offsets.topic.replication.factor=3",
            "transaction.state.log.min.isr=2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
