//! What a reload makes of a life: its registration, its probe, and maintenance, against an agent of the tests'
//! own and an app that accepts connections.

use outrigger_config::{Drain, Health};
use outrigger_registry::ReportedHealth;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

use super::super::{testing::*, *};

struct ReloadFixture {
    agent: Arc<FakeAgent>,
    folder: tempfile::TempDir,
    app: TcpListener,
    started: CancellationToken,
}

impl ReloadFixture {
    async fn new() -> Self {
        let started = CancellationToken::new();
        started.cancel();
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { agent: Arc::default(), folder: tempfile::tempdir().unwrap(), app, started }
    }

    fn file_path(&self, name: &str) -> PathBuf {
        maintenance_path(self.folder.path(), name, self.app.local_addr().unwrap().port())
    }

    /// What the next run would be told of maintenance.
    fn saved_reason(&self, name: &str) -> Option<String> {
        MaintenanceFile::new(Some(self.file_path(name))).read()
    }

    /// The app as service `name`.
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
        }
    }

    fn live(&self, plan: Option<RegistrationPlan>) -> Lifecycle {
        Lifecycle::start(std::future::ready(()), plan, PropagationMonitor::fixed(Duration::ZERO))
    }

    async fn until(&self, what: &str, is: impl Fn(&AgentState) -> bool) {
        let is = async {
            while !is(&self.agent.state()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(Duration::from_secs(20), is).await.is_ok(), "{what}: {:?}", self.agent.state());
    }

    /// Until `name` is registered, said to be well, and in maintenance for this reason.
    async fn until_it_is(&self, name: &str, maintenance: Option<&str>) {
        self.until(name, |agent| {
            agent.held.as_ref().is_some_and(|held| held.name == name)
                && agent.checks.own.as_ref().is_some_and(|own| own.health == ReportedHealth::Passing)
                && agent.checks.maintenance.as_deref() == maintenance
        })
        .await;
    }
}

#[tokio::test]
async fn maintenance_goes_along_with_an_app_that_a_reload_registers_under_another_name() {
    let world = ReloadFixture::new().await;
    let lifecycle = world.live(Some(world.plan("orders")));
    world.until_it_is("orders", None).await;
    lifecycle.handle().request_maintenance(MaintenanceRequest::On("disk".into())).await.unwrap();
    world.until_it_is("orders", Some("disk")).await;
    assert_eq!(world.saved_reason("orders").as_deref(), Some("disk"));

    let before = world.agent.state().calls.len();
    lifecycle.apply_settings(Some(world.plan("payments")), Drain::default());
    world.until_it_is("payments", Some("disk")).await;
    let calls: Vec<_> = world.agent.state().calls[before..].iter().map(|(_, call)| call.clone()).collect();
    let gone = calls.iter().position(|call| *call == AgentCall::Deregister).unwrap();
    assert!(
        matches!(
            calls[gone + 1..],
            [AgentCall::Register, AgentCall::Maintenance(true), AgentCall::Report(..), ..]
        ),
        "{calls:?}"
    );
    assert_eq!(
        (world.saved_reason("orders"), world.saved_reason("payments").as_deref()),
        (None, Some("disk"))
    );

    lifecycle.handle().request_maintenance(MaintenanceRequest::Off).await.unwrap();
    world.until_it_is("payments", None).await;
    assert_eq!((world.saved_reason("orders"), world.saved_reason("payments")), (None, None));
}

#[tokio::test]
async fn maintenance_waits_for_an_app_that_a_reload_takes_out_of_the_settings_and_another_puts_back() {
    let world = ReloadFixture::new().await;
    let lifecycle = world.live(Some(world.plan("orders")));
    lifecycle.handle().request_maintenance(MaintenanceRequest::On("disk".into())).await.unwrap();
    world.until_it_is("orders", Some("disk")).await;

    lifecycle.apply_settings(None, Drain::default());
    world.until("gone", |agent| agent.held.is_none()).await;
    let refused = lifecycle.handle().request_maintenance(MaintenanceRequest::Off).await;
    assert_eq!(refused, Err(MaintenanceError::NothingToRegister));
    assert_eq!(lifecycle.handle().refresh_maintenance().await, Ok(()));
    assert_eq!(world.saved_reason("orders").as_deref(), Some("disk"), "a restart with the app knows it, too");

    lifecycle.apply_settings(Some(world.plan("payments")), Drain::default());
    world.until_it_is("payments", Some("disk")).await;
    assert_eq!(
        (world.saved_reason("orders"), world.saved_reason("payments").as_deref()),
        (None, Some("disk"))
    );
}

#[tokio::test]
async fn a_first_registration_by_a_reload_knows_what_an_earlier_run_was_told_and_takes_orders() {
    let world = ReloadFixture::new().await;
    MaintenanceFile::new(Some(world.file_path("orders"))).write(|| Some("disk".into())).await;
    let lifecycle = world.live(None);
    timeout(Duration::from_secs(20), lifecycle.handle().wait_for_state(|state| state.is_ready()))
        .await
        .unwrap();
    let refused = lifecycle.handle().request_maintenance(MaintenanceRequest::Off).await;
    assert_eq!(refused, Err(MaintenanceError::NothingToRegister));

    lifecycle.apply_settings(Some(world.plan("orders")), Drain::default());
    world.until_it_is("orders", Some("disk")).await;
    assert_eq!(lifecycle.handle().registration_status().maintenance.as_deref(), Some("disk"));
    lifecycle.handle().request_maintenance(MaintenanceRequest::Off).await.unwrap();
    world.until_it_is("orders", None).await;
    assert_eq!(world.saved_reason("orders"), None);
}

#[tokio::test]
async fn an_app_that_is_still_to_be_started_is_not_asked_by_the_settings_of_a_reload_either() {
    let world = ReloadFixture { started: CancellationToken::new(), ..ReloadFixture::new().await };
    let lifecycle = world.live(Some(world.plan("orders")));
    timeout(
        Duration::from_secs(20),
        lifecycle.handle().wait_for_state(|state| *state == LifecycleState::Waiting),
    )
    .await
    .unwrap();
    let probe = Health { interval: Duration::from_secs(1), ..Health::default() };
    lifecycle.apply_settings(Some(RegistrationPlan { probe, ..world.plan("orders") }), Drain::default());
    let probed = timeout(Duration::from_millis(300), world.app.accept()).await;
    assert!(probed.is_err() && world.agent.register_calls() == 0);
    world.started.cancel();
    world.until_it_is("orders", None).await;
}

#[tokio::test]
async fn an_app_is_asked_by_the_settings_of_the_reload() {
    let world = ReloadFixture::new().await;
    let slow = Health { interval: Duration::from_secs(3600), ..Health::default() };
    let fast = Health { interval: Duration::from_millis(100), ..Health::default() };
    let lifecycle = world.live(Some(RegistrationPlan { probe: slow, ..world.plan("orders") }));
    world.until_it_is("orders", None).await;
    lifecycle
        .apply_settings(Some(RegistrationPlan { probe: fast, ..world.plan("orders") }), Drain::default());
    // The connections of the first settings' probes, and more than they could make.
    for _ in 0..5 {
        timeout(Duration::from_secs(20), world.app.accept()).await.unwrap().unwrap();
    }
    assert_eq!(world.agent.register_calls(), 1, "how it is asked is nothing to the registry");
}
