//! Which cluster makes room for the next one where a quota is used up.

use outrigger_registry::{
    Cursor, HealthStatus,
    testing::{ScriptedRegistry, instance, list},
};
use tokio::time::sleep;

use super::*;

/// A registry with one instance of each service that is called `real` something; it does not answer for names that begin with
/// `silent`.
struct Rig {
    manager: Arc<ClusterManager>,
    discovery: Arc<Discovery>,
}

impl Rig {
    fn new(max_services: usize, max_unknown: usize, declared: &[&str]) -> Self {
        let (registry, mut questions) = ScriptedRegistry::new();
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some(question) = questions.recv().await {
                let name = &*question.query.service;
                if question.cursor != Cursor::START || name.starts_with("silent") {
                    unanswered.push(question);
                    continue;
                }
                let listed = name.starts_with("real").then(|| instance("n1", name, HealthStatus::Passing));
                question.answer(list(1, Vec::from_iter(listed)));
            }
        });
        let declared: Vec<_> = declared.iter().map(|service| format!("{{service: {service}}}")).collect();
        let settings = format!(
            "discovery: {{max_services: {max_services}, max_unknown: {max_unknown}}}\nupstreams: [{}]",
            declared.join(", ")
        );
        let (environment, flags) = (config::Environment::default(), config::Overrides::default());
        let config = config::load(Some(("test.yaml", &settings)), &environment, &flags).unwrap().config;
        let registered = prometheus::Registry::new();
        let discovery = Discovery::new(registry, config.discovery, Handle::current(), &registered).unwrap();
        let metrics = Metrics::new(1).unwrap();
        let manager = ClusterManager::new(&config, discovery.clone(), metrics, Handle::current(), 1);
        Self { manager, discovery }
    }

    /// The reason of a refusal, if the request to `name` is refused.
    async fn request(&self, name: &str) -> Option<Reason> {
        let name = ServiceName { service: name.into(), tag: None, datacenter: None };
        let cluster = match self.manager.find_or_open(&name).await {
            Ok(cluster) => cluster,
            Err(refusal) => return Some(refusal.reason),
        };
        // Each request is one second after the one before.
        sleep(Duration::from_secs(1)).await;
        cluster.mark_used(Instant::now());
        cluster.pick(&[], true).is_none().then(|| cluster.refuse_pick(Duration::from_secs(1)).reason)
    }

    fn watched(&self) -> Vec<String> {
        let clusters: Vec<_> =
            self.manager.clusters().iter().map(|cluster| cluster.label.to_string()).collect();
        let services: Vec<_> =
            self.discovery.services().iter().map(|service| service.query.to_string()).collect();
        assert_eq!(clusters, services, "what is not in use is not watched");
        clusters
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_names_make_room_for_the_first_request_of_a_service() {
    let rig = Rig::new(100, 3, &[]);
    for n in 0..20 {
        assert_eq!(rig.request(&format!("made-up-{n}")).await, Some(Reason::UnknownService), "{n}");
    }
    assert_eq!(rig.request("real").await, None);
    assert_eq!(rig.watched(), ["made-up-18", "made-up-19", "real"], "the oldest went out");
}

#[tokio::test(start_paused = true)]
async fn a_service_without_instances_goes_before_one_that_has_some_and_the_oldest_first() {
    let rig = Rig::new(3, 3, &[]);
    for name in ["real-1", "made-up", "real-2"] {
        rig.request(name).await;
    }
    assert_eq!(rig.request("real-3").await, None);
    assert_eq!(rig.watched(), ["real-1", "real-2", "real-3"]);
    assert_eq!(rig.request("real-1").await, None, "its last request is the newest now");
    assert_eq!(rig.request("real-4").await, None);
    assert_eq!(rig.watched(), ["real-1", "real-3", "real-4"]);
    assert_eq!(rig.request("real-2").await, None, "it comes back");
}

#[tokio::test(start_paused = true)]
async fn names_that_the_registry_is_silent_about_push_out_no_service_that_it_lists() {
    let rig = Rig::new(4, 4, &["declared"]);
    assert_eq!(rig.request("real").await, None);
    for n in 0..10 {
        assert_eq!(rig.request(&format!("silent-{n}")).await, Some(Reason::RegistryUnknown));
    }
    let watched = rig.watched();
    assert!(watched.contains(&"real".to_owned()) && watched.contains(&"declared".to_owned()), "{watched:?}");
    assert_eq!(watched.len(), 4, "{watched:?}");
}

#[tokio::test(start_paused = true)]
async fn declared_services_make_no_room() {
    let rig = Rig::new(2, 2, &["real-1", "made-up"]);
    assert_eq!(rig.request("real-2").await, Some(Reason::TooManyServices));
    assert_eq!(rig.watched(), ["made-up", "real-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_two_clusters_share_stays_with_the_second() {
    let rig = Rig::new(2, 2, &[]);
    let tagged = ServiceName { service: "real".into(), tag: Some("v2".into()), datacenter: None };
    let first = rig.manager.find_or_open(&tagged).await.unwrap();
    rig.request("real").await;
    assert_eq!(rig.request("other").await, Some(Reason::UnknownService));
    assert_eq!(rig.watched(), ["other", "real"], "no instance has the tag");
    drop(first);
    assert_eq!(rig.watched(), ["other", "real"], "a follower that was dropped late counts no more");
}
