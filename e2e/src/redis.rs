//! Redis, as Debian ships it. It keeps nothing on disk: Penstock holds only usage there, which refills itself.

use crate::daemon::Daemon;
use crate::instance::{Instance, NODE_ADDRESS, REDIS_PORT};
use crate::probe;

pub(crate) fn daemon(instance: &Instance) -> Daemon {
    let directory = instance.data_dir("redis");
    let configuration = directory.join("redis.conf");
    Daemon::new("redis-server")
        .directory(&directory)
        .file(&configuration, redis_conf(&directory.display().to_string()))
        .argument(configuration)
}

pub(crate) fn is_ready() -> bool {
    probe::answers((NODE_ADDRESS, REDIS_PORT), "PING\r\n", "+PONG")
}

fn redis_conf(directory: &str) -> String {
    // Nothing but this machine's namespace reaches the port, so no password: `protected-mode no`.
    format!(
        "bind {NODE_ADDRESS} 127.0.0.1\nport {REDIS_PORT}\nprotected-mode no\ndaemonize no\ndir {directory}\n\
         save \"\"\nappendonly no\nmaxmemory 256mb\nmaxmemory-policy noeviction\nlogfile \"\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_listens_where_pods_reach_it() {
        let text = redis_conf("/d");
        for line in ["bind 10.240.0.1 127.0.0.1", "port 6379", "save \"\"", "dir /d"] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
