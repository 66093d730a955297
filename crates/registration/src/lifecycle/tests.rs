//! The whole lifecycle against an agent in memory, an app that accepts connections, and recorded traffic: what
//! happens in which order, and what a reload changes.

use std::{path::PathBuf, sync::Arc};

use outrigger_config::{Drain, Health};
use outrigger_registry::{Registration, ReportedHealth};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    maintenance::{MaintenanceError, MaintenanceFile, maintenance_path},
    status::MaintenanceRequest,
    testing::*,
};

mod absence;
mod drain_events;

const PROPAGATION: Duration = Duration::from_secs(2);

async fn stop_recorded_traffic(agent: Arc<FakeAgent>) -> usize {
    agent.events.push("listeners closed");
    sleep(Duration::from_secs(4)).await;
    agent.events.push("in-flight ended");
    0
}

/// A lifecycle with its first settings.
fn start_lifecycle(
    first_answers: impl Future<Output = ()> + Send + 'static,
    plan: Option<RegistrationPlan>,
    propagation: Duration,
) -> Lifecycle {
    let lifecycle = Lifecycle::start(first_answers, fixed_propagation(propagation), Events::default());
    lifecycle.apply_settings(plan, fixed_drain(propagation));
    lifecycle
}

struct LifecycleFixture {
    agent: Arc<FakeAgent>,
    folder: tempfile::TempDir,
    app: TcpListener,
    started: CancellationToken,
}

impl LifecycleFixture {
    async fn new() -> Self {
        let started = CancellationToken::new();
        started.cancel();
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { agent: Arc::default(), folder, app, started }
    }

    fn file_path(&self, name: &str) -> PathBuf {
        maintenance_path(self.folder.path(), name, self.app.local_addr().unwrap().port())
    }

    /// The maintenance reason that the next run would read.
    fn saved_reason(&self, name: &str) -> Option<String> {
        MaintenanceFile::at(self.file_path(name)).read()
    }

    /// Registers the app as service `name`.
    fn plan(&self, name: &str) -> RegistrationPlan {
        let port = self.app.local_addr().unwrap().port();
        RegistrationPlan {
            app_started: self.started.clone(),
            registrar: self.agent.clone(),
            registration: Registration {
                id: format!("{name}-1"),
                name: name.into(),
                port,
                ..test_registration()
            },
            probe: Health::default(),
            maintenance_file: Some(self.file_path(name)),
            claim: None,
            events: Events::default(),
        }
    }

    fn events(&self) -> &EventLog {
        &self.agent.events
    }

    fn start(&self, plan: Option<RegistrationPlan>, propagation: Duration) -> Lifecycle {
        let lifecycle = start_lifecycle(std::future::ready(()), plan, propagation);
        let handle = lifecycle.handle().clone();
        self.events().observe(move || handle.state().is_ready());
        lifecycle
    }

    fn start_at_once(&self, plan: Option<RegistrationPlan>) -> Lifecycle {
        self.start(plan, Duration::ZERO)
    }

