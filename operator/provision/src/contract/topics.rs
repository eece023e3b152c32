//! The suite for [`TopicAdmin`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use penstock_crds::Reason;
use penstock_dataplane_config::KafkaCluster;

use super::super::{Claim, Class, Deletion, Outcome, ProvisionError, TopicAdmin, TopicSpec, TopicState};
use super::{Fields, Side, owner};

/// The cluster, from behind the operator's back.
pub trait KafkaSide: Send + Sync {
    fn create_topic<'a>(&'a self, name: &'a str, partitions: u32, config: &'a Fields) -> Side<'a, ()>;
    fn delete_topic<'a>(&'a self, name: &'a str) -> Side<'a, ()>;
    /// Replaces the settings that the topic itself has.
    fn configure<'a>(&'a self, name: &'a str, config: &'a Fields) -> Side<'a, ()>;
    /// The settings that the topic itself has; `None` when there is no such topic.
    fn config<'a>(&'a self, name: &'a str) -> Side<'a, Option<Fields>>;
    /// Makes a consumer group with a committed offset and no member.
    fn create_group<'a>(&'a self, group: &'a str, topic: &'a str) -> Side<'a, ()>;
    fn stop(&self) -> Side<'_, ()>;
    fn start(&self) -> Side<'_, ()>;
}

/// For what passes by itself.
const PATIENCE: Duration = Duration::from_secs(30);

struct Suite<'a> {
    admin: &'a dyn TopicAdmin,
    side: &'a dyn KafkaSide,
    cluster: &'a KafkaCluster,
    prefix: &'a str,
}

/// Runs every case. `brokers`: how many the cluster has.
pub async fn topics(
    admin: &dyn TopicAdmin,
    side: &dyn KafkaSide,
    cluster: &KafkaCluster,
    prefix: &str,
    brokers: u32,
) {
    let suite = Suite {
        admin,
        side,
        cluster,
        prefix,
    };
    suite.ten_topics_are_made_once(brokers).await;
    suite
        .more_copies_than_brokers_are_refused_and_then_granted(brokers)
        .await;
    suite
        .partitions_grow_and_a_decrease_is_refused_until_taken_back()
        .await;
    suite.another_replication_is_refused(brokers).await;
    suite.drift_is_mended_and_foreign_settings_stay().await;
    suite.a_refused_setting_is_named().await;
    suite.a_topic_that_was_deleted_comes_back().await;
    suite.of_two_owners_the_first_holds().await;
    suite.at_once_only_one_gets_it().await;
    suite.adopting_needs_leave_and_never_deletes().await;
    suite.what_a_gone_owner_left_can_be_adopted().await;
    suite.a_retained_topic_is_taken_back().await;
    suite.only_what_was_made_is_deleted().await;
    suite.groups_are_deleted().await;
    suite.an_unreachable_cluster_is_reported_in_time().await;
    suite.a_cluster_that_comes_back_is_used_again().await;
}

