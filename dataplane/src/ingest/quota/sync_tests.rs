use super::*;

fn quota(rate: u64, burst: Option<u64>, replicas: u32) -> Quota {
    Quota::new(
        &Limits {
            events_per_second: Some(rate),
            burst,
            ..Limits::default()
        },
        replicas,
    )
}

#[test]
fn a_lease_follows_the_demand_within_a_second_of_the_rate() {
    for (rate, burst, replicas, tokens, demand, expected) in [
        // Idle with its standing share: nothing to do.
        (5000, None, 2, 2500, 0, 0),
        // Spent: the standing share again.
        (5000, None, 2, 0, 100, 2500),
        // Busy: three turns of the demand.
        (50_000, None, 10, 0, 4000, 12_000),
        // Far over the limit: no more than a second of it.
        (5000, Some(20_000), 10, 0, 90_000, 5000),
        // A small surplus stays, a large one goes back.
        (5000, None, 2, 3000, 0, 0),
        (5000, None, 2, 5000, 0, -2500),
    ] {
        let quota = quota(rate, burst, replicas);
        quota.tokens.store(tokens, Relaxed);
        quota.demand.store(demand, Relaxed);
        assert_eq!(
            wanted(&quota, LEASE_EVERY),
            expected,
            "{rate} {burst:?} {replicas} {tokens} {demand}"
        );
        assert_eq!(quota.demand.load(Relaxed), 0);
    }
    assert_eq!(wanted(&Quota::new(&Limits::default(), 1), LEASE_EVERY), 0);
}

#[test]
fn alone_a_pod_goes_on_with_its_share() {
    let quota = quota(10_000, None, 4);
    quota.hear(0, Usage::default(), Usage::default());
    quota.tokens.store(0, Relaxed);
    go_on_alone(&quota, Duration::from_millis(100));
    assert_eq!(quota.tokens.load(Relaxed), 250);
    assert!(quota.alone.load(Relaxed), "for the limits per day too");
    go_on_alone(&quota, Duration::from_secs(60));
    assert_eq!(
        quota.tokens.load(Relaxed),
        2500,
        "no more than its share of the burst"
    );
    quota.tokens.store(9000, Relaxed);
    go_on_alone(&quota, Duration::from_millis(100));
    assert_eq!(quota.tokens.load(Relaxed), 9000, "a lease from before is kept");
}

#[tokio::test(start_paused = true)]
async fn redis_is_heard_of_until_it_has_been_silent_for_long() {
    let heard = Last::never();
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(!heard.is_within(HEARD_WITHIN), "never");
    assert_eq!(heard.age(), Duration::from_secs(60), "since the start");
    heard.now();
    assert!(heard.is_within(HEARD_WITHIN));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(!heard.is_within(HEARD_WITHIN));
    assert_eq!(heard.age(), Duration::from_secs(2));
}
