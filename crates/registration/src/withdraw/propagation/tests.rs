//! Against a registry that lists what the test says, on a paused clock.

use outrigger_registry::{
    HealthStatus, Instance,
    testing::{Listed, ScriptedRegistry, instance},
};
use tokio::time::sleep;

use super::*;
use crate::testing::test_registration;

fn us() -> Registration {
    Registration { name: "Orders".into(), tags: Vec::new(), ..test_registration() }
}

/// A monitor that watches, and what its registry lists.
fn propagation(settings: Drain) -> (PropagationMonitor, Listed) {
    let (registry, listing) = ScriptedRegistry::listing();
    let runtime = tokio::runtime::Handle::current();
    let metrics = prometheus::Registry::new();
    let discovery = Discovery::new(registry, Default::default(), runtime, &metrics).unwrap();
    let mut propagation = PropagationMonitor::new(settings, Some(discovery));
    propagation.start_watch(&us());
    propagation.start_clock();
    (propagation, listing)
}

const OTHER: (&str, &str) = ("node-2", "orders-2");

#[tokio::test(start_paused = true)]
async fn each_step_is_seen_when_it_is_listed_and_not_before() {
    let (mut propagation, listing) = propagation(Drain::default());
    let other = instance(OTHER.0, OTHER.1, HealthStatus::Passing);
    listing.set([other.clone(), instance("node-1", "orders-1", HealthStatus::Passing)]);
    let later = Duration::from_millis(700);
    let from = Instant::now();
    let critical = async {
        sleep(later).await;
        listing.set([other.clone(), instance("node-1", "orders-1", HealthStatus::Critical)]);
    };
    let (end, ()) = tokio::join!(propagation.wait_until_critical(), critical);
    assert_eq!(end, StepResult::Done);
    assert!(from.elapsed() >= later, "{:?}", from.elapsed());

    let gone = async {
        sleep(later).await;
        listing.set([other.clone()]);
    };
    let (end, ()) = tokio::join!(propagation.wait_until_removed(), gone);
    assert_eq!(end, StepResult::Done);
    assert!(from.elapsed() >= 2 * later && from.elapsed() < Duration::from_secs(2), "{:?}", from.elapsed());
    assert_eq!(propagation.remaining_margin(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_critical_already_or_in_maintenance_is_not_waited_for() {
    for status in [HealthStatus::Critical, HealthStatus::Maintenance] {
        let (mut propagation, listing) = propagation(Drain::default());
        listing.set([instance("node-1", "orders-1", status)]);
        let from = Instant::now();
        assert_eq!(propagation.wait_until_critical().await, StepResult::Done);
        // A declared watch begins up to 100 ms late by chance; waiting in vain would take 2.5 s.
        assert!(from.elapsed() < Duration::from_millis(200), "{status:?}: {:?}", from.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_not_listed_is_waited_for_up_to_max_propagation() {
    let (mut propagation, listing) = propagation(Drain::default());
    listing.set([instance("node-1", "orders-1", HealthStatus::Passing)]);
    let from = Instant::now();
    assert_eq!(propagation.wait_until_critical().await, StepResult::TimedOut);
    assert_eq!(from.elapsed().as_millis() / 10, 250, "half of max_propagation");
    assert_eq!(propagation.wait_until_removed().await, StepResult::TimedOut);
    assert_eq!(from.elapsed().as_millis() / 10, 500, "max_propagation");
    assert_eq!(propagation.remaining_margin(), Duration::ZERO, "no time is left for the margin");
}

#[tokio::test(start_paused = true)]
async fn where_the_registry_does_not_show_the_app_nothing_is_measured() {
    let cases: [(&str, Option<Vec<Instance>>); 4] = [
        ("silent", None),
        ("empty, as for a token that may not read", Some(Vec::new())),
        ("others only", Some(vec![instance(OTHER.0, OTHER.1, HealthStatus::Passing)])),
        (
            "two with the id, on two nodes",
            Some(vec![
                instance("node-1", "orders-1", HealthStatus::Passing),
                instance("node-2", "orders-1", HealthStatus::Passing),
            ]),
        ),
    ];
    for (what, listed) in cases {
        let (mut propagation, listing) = propagation(Drain::default());
        if let Some(listed) = listed {
            listing.set(listed);
        }
        let from = Instant::now();
        assert_eq!(propagation.wait_until_critical().await, StepResult::Failed, "{what}");
        assert_eq!(propagation.wait_until_removed().await, StepResult::Failed, "{what}");
        assert_eq!(from.elapsed().as_millis() / 10, 200, "{what}: a second each");
        assert_eq!(propagation.unobserved_wait().as_millis() / 10, 300, "{what}: the rest of 5 s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fixed_wait_needs_no_query() {
    let wait = Duration::from_secs(2);
    let settings = Drain { propagation: Propagation::Fixed(wait), ..Drain::default() };
    let (mut propagation, listing) = propagation(settings);
    listing.set([instance("node-1", "orders-1", HealthStatus::Passing)]);
    let from = Instant::now();
    assert_eq!(propagation.wait_until_critical().await, StepResult::Failed);
    assert_eq!(propagation.wait_until_removed().await, StepResult::Failed);
    assert_eq!((from.elapsed(), propagation.unobserved_wait()), (Duration::ZERO, wait));
}
