//! The kit does what its page says: an instance comes up, is mended, and goes without a trace.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use penstock_e2e::{Component, Instance, Result};

/// An instance of this test's own, with Redis only; gone when dropped, whatever happened.
struct Own {
    name: String,
}

impl Own {
    fn new(what: &str) -> Self {
        Self {
            name: format!("kit-{what}-{}", std::process::id()),
        }
    }

    fn kit(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_kit"))
            .args(["--instance", &self.name])
            .args(arguments)
            .output()
            .expect("the kit runs")
    }

    fn good(&self, arguments: &[&str]) -> String {
        let output = self.kit(arguments);
        assert!(output.status.success(), "kit {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.kit(arguments);
        assert!(
            !output.status.success(),
            "kit {arguments:?} should fail: {output:?}"
        );
        String::from_utf8(output.stderr).expect("text")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.kit(&["down"]);
    }
}

fn cgroups(scope: &str) -> Vec<PathBuf> {
    let mut found = vec![Path::new("/sys/fs/cgroup").join(scope)];
    for entry in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        found.push(entry.path().join(scope));
    }
    found.retain(|path| path.exists());
    found
}

#[test]
fn an_instance_comes_up_is_mended_and_goes_without_a_trace() -> Result<()> {
    let own = Own::new("life");
    let instance = Instance::named(&own.name)?;
    assert!(own.refused(&["status"]).contains("there is no instance"));

    own.good(&["up", "--only", "redis"]);
    let first = instance.process(Component::Redis).expect("Redis runs");
    assert!(own.good(&["up", "--only", "redis"]).contains("already running"));
    assert_eq!(
        instance.process(Component::Redis),
        Some(first.clone()),
        "a second up leaves it alone"
    );

    let environment = own.good(&["env"]);
    assert!(
        environment.contains("export REDIS_URL='redis://10.240.0.1:6379'"),
        "{environment}"
    );
    assert!(
        !environment.contains("KAFKA"),
        "only what runs has a variable: {environment}"
    );
    let shown = own.good(&[
        "exec",
        "--",
        "sh",
        "-c",
        "echo $REDIS_URL in $(ip -brief address show node0)",
    ]);
    assert!(
        shown.contains("redis://10.240.0.1:6379 in node0") && shown.contains("10.240.0.1/24"),
        "{shown}"
    );

    instance.kill(Component::Redis)?;
    let error = own.refused(&["status"]);
    assert!(
        error.contains("not ready: redis") && error.contains("next: "),
        "{error}"
    );
    own.good(&["up", "--only", "redis"]);
    assert_ne!(instance.process(Component::Redis), Some(first));

    // Somebody's shell is still in there.
    let mut shell = Command::new(env!("CARGO_BIN_EXE_kit"))
        .args(["--instance", &own.name, "exec", "--", "sleep", "600"])
        .spawn()
        .expect("the kit runs");
    let redis = instance.process(Component::Redis).expect("Redis runs");
    own.good(&["down"]);
    shell.wait().expect("the shell was ended");
    assert!(!redis.is_alive());
    assert!(!instance.state_dir().exists() && !instance.netns_path().exists());
    assert_eq!(cgroups(&instance.scope()), Vec::<PathBuf>::new());
    assert!(own.good(&["down"]).contains("nothing to do"));
    Ok(())
}

#[test]
fn a_component_that_cannot_start_says_why_and_what_to_do() -> Result<()> {
    let own = Own::new("fail");
    own.good(&["up", "--only", "redis"]);
    let instance = Instance::named(&own.name)?;
    instance.kill(Component::Redis)?;
    // Its port is taken.
    let mut thief = instance.inside(|| {
        let program = "import socket,time; s=socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); \
                       s.bind(('10.240.0.1', 6379)); s.listen(); time.sleep(600)";
        Ok(Command::new("python3").args(["-c", program]).spawn().expect("python3 runs"))
    })?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while instance.inside(|| Ok(std::net::TcpStream::connect(("10.240.0.1", 6379)).is_err()))? {
        assert!(std::time::Instant::now() < deadline, "the port was not taken");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let error = own.refused(&["up", "--only", "redis"]);
    assert!(error.contains("redis ended while starting"), "{error}");
    assert!(
        error.contains("Address already in use") && error.contains("next: "),
        "{error}"
    );
    thief.kill().expect("ended");
    thief.wait().expect("ended");
    assert!(own.good(&["up", "--only", "redis"]).contains("started"));
    Ok(())
}