impl Suite<'_> {
    fn spec(&self, name: &str) -> TopicSpec {
        TopicSpec {
            name: format!("{}.{name}", self.prefix),
            partitions: 2,
            keeps_keys: false,
            replication: None,
            retention: Duration::from_secs(3600),
            config: BTreeMap::new(),
        }
    }

    fn claim(&self, name: &str) -> Claim {
        Claim::new(owner(self.prefix, name), false)
    }

    fn adopting(&self, name: &str) -> Claim {
        Claim::new(owner(self.prefix, name), true)
    }

    /// What passes by itself is tried again, as a controller does: a partition that has no leader yet, for one.
    async fn ensure(&self, spec: &TopicSpec, claim: &Claim) -> Result<(Outcome, TopicState), ProvisionError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.admin.ensure_topic(self.cluster, spec, claim).await {
                Err(error) if error.class() == Class::Transient && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                answer => return answer,
            }
        }
    }

    #[track_caller]
    fn outcome(result: &Result<(Outcome, TopicState), ProvisionError>) -> &Outcome {
        match result {
            Ok((outcome, _)) => outcome,
            Err(error) => panic!("expected an outcome, got {error:?}"),
        }
    }

    #[track_caller]
    fn reason<T: std::fmt::Debug>(result: &Result<T, ProvisionError>) -> Reason {
        match result {
            Ok(value) => panic!("expected a refusal, got {value:?}"),
            Err(error) => error.reason(),
        }
    }

    async fn delete(&self, spec: &TopicSpec, name: &str) -> Result<Deletion, ProvisionError> {
        self.admin
            .delete_topic(self.cluster, &spec.name, &owner(self.prefix, name))
            .await
    }

    /// Sets one setting of a topic and leaves the others.
    async fn set(&self, topic: &str, key: &str, value: &str) {
        let mut config = self.side.config(topic).await.expect("the topic exists");
        config.insert(key.into(), value.into());
        self.side.configure(topic, &config).await;
    }

    async fn ten_topics_are_made_once(&self, brokers: u32) {
        for number in 0..10 {
            let spec = self.spec(&format!("many-{number}"));
            let claim = self.claim("many");
            let made = self.ensure(&spec, &claim).await;
            assert_eq!(Self::outcome(&made), &Outcome::Created, "{}", spec.name);
            let state = made.expect("made").1;
            let replication = brokers.min(3);
            let expected = TopicState {
                partitions: 2,
                replication,
                min_insync_replicas: (replication - 1).max(1),
                brokers,
            };
            assert_eq!(state, expected);
            let again = self.ensure(&spec, &claim).await;
            assert_eq!(again, Ok((Outcome::Unchanged, expected.clone())));
            let seen = self.admin.describe_topic(self.cluster, &spec.name).await;
            assert_eq!(seen, Ok(Some(expected)));
            let config = self.side.config(&spec.name).await.expect("the topic exists");
            assert_eq!(config["unclean.leader.election.enable"], "false");
            assert_eq!(config["retention.ms"], "3600000");
            assert_eq!(
                config["min.insync.replicas"],
                (replication - 1).max(1).to_string()
            );
        }
        let missing = format!("{}.never-made", self.prefix);
        assert_eq!(self.admin.describe_topic(self.cluster, &missing).await, Ok(None));
        assert_eq!(self.side.config(&missing).await, None, "looking must not make it");
    }

    async fn more_copies_than_brokers_are_refused_and_then_granted(&self, brokers: u32) {
        let many = TopicSpec {
            replication: Some(brokers + 1),
            ..self.spec("copies")
        };
        let refused = self.ensure(&many, &self.claim("copies")).await;
        assert_eq!(Self::reason(&refused), Reason::NotSupported);
        assert!(refused.is_err_and(|e| e.to_string().contains("copies of each partition")));
        assert_eq!(self.side.config(&many.name).await, None);
        let fewer = TopicSpec {
            replication: Some(1),
            ..many
        };
        let other = self.ensure(&fewer, &self.claim("other")).await;
        assert_eq!(
            Self::outcome(&other),
            &Outcome::Created,
            "a refused claim must not hold the name"
        );
    }

    async fn partitions_grow_and_a_decrease_is_refused_until_taken_back(&self) {
        let two = self.spec("grow");
        let claim = self.claim("grow");
        assert_eq!(Self::outcome(&self.ensure(&two, &claim).await), &Outcome::Created);
        let five = TopicSpec {
            partitions: 5,
            ..two.clone()
        };
        let keyed = TopicSpec {
            keeps_keys: true,
            ..five.clone()
        };
        let held = self.ensure(&keyed, &claim).await;
        assert_eq!(Self::reason(&held), Reason::NotSupported);
        let grown = self.ensure(&five, &claim).await;
        assert_eq!(
            Self::outcome(&grown),
            &Outcome::Updated(vec!["partitions 2 -> 5".into()])
        );
        assert_eq!(grown.expect("grown").1.partitions, 5);
        let refused = self.ensure(&two, &claim).await;
        assert_eq!(Self::reason(&refused), Reason::NotSupported);
        assert!(
            refused.is_err_and(|e| e.class() == Class::Permanent && e.to_string().contains("5 partitions"))
        );
        assert_eq!(
            Self::outcome(&self.ensure(&five, &claim).await),
            &Outcome::Unchanged
        );
    }

    async fn another_replication_is_refused(&self, brokers: u32) {
        let spec = TopicSpec {
            replication: Some(1),
            ..self.spec("replication")
        };
        let claim = self.claim("replication");
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &claim).await),
            &Outcome::Created
        );
        let more = TopicSpec {
            replication: Some(brokers.max(2)),
            ..spec.clone()
        };
        assert_eq!(
            Self::reason(&self.ensure(&more, &claim).await),
            Reason::NotSupported
        );
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &claim).await),
            &Outcome::Unchanged
        );
    }

    async fn drift_is_mended_and_foreign_settings_stay(&self) {
        let spec = TopicSpec {
            config: [("segment.bytes".into(), "1048576".into())].into(),
            ..self.spec("drift")
        };
        let claim = self.claim("drift");
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &claim).await),
            &Outcome::Created
        );
        self.set(&spec.name, "retention.ms", "1000").await;
        self.set(&spec.name, "flush.ms", "777").await;
        let mended = self.ensure(&spec, &claim).await;
        assert_eq!(
            Self::outcome(&mended),
            &Outcome::Updated(vec!["retention.ms".into()])
        );
        let config = self.side.config(&spec.name).await.expect("the topic exists");
        assert_eq!(config["retention.ms"], "3600000");
        assert_eq!(config["flush.ms"], "777", "a setting of someone else");
        assert_eq!(config["segment.bytes"], "1048576");

        let without = TopicSpec {
            config: BTreeMap::new(),
            ..spec
        };
        let reset = self.ensure(&without, &claim).await;
        assert_eq!(
            Self::outcome(&reset),
            &Outcome::Updated(vec!["segment.bytes".into()])
        );
        let config = self.side.config(&without.name).await.expect("the topic exists");
        assert!(
            !config.contains_key("segment.bytes"),
            "a setting taken out of the spec goes back to the default"
        );
        assert_eq!(config["flush.ms"], "777");
        assert_eq!(
            Self::outcome(&self.ensure(&without, &claim).await),
            &Outcome::Unchanged
        );
    }

    async fn a_refused_setting_is_named(&self) {
        let good = self.spec("setting");
        let bad = TopicSpec {
            config: [("segment.bytes".into(), "many".into())].into(),
            ..good.clone()
        };
        let claim = self.claim("setting");
        for round in ["making", "changing"] {
            let refused = self.ensure(&bad, &claim).await;
            assert_eq!(Self::reason(&refused), Reason::KafkaRejected, "{round}");
            assert!(
                refused.is_err_and(|e| e.to_string().contains("segment.bytes=many")),
                "{round}"
            );
            let mended = self.ensure(&good, &claim).await;
            assert!(mended.is_ok(), "{round}: it recovers: {mended:?}");
        }
        let unclean = TopicSpec {
            config: [("unclean.leader.election.enable".into(), "true".into())].into(),
            ..good
        };
        assert_eq!(
            Self::reason(&self.ensure(&unclean, &claim).await),
            Reason::NotSupported
        );
    }

    async fn a_topic_that_was_deleted_comes_back(&self) {
        let spec = self.spec("vanished");
        let claim = self.claim("vanished");
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &claim).await),
            &Outcome::Created
        );
        self.side.delete_topic(&spec.name).await;
        let stranger = self.ensure(&spec, &self.claim("stranger")).await;
        assert_eq!(
            Self::reason(&stranger),
            Reason::ResourceConflict,
            "the name is still its owner's"
        );
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &claim).await),
            &Outcome::Created
        );
        assert_eq!(self.delete(&spec, "vanished").await, Ok(Deletion::Deleted));
    }

    async fn of_two_owners_the_first_holds(&self) {
        let spec = self.spec("two");
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &self.claim("first")).await),
            &Outcome::Created
        );
        for claim in [self.claim("second"), self.adopting("second")] {
            let refused = self.ensure(&spec, &claim).await;
            assert_eq!(Self::reason(&refused), Reason::ResourceConflict);
            assert!(refused.is_err_and(|e| e.to_string().contains(owner(self.prefix, "first").as_str())));
        }
        assert_eq!(self.delete(&spec, "second").await, Ok(Deletion::Kept));
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &self.claim("first")).await),
            &Outcome::Unchanged
        );
    }

    async fn at_once_only_one_gets_it(&self) {
        let spec = self.spec("at-once");
        let claims: Vec<_> = (0..8)
            .map(|number| self.claim(&format!("racer-{number}")))
            .collect();
        let results = futures::future::join_all(claims.iter().map(|claim| self.ensure(&spec, claim))).await;
        let winners = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(winners, 1, "{results:?}");
        assert!(
            results
                .iter()
                .filter(|r| r.is_err())
                .all(|r| Self::reason(r) == Reason::ResourceConflict)
        );
    }

    async fn adopting_needs_leave_and_never_deletes(&self) {
        let spec = self.spec("found");
        let own: Fields = [
            ("retention.ms".into(), "1800000".into()),
            ("flush.ms".into(), "777".into()),
        ]
        .into();
        self.side.create_topic(&spec.name, 2, &own).await;
        let refused = self.ensure(&spec, &self.claim("finder")).await;
        assert_eq!(Self::reason(&refused), Reason::AdoptionRefused);
        assert!(refused.is_err_and(|e| e.to_string().contains("adoptionPolicy")));
        assert_eq!(
            self.side.config(&spec.name).await,
            Some(own),
            "refused and untouched"
        );
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &self.adopting("finder")).await),
            &Outcome::Adopted
        );
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &self.claim("finder")).await),
            &Outcome::Unchanged
        );
        assert_eq!(self.delete(&spec, "finder").await, Ok(Deletion::Kept));
        assert!(
            self.side.config(&spec.name).await.is_some(),
            "what was adopted is not deleted"
        );
        let after = self.ensure(&spec, &self.claim("finder")).await;
        assert_eq!(Self::reason(&after), Reason::AdoptionRefused, "the mark is gone");

        let longer = self.spec("longer");
        let own: Fields = [("retention.ms".into(), "7200000".into())].into();
        self.side.create_topic(&longer.name, 2, &own).await;
        let refused = self.ensure(&longer, &self.adopting("finder")).await;
        assert_eq!(
            Self::reason(&refused),
            Reason::NotSupported,
            "adopting would delete records"
        );
        assert_eq!(self.side.config(&longer.name).await, Some(own));
    }

    async fn what_a_gone_owner_left_can_be_adopted(&self) {
        let spec = self.spec("left");
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &self.claim("before")).await),
            &Outcome::Created
        );
        let heir = Claim {
            gone: Some(owner(self.prefix, "before")),
            ..self.adopting("heir")
        };
        assert_eq!(Self::outcome(&self.ensure(&spec, &heir).await), &Outcome::Adopted);
        assert_eq!(
            Self::reason(&self.ensure(&spec, &self.claim("before")).await),
            Reason::ResourceConflict
        );
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &self.claim("heir")).await),
            &Outcome::Unchanged
        );
        assert_eq!(
            self.delete(&spec, "heir").await,
            Ok(Deletion::Kept),
            "the heir did not make it"
        );
    }

    async fn a_retained_topic_is_taken_back(&self) {
        let spec = self.spec("retained");
        let claim = self.claim("retained");
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &claim).await),
            &Outcome::Created
        );
        // Retain calls nothing: the pipeline is gone, the topic and its mark stay. Then the pipeline is made again.
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &claim).await),
            &Outcome::Unchanged
        );
        assert_eq!(
            self.delete(&spec, "retained").await,
            Ok(Deletion::Deleted),
            "it was made by the same owner"
        );
    }

    async fn only_what_was_made_is_deleted(&self) {
        let spec = self.spec("deleted");
        assert_eq!(self.delete(&spec, "deleted").await, Ok(Deletion::Absent));
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &self.claim("deleted")).await),
            &Outcome::Created
        );
        assert_eq!(self.delete(&spec, "someone-else").await, Ok(Deletion::Kept));
        assert_eq!(self.delete(&spec, "deleted").await, Ok(Deletion::Deleted));
        assert_eq!(self.side.config(&spec.name).await, None);
        assert_eq!(self.delete(&spec, "deleted").await, Ok(Deletion::Absent));
        let next = self.ensure(&spec, &self.claim("next")).await;
        assert_eq!(Self::outcome(&next), &Outcome::Created, "the name is free again");
    }

    async fn groups_are_deleted(&self) {
        let spec = self.spec("group");
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &self.claim("group")).await),
            &Outcome::Created
        );
        let group = format!("{}.group", self.prefix);
        assert_eq!(
            self.admin.delete_group(self.cluster, &group).await,
            Ok(Deletion::Absent)
        );
        self.side.create_group(&group, &spec.name).await;
        assert_eq!(
            self.admin.delete_group(self.cluster, &group).await,
            Ok(Deletion::Deleted)
        );
        assert_eq!(
            self.admin.delete_group(self.cluster, &group).await,
            Ok(Deletion::Absent)
        );
    }

    async fn an_unreachable_cluster_is_reported_in_time(&self) {
        // Port 1 of this machine: nothing listens there.
        let begun = Instant::now();
        let nowhere = &KafkaCluster::open("127.0.0.1:1");
        let (spec, claim) = (self.spec("nowhere"), self.claim("nowhere"));
        let ensure = self.admin.ensure_topic(nowhere, &spec, &claim);
        let (topic, ping) = futures::join!(ensure, self.admin.ping(nowhere));
        for reason in [Self::reason(&topic), Self::reason(&ping)] {
            assert_eq!(reason, Reason::KafkaUnavailable);
        }
        assert!(
            topic.is_err_and(|e| e.class() == Class::Transient && e.to_string().contains(&nowhere.bootstrap))
        );
        assert!(
            begun.elapsed() < Duration::from_secs(6),
            "took {:?}",
            begun.elapsed()
        );
        assert_eq!(
            self.admin.ping(self.cluster).await,
            Ok(()),
            "another cluster is not affected"
        );
    }

    async fn a_cluster_that_comes_back_is_used_again(&self) {
        let spec = self.spec("outage");
        let claim = self.claim("outage");
        assert_eq!(
            Self::outcome(&self.ensure(&spec, &claim).await),
            &Outcome::Created
        );
        self.side.stop().await;
        let begun = Instant::now();
        let down = self.admin.ensure_topic(self.cluster, &spec, &claim).await;
        assert_eq!(Self::reason(&down), Reason::KafkaUnavailable);
        assert!(
            begun.elapsed() < Duration::from_secs(6),
            "took {:?}",
            begun.elapsed()
        );
        self.side.start().await;
        let back = self.ensure(&spec, &claim).await;
        assert_eq!(Self::outcome(&back), &Outcome::Unchanged);
    }
}
