//! The schedule and what counts, with tries that the test answers, on a paused clock; then the tries themselves, with sockets.

use std::sync::Arc;

use outrigger_task::essential;
use tokio::{net::TcpListener, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::{status::RegistrationPhase, testing::PASSING};

const CRITICAL: Option<ReportedHealth> = Some(ReportedHealth::Critical);

/// From one probe of the app to the next.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// Longer than a step of the tasks, shorter than the times of the schedule.
const A_MOMENT: Duration = Duration::from_millis(10);

fn refused() -> Attempt {
    let (kind, error) = ("refused".to_owned(), "os error 111".to_owned());
    Attempt::Failed(Unreachable { kind, error })
}

fn no_news() -> Attempt {
    Attempt::NoNews("no route".to_owned())
}

struct Fixture {
    local: watch::Sender<Option<ReportedHealth>>,
    told: watch::Sender<Option<ReportedHealth>>,
    state: RegistrationState,
    /// What a try finds.
    answer: Arc<Mutex<Attempt>>,
    /// When each try was made.
    tries: Arc<Mutex<Vec<Instant>>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Fixture {
    /// The test of an app that has not been probed yet.
    fn start(policy: ReachTest, answer: Attempt) -> Self {
        let state = RegistrationState::new(RegistrationPhase::AwaitingApp, "orders-1");
        Self::start_with(policy, answer, state, watch::Sender::new(None), watch::Sender::new(None))
    }

    fn start_with(
        policy: ReachTest,
        answer: Attempt,
        state: RegistrationState,
        local: watch::Sender<Option<ReportedHealth>>,
        told: watch::Sender<Option<ReportedHealth>>,
    ) -> Self {
        let (answer, tries) = (Arc::new(Mutex::new(answer)), Arc::new(Mutex::new(Vec::new())));
        let relay = HealthRelay { service: "orders".into(), told: told.clone(), state: state.clone() };
        let test = {
            let (mut local, answer, tries) = (local.subscribe(), answer.clone(), tries.clone());
            async move {
                let attempt = || {
                    tries.lock().push(Instant::now());
                    let answer = answer.lock().clone();
                    async move { answer }
                };
                test_repeatedly(&relay, policy, pause(PROBE_INTERVAL), &mut local, attempt).await;
            }
        };
        let probes = {
            let (local, state) = (local.clone(), state.clone());
            async move {
                loop {
                    sleep(PROBE_INTERVAL).await;
                    if is_healthy(*local.borrow()) {
                        state.record_healthy_probe(Instant::now());
                    }
                }
            }
        };
        let spawn = |name: &'static str, task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            AbortOnDropHandle::new(tokio::spawn(essential(name, task)))
        };
        let _tasks =
            [spawn("the test of the address", Box::pin(test)), spawn("the probes", Box::pin(probes))];
        Self { local, told, state, answer, tries, _tasks }
    }

    /// Goes on by `policy`, as after a reload.
    fn restart(self, policy: ReachTest) -> Self {
        let answer = self.answer.lock().clone();
        Self::start_with(policy, answer, self.state.clone(), self.local.clone(), self.told.clone())
    }

    fn set_answer(&self, answer: Attempt) {
        *self.answer.lock() = answer;
    }

    fn take_tries(&self) -> Vec<Instant> {
        std::mem::take(&mut self.tries.lock())
    }

    async fn set_local(&self, health: Option<ReportedHealth>) {
        self.local.send_replace(health);
        sleep(A_MOMENT).await;
    }

    fn told(&self) -> Option<ReportedHealth> {
        *self.told.borrow()
    }

    fn reach(&self) -> Reachability {
        self.state.current().reach
    }

    fn is_unreachable(&self) -> bool {
        self.reach().failure().is_some()
    }

    /// A fixture of an app that was reached at once, half a second after that.
    async fn reached(policy: ReachTest) -> Self {
        let fixture = Self::start(policy, Attempt::Connected);
        fixture.set_local(PASSING).await;
        assert_eq!((fixture.reach(), fixture.told()), (Reachability::Reached, PASSING));
        fixture
    }
}

#[tokio::test(start_paused = true)]
async fn the_address_is_tried_every_ten_seconds_while_the_app_is_healthy() {
    let fixture = Fixture::start(ReachTest::Warn, Attempt::Connected);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fixture.take_tries(), [], "no probe has ended");
    fixture.set_local(CRITICAL).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fixture.take_tries(), [], "the app is not healthy");
    for _ in 0..2 {
        let from = Instant::now();
        fixture.set_local(PASSING).await;
        sleep(Duration::from_secs(30)).await;
        let tries: Vec<_> = fixture.take_tries().iter().map(|at| (*at - from).as_secs()).collect();
        assert_eq!(tries, [0, 10, 20, 30]);
        // Another health, and no try for it.
        fixture.set_local(Some(ReportedHealth::Warning)).await;
        assert_eq!((fixture.take_tries(), fixture.told()), (Vec::new(), Some(ReportedHealth::Warning)));
        fixture.set_local(CRITICAL).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!((fixture.take_tries(), fixture.reach()), (Vec::new(), Reachability::Unknown));
    }
}

