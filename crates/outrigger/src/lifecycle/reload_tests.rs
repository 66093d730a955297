//! What a reload makes of a life: its registration, its probe, and maintenance, against an agent of the tests'
//! own and an app that accepts connections.

use outrigger_config::{Drain, Health};
use outrigger_registry::ReportedHealth;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

use super::{fake::*, *};

struct World {
    fake: Arc<Fake>,
    folder: tempfile::TempDir,
    app: TcpListener,
    started: CancellationToken,
}

impl World {
    async fn new() -> Self {
        let started = CancellationToken::new();
        started.cancel();
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { fake: Arc::default(), folder: tempfile::tempdir().unwrap(), app, started }
    }

    fn place(&self, name: &str) -> PathBuf {
        note_place(self.folder.path(), name, self.app.local_addr().unwrap().port())
    }

    /// What the next run would be told of maintenance.
    fn noted(&self, name: &str) -> Option<String> {
        Note::new(Some(self.place(name))).read()
    }

    /// The app as service `name`.
    fn plan(&self, name: &str) -> Plan {
        let port = self.app.local_addr().unwrap().port();
        Plan {
            started: self.started.clone(),
            registrar: self.fake.clone(),
            registration: Registration { id: format!("{name}-1"), name: name.into(), port, ..wanted() },
            probe: Health::default(),
            note: Some(self.place(name)),
        }
    }

    fn live(&self, plan: Option<Plan>) -> super::Life {
        super::Life::start(std::future::ready(()), plan, Callers::fixed(Duration::ZERO))
    }

    async fn until(&self, what: &str, is: impl Fn(&Agent) -> bool) {
        let is = async {
            while !is(&self.fake.agent()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(Duration::from_secs(20), is).await.is_ok(), "{what}: {:?}", self.fake.agent());
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
    let world = World::new().await;
    let life = world.live(Some(world.plan("orders")));
    world.until_it_is("orders", None).await;
    life.vitals().order_maintenance(Order::On("disk".into())).await.unwrap();
    world.until_it_is("orders", Some("disk")).await;
    assert_eq!(world.noted("orders").as_deref(), Some("disk"));

    let before = world.fake.agent().calls.len();
    life.adopt(Some(world.plan("payments")), Drain::default());
    world.until_it_is("payments", Some("disk")).await;
    let calls: Vec<_> = world.fake.agent().calls[before..].iter().map(|(_, call)| call.clone()).collect();
    let gone = calls.iter().position(|call| *call == Call::Deregister).unwrap();
    assert!(
        matches!(calls[gone + 1..], [Call::Register, Call::Maintenance(true), Call::Report(..), ..]),
        "{calls:?}"
    );
    assert_eq!((world.noted("orders"), world.noted("payments").as_deref()), (None, Some("disk")));

    life.vitals().order_maintenance(Order::Off).await.unwrap();
    world.until_it_is("payments", None).await;
    assert_eq!((world.noted("orders"), world.noted("payments")), (None, None));
}

#[tokio::test]
async fn maintenance_waits_for_an_app_that_a_reload_takes_out_of_the_settings_and_another_puts_back() {
    let world = World::new().await;
    let life = world.live(Some(world.plan("orders")));
    life.vitals().order_maintenance(Order::On("disk".into())).await.unwrap();
    world.until_it_is("orders", Some("disk")).await;

    life.adopt(None, Drain::default());
    world.until("gone", |agent| agent.held.is_none()).await;
    let refused = life.vitals().order_maintenance(Order::Off).await;
    assert_eq!(refused, Err(Refused::NothingToRegister));
    assert_eq!(life.vitals().look_at_maintenance().await, Ok(()));
    assert_eq!(world.noted("orders").as_deref(), Some("disk"), "a restart with the app knows it, too");

    life.adopt(Some(world.plan("payments")), Drain::default());
    world.until_it_is("payments", Some("disk")).await;
    assert_eq!((world.noted("orders"), world.noted("payments").as_deref()), (None, Some("disk")));
}

#[tokio::test]
async fn a_first_registration_by_a_reload_knows_what_an_earlier_run_was_told_and_takes_orders() {
    let world = World::new().await;
    Note::new(Some(world.place("orders"))).write(|| Some("disk".into())).await;
    let life = world.live(None);
    timeout(Duration::from_secs(20), life.vitals().reached(|state| state.is_ready())).await.unwrap();
    let refused = life.vitals().order_maintenance(Order::Off).await;
    assert_eq!(refused, Err(Refused::NothingToRegister));

    life.adopt(Some(world.plan("orders")), Drain::default());
    world.until_it_is("orders", Some("disk")).await;
    assert_eq!(life.vitals().standing().maintenance.as_deref(), Some("disk"));
    life.vitals().order_maintenance(Order::Off).await.unwrap();
    world.until_it_is("orders", None).await;
    assert_eq!(world.noted("orders"), None);
}

#[tokio::test]
async fn an_app_that_is_still_to_be_started_is_not_asked_by_the_settings_of_a_reload_either() {
    let world = World { started: CancellationToken::new(), ..World::new().await };
    let life = world.live(Some(world.plan("orders")));
    timeout(Duration::from_secs(20), life.vitals().reached(|state| *state == State::Waiting)).await.unwrap();
    let probe = Health { interval: Duration::from_secs(1), ..Health::default() };
    life.adopt(Some(Plan { probe, ..world.plan("orders") }), Drain::default());
    let probed = timeout(Duration::from_millis(300), world.app.accept()).await;
    assert!(probed.is_err() && world.fake.registers() == 0);
    world.started.cancel();
    world.until_it_is("orders", None).await;
}

#[tokio::test]
async fn an_app_is_asked_by_the_settings_of_the_reload() {
    let world = World::new().await;
    let slow = Health { interval: Duration::from_secs(3600), ..Health::default() };
    let fast = Health { interval: Duration::from_millis(100), ..Health::default() };
    let life = world.live(Some(Plan { probe: slow, ..world.plan("orders") }));
    world.until_it_is("orders", None).await;
    life.adopt(Some(Plan { probe: fast, ..world.plan("orders") }), Drain::default());
    // The connections of the first settings' probes, and more than they could make.
    for _ in 0..5 {
        timeout(Duration::from_secs(20), world.app.accept()).await.unwrap().unwrap();
    }
    assert_eq!(world.fake.registers(), 1, "how it is asked is nothing to the registry");
}
