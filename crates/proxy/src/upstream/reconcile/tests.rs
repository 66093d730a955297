use std::{sync::Weak, time::Duration};

use outrigger_discovery::{Discovery, WatchReason};
use outrigger_registry::{
    HealthStatus, Query,
    testing::{ScriptedRegistry, instance},
};
use tokio::{runtime::Handle, time::sleep};

use super::*;
use crate::upstream::cluster::ClusterKey;

/// A service that changes more often than old Views are looked at.
#[tokio::test(start_paused = true)]
async fn a_service_that_changes_all_the_time_piles_up_no_views() {
    let (registry, listed) = ScriptedRegistry::listing();
    let settings = config::DiscoverySettings::default();
    let discovery =
        Discovery::new(registry, settings, Handle::current(), &prometheus::Registry::new()).unwrap();
    let follow = || {
        let query = Query { service: "orders".into(), datacenter: None };
        discovery.follow(query, WatchReason::OnDemand).unwrap()
    };
    let metrics = Metrics::new(1).unwrap();
    let cluster_settings = ClusterSettings::new(config::Policy::default(), metrics.service_series(None));
    let cluster =
        Arc::new(Cluster::new(ClusterKey::new("orders", None, &[]), false, cluster_settings, follow()));
    let (_updates, update_queue) = mpsc::unbounded_channel();
    let own_listeners = watch::Sender::default().subscribe();
    tokio::spawn(Reconciler::new(cluster.clone(), metrics, 1, own_listeners).run(follow(), update_queue));

    let mut views: Vec<Weak<View>> = Vec::new();
    for n in 0..100 {
        let names = [format!("a{n}"), "b".to_owned()];
        let instances = names.map(|id| instance("n1", &id, HealthStatus::Passing));
        listed.set(instances);
        sleep(Duration::from_millis(200)).await;
        views.push(Arc::downgrade(&cluster.view.load_full()));
        let kept = views.iter().filter(|view| view.strong_count() > 0).count();
        assert!(kept <= 3, "{kept} views after {n} changes");
    }
    let published: std::collections::HashSet<_> = views.iter().map(Weak::as_ptr).collect();
    assert!(published.len() > 1 && cluster.view.load().snapshot.version > 50, "it did change");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(views.iter().filter(|view| view.strong_count() > 0).count(), 1, "the current one");
}
