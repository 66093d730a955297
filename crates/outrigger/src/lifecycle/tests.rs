//! A whole life against recorded traffic and a recorded registry: what happens in which order.

mod reload;

use std::sync::Mutex;

use outrigger_config::Weights;
use outrigger_registry::{AgentService, AnswerFuture, Cursor, ReportedHealth, ServiceChecks, WatchAnswer};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep, timeout},
};

use super::{task::LEARN_TIMEOUT, *};

/// What happened, in order, with the state that `/readyz` would have shown.
#[derive(Debug, Default)]
struct EventLog {
    lines: Mutex<Vec<(String, Instant)>>,
    handle: Mutex<Option<LifecycleHandle>>,
}

impl EventLog {
    fn push(&self, what: &str) {
        let ready = self.handle.lock().unwrap().as_ref().is_some_and(|handle| handle.state().is_ready());
        let line = format!("{what}{}", if ready { " (ready)" } else { "" });
        self.lines.lock().unwrap().push((line, Instant::now()));
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }

    fn at(&self, line: &str) -> Instant {
        self.lines.lock().unwrap().iter().rev().find(|(l, _)| l == line).unwrap().1
    }
}

#[derive(Debug)]
struct RecordingRegistrar(Arc<EventLog>);

impl Registrar for RecordingRegistrar {
    fn register<'a>(&'a self, _: &'a Registration) -> AnswerFuture<'a, ()> {
        self.0.push("register");
        Box::pin(async { Ok(()) })
    }
    fn service_checks<'a>(&'a self, _: &'a str) -> AnswerFuture<'a, ServiceChecks> {
        Box::pin(std::future::pending())
    }
    fn deregister_check<'a>(&'a self, _: &'a str) -> AnswerFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn deregister<'a>(&'a self, _: &'a str) -> AnswerFuture<'a, ()> {
        self.0.push("deregister");
        Box::pin(async { Ok(()) })
    }
    fn report<'a>(&'a self, _: &'a str, health: ReportedHealth, _: &'a str) -> AnswerFuture<'a, ()> {
        self.0.push(health_label(health));
        Box::pin(async { Ok(()) })
    }
    fn set_maintenance<'a>(&'a self, _: &'a str, _: bool, _: &'a str) -> AnswerFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn agent_service<'a>(
        &'a self,
        _: &'a str,
        _: Option<&'a str>,
        _: Duration,
    ) -> AnswerFuture<'a, Option<AgentService>> {
        let registered = self.0.lines.lock().unwrap().iter().any(|(line, _)| line == "register");
        Box::pin(async move { if registered { std::future::pending().await } else { Ok(None) } })
    }
    fn catalog_entry<'a>(
        &'a self,
        _: &'a Registration,
        _: Cursor,
        _: Duration,
    ) -> AnswerFuture<'a, WatchAnswer> {
        Box::pin(std::future::pending())
    }
    fn agent_services(&self) -> AnswerFuture<'_, Vec<AgentService>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn watch_credentials(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}

struct RecordedTraffic(Arc<EventLog>);

impl ServedTraffic for RecordedTraffic {
    fn close_listeners(&self) {
        self.0.push("listeners closed");
    }

    async fn drain_requests(&self, grace: Duration) -> usize {
        sleep(grace / 2).await;
        self.0.push("in-flight ended");
        0
    }
}

const PROPAGATION: Duration = Duration::from_secs(2);

struct LifecycleFixture {
    log: Arc<EventLog>,
    lifecycle: Lifecycle,
    app: TcpListener,
}

/// A life with an app that accepts connections.
async fn world() -> LifecycleFixture {
    world_with(PropagationMonitor::fixed(PROPAGATION)).await
}

async fn world_with(propagation: PropagationMonitor) -> LifecycleFixture {
    let started = CancellationToken::new();
    started.cancel();
    world_of(started, propagation).await
}

async fn world_of(started: CancellationToken, propagation: PropagationMonitor) -> LifecycleFixture {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let log = Arc::new(EventLog::default());
    let plan = RegistrationPlan {
        app_started: started,
        registrar: Arc::new(RecordingRegistrar(log.clone())),
        registration: Registration {
            id: "orders-1".into(),
            name: "orders".into(),
            address: None,
            port: app.local_addr().unwrap().port(),
            tags: Vec::new(),
            meta: Default::default(),
            weights: Weights::default(),
            ttl: Duration::from_secs(30),
            deregister_after: Duration::from_secs(60),
            initial_health: ReportedHealth::Critical,
        },
        probe: outrigger_config::Health::default(),
        maintenance_file: None,
    };
    let lifecycle = Lifecycle::start(std::future::ready(()), Some(plan), propagation);
    *log.handle.lock().unwrap() = Some(lifecycle.handle().clone());
    LifecycleFixture { log, lifecycle, app }
}

#[tokio::test]
async fn a_life_leaves_in_the_order_that_no_caller_notices() {
    let LifecycleFixture { log, lifecycle, app } = world().await;
    timeout(Duration::from_secs(20), lifecycle.handle().wait_for_state(|state| state.is_ready()))
        .await
        .unwrap();
    tokio::time::pause();
    let aborted = lifecycle.drain_and_stop(&RecordedTraffic(log.clone()), Duration::from_secs(8)).await;
    drop(app);
    assert_eq!(aborted, 0);
    let lines = log.lines();
    assert_eq!(
        lines,
        ["register", "passing", "critical", "deregister", "listeners closed", "in-flight ended"],
        "and none of the last four while ready"
    );
    let routed_on = log.at("listeners closed") - log.at("deregister");
    assert!(routed_on >= PROPAGATION, "{routed_on:?}");
    assert_eq!(lifecycle.handle().state(), LifecycleState::Gone);
    assert_eq!(lifecycle.handle().drain_phase(), drain::DrainPhase::Gone);
}

