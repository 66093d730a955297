use std::{
    sync::{Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use outrigger_discovery::{Discovery, WatchReason};
use outrigger_policy::{
    Outcome, Sent,
    outlier_detection::{AttemptGuard, FailureAttribution},
};
use outrigger_registry::{
    HealthStatus, Query,
    testing::{Listed, ScriptedRegistry, instance},
};
use tokio::{runtime::Handle, time::sleep};

use super::*;
use crate::{
    status::{EndpointStatus, cluster_status},
    upstream::{cluster::ClusterKey, subset::Subset},
};

/// A cluster of `orders` with its writer, by a registry that lists what the test says.
struct WriterRig {
    cluster: Arc<Cluster>,
    listed: Listed,
    updates: mpsc::UnboundedSender<SettingsUpdate>,
    _discovery: Arc<Discovery>,
}

impl WriterRig {
    fn new() -> Self {
        Self::with_rules(&config::TrafficRules::default(), true, Duration::ZERO)
    }

    /// `is_routed`: the registry need not be asked where requests go. `longest`: the wait for such answers.
    fn with_rules(rules: &config::TrafficRules, is_routed: bool, longest: Duration) -> Self {
        let (registry, listed) = ScriptedRegistry::listing();
        let settings = config::DiscoverySettings { mass_loss: None, ..config::DiscoverySettings::default() };
        let discovery =
            Discovery::new(registry, settings, Handle::current(), &prometheus::Registry::new()).unwrap();
        let follow = || {
            let query = Query::new("orders", None);
            discovery.follow(query, WatchReason::OnDemand).unwrap()
        };
        let metrics = Metrics::new(1).unwrap();
        let policy = config::Policy { balance: config::Balance::Weighted, ..config::Policy::default() };
        let settings = ClusterSettings::new(policy, rules, metrics.service_series(None));
        let key = ClusterKey::new("orders", None, &[]);
        let cluster = Arc::new(Cluster::new(key, false, settings, follow(), discovery.events().clone()));
        cluster.is_routed.send_replace(is_routed);
        let (updates, update_queue) = mpsc::unbounded_channel();
        let own_listeners = watch::Sender::default().subscribe();
        let reconciler = Reconciler::new(cluster.clone(), metrics, 1, own_listeners, discovery.clone());
        tokio::spawn(reconciler.run(follow(), update_queue, longest));
        Self { cluster, listed, updates, _discovery: discovery }
    }

    /// Lists these from now on, and waits until the View shows them.
    async fn list(&self, instances: impl Into<Vec<Instance>>) {
        self.listed.set(instances);
        sleep(Duration::from_millis(200)).await;
    }

    fn pick(&self, tried: &[Arc<Endpoint>]) -> Arc<Endpoint> {
        self.cluster.pick(None, tried, &[], true).unwrap()
    }

    /// How often each endpoint is picked in `times` first picks, by node and id.
    fn shares(&self, times: usize) -> Vec<(String, usize)> {
        let mut picks: Vec<_> = (0..times).map(|_| self.pick(&[]).id.to_string()).collect();
        picks.sort();
        let mut shares: Vec<(String, usize)> = Vec::new();
        for id in picks {
            match shares.last_mut().filter(|(last, _)| *last == id) {
                Some((_, count)) => *count += 1,
                None => shares.push((id, 1)),
            }
        }
        shares
    }

    fn status(&self) -> Vec<EndpointStatus> {
        cluster_status(&self.cluster).endpoints
    }
}

/// An instance on node `node`, registered as the `nth`, at `port` of this machine.
fn at(node: &str, id: &str, port: u16, nth: u64) -> Instance {
    let addr = Ok(([127, 0, 0, 1], port).into());
    Instance { addr, create_index: nth, ..instance(node, id, HealthStatus::Passing) }
}

fn expected(shares: &[(&str, usize)]) -> Vec<(String, usize)> {
    shares.iter().map(|(id, count)| (format!("dc1/{id}"), *count)).collect()
}

/// A service that changes more often than old Views are looked at.
#[tokio::test(start_paused = true)]
async fn a_service_that_changes_all_the_time_piles_up_no_views() {
    let rig = WriterRig::new();
    let mut views: Vec<Weak<View>> = Vec::new();
    for n in 0..100 {
        let names = [format!("a{n}"), "b".to_owned()];
        rig.list(names.map(|id| instance("n1", &id, HealthStatus::Passing))).await;
        views.push(Arc::downgrade(&rig.cluster.view.load_full()));
        let kept = views.iter().filter(|view| view.strong_count() > 0).count();
        assert!(kept <= 3, "{kept} views after {n} changes");
    }
    let published: std::collections::HashSet<_> = views.iter().map(Weak::as_ptr).collect();
    assert!(published.len() > 1 && rig.cluster.view.load().snapshot.version > 50, "it did change");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(views.iter().filter(|view| view.strong_count() > 0).count(), 1, "the current one");
}

#[tokio::test(start_paused = true)]
async fn one_id_on_two_nodes_is_two_endpoints() {
    let rig = WriterRig::new();
    rig.list([at("n1", "o", 1, 1), at("n2", "o", 2, 2)]).await;
    assert_eq!(rig.shares(20), expected(&[("n1/o", 10), ("n2/o", 10)]));
    let first = rig.pick(&[]);
    assert!(!Arc::ptr_eq(&first, &rig.pick(std::slice::from_ref(&first))), "a retry goes to the other one");
    let nodes: Vec<_> = rig.status().into_iter().map(|one| (one.node, one.id, one.same_as)).collect();
    assert_eq!(nodes, [("n1", "o"), ("n2", "o")].map(|(node, id)| (node.to_owned(), id.to_owned(), None)));
}

#[tokio::test(start_paused = true)]
async fn one_address_under_two_ids_is_one_endpoint_with_one_share() {
    let rig = WriterRig::new();
    let heavy = |one: Instance| Instance { weights: config::Weights { passing: 3, warning: 1 }, ..one };
    rig.list([at("n1", "a", 1, 1), at("n1", "b", 1, 2), at("n1", "c", 2, 3), at("n2", "a", 1, 1)]).await;
    assert_eq!(rig.shares(20), expected(&[("n1/b", 10), ("n1/c", 10)]), "the newest registration counts");
    let view = rig.cluster.view.load_full();
    assert_eq!(view.set.endpoints.len(), 2);
    let shared = rig.pick(&[]);
    let other = rig.pick(std::slice::from_ref(&shared));
    assert_ne!(shared.addr, other.addr, "a retry goes to another process");
    for one in &*view.snapshot.instances {
        let endpoint = view.endpoint_of(&one.id).unwrap();
        assert_eq!(Ok(endpoint.addr), one.addr.clone(), "{}", one.id);
    }

    // Each is shown, and counted once.
    let status = rig.status();
    let shown: Vec<_> = status.iter().map(|one| (&*one.node, &*one.id, one.same_as.as_deref())).collect();
    assert_eq!(shown, [("n1", "a", Some("b")), ("n1", "b", None), ("n1", "c", None), ("n2", "a", Some("b"))]);
    assert!(status.iter().all(|one| one.usable), "{status:?}");
    assert!(status[0].why_not.as_ref().unwrap().contains("address of b on node n1"), "{status:?}");
    shared.picks.fetch_add(7, Relaxed);
    assert_eq!(rig.status().iter().map(|one| one.picks).sum::<u64>(), 7);

    // The greatest weight counts.
    rig.list([heavy(at("n1", "a", 1, 1)), at("n1", "b", 1, 2), at("n1", "c", 2, 3)]).await;
    assert_eq!(rig.shares(20), expected(&[("n1/b", 15), ("n1/c", 5)]));
}

#[tokio::test(start_paused = true)]
async fn an_address_is_usable_while_one_of_its_instances_is() {
    let rig = WriterRig::new();
    let with = |one: Instance, status| Instance { status, ..one };
    let (a, b, c) = (at("n1", "a", 1, 1), at("n1", "b", 1, 2), at("n1", "c", 2, 3));
    for (first, second, is_used) in [
        (HealthStatus::Critical, HealthStatus::Passing, true),
        (HealthStatus::Passing, HealthStatus::Critical, true),
        (HealthStatus::Maintenance, HealthStatus::Passing, true),
        (HealthStatus::Critical, HealthStatus::Critical, false),
    ] {
        rig.list([with(a.clone(), first), with(b.clone(), second), c.clone()]).await;
        let all = [("n1/b", 10), ("n1/c", 10)];
        let few = [("n1/c", 20)];
        let shares = expected(if is_used { &all } else { &few });
        assert_eq!(rig.shares(20), shares, "{first:?} and {second:?}");
        assert_eq!(rig.status()[0].usable, is_used, "{first:?} and {second:?}");
        assert_eq!(rig.status()[1].usable, is_used, "{first:?} and {second:?}");
    }
    // One that leaves takes requests no longer where the other does.
    let leaving = Instance { draining: true, ..with(a.clone(), HealthStatus::Critical) };
    rig.list([leaving.clone(), b.clone()]).await;
    assert_eq!(rig.cluster.view.load().set.last_resort_in_use(), None);
    let b = with(b, HealthStatus::Critical);
    rig.list([leaving.clone(), b.clone()]).await;
    rig.pick(&[]);
    let in_use = || rig.cluster.view.load().set.last_resort_in_use();
    assert_eq!(in_use(), Some(LastResort::Draining), "both are critical, and one of them only leaves");
    let lost = Instance { node_lost: true, ..b.clone() };
    rig.list([leaving, lost.clone()]).await;
    assert_eq!(in_use(), Some(LastResort::Draining));
    rig.list([with(a, HealthStatus::Critical), lost]).await;
    assert_eq!(in_use(), Some(LastResort::NodeLost));
}

/// Whether each instance is shown as usable, and why (not).
fn shown(rig: &WriterRig) -> Vec<(bool, String)> {
    rig.status().into_iter().map(|one| (one.usable, one.why_not.unwrap_or_default())).collect()
}

#[tokio::test(start_paused = true)]
async fn an_instance_of_a_lost_node_is_used_only_while_no_other_is_usable() {
    let rig = WriterRig::new();
    let critical = |one: Instance| Instance { status: HealthStatus::Critical, ..one };
    let lost = |one: Instance| Instance { node_lost: true, ..critical(one) };
    let draining = |one: Instance| Instance { draining: true, ..critical(one) };
    let heavy = |one: Instance| Instance { weights: config::Weights { passing: 3, warning: 1 }, ..one };
    let (a, b, c) = (at("n1", "a", 1, 1), at("n2", "b", 2, 2), at("n3", "c", 3, 3));
    const WAITS: &str = "critical by its node alone: used only while no other instance is usable";
    const IN_USE: &str = "critical by its node alone: in use, because no other instance is usable";

    rig.list([lost(a.clone()), draining(b.clone()), c.clone()]).await;
    assert_eq!(rig.shares(20), expected(&[("n3/c", 20)]));
    assert_eq!(shown(&rig)[0], (false, WAITS.to_owned()));
    let healthy = rig.pick(&[]);
    let leaving = rig.pick(std::slice::from_ref(&healthy));
    assert_eq!(&*leaving.id.id, "b", "it is known to work");
    assert_eq!(&*rig.pick(&[healthy, leaving]).id.id, "a", "a retry goes to it after all others");

    rig.list([lost(a.clone()), draining(b.clone()), critical(c.clone())]).await;
    assert_eq!(rig.shares(20), expected(&[("n2/b", 20)]));
    assert_eq!(shown(&rig)[0], (false, WAITS.to_owned()));
    rig.pick(&[]).note_outcome(Outcome::ConnectRefused);
    assert_eq!(rig.shares(20), expected(&[("n1/a", 20)]));
    assert_eq!(shown(&rig)[0], (true, IN_USE.to_owned()));

    rig.list([lost(a.clone()), lost(heavy(b.clone())), critical(c.clone())]).await;
    assert_eq!(rig.shares(20), expected(&[("n1/a", 5), ("n2/b", 15)]), "by the weights that they had");
    assert_eq!(shown(&rig)[2], (false, "critical in the registry".to_owned()));
    let endpoint = rig.pick(&[]);
    rig.list([a, heavy(b), critical(c)]).await;
    assert_eq!(rig.shares(20), expected(&[("n1/a", 5), ("n2/b", 15)]));
    assert!(rig.status().iter().take(2).all(|one| one.usable && one.why_not.is_none()));
    assert!(rig.cluster.view.load().set.endpoints.iter().any(|one| Arc::ptr_eq(one, &endpoint)), "the same");
}

#[tokio::test(start_paused = true)]
async fn an_instance_of_a_lost_node_that_accepts_no_connections_is_ejected_and_refused() {
    let rig = WriterRig::new();
    let lost = |one: Instance| Instance { status: HealthStatus::Critical, node_lost: true, ..one };
    rig.list([lost(at("n1", "a", 1, 1))]).await;
    let endpoint = rig.pick(&[]);
    let (outlier, now) = (config::OutlierDetection::default(), Instant::now());
    let guard = AttemptGuard::begin(endpoint.clone(), Some(&outlier), true).unwrap();
    let blame = &mut FailureAttribution::default();
    let report =
        guard.record_end(Some(&outlier), blame, Outcome::ConnectRefused, Sent::Nothing, now.into_std());
    rig.cluster.report(&endpoint, report.unwrap(), now);
    assert!(rig.cluster.pick(None, &[], &[], true).is_none(), "no panic mode for it");
    let refusal = rig.cluster.refuse_pick(None, Duration::from_secs(1));
    assert!(
        refusal.detail.contains("1 critical, 1 critical by its node alone and not accepting connections"),
        "{}",
        refusal.detail
    );
    let (usable, why) = shown(&rig).remove(0);
    assert!(!usable && why.starts_with("critical by its node alone; ejected 0s ago"), "{why}");

    // The registry says that the node is back.
    rig.list([at("n1", "a", 1, 1)]).await;
    assert!(Arc::ptr_eq(&rig.pick(&[]), &endpoint), "panic mode, as for every instance in service");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_stays_while_the_newest_registration_of_its_address_does() {
    let rig = WriterRig::new();
    let (a, b) = (at("n1", "a", 1, 1), at("n1", "b", 1, 2));
    rig.list([b.clone()]).await;
    let endpoint = rig.pick(&[]);
    // An older registration comes and goes.
    for list in [vec![a.clone(), b.clone()], vec![b.clone()], vec![a.clone(), b.clone()]] {
        rig.list(list).await;
        assert!(Arc::ptr_eq(&rig.pick(&[]), &endpoint), "connections and counts stay");
    }
    // A newer one is another process.
    rig.list([a.clone(), b.clone(), at("n2", "z", 1, 9)]).await;
    let newer = rig.pick(&[]);
    assert!(!Arc::ptr_eq(&newer, &endpoint) && *newer.id.id == *"z");
    assert!(!endpoint.is_usable(true), "retired");
    // Without it, the address has the registrations from before.
    rig.list([a, b]).await;
    assert_eq!(&*rig.pick(&[]).id.id, "b");
}

#[tokio::test(start_paused = true)]
async fn no_view_has_instances_before_it_is_known_where_requests_go() {
    for is_told in [true, false] {
        let rig = WriterRig::with_rules(&config::TrafficRules::default(), false, Duration::from_secs(3));
        rig.list([at("n1", "a", 1, 1)]).await;
        assert!(!rig.cluster.has_answer(), "the registry was not asked yet where requests go");
        // Other settings come into effect meanwhile.
        let (applied, done) = oneshot::channel();
        let policy = config::Policy { timeout: Duration::from_secs(9), ..config::Policy::default() };
        let change = Some((policy, config::TrafficRules::default(), None));
        rig.updates.send(SettingsUpdate { change, applied }).unwrap();
        done.await.unwrap();
        assert_eq!(rig.cluster.view.load().settings.policy.timeout, Duration::from_secs(9));
        assert!(!rig.cluster.has_answer());
        if is_told {
            rig.cluster.is_routed.send_replace(true);
        }
        let begun = tokio::time::Instant::now();
        rig.cluster.wait_for_first_answer().await;
        let waited = begun.elapsed();
        assert_eq!(waited < Duration::from_secs(1), is_told, "{waited:?}");
        assert!(waited <= Duration::from_secs(3), "{waited:?}");
        assert_eq!(&*rig.pick(&[]).id.id, "a");
    }
}

#[tokio::test(start_paused = true)]
async fn a_subset_of_another_cluster_is_filled_on_demand_without_other_settings() {
    let rig = WriterRig::new();
    rig.list([at("n1", "a", 1, 1)]).await;
    let before = rig.cluster.view.load().settings.clone();
    // Nothing else lets the writer fill it.
    let subset = rig.cluster.live_subsets.get(&config::Subset::of_all("all"), config::Balance::RoundRobin);
    assert!(!subset.set().has_usable());
    let (applied, done) = oneshot::channel();
    rig.updates.send(SettingsUpdate { change: None, applied }).unwrap();
    done.await.unwrap();
    assert!(subset.set().has_usable(), "it has its endpoints when this is said to be done");
    assert!(Arc::ptr_eq(&before, &rig.cluster.view.load().settings));
}

#[tokio::test(start_paused = true)]
async fn the_first_view_knows_the_subsets_that_the_registry_evaluates() {
    let filter = config::SubsetFilter::parse("Service.EnableTagOverride == false").unwrap();
    let rules = config::TrafficRules {
        subsets: vec![config::Subset { filter: Some(filter), ..config::Subset::of_all("asked") }],
        ..config::TrafficRules::default()
    };
    let rig = WriterRig::with_rules(&rules, true, Duration::from_secs(3));
    rig.listed.set([at("n1", "a", 1, 1)]);
    rig.cluster.wait_for_first_answer().await;
    let subset = rig.cluster.view.load().settings.subsets()[0].clone();
    assert!(subset.set().has_usable(), "it is not empty for a moment");
    // What it has until the registry has answered once.
    let asked = || config::SubsetFilter::parse("Node.ID != \"\"").unwrap();
    let new = || {
        let rule = config::Subset { filter: Some(asked()), ..config::Subset::of_all("other") };
        Subset::new(rule, config::Balance::RoundRobin)
    };
    let (before, other) = (new(), new());
    let (a, b) = (at("n1", "a", 1, 1), at("n1", "b", 2, 2));
    before.set_listed(std::slice::from_ref(&a));
    let both = [a.clone(), b.clone()];
    assert!(!other.matches(&a));
    other.assume_same(&before, &both);
    assert!(other.matches(&a) && !other.matches(&b));
    other.set_listed(std::slice::from_ref(&b));
    other.assume_same(&before, &both);
    assert!(!other.matches(&a) && other.matches(&b), "an answer is better");
}
