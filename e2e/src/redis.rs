//! Redis, as Debian ships it. It keeps nothing on disk: Penstock holds only usage there, which refills itself.

use crate::daemon::{ConfigFile, Daemon};
use crate::error::Result;
use crate::instance::{Instance, NODE_ADDRESS, REDIS_PORT};
use crate::probe;
use crate::secured::{Certificate, REDIS_TLS_PORT, USER};

pub(crate) fn daemon(instance: &Instance) -> Result<Daemon> {
    let directory = instance.data_dir("redis");
    let configuration = directory.join("redis.conf");
    let text = redis_conf(
        &directory.display().to_string(),
        &instance.services_certificate(),
        &instance.service_password()?,
    );
    let mut daemon = Daemon::new("redis-server")
        .directory(&directory)
        .argument(&configuration);
    daemon.files.push(ConfigFile {
        path: configuration,
        contents: text,
        mode: 0o600,
    });
    Ok(daemon)
}

pub(crate) fn is_ready() -> bool {
    probe::answers((NODE_ADDRESS, REDIS_PORT), "PING\r\n", "+PONG")
}

fn redis_conf(directory: &str, services: &Certificate, password: &str) -> String {
    let Certificate { ca, chain, key } = services;
    let (ca, chain, key) = (ca.display(), chain.display(), key.display());
    // Nothing but this machine's namespace reaches the ports, so the default user needs no password: `protected-mode no`.
    format!(
        "tls-port {REDIS_TLS_PORT}\ntls-cert-file {chain}\ntls-key-file {key}\ntls-ca-cert-file {ca}\n\
         tls-auth-clients optional\nuser {USER} on >{password} ~* &* +@all\nbind {NODE_ADDRESS} 127.0.0.1\nport {REDIS_PORT}\nprotected-mode no\ndaemonize no\ndir {directory}\n\
         save \"\"\nappendonly no\nmaxmemory 256mb\nmaxmemory-policy noeviction\nlogfile \"\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_listens_where_pods_reach_it() {
        let services = Certificate {
            ca: "/p/ca.crt".into(),
            chain: "/p/s.crt".into(),
            key: "/p/s.key".into(),
        };
        let text = redis_conf("/d", &services, "p4ss");
        for line in [
            "tls-port 6380",
            "tls-key-file /p/s.key",
            "user penstock on >p4ss ~* &* +@all",
            "bind 10.240.0.1 127.0.0.1",
            "port 6379",
            "save \"\"",
            "dir /d",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