#[tokio::test]
async fn a_drain_by_page_rests_when_it_is_safe_to_stop_and_goes_on_routing() {
    let LifecycleFixture { log, lifecycle, app } = world().await;
    timeout(Duration::from_secs(20), lifecycle.handle().wait_for_state(|state| state.is_ready()))
        .await
        .unwrap();
    tokio::time::pause();
    lifecycle.handle().begin_drain();
    lifecycle.handle().begin_drain();
    lifecycle.drain().await;
    sleep(Duration::from_secs(3600)).await;
    drop(app);
    assert_eq!(log.lines(), ["register", "passing", "critical", "deregister"]);
    assert_eq!(lifecycle.handle().drain_phase(), drain::DrainPhase::Safe);
    assert_eq!(lifecycle.handle().state(), LifecycleState::Draining);

    lifecycle.drain_and_stop(&RecordedTraffic(log.clone()), Duration::from_secs(8)).await;
    assert_eq!(log.lines()[4..], ["listeners closed", "in-flight ended"]);
}

#[tokio::test(start_paused = true)]
async fn a_router_without_an_app_is_ready_at_once_and_has_nobody_to_wait_for() {
    let lifecycle = Lifecycle::start(std::future::ready(()), None, PropagationMonitor::fixed(PROPAGATION));
    timeout(Duration::from_secs(1), lifecycle.handle().wait_for_state(|state| state.is_ready()))
        .await
        .unwrap();
    assert_eq!(lifecycle.handle().registration_status().phase, RegistrationPhase::Off);
    let from = Instant::now();
    lifecycle.drain().await;
    assert!(from.elapsed() < PROPAGATION);
}

#[tokio::test(start_paused = true)]
async fn a_silent_registry_delays_the_start_but_does_not_prevent_it() {
    let from = Instant::now();
    let lifecycle = Lifecycle::start(std::future::pending(), None, PropagationMonitor::fixed(PROPAGATION));
    assert_eq!(lifecycle.handle().state(), LifecycleState::Learning);
    timeout(Duration::from_secs(60), lifecycle.handle().wait_for_state(|state| state.is_ready()))
        .await
        .unwrap();
    assert_eq!(from.elapsed(), LEARN_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_drain_while_learning_leaves_at_once() {
    let lifecycle = Lifecycle::start(std::future::pending(), None, PropagationMonitor::fixed(PROPAGATION));
    let from = Instant::now();
    lifecycle.drain().await;
    assert!(from.elapsed() < LEARN_TIMEOUT);
    assert_eq!(lifecycle.handle().state(), LifecycleState::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_life_that_ended_by_a_mistake_can_still_be_stopped() {
    let lifecycle =
        Lifecycle::start(async { panic!("a mistake") }, None, PropagationMonitor::fixed(PROPAGATION));
    timeout(Duration::from_secs(60), lifecycle.drain()).await.unwrap();
    assert_eq!(lifecycle.handle().state(), LifecycleState::Draining);
}

#[tokio::test(start_paused = true)]
async fn each_gauge_shows_one_state() {
    let metrics = prometheus::Registry::new();
    let lifecycle = Lifecycle::start(std::future::ready(()), None, PropagationMonitor::fixed(PROPAGATION));
    lifecycle.register_metrics(&metrics).unwrap();
    lifecycle.handle().wait_for_state(|state| state.is_ready()).await;
    let text = prometheus::TextEncoder::new().encode_to_string(&metrics.gather()).unwrap();
    for line in [
        "outrigger_lifecycle_state{state=\"ready\"} 1",
        "outrigger_lifecycle_state{state=\"learning\"} 0",
        "outrigger_registration_state{state=\"off\"} 1",
        "outrigger_registrations_total 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn hurry_ends_the_wait_for_callers_and_not_what_the_registry_is_told() {
    let LifecycleFixture { log, lifecycle, app } =
        world_with(PropagationMonitor::fixed(Duration::from_secs(300))).await;
    timeout(Duration::from_secs(20), lifecycle.handle().wait_for_state(|state| state.is_ready()))
        .await
        .unwrap();
    tokio::time::pause();
    lifecycle.handle().skip_waits();
    let from = Instant::now();
    lifecycle.drain().await;
    drop(app);
    assert!(from.elapsed() < Duration::from_secs(1), "{:?}", from.elapsed());
    assert_eq!(log.lines(), ["register", "passing", "critical", "deregister"]);
}

#[tokio::test]
async fn an_app_that_is_still_to_be_started_is_not_asked_and_not_registered() {
    let started = CancellationToken::new();
    let LifecycleFixture { log, lifecycle, app } =
        world_of(started.clone(), PropagationMonitor::fixed(PROPAGATION)).await;
    timeout(
        Duration::from_secs(20),
        lifecycle.handle().wait_for_state(|state| *state == LifecycleState::Waiting),
    )
    .await
    .unwrap();
    // The port is open, as an earlier run's might be.
    let probed = timeout(Duration::from_millis(300), app.accept()).await;
    assert!(probed.is_err() && log.lines().is_empty(), "{:?}", log.lines());
    started.cancel();
    timeout(Duration::from_secs(20), lifecycle.handle().wait_for_state(|state| state.is_ready()))
        .await
        .unwrap();
    assert_eq!(log.lines(), ["register", "passing"]);
}