    async fn until(&self, what: &str, is: impl Fn(&AgentState) -> bool) {
        let is = async {
            while !is(&self.agent.state()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(Duration::from_secs(20), is).await.is_ok(), "{what}: {:?}", self.agent.state());
    }

    /// Waits until `name` is registered, reported passing, and in maintenance for this reason.
    async fn until_registered(&self, name: &str, maintenance: Option<&str>) {
        self.until(name, |agent| {
            agent.held.as_ref().is_some_and(|held| held.name == name)
                && agent.checks.own.as_ref().is_some_and(|own| own.health == ReportedHealth::Passing)
                && agent.checks.maintenance.as_deref() == maintenance
        })
        .await;
    }
}

async fn start(propagation: Duration) -> (LifecycleFixture, Lifecycle) {
    let fixture = LifecycleFixture::new().await;
    let lifecycle = fixture.start(Some(fixture.plan("orders")), propagation);
    (fixture, lifecycle)
}

async fn wait_until_ready(lifecycle: &Lifecycle) {
    timeout(Duration::from_secs(20), lifecycle.handle().wait_for_state(|state| state.is_ready()))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_drain_reports_critical_deregisters_routes_on_and_closes_in_this_order() {
    let (fixture, lifecycle) = start(PROPAGATION).await;
    wait_until_ready(&lifecycle).await;
    tokio::time::pause();
    let aborted = lifecycle.drain_and_stop(stop_recorded_traffic(fixture.agent.clone())).await;
    assert_eq!(aborted, 0);
    let lines = fixture.events().lines();
    assert_eq!(
        lines,
        ["register", "passing", "critical", "deregister", "listeners closed", "in-flight ended"],
        "none of the last four while ready"
    );
    let at = |line| fixture.events().at(line).unwrap();
    let routed_on = at("listeners closed") - at("deregister");
    assert!(routed_on >= PROPAGATION, "{routed_on:?}");
    assert_eq!(lifecycle.handle().state(), LifecycleState::Gone);
    assert_eq!(lifecycle.handle().drain_phase(), DrainPhase::Gone);
}

#[tokio::test]
async fn a_requested_drain_stays_safe_and_routes_until_the_process_stops() {
    let (fixture, lifecycle) = start(PROPAGATION).await;
    wait_until_ready(&lifecycle).await;
    tokio::time::pause();
    lifecycle.handle().drain().requested.cancel();
    lifecycle.handle().drain().requested.cancel();
    lifecycle.drain().await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(fixture.events().lines(), ["register", "passing", "critical", "deregister"]);
    assert_eq!(lifecycle.handle().drain_phase(), DrainPhase::Safe);
    assert_eq!(lifecycle.handle().state(), LifecycleState::Draining);

    lifecycle.drain_and_stop(stop_recorded_traffic(fixture.agent.clone())).await;
    assert_eq!(fixture.events().lines()[4..], ["listeners closed", "in-flight ended"]);
}

#[tokio::test(start_paused = true)]
async fn without_an_app_it_is_ready_at_once_and_drains_without_a_wait() {
    let lifecycle = start_lifecycle(std::future::ready(()), None, PROPAGATION);
    timeout(Duration::from_secs(1), lifecycle.handle().wait_for_state(|state| state.is_ready()))
        .await
        .unwrap();
    assert_eq!(lifecycle.handle().registrations(), []);
    let from = Instant::now();
    lifecycle.drain().await;
    assert!(from.elapsed() < PROPAGATION);
}

#[tokio::test(start_paused = true)]
async fn a_silent_registry_delays_the_start_but_does_not_prevent_it() {
    let from = Instant::now();
    let lifecycle = start_lifecycle(std::future::pending(), None, PROPAGATION);
    assert_eq!(lifecycle.handle().state(), LifecycleState::Learning);
    timeout(Duration::from_secs(60), lifecycle.handle().wait_for_state(|state| state.is_ready()))
        .await
        .unwrap();
    assert_eq!(from.elapsed(), LEARN_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn reloads_do_not_put_off_the_start_at_a_silent_registry() {
    let lifecycle = start_lifecycle(std::future::pending(), None, Duration::ZERO);
    let from = Instant::now();
    while !lifecycle.handle().state().is_ready() {
        assert!(from.elapsed() < LEARN_TIMEOUT * 2, "{:?}", lifecycle.handle().state());
        lifecycle.apply_settings(None, Drain::default());
        sleep(LEARN_TIMEOUT / 5).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_while_learning_ends_at_once() {
    let lifecycle = start_lifecycle(std::future::pending(), None, PROPAGATION);
    let from = Instant::now();
    lifecycle.drain().await;
    assert!(from.elapsed() < LEARN_TIMEOUT);
    assert_eq!(lifecycle.handle().state(), LifecycleState::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_lifecycle_ends_the_process_with_a_message() {
    const IN_CHILD: &str = "OUTRIGGER_TEST_LIFECYCLE_PANIC";
    if std::env::var_os(IN_CHILD).is_some() {
        let fault = async { panic!("on purpose") };
        let lifecycle = start_lifecycle(fault, None, PROPAGATION);
        // Returns only when the process goes on.
        sleep(Duration::from_secs(60)).await;
        return drop(lifecycle);
    }
    let name = "lifecycle::tests::a_panic_of_the_lifecycle_ends_the_process_with_a_message";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let ended = child.args(["--exact", name, "--nocapture"]).env(IN_CHILD, "1").output().unwrap();
    assert!(!ended.status.success(), "the process goes on");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.contains("outrigger: the lifecycle panicked: the process ends"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn before_the_first_settings_it_is_not_ready_and_can_be_drained() {
    let lifecycle =
        Lifecycle::start(std::future::ready(()), fixed_propagation(PROPAGATION), Events::default());
    sleep(LEARN_TIMEOUT * 2).await;
    assert_eq!(lifecycle.handle().state(), LifecycleState::Learning);
    timeout(LEARN_TIMEOUT, lifecycle.drain()).await.unwrap();
    assert_eq!(lifecycle.handle().state(), LifecycleState::Draining);
}

#[tokio::test(start_paused = true)]
async fn each_gauge_shows_one_state() {
    let metrics = prometheus::Registry::new();
    let lifecycle = start_lifecycle(std::future::ready(()), None, PROPAGATION);
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
async fn skipped_waits_still_report_critical_and_deregister() {
    let (fixture, lifecycle) = start(Duration::from_secs(300)).await;
    wait_until_ready(&lifecycle).await;
    tokio::time::pause();
    lifecycle.handle().drain().skip_waits.cancel();
    let from = Instant::now();
    lifecycle.drain().await;
    assert!(from.elapsed() < Duration::from_secs(1), "{:?}", from.elapsed());
    assert_eq!(fixture.events().lines(), ["register", "passing", "critical", "deregister"]);
}

#[tokio::test]
async fn an_app_that_is_still_to_be_started_is_not_probed_and_not_registered() {
    let fixture = LifecycleFixture { started: CancellationToken::new(), ..LifecycleFixture::new().await };
    let lifecycle = fixture.start(Some(fixture.plan("orders")), PROPAGATION);
    timeout(
        Duration::from_secs(20),
        lifecycle.handle().wait_for_state(|state| *state == LifecycleState::Waiting),
    )
    .await
    .unwrap();
    // The port is open, as that of an earlier run may be.
    let probed = timeout(Duration::from_millis(300), fixture.app.accept()).await;
    assert!(probed.is_err() && fixture.events().lines().is_empty(), "{:?}", fixture.events().lines());
    fixture.started.cancel();
    wait_until_ready(&lifecycle).await;
    assert_eq!(fixture.events().lines(), ["register", "passing"]);
}

#[tokio::test]
async fn maintenance_stays_when_a_reload_registers_the_app_under_another_name() {
    let fixture = LifecycleFixture::new().await;
    let lifecycle = fixture.start_at_once(Some(fixture.plan("orders")));
    fixture.until_registered("orders", None).await;
    lifecycle.handle().request_maintenance(None, MaintenanceRequest::On("disk".into())).await.unwrap();
    fixture.until_registered("orders", Some("disk")).await;
    assert_eq!(fixture.saved_reason("orders").as_deref(), Some("disk"));

    let before = fixture.agent.state().calls.len();
    lifecycle.apply_settings(Some(fixture.plan("payments")), Drain::default());
    fixture.until_registered("payments", Some("disk")).await;
    let calls: Vec<_> = fixture.agent.state().calls[before..].iter().map(|(_, call)| call.clone()).collect();
    let gone = calls.iter().position(|call| *call == AgentCall::Deregister).unwrap();
    assert!(
        matches!(
            calls[gone + 1..],
            [AgentCall::Register, AgentCall::Maintenance(true), AgentCall::Report(..), ..]
        ),
        "{calls:?}"
    );
    assert_eq!(
        (fixture.saved_reason("orders"), fixture.saved_reason("payments").as_deref()),
        (None, Some("disk"))
    );

    lifecycle.handle().request_maintenance(None, MaintenanceRequest::Off).await.unwrap();
    fixture.until_registered("payments", None).await;
    assert_eq!((fixture.saved_reason("orders"), fixture.saved_reason("payments")), (None, None));
}

#[tokio::test]
async fn maintenance_stays_when_one_reload_removes_the_app_and_another_adds_it_again() {
    let fixture = LifecycleFixture::new().await;
    let lifecycle = fixture.start_at_once(Some(fixture.plan("orders")));
    lifecycle.handle().request_maintenance(None, MaintenanceRequest::On("disk".into())).await.unwrap();
    fixture.until_registered("orders", Some("disk")).await;

    lifecycle.apply_settings(None, Drain::default());
    fixture.until("gone", |agent| agent.held.is_none()).await;
    let refused = lifecycle.handle().request_maintenance(None, MaintenanceRequest::Off).await;
    assert_eq!(refused, Err(MaintenanceError::NothingToRegister));
    assert_eq!(lifecycle.handle().refresh_maintenance().await, Ok(()));
    assert_eq!(fixture.saved_reason("orders").as_deref(), Some("disk"), "a restart reads it, too");

    lifecycle.apply_settings(Some(fixture.plan("payments")), Drain::default());
    fixture.until_registered("payments", Some("disk")).await;
    assert_eq!(
        (fixture.saved_reason("orders"), fixture.saved_reason("payments").as_deref()),
        (None, Some("disk"))
    );
}

#[tokio::test]
async fn the_first_registration_after_a_reload_restores_the_saved_maintenance_and_takes_requests() {
    let fixture = LifecycleFixture::new().await;
    MaintenanceFile::at(fixture.file_path("orders")).write(|| Some("disk".into())).await;
    let lifecycle = fixture.start_at_once(None);
    wait_until_ready(&lifecycle).await;
    let refused = lifecycle.handle().request_maintenance(None, MaintenanceRequest::Off).await;
    assert_eq!(refused, Err(MaintenanceError::NothingToRegister));

    lifecycle.apply_settings(Some(fixture.plan("orders")), Drain::default());
    fixture.until_registered("orders", Some("disk")).await;
    assert_eq!(lifecycle.handle().registrations()[0].status.maintenance.as_deref(), Some("disk"));
    lifecycle.handle().request_maintenance(None, MaintenanceRequest::Off).await.unwrap();
    fixture.until_registered("orders", None).await;
    assert_eq!(fixture.saved_reason("orders"), None);
}

#[tokio::test]
async fn a_reload_does_not_probe_an_app_that_is_still_to_be_started() {
    let fixture = LifecycleFixture { started: CancellationToken::new(), ..LifecycleFixture::new().await };
    let lifecycle = fixture.start_at_once(Some(fixture.plan("orders")));
    timeout(
        Duration::from_secs(20),
        lifecycle.handle().wait_for_state(|state| *state == LifecycleState::Waiting),
    )
    .await
    .unwrap();
    let probe = Health { interval: Duration::from_secs(1), ..Health::default() };
    lifecycle.apply_settings(Some(RegistrationPlan { probe, ..fixture.plan("orders") }), Drain::default());
    let probed = timeout(Duration::from_millis(300), fixture.app.accept()).await;
    assert!(probed.is_err() && fixture.agent.register_calls() == 0);
    fixture.started.cancel();
    fixture.until_registered("orders", None).await;
}

#[tokio::test]
async fn a_reload_replaces_the_settings_of_the_probe() {
    let fixture = LifecycleFixture::new().await;
    let slow = Health { interval: Duration::from_secs(3600), ..Health::default() };
    let fast = Health { interval: Duration::from_millis(100), ..Health::default() };
    let lifecycle = fixture.start_at_once(Some(RegistrationPlan { probe: slow, ..fixture.plan("orders") }));
    fixture.until_registered("orders", None).await;
    lifecycle
        .apply_settings(Some(RegistrationPlan { probe: fast, ..fixture.plan("orders") }), Drain::default());
    // More connections than the probes of the first settings make.
    for _ in 0..5 {
        timeout(Duration::from_secs(20), fixture.app.accept()).await.unwrap().unwrap();
    }
    assert_eq!(fixture.agent.register_calls(), 1, "new probe settings need no registration");
}

fn keep(id: &str) -> HandOver {
    HandOver { kept: vec![id.to_owned()] }
}

#[tokio::test]
async fn a_registration_that_is_handed_over_stays_and_is_neither_renewed_nor_withdrawn() {
    let (fixture, lifecycle) = start(PROPAGATION).await;
    wait_until_ready(&lifecycle).await;
    tokio::time::pause();
    lifecycle.hand_over(keep("orders-1")).await;
    let before = fixture.agent.state().calls.len();
    // What would be corrected otherwise.
    fixture.agent.state().checks.own = None;
    sleep(Duration::from_secs(60)).await;
    lifecycle.drain_and_stop(stop_recorded_traffic(fixture.agent.clone())).await;
    assert_eq!(fixture.agent.state().calls.len(), before, "{:?}", fixture.agent.state().calls);
    assert_eq!(fixture.events().lines(), ["register", "passing", "listeners closed", "in-flight ended"]);
    assert!(fixture.agent.state().held.is_some());
}

#[tokio::test]
async fn a_registration_that_is_taken_back_is_renewed_and_withdrawn_again() {
    let (fixture, lifecycle) = start(Duration::ZERO).await;
    wait_until_ready(&lifecycle).await;
    lifecycle.hand_over(keep("orders-1")).await;
    fixture.agent.state().checks.own = None;
    lifecycle.take_back().await;
    fixture.until_registered("orders", None).await;
    lifecycle.drain().await;
    assert!(fixture.agent.state().held.is_none());
}

#[tokio::test]
async fn an_instance_that_the_other_process_does_not_register_is_withdrawn() {
    let (fixture, lifecycle) = start(PROPAGATION).await;
    wait_until_ready(&lifecycle).await;
    lifecycle.hand_over(HandOver::default()).await;
    assert!(fixture.agent.state().held.is_none());
    assert_eq!(fixture.agent.state().calls.last().map(|(_, call)| call.clone()), Some(AgentCall::Deregister));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_handed_over_by_a_process_that_leaves() {
    let lifecycle =
        Lifecycle::start(std::future::ready(()), fixed_propagation(PROPAGATION), Events::default());
    lifecycle.drain().await;
    timeout(Duration::from_secs(60), lifecycle.hand_over(keep("orders-1"))).await.unwrap();
    timeout(Duration::from_secs(60), lifecycle.take_back()).await.unwrap();
}

/// One sidecar beside two services, each at an agent and a port of its own.
async fn start_two(propagation: Duration) -> ([LifecycleFixture; 2], Lifecycle) {
    let two = [LifecycleFixture::new().await, LifecycleFixture::new().await];
    let lifecycle =
        Lifecycle::start(std::future::ready(()), fixed_propagation(propagation), Events::default());
    lifecycle.apply_settings(plans_of_two(&two), fixed_drain(propagation));
    (two, lifecycle)
}

fn plans_of_two(two: &[LifecycleFixture; 2]) -> [RegistrationPlan; 2] {
    [two[0].plan("orders"), two[1].plan("orders-admin")]
}

#[tokio::test]
async fn it_is_ready_when_every_service_is_and_not_before() {
    let waiting = LifecycleFixture { started: CancellationToken::new(), ..LifecycleFixture::new().await };
    let two = [LifecycleFixture::new().await, waiting];
    let lifecycle =
        Lifecycle::start(std::future::ready(()), fixed_propagation(PROPAGATION), Events::default());
    lifecycle.apply_settings(plans_of_two(&two), fixed_drain(PROPAGATION));
    two[0].until_registered("orders", None).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(lifecycle.handle().state(), LifecycleState::Waiting);
    let view: Vec<_> = lifecycle.handle().registrations();
    let view: Vec<_> = view.iter().map(|one| (one.service.as_str(), one.status.phase)).collect();
    assert_eq!(
        view,
        [("orders", RegistrationPhase::Registered), ("orders-admin", RegistrationPhase::AwaitingApp)]
    );
    two[1].started.cancel();
    two[1].until_registered("orders-admin", None).await;
    wait_until_ready(&lifecycle).await;
}

#[tokio::test]
async fn a_drain_withdraws_all_services_at_once_and_is_safe_when_the_last_one_is() {
    let (two, lifecycle) = start_two(PROPAGATION).await;
    wait_until_ready(&lifecycle).await;
    // The second agent never answers the deregistration: the drain gives up after 8 s.
    two[1].agent.change(|agent| agent.stalls.push_back("deregister"));
    tokio::time::pause();
    let from = Instant::now();
    let drained = lifecycle.drain();
    tokio::pin!(drained);
    let early = timeout(Duration::from_secs(7), &mut drained).await;
    assert!(early.is_err(), "safe before the second service has left");
    assert_eq!(two[0].events().lines(), ["register", "passing", "critical", "deregister"]);
    assert_eq!(lifecycle.handle().drain_phase(), DrainPhase::Leaving);
    drained.await;
    assert_eq!(two[1].events().lines(), ["register", "passing", "critical", "deregister"]);
    let took = from.elapsed();
    assert!(took >= Duration::from_secs(8) + PROPAGATION && took < Duration::from_secs(12), "{took:?}");
    assert_eq!(lifecycle.handle().drain_phase(), DrainPhase::Safe);
}

#[tokio::test]
async fn maintenance_of_one_service_leaves_the_other_in_service() {
    let (two, lifecycle) = start_two(Duration::ZERO).await;
    wait_until_ready(&lifecycle).await;
    let handle = lifecycle.handle();
    let on = || MaintenanceRequest::On("disk".into());
    for called in ["Orders-Admin", "orders-admin-1"] {
        handle.request_maintenance(Some(called), on()).await.unwrap();
        two[1].until_registered("orders-admin", Some("disk")).await;
        two[0].until_registered("orders", None).await;
        assert_eq!(
            (two[0].saved_reason("orders"), two[1].saved_reason("orders-admin").as_deref()),
            (None, Some("disk"))
        );
        handle.request_maintenance(Some(called), MaintenanceRequest::Off).await.unwrap();
        two[1].until_registered("orders-admin", None).await;
    }
    let refused = handle.request_maintenance(Some("order"), on()).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no service \"order\" is registered by this sidecar; it has orders, orders-admin"
    );
    handle.request_maintenance(None, on()).await.unwrap();
    two[0].until_registered("orders", Some("disk")).await;
    two[1].until_registered("orders-admin", Some("disk")).await;
}

#[tokio::test]
async fn a_reload_adds_and_removes_a_service_without_a_call_for_the_other() {
    let (two, lifecycle) = start_two(Duration::ZERO).await;
    wait_until_ready(&lifecycle).await;
    let number_of_calls = || two[0].agent.register_calls();
    let [orders, admin] = plans_of_two(&two);
    lifecycle.apply_settings([orders.clone()], Drain::default());
    two[1].until("gone", |agent| agent.held.is_none()).await;
    assert!(lifecycle.handle().state().is_ready());
    // In another order.
    lifecycle.apply_settings([admin, orders], Drain::default());
    two[1].until_registered("orders-admin", None).await;
    assert_eq!((number_of_calls(), two[1].agent.register_calls()), (1, 2));
    assert!(two[0].events().lines().iter().all(|line| line != "critical"), "{:?}", two[0].events().lines());
    let services: Vec<_> = lifecycle.handle().registrations().into_iter().map(|one| one.service).collect();
    assert_eq!(services, ["orders-admin", "orders"]);
}

#[tokio::test]
async fn each_service_has_series_of_its_own_with_the_id_where_two_share_a_name() {
    let (two, lifecycle) = start_two(Duration::ZERO).await;
    let metrics = prometheus::Registry::new();
    lifecycle.register_metrics(&metrics).unwrap();
    wait_until_ready(&lifecycle).await;
    let page = || prometheus::TextEncoder::new().encode_to_string(&metrics.gather()).unwrap();
    let has = |line: &str| page().lines().any(|l| l == line);
    for line in [
        "outrigger_registration_state{service=\"orders\",state=\"registered\"} 1",
        "outrigger_registration_state{service=\"orders-admin\",state=\"lost\"} 0",
        "outrigger_app_health{health=\"passing\",service=\"orders-admin\"} 1",
        "outrigger_app_unprobed{service=\"orders\"} 0",
        "outrigger_maintenance{service=\"orders\"} 0",
        "outrigger_registrations_total{service=\"orders\"} 1",
    ] {
        assert!(has(line), "{line} in\n{}", page());
    }
    let [orders, admin] = plans_of_two(&two);
    let registration = Registration { name: "orders".into(), ..admin.registration };
    lifecycle.apply_settings([orders, RegistrationPlan { registration, ..admin }], Drain::default());
    two[1].until_registered("orders", None).await;
    for line in [
        "outrigger_app_health{health=\"passing\",id=\"orders-1\",service=\"orders\"} 1",
        "outrigger_maintenance{id=\"orders-admin-1\",service=\"orders\"} 0",
    ] {
        assert!(has(line), "{line} in\n{}", page());
    }
}

#[tokio::test]
async fn of_several_services_the_other_process_gets_those_that_it_registers() {
    let (two, lifecycle) = start_two(PROPAGATION).await;
    wait_until_ready(&lifecycle).await;
    lifecycle.hand_over(keep("orders-admin-1")).await;
    assert!(two[0].agent.state().held.is_none());
    assert!(two[1].agent.state().held.is_some());
    assert_eq!(two[1].events().lines(), ["register", "passing"]);
    lifecycle.take_back().await;
    two[0].until_registered("orders", None).await;
    two[1].until_registered("orders-admin", None).await;
}
