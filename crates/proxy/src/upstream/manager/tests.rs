//! Which cluster makes room for the next one where a quota is used up.

use outrigger_registry::{
    Cursor, HealthStatus,
    testing::{ScriptedRegistry, instance, list},
};
use tokio::time::sleep;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;

/// A registry with one instance of each service that is called `real` something; it does not answer for names that begin with
/// `silent`.
struct Rig {
    manager: Arc<ClusterManager>,
    discovery: Arc<Discovery>,
    /// Names that the registry was asked for.
    asked: Arc<AtomicUsize>,
}

impl Rig {
    fn new(max_services: usize, max_unknown: usize, declared: &[&str]) -> Self {
        let (registry, mut questions) = ScriptedRegistry::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some(question) = questions.recv().await {
                let name = &*question.query.service;
                count.fetch_add(usize::from(question.cursor == Cursor::START), Relaxed);
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
        Self { manager, discovery, asked }
    }

    /// The reason of a refusal, if the request to `name` is refused.
    async fn request(&self, name: &str) -> Option<Reason> {
        let name = ServiceName::plain(name);
        let cluster = match self.manager.find_or_open(&name).await {
            Ok(cluster) => cluster,
            Err(refusal) => return Some(refusal.reason),
        };
        // Each request is one second after the one before.
        sleep(Duration::from_secs(1)).await;
        cluster.mark_used(Instant::now());
        cluster
            .pick(None, &[], &[], true)
            .is_none()
            .then(|| cluster.refuse_pick(None, Duration::from_secs(1)).reason)
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

#[tokio::test(start_paused = true)]
async fn a_flood_of_made_up_names_asks_the_registry_at_a_bounded_rate() {
    const SECONDS: usize = 20;
    let rig = Rig::new(256, 64, &["declared"]);
    assert_eq!(rig.request("real-1").await, None);
    let before = rig.asked.load(Relaxed);
    let mut requests = tokio::task::JoinSet::new();
    for n in 0..SECONDS * 1000 {
        let manager = rig.manager.clone();
        requests.spawn(async move {
            // Also tags and datacenters can be made up.
            let (tag, datacenter) = match n % 3 {
                0 => (None, None),
                1 => (Some("v2".into()), None),
                _ => (None, Some("dc9".into())),
            };
            let name = ServiceName { service: format!("made-up-{n}").into(), tag, datacenter };
            manager.find_or_open(&name).await.err()
        });
        sleep(Duration::from_millis(1)).await;
    }
    let mut refused = 0;
    while let Some(ended) = requests.join_next().await {
        let Some(refusal) = ended.unwrap() else { continue };
        assert_eq!(refusal.reason, Reason::TooManyServices);
        let limit = "max_new_per_second: 10 (discovery.max_new_per_second)";
        assert!(refusal.detail.contains(limit) && refusal.retry_after.is_some(), "{refusal:?}");
        refused += 1;
    }
    let asked = rig.asked.load(Relaxed) - before;
    assert!((200 + 10 * SECONDS..=256 + 10 * (SECONDS + 1)).contains(&asked), "{asked} names");
    assert_eq!(refused + asked, SECONDS * 1000, "each name is asked for once, or refused");
    assert_eq!(rig.request("real-1").await, None, "what is in use stays");
    assert_eq!(rig.request("real-2").await, None, "and a new service is served after the flood, at once");
}

#[tokio::test(start_paused = true)]
async fn a_new_service_gets_its_turn_beside_clients_that_make_names_up() {
    let rig = Rig::new(256, 64, &[]);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..3 {
        let manager = rig.manager.clone();
        clients.spawn(async move {
            for n in 0.. {
                let service = format!("made-up-{client}-{n}").into();
                let name = ServiceName { service, tag: None, datacenter: None };
                assert!(manager.find_or_open(&name).await.is_ok(), "{name:?}");
            }
        });
    }
    sleep(Duration::from_secs(30)).await;
    for n in 0..20 {
        let asked_at = tokio::time::Instant::now();
        let name = ServiceName { service: format!("real-{n}").into(), tag: None, datacenter: None };
        assert!(rig.manager.find_or_open(&name).await.is_ok_and(|cluster| cluster.has_answer()));
        assert!(asked_at.elapsed() <= Duration::from_millis(450), "{:?}", asked_at.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_requests_of_an_app_to_all_its_services_are_served_at_once() {
    let rig = Rig::new(256, 64, &[]);
    let began = tokio::time::Instant::now();
    for n in 0..=256 {
        let name = ServiceName { service: format!("real-{n}").into(), tag: None, datacenter: None };
        assert!(rig.manager.find_or_open(&name).await.is_ok(), "{n}");
        let waits = n == 256;
        assert_eq!(
            began.elapsed() >= Duration::from_millis(100),
            waits,
            "{n}: a tenth of a second for the last"
        );
    }
}

/// The clusters that requests find are those that a task updates.
fn assert_found_clusters_are_updated(rig: &Rig, names: &[&ServiceName<'_>]) {
    let open = rig.manager.clusters();
    for name in names {
        if let Some(found) = rig.manager.find(name) {
            assert!(open.iter().any(|one| Arc::ptr_eq(one, &found)), "{}", found.label);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_for_which_no_room_can_be_made_ends_no_other_cluster() {
    let plain = |service: &'static str| ServiceName { service: service.into(), tag: None, datacenter: None };
    // A narrowed form of a declared service needs no watch of its own.
    let rig = Rig::new(1, 1, &["real"]);
    let tagged = ServiceName { service: "real".into(), tag: Some("v2".into()), datacenter: None };
    let cluster = rig.manager.find_or_open(&tagged).await.unwrap();
    for name in ["other-1", "other-2"] {
        assert_eq!(rig.request(name).await, Some(Reason::TooManyServices));
        assert!(rig.manager.find(&tagged).is_some_and(|found| Arc::ptr_eq(&found, &cluster)));
        assert_found_clusters_are_updated(&rig, &[&tagged, &plain("real")]);
    }

    // Another part of the sidecar follows a service of its own, and it is no cluster.
    let rig = Rig::new(2, 2, &["real-1"]);
    assert_eq!(rig.request("real-2").await, None);
    let own = Query::new("own", None);
    let _follower = rig.discovery.follow(own, WatchReason::Declared).unwrap();
    assert_eq!(rig.request("real-3").await, Some(Reason::TooManyServices));
    assert!(rig.manager.find(&plain("real-2")).is_some());
    assert_found_clusters_are_updated(&rig, &[&plain("real-1"), &plain("real-2")]);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_has_ended_is_found_no_more_although_no_other_took_its_place() {
    let names = ["real-1", "real-2"].map(|service| ServiceName {
        service: service.into(),
        tag: None,
        datacenter: None,
    });
    let rig = Rig::new(2, 2, &[]);
    for name in &names {
        assert_eq!(rig.request(&name.service).await, None);
    }
    rig.discovery.shutdown().await;
    assert_eq!(rig.request("real-3").await, Some(Reason::Drained));
    assert_found_clusters_are_updated(&rig, &names.each_ref());
}

#[tokio::test(start_paused = true)]
async fn a_service_with_a_request_in_flight_stays_watched_and_is_evicted_last() {
    let rig = Rig::new(2, 2, &[]);
    let name = ServiceName { service: "real-1".into(), tag: None, datacenter: None };
    let cluster = rig.manager.find_or_open(&name).await.unwrap();
    assert_eq!(rig.request("real-1").await, None);
    let settings = cluster.view.load().settings.clone();
    drop(cluster);
    let cells = settings.cells(0);
    cells.inc(&cells.in_flight);
    assert_eq!(rig.request("real-2").await, None);
    assert_eq!(rig.request("real-3").await, None);
    assert_eq!(rig.watched(), ["real-1", "real-3"], "the one with the oldest request is in use");

    let idle = rig.manager.settings.load().discovery.idle;
    for _ in 0..3 {
        sleep(idle).await;
        rig.manager.drop_idle(Instant::now());
    }
    assert_eq!(rig.watched(), ["real-1"]);
    // Its time counts from the end of the request.
    cells.dec(&cells.in_flight);
    sleep(idle / 2).await;
    rig.manager.drop_idle(Instant::now());
    assert_eq!(rig.watched(), ["real-1"]);
    sleep(idle / 2).await;
    rig.manager.drop_idle(Instant::now());
    // The task of the cluster ends.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.watched(), Vec::<String>::new());
}

#[test]
fn an_undeclared_service_has_the_policy_of_its_document() {
    let text =
        "service: {name: shop, port: 80}\ndynamic_config: {prefix: a}\nupstreams: [{service: declared}]\n";
    let (environment, flags) = (config::Environment::default(), config::Overrides::default());
    let loaded = config::load(Some(("test.yaml", text)), &environment, &flags).unwrap();
    let document = |name: &str, text: &str| config::DocumentVersions {
        current: config::SettingsDocument {
            name: name.to_owned(),
            index: 1,
            created: 1,
            value: text.as_bytes().to_vec(),
        },
        last_good: None,
    };
    let documents = [
        document("defaults", "max_pending: 1"),
        document("services/Tuned", "max_pending: 2"),
        document("services/declared", "max_pending: 3"),
    ];
    let config = loaded.with_documents(&documents, "shop-1").loaded.config;
    let settings = ManagerSettings::new(&config);
    let of = |service: &str, tags: &[&str]| {
        let tags: Vec<_> = tags.iter().map(ToString::to_string).collect();
        settings.policy_for(&ClusterKey::new(service, None, &tags)).max_pending
    };
    assert_eq!((of("other", &[]), of("tuned", &[]), of("tuned", &["v2"])), (1, 2, 2));
    assert_eq!((of("declared", &[]), of("declared", &["v2"])), (3, 3));
}
