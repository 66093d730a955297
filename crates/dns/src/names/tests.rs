use std::time::Duration;

use outrigger_registry::{
    HealthStatus,
    testing::{PendingQuery, ScriptedRegistry, instance, list},
};
use tokio::{runtime::Handle, sync::mpsc, time::advance};

use super::*;

struct Rig {
    names: Arc<Names>,
    discovery: Arc<Discovery>,
    asked: mpsc::UnboundedReceiver<PendingQuery>,
    settings: DiscoverySettings,
}

impl Rig {
    fn new(settings: DiscoverySettings) -> Self {
        let (registry, asked) = ScriptedRegistry::new();
        let metrics = prometheus::Registry::new();
        let discovery = Discovery::new(registry, settings, Handle::current(), &metrics).unwrap();
        Self { names: Arc::new(Names::new(discovery.clone())), discovery, asked, settings }
    }

    fn find(&self, name: &str) -> Found {
        self.names.find(&query(name), &self.settings)
    }

    async fn answer(&mut self, name: &str, ids: &[&str]) {
        let question = self.asked.recv().await.unwrap();
        assert_eq!(&*question.query.service, name);
        let instances: Vec<_> = ids.iter().map(|id| instance("n", id, HealthStatus::Passing)).collect();
        question.answer(list(7, instances));
        // Until the watch has published it and asks again.
        let next = self.asked.recv().await.unwrap();
        Box::leak(Box::new(next));
    }
}

fn query(name: &str) -> Query {
    Query::new(name, None)
}

fn is_full(found: &Found) -> bool {
    matches!(found, Found::Full)
}

#[tokio::test(start_paused = true)]
async fn a_name_is_known_from_its_first_answer_on() {
    let mut rig = Rig::new(DiscoverySettings::default());
    assert!(matches!(rig.find("orders"), Found::Pending(_)));
    let (names, settings) = (rig.names.clone(), rig.settings);
    let waits = tokio::spawn(async move { names.wait(&query("orders"), &settings).await });
    rig.answer("orders", &["a"]).await;
    assert_eq!(waits.await.unwrap().unwrap().instances.len(), 1);
    let Found::Known(snapshot) = rig.find("orders") else { panic!() };
    assert_eq!(snapshot.instances.len(), 1);
    assert_eq!(rig.names.counts(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_silent_or_refuses_is_waited_for_with_a_bound() {
    let mut rig = Rig::new(DiscoverySettings::default());
    let began = Instant::now();
    assert!(rig.names.wait(&query("orders"), &rig.settings).await.is_none());
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    rig.asked
        .recv()
        .await
        .unwrap()
        .fail(outrigger_registry::Error::Malformed { request: "GET /".into(), reason: "no JSON".into() });
    let began = Instant::now();
    assert!(rig.names.wait(&query("orders"), &rig.settings).await.is_none());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_new_name_takes_the_place_of_the_oldest_that_never_had_an_instance() {
    let mut rig = Rig::new(DiscoverySettings::default());
    rig.find("orders");
    rig.answer("orders", &["a"]).await;
    for n in 0..MAX_UNKNOWN {
        assert!(!is_full(&rig.find(&format!("made-up-{n}"))));
        advance(Duration::from_millis(1)).await;
    }
    assert!(is_full(&rig.find("one-more")), "each was asked for less than a second ago");
    assert_eq!(rig.names.counts(), (1, MAX_UNKNOWN));
    advance(MIN_UNKNOWN_AGE - Duration::from_millis(MAX_UNKNOWN as u64)).await;
    assert!(!is_full(&rig.find("one-more")));
    let watched = |name: &str| rig.discovery.services().iter().any(|one| *one.query.service == *name);
    assert!(!watched("made-up-0") && watched("made-up-1") && watched("one-more") && watched("orders"));
    assert!(is_full(&rig.find("made-up-0")), "the next oldest is a millisecond younger");
}

#[tokio::test(start_paused = true)]
async fn a_name_without_a_place_waits_for_one() {
    let rig = Rig::new(DiscoverySettings::default());
    for n in 0..MAX_UNKNOWN {
        rig.find(&format!("made-up-{n}"));
    }
    // Time stands still at `Full` but for the pauses of the wait.
    let settings = DiscoverySettings { first_answer: Duration::from_millis(500), ..rig.settings };
    let began = Instant::now();
    assert!(rig.names.wait(&query("orders"), &settings).await.is_none());
    assert!(began.elapsed() >= Duration::from_millis(500) && began.elapsed() <= Duration::from_millis(600));
    let settings = DiscoverySettings { first_answer: Duration::from_secs(5), ..rig.settings };
    assert!(rig.names.wait(&query("orders"), &settings).await.is_none());
    assert!(rig.discovery.services().iter().any(|one| &*one.query.service == "orders"));
}

#[tokio::test(start_paused = true)]
async fn look_ups_take_no_place_of_the_services_that_requests_go_to() {
    let settings = DiscoverySettings { max_services: 1, max_unknown: 1, ..DiscoverySettings::default() };
    let mut rig = Rig::new(settings);
    for n in 0..MAX_UNKNOWN {
        rig.find(&format!("made-up-{n}"));
        rig.answer(&format!("made-up-{n}"), &[]).await;
    }
    let in_use = rig.discovery.follow(query("orders"), WatchReason::OnDemand).unwrap();
    assert!(rig.discovery.follow(query("payments"), WatchReason::OnDemand).is_err(), "the quota is used up");
    // One that is looked up is no place that is free.
    assert!(rig.discovery.follow(query("made-up-0"), WatchReason::OnDemand).is_err());
    advance(Duration::from_secs(2)).await;
    assert!(!is_full(&rig.find("orders")) && !is_full(&rig.find("one-more")));
    assert!(in_use.is_watched());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_was_ended_is_begun_anew_and_the_answer_stays_meanwhile() {
    let mut rig = Rig::new(DiscoverySettings::default());
    rig.find("orders");
    rig.answer("orders", &["a"]).await;
    rig.discovery.forget(&query("orders"));
    rig.names.sweep_once(&rig.settings);
    let Found::Known(snapshot) = rig.find("orders") else { panic!() };
    assert_eq!(snapshot.instances.len(), 1);
    rig.answer("orders", &["a", "b"]).await;
    rig.names.sweep_once(&rig.settings);
    let Found::Known(snapshot) = rig.find("orders") else { panic!() };
    assert_eq!(snapshot.instances.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn names_that_are_not_asked_for_are_dropped_and_known_ones_stay_while_the_registry_is_away() {
    let mut rig = Rig::new(DiscoverySettings::default());
    rig.find("orders");
    rig.answer("orders", &["a"]).await;
    rig.find("made-up");
    rig.answer("made-up", &[]).await;
    advance(rig.settings.unknown_ttl).await;
    rig.names.sweep_once(&rig.settings);
    assert_eq!(rig.names.counts(), (1, 0));
    advance(rig.settings.idle).await;
    rig.names.sweep_once(&rig.settings);
    assert_eq!(rig.names.counts(), (0, 0));
}
