//! `kit up`: from whatever is there to the whole cluster. Every stage looks at what exists and does only the rest, so
//! running it again after a failure or a reboot goes on.

use std::fs;
use std::path::PathBuf;
use std::thread::Scope;

use nix::fcntl::{Flock, FlockArg};

use crate::component::{Component, Group};
use crate::error::{Context, Error, Result};
use crate::fetch::{self, GoTool};
use crate::instance::{Instance, Record};
use crate::process::boot_id;
use crate::progress::{Outcome, Progress, human};
use crate::{clickhouse, cluster, kafka, penstock, preflight};

/// What to bring up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub groups: Vec<Group>,
    /// Brokers, when asked for; an instance keeps the number it began with.
    pub brokers: Option<u8>,
    /// Whether Penstock is to be installed on it, and so is built with the rest.
    pub penstock: bool,
    /// Whether it is to use the encrypted ports of the services.
    pub secure: bool,
}

impl Plan {
    pub fn wants(&self, group: Group) -> bool {
        self.groups.contains(&group)
    }
}

impl Instance {
    /// Fetches, builds and starts what the plan names.
    pub fn up(&self, plan: &Plan, progress: &Progress) -> Result<()> {
        let missing = self.check(plan, progress)?;
        let _lock = self.lock()?;
        self.remember(plan)?;
        let built = obtain(self, plan, &missing, progress)?;
        progress.heading("start");
        self.create_netns()?;
        self.create_cgroups()?;
        if let Some(front) = built
            && clickhouse::install_front(self, &front)?
        {
            self.stop(Component::ClickHouse)?;
        }
        self.start_all(plan, progress)
    }

    /// Only fetches and builds: nothing is started, and the instance is not made.
    pub fn fetch(&self, plan: &Plan, progress: &Progress) -> Result<()> {
        let missing = self.check(plan, progress)?;
        obtain(self, plan, &missing, progress).map(drop)
    }

    /// Whether the machine can do it; gives back what is not in the cache yet.
    fn check(&self, plan: &Plan, progress: &Progress) -> Result<Vec<Missing>> {
        let missing = missing_in_cache(self, plan);
        progress.heading(&format!("instance `{}`: {}", self.name(), names(&plan.groups)));
        let to_build: Vec<Group> = missing.iter().map(|item| item.group()).collect();
        preflight::check(self, progress, &plan.groups, &to_build)?;
        Ok(missing)
    }

    /// Held by `up` and `down`, so that two of them do not work on one instance at once.
    pub(crate) fn lock(&self) -> Result<Flock<fs::File>> {
        let folder = self.state_dir().parent().unwrap_or(self.state_dir());
        fs::create_dir_all(folder).doing(format_args!("creating {}", folder.display()))?;
        let path = folder.join(format!(".{}.lock", self.name()));
        let file = fs::File::create(&path).doing(format_args!("creating {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            Error::new(format!(
                "another `kit up` or `kit down` is at work on instance `{}`",
                self.name()
            ))
            .next("wait for it to end, then run the same command again")
        })
    }

    /// Writes down what the instance is to run, and forgets what a reboot made meaningless.
    fn remember(&self, plan: &Plan) -> Result<()> {
        let boot = boot_id()?;
        let before = self.record()?;
        if before.boot != boot && self.run_dir().exists() {
            fs::remove_dir_all(self.run_dir()).doing("clearing what the last boot left")?;
        }
        let record = merged(before, plan, boot)
            .map_err(|error| error.next(format!("`{}` first", self.command("down"))))?;
        self.save(&record)
    }

    fn start_all(&self, plan: &Plan, progress: &Progress) -> Result<()> {
        let brokers = self.record()?.brokers.unwrap_or(1);
        self.make_secured()?;
        if plan.wants(Group::Kafka) {
            kafka::make_cluster_id(self)?;
        }
        if plan.wants(Group::ClickHouse) {
            self.make_clickhouse_users()?;
        }
        std::thread::scope(|scope| {
            let mut branches = Vec::new();
            if plan.wants(Group::Kafka) {
                // Brokers of one quorum wait for each other, so they start side by side.
                for id in 1..=brokers {
                    branches.push(self.branch(scope, progress, vec![Component::Kafka(id)]));
                }
            }
            if plan.wants(Group::Redis) {
                branches.push(self.branch(scope, progress, vec![Component::Redis]));
            }
            if plan.wants(Group::ClickHouse) {
                branches.push(self.branch(scope, progress, vec![Component::ClickHouse]));
            }
            if plan.wants(Group::Kubernetes) {
                branches.push(scope.spawn(|| cluster::start(self, progress)));
            }
            first_error(branches)
        })
    }

    /// Starts components one after the other, on a thread of their own.
    pub(crate) fn branch<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        progress: &'scope Progress,
        components: Vec<Component>,
    ) -> std::thread::ScopedJoinHandle<'scope, Result<()>> {
        scope.spawn(move || {
            components
                .into_iter()
                .try_for_each(|component| self.start_step(component, progress))
        })
    }

    pub(crate) fn start_step(&self, component: Component, progress: &Progress) -> Result<()> {
        let name = component.name();
        progress.step(&name, Some(&self.log_file(&name)), || {
            Ok(Outcome::done(self.start(component)?.note()))
        })
    }
}