#[test]
fn an_app_that_is_probed_rarely_is_tried_as_rarely() {
    for (interval, expected) in [(1, 10), (10, 10), (60, 60), (3600, 3600)] {
        assert_eq!(pause(Duration::from_secs(interval)), Duration::from_secs(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_counts_after_one_more_healthy_probe_and_one_more_failure() {
    for policy in [ReachTest::Warn, ReachTest::Require] {
        let fixture = Fixture::reached(policy).await;
        fixture.take_tries();
        fixture.set_answer(refused());
        sleep(Duration::from_secs(10)).await;
        assert_eq!(fixture.take_tries().len(), 1);
        assert_eq!((fixture.reach(), fixture.told()), (Reachability::Reached, PASSING), "one failure");
        sleep(PROBE_INTERVAL).await;
        assert_eq!(fixture.take_tries().len(), 1, "at once after the probe");
        assert!(fixture.is_unreachable());
        let expected = if policy == ReachTest::Require { CRITICAL } else { PASSING };
        assert_eq!(fixture.told(), expected, "{policy:?}");
        // From now on it is tried as before.
        sleep(Duration::from_secs(30)).await;
        assert_eq!(fixture.take_tries().len(), 3);
        // Another health of the app is passed on by `warn` alone.
        fixture.set_local(Some(ReportedHealth::Warning)).await;
        let expected = if policy == ReachTest::Require { CRITICAL } else { Some(ReportedHealth::Warning) };
        assert_eq!(fixture.told(), expected, "{policy:?}");
        fixture.set_answer(Attempt::Connected);
        sleep(Duration::from_secs(10)).await;
        assert_eq!((fixture.reach(), fixture.told()), (Reachability::Reached, Some(ReportedHealth::Warning)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_failure_and_that_of_an_app_that_stops_do_not_count() {
    let fixture = Fixture::reached(ReachTest::Require).await;
    // Failed once.
    fixture.set_answer(refused());
    sleep(Duration::from_secs(10)).await;
    fixture.set_answer(Attempt::Connected);
    sleep(PROBE_INTERVAL).await;
    assert_eq!((fixture.reach(), fixture.told()), (Reachability::Reached, PASSING));
    // And once more, which is a first failure again.
    fixture.set_answer(refused());
    sleep(Duration::from_secs(10)).await;
    assert!(!fixture.is_unreachable());
    // The app stops: the probe after the failure finds it not healthy.
    fixture.set_local(CRITICAL).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!((fixture.reach(), fixture.told()), (Reachability::Unknown, CRITICAL));
}

#[tokio::test(start_paused = true)]
async fn a_failure_waits_for_a_probe_that_began_after_it() {
    let fixture = Fixture::start(ReachTest::Warn, refused());
    let long_ago = Instant::now();
    sleep(PROBE_INTERVAL / 2).await;
    fixture.set_local(PASSING).await;
    fixture.state.record_healthy_probe(long_ago);
    sleep(A_MOMENT).await;
    assert_eq!((fixture.take_tries().len(), fixture.reach()), (1, Reachability::Pending));
    sleep(PROBE_INTERVAL / 2).await;
    assert!(fixture.is_unreachable());
}

#[tokio::test(start_paused = true)]
async fn an_app_that_requires_the_address_is_not_known_as_healthy_before_it_is_reached() {
    let fixture = Fixture::start(ReachTest::Require, refused());
    fixture.set_local(PASSING).await;
    assert_eq!((fixture.reach(), fixture.told()), (Reachability::Pending, None));
    sleep(PROBE_INTERVAL).await;
    assert!(fixture.is_unreachable());
    assert_eq!(fixture.told(), CRITICAL);
    fixture.set_answer(Attempt::Connected);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(fixture.told(), PASSING);
    // The app restarts, and listens elsewhere.
    fixture.set_local(CRITICAL).await;
    fixture.set_answer(refused());
    let mut told = fixture.told.subscribe();
    told.mark_unchanged();
    fixture.set_local(PASSING).await;
    sleep(Duration::from_secs(60)).await;
    assert!(fixture.is_unreachable() && !told.has_changed().unwrap(), "{:?}", fixture.told());
    // It stops and mends itself: one try is enough.
    fixture.set_local(CRITICAL).await;
    fixture.set_answer(Attempt::Connected);
    fixture.set_local(PASSING).await;
    assert_eq!((fixture.reach(), fixture.told()), (Reachability::Reached, PASSING));
}

#[tokio::test(start_paused = true)]
async fn a_try_without_news_changes_nothing_that_is_known() {
    for policy in [ReachTest::Warn, ReachTest::Require] {
        // Nothing is known.
        let fixture = Fixture::start(policy, no_news());
        fixture.set_local(PASSING).await;
        assert_eq!((fixture.reach(), fixture.told()), (Reachability::NotTested("no route".into()), PASSING));
        // A failure after it is the first one.
        fixture.set_answer(refused());
        sleep(Duration::from_secs(10)).await;
        assert!(!fixture.is_unreachable());
        fixture.set_answer(no_news());
        sleep(PROBE_INTERVAL).await;
        assert_eq!(fixture.told(), PASSING);
        fixture.take_tries();
        sleep(Duration::from_secs(20)).await;
        assert_eq!(fixture.take_tries().len(), 2, "not with each probe");

        let fixture = Fixture::reached(policy).await;
        fixture.set_answer(no_news());
        sleep(Duration::from_secs(60)).await;
        assert_eq!((fixture.reach(), fixture.told()), (Reachability::Reached, PASSING));
        fixture.set_answer(refused());
        sleep(Duration::from_secs(60)).await;
        let told = fixture.told();
        fixture.set_answer(no_news());
        sleep(Duration::from_secs(60)).await;
        assert!(fixture.is_unreachable());
        assert_eq!(fixture.told(), told);
        // Not by a restart of the app either.
        fixture.set_local(CRITICAL).await;
        fixture.set_local(PASSING).await;
        assert!(fixture.is_unreachable());
        assert_eq!(fixture.told(), told);
    }
}

#[tokio::test(start_paused = true)]
async fn the_text_of_a_failure_changes_with_its_kind_alone() {
    let fixture = Fixture::start(ReachTest::Warn, refused());
    fixture.set_local(PASSING).await;
    sleep(PROBE_INTERVAL).await;
    let failed = |kind: &str, error: &str| {
        Attempt::Failed(Unreachable { kind: kind.to_owned(), error: error.to_owned() })
    };
    for (answer, expected) in [
        (failed("refused", "another error"), "refused: os error 111"),
        (failed("no answer", "not within 1s"), "no answer: not within 1s"),
        (failed("refused", "another error"), "refused: another error"),
    ] {
        fixture.set_answer(answer);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(fixture.reach().failure().unwrap().to_string(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_goes_by_the_new_policy_at_once() {
    let fixture = Fixture::start(ReachTest::Warn, refused());
    fixture.set_local(PASSING).await;
    sleep(PROBE_INTERVAL).await;
    assert!(fixture.is_unreachable());
    assert_eq!(fixture.told(), PASSING);
    let fixture = fixture.restart(ReachTest::Require);
    sleep(A_MOMENT).await;
    assert_eq!(fixture.told(), CRITICAL);
    let fixture = fixture.restart(ReachTest::Warn);
    sleep(A_MOMENT).await;
    assert_eq!(fixture.told(), PASSING);
    // An app that was not tested before stays healthy until a failure is confirmed.
    fixture.state.record_reach(Reachability::Unknown);
    let fixture = fixture.restart(ReachTest::Require);
    sleep(A_MOMENT).await;
    assert_eq!((fixture.reach(), fixture.told()), (Reachability::Pending, PASSING));
    sleep(PROBE_INTERVAL).await;
    assert_eq!(fixture.told(), CRITICAL);
}

#[tokio::test]
async fn without_a_registered_address_and_without_a_test_the_health_is_passed_on() {
    let without = AppAddress { port: 8080, only: None, registered: None };
    let with = AppAddress { registered: Some("127.0.0.2".into()), ..without.clone() };
    let settings = |reach| Health { reach, ..Health::default() };
    for (settings, app, is_said) in [
        (settings(ReachTest::Warn), &without, true),
        (settings(ReachTest::Off), &without, false),
        (settings(ReachTest::Off), &with, false),
    ] {
        let state = RegistrationState::new(RegistrationPhase::AwaitingApp, "orders-1");
        let (local, told) = (watch::Sender::new(None), watch::Sender::new(None));
        let relay = HealthRelay { service: "orders".into(), told: told.clone(), state: state.clone() };
        let passes = async {
            for health in [PASSING, CRITICAL, PASSING] {
                local.send_replace(health);
                told.subscribe().wait_for(|told| *told == health).await.unwrap();
            }
        };
        tokio::select! {
            () = run(settings, app.clone(), local.subscribe(), relay) => panic!("the probes have not ended"),
            () = passes => {}
        }
        assert_eq!(matches!(state.current().reach, Reachability::NotTested(_)), is_said);
    }
}

async fn attempt(host: &str, port: u16, limit: Duration) -> Attempt {
    RegisteredAddress::new(host, port, limit).attempt().await
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_address_that_refuses_and_one_that_does_not_answer_have_texts_of_their_own() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = app.local_addr().unwrap().port();
    assert_eq!(attempt("127.0.0.1", port, LONG).await, Attempt::Connected);
    assert_eq!(attempt("::ffff:127.0.0.1", port, LONG).await, Attempt::Connected);
    let Attempt::Failed(failure) = attempt("127.0.0.2", port, LONG).await else {
        panic!("nothing listens there")
    };
    assert_eq!(
        failure.kind,
        format!("the registered address 127.0.0.2:{port} refuses connections from here")
    );
    assert!(
        failure.error.starts_with(&format!("connect to 127.0.0.2:{port}: Connection refused")),
        "{failure:?}"
    );

    // A queue that is full: the system drops further requests for a connection.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.3:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let addr = full.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(one) = outrigger_net::connect(addr, Duration::from_millis(200)).await {
        held.push(one);
        assert!(held.len() < 100, "the queue is never full");
    }
    let Attempt::Failed(failure) = attempt("127.0.0.3", addr.port(), Duration::from_millis(200)).await else {
        panic!("its queue is full")
    };
    let expected = format!("the registered address {addr} accepts no connection from here within 200ms");
    assert_eq!(failure.kind, expected);
    assert!(failure.error.contains("not within 200ms"), "{failure:?}");
}

#[tokio::test]
async fn what_cannot_be_connected_to_from_here_is_no_news() {
    // No connection by TCP is made to a group of hosts.
    for host in ["224.0.0.1", "app.invalid"] {
        assert!(
            matches!(attempt(host, 8080, LONG).await, Attempt::NoNews(why) if why.contains(host)),
            "{host}"
        );
    }
}

#[tokio::test]
async fn a_name_is_reached_at_any_of_its_addresses() {
    let mut tested = 0;
    for ip in ["127.0.0.1", "::1"] {
        let known = outrigger_net::Lookups::new(1).look_up("localhost").await.unwrap();
        let Ok(app) = TcpListener::bind((ip, 0)).await else { continue };
        if known.contains(&ip.parse().unwrap()) {
            let port = app.local_addr().unwrap().port();
            assert_eq!(attempt("localhost", port, LONG).await, Attempt::Connected, "{ip}");
            tested += 1;
        }
    }
    assert!(tested > 0);
}