/// Waits for all, then gives the first error: the others have had their time to come up.
pub(crate) fn first_error(branches: Vec<std::thread::ScopedJoinHandle<'_, Result<()>>>) -> Result<()> {
    let results: Vec<Result<()>> = branches
        .into_iter()
        .map(|branch| {
            branch
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
        .collect();
    results.into_iter().collect()
}

fn merged(before: Record, plan: &Plan, boot: String) -> Result<Record> {
    if let (Some(is), Some(asked)) = (before.brokers, plan.brokers)
        && is != asked
    {
        return Err(Error::new(format!(
            "the instance has {is} broker(s), and {asked} are asked for; data does not move between the two"
        )));
    }
    let mut groups = before.groups;
    groups.extend(&plan.groups);
    groups.sort_unstable();
    groups.dedup();
    let brokers = if plan.wants(Group::Kafka) {
        before.brokers.or(plan.brokers).or(Some(1))
    } else {
        before.brokers
    };
    Ok(Record {
        brokers,
        groups,
        secure: before.secure || plan.secure,
        boot,
    })
}

/// Something that is not in the cache yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Go(GoTool),
    Kafka,
    Chdb,
}

impl Missing {
    fn group(self) -> Group {
        match self {
            Self::Go(_) => Group::Kubernetes,
            Self::Kafka => Group::Kafka,
            Self::Chdb => Group::ClickHouse,
        }
    }
}

fn missing_in_cache(instance: &Instance, plan: &Plan) -> Vec<Missing> {
    let mut missing: Vec<Missing> = GoTool::ALL
        .into_iter()
        .filter(|tool| !tool.is_built(instance))
        .map(Missing::Go)
        .collect();
    if !instance.cache().kafka().exists() {
        missing.push(Missing::Kafka);
    }
    if !instance.cache().libchdb().exists() {
        missing.push(Missing::Chdb);
    }
    missing.retain(|item| plan.wants(item.group()));
    missing
}

fn announce(missing: &[Missing], progress: &Progress) {
    progress.heading("build and fetch what is not in the cache; this is done once");
    for item in missing {
        progress.line(&match item {
            Missing::Go(tool) => format!("    to build: {}", fetch::announce(*tool)),
            Missing::Kafka => "    to fetch: kafka (45 MB)".into(),
            Missing::Chdb => "    to fetch: clickhouse engine (178 MB)".into(),
        });
    }
    if missing.iter().any(|item| matches!(item, Missing::Go(_))) {
        progress.line("    all of it takes up to 25 minutes on two cores");
    }
}

/// Gets everything the plan needs: downloads, Go's builds and Rust's builds side by side, for each of them has long
/// stretches on one core. Gives back the path of the built ClickHouse front.
fn obtain(
    instance: &Instance,
    plan: &Plan,
    missing: &[Missing],
    progress: &Progress,
) -> Result<Option<PathBuf>> {
    if !missing.is_empty() {
        announce(missing, progress);
    }
    std::thread::scope(|scope| {
        let mut branches = Vec::new();
        if plan.wants(Group::Kafka) {
            branches.push(scope.spawn(|| fetch::kafka(instance, progress)));
        }
        if plan.wants(Group::ClickHouse) {
            branches.push(scope.spawn(|| fetch::chdb(instance, progress)));
        }
        if plan.wants(Group::Kubernetes) {
            branches.push(scope.spawn(|| {
                GoTool::ALL
                    .into_iter()
                    .try_for_each(|tool| fetch::go_tool(instance, progress, tool))
            }));
        }
        let front = programs(instance, plan, progress);
        first_error(branches)?;
        front
    })
}

/// Builds this workspace's programs, one after the other: cargo's lock would see to that anyway.
fn programs(instance: &Instance, plan: &Plan, progress: &Progress) -> Result<Option<PathBuf>> {
    let mut front = None;
    if plan.wants(Group::ClickHouse) {
        let folder = fetch::cargo(
            instance,
            progress,
            clickhouse::FRONT,
            &["penstock-e2e-clickhouse"],
        )?;
        front = Some(folder.join(clickhouse::FRONT));
    }
    if plan.penstock {
        penstock::build(instance, progress)?;
    }
    Ok(front)
}

fn names(groups: &[Group]) -> String {
    groups
        .iter()
        .map(|group| group.name())
        .collect::<Vec<_>>()
        .join(", ")
}

/// The line at the end of a good `up`.
pub fn ready_line(instance: &Instance, progress: &Progress) -> String {
    format!(
        "==> instance `{}` is up  [{}]",
        instance.name(),
        human(progress.elapsed())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(groups: &[Group], brokers: Option<u8>) -> Plan {
        Plan {
            groups: groups.to_vec(),
            brokers,
            penstock: false,
            secure: false,
        }
    }

    #[test]
    fn a_second_up_adds_to_the_first() {
        let first = merged(
            Record::default(),
            &plan(&[Group::Redis, Group::Kafka], None),
            "b".into(),
        )
        .unwrap();
        assert_eq!(first.brokers, Some(1));
        let second = merged(first, &plan(&[Group::Kubernetes], None), "b".into()).unwrap();
        assert_eq!(second.groups, [Group::Kubernetes, Group::Kafka, Group::Redis]);
        assert_eq!(second.brokers, Some(1));
    }

    #[test]
    fn a_secured_instance_stays_one() {
        let secure = Plan {
            secure: true,
            ..plan(&Group::ALL, None)
        };
        let plain = merged(Record::default(), &plan(&Group::ALL, None), "b".into()).unwrap();
        assert!(!plain.secure);
        let secured = merged(plain, &secure, "b".into()).unwrap();
        assert!(secured.secure, "a later `up` may secure it");
        let later = merged(secured, &plan(&Group::ALL, None), "b".into()).unwrap();
        assert!(later.secure);
    }

    #[test]
    fn the_number_of_brokers_stays() {
        let three = merged(Record::default(), &plan(&[Group::Kafka], Some(3)), "b".into()).unwrap();
        assert_eq!(
            merged(three.clone(), &plan(&[Group::Kafka], None), "b".into())
                .unwrap()
                .brokers,
            Some(3)
        );
        let error = merged(three, &plan(&[Group::Kafka], Some(1)), "b".into()).unwrap_err();
        assert!(error.message().contains("has 3 broker(s), and 1"), "{error}");
    }
}
