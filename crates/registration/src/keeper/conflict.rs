//! Two processes that register one id at one agent, in memory on a paused clock.

use super::*;
use crate::{claim::ClaimPlace, maintenance::MaintenanceFile, status::MaintenanceRequest, testing::*};

/// More than the rounds of a conflict and the renewals that follow take.
const SETTLED: Duration = Duration::from_secs(60);

/// A process at this agent with this address.
fn start_at(agent: &Arc<FakeAgent>, address: &str) -> RegistrantFixture {
    start_with_claim(agent, address, None)
}

/// The same, with a file that keeps its claim.
fn start_with_claim(agent: &Arc<FakeAgent>, address: &str, claim: Option<ClaimPlace>) -> RegistrantFixture {
    let registration = Registration { address: Some(address.to_owned()), ..test_registration() };
    start_registrant_on(agent.clone(), registration, PASSING, MaintenanceFile::default(), claim)
}

/// The health that the agent has for the id.
fn held_health(agent: &FakeAgent) -> Option<ReportedHealth> {
    agent.state().checks.own.as_ref().map(|own| own.health)
}

fn held_address(agent: &FakeAgent) -> Option<String> {
    agent.state().held.as_ref().and_then(|held| held.address.clone())
}

/// Two processes in a conflict that has settled: the first one keeps the id.
async fn in_conflict(addresses: [&str; 2]) -> [RegistrantFixture; 2] {
    let agent = Arc::new(FakeAgent::default());
    let first = start_at(&agent, addresses[0]);
    sleep(SETTLED).await;
    let later = start_at(&agent, addresses[1]);
    sleep(SETTLED).await;
    [first, later]
}

#[tokio::test(start_paused = true)]
async fn both_of_two_processes_with_one_id_say_so_and_the_later_one_stops() {
    // The same settings, too: a unit file that was copied, or a process that was started twice.
    for addresses in [["10.0.0.1", "10.0.0.2"], ["10.0.0.1", "10.0.0.1"]] {
        let [first, later] = in_conflict(addresses).await;
        let registrations = first.agent.register_calls();
        assert!(registrations <= 6, "{registrations} registrations");
        let (of_first, of_later) = (first.state.current(), later.state.current());
        assert_eq!((of_first.phase, of_first.reported), (RegistrationPhase::Registered, PASSING));
        assert_eq!((of_later.phase, of_later.reported), (RegistrationPhase::Conflict, None));
        let begins =
            |address: &str| format!("another process registers id orders-1 for address {address}:8080; ");
        let (of_first, of_later) = (of_first.conflict().unwrap(), of_later.conflict().unwrap());
        assert!(of_first.starts_with(&begins(addresses[1])), "{of_first}");
        assert!(of_first.ends_with("this process was first and keeps the id"), "{of_first}");
        assert!(of_later.starts_with(&begins(addresses[0])), "{of_later}");
        assert!(of_later.contains("it was first"), "{of_later}");

        // The health of the later app is not reported for the first one, and no call follows for an hour.
        later.health.send_replace(Some(ReportedHealth::Critical));
        later.maintenance.request(MaintenanceRequest::On("not yours".into())).await.unwrap();
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(first.agent.register_calls(), registrations);
        assert_eq!(first.agent.state().checks.own.as_ref().map(|own| own.health), PASSING);
        assert_eq!(first.agent.state().checks.maintenance, None);
        assert_eq!(held_address(&first.agent).as_deref(), Some(addresses[0]));
        assert_eq!(first.state.current().conflict(), None, "none has registered the id for ten minutes");
        assert!(later.state.current().conflict().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn the_later_process_takes_the_id_over_when_the_first_one_leaves_or_dies() {
    for is_killed in [false, true] {
        let [first, later] = in_conflict(["10.0.0.1", "10.0.0.2"]).await;
        let agent = first.agent.clone();
        if is_killed {
            drop(first.registrant);
            sleep(SETTLED).await;
            assert_eq!(held_address(&agent).as_deref(), Some("10.0.0.1"), "its TTL has not passed");
            agent.change(|agent| agent.checks.own = Some(own_check(ReportedHealth::Critical, "TTL expired")));
        } else {
            withdraw_at_once(first.registrant, &first.state).await;
        }
        later
            .wait_until(|agent| {
                agent.held.as_ref().is_some_and(|held| held.address.as_deref() == Some("10.0.0.2"))
            })
            .await;
        sleep(Duration::from_secs(1)).await;
        let status = later.state.current();
        assert_eq!((status.phase, status.reported), (RegistrationPhase::Registered, PASSING));
        assert_eq!(status.conflict(), None);
        assert_eq!(agent.state().checks.own.as_ref().map(|own| own.health), PASSING);
    }
}

#[tokio::test(start_paused = true)]
async fn the_later_process_leaves_without_deregistering_the_first_one() {
    let [first, later] = in_conflict(["10.0.0.1", "10.0.0.2"]).await;
    let before = first.agent.state().calls.len();
    withdraw_at_once(later.registrant, &later.state).await;
    assert_eq!(first.agent.state().calls.len(), before);
    assert_eq!(held_address(&first.agent).as_deref(), Some("10.0.0.1"));
}

#[tokio::test(start_paused = true)]
async fn a_new_token_or_a_lost_entry_of_the_catalog_does_not_wake_the_later_process() {
    let [first, _later] = in_conflict(["10.0.0.1", "10.0.0.2"]).await;
    let before = first.agent.register_calls();
    first.agent.change(|agent| agent.credentials += 1);
    sleep(SETTLED).await;
    assert_eq!(first.agent.register_calls(), before + 1, "the first one alone");
    first.agent.change(|agent| agent.unlisted = true);
    sleep(SETTLED).await;
    assert_eq!(first.agent.register_calls(), before + 2, "the first one alone");
}

#[tokio::test(start_paused = true)]
async fn a_restart_and_a_hand_over_are_no_conflict() {
    let agent = Arc::new(FakeAgent::default());
    let killed = start_at(&agent, "10.0.0.1");
    sleep(SETTLED).await;
    drop(killed.registrant);
    let next = start_at(&agent, "10.0.0.1");
    sleep(SETTLED).await;
    assert_eq!((agent.register_calls(), next.state.current().conflict()), (2, None));

    // The next process registers while the last one still runs, which stops within a round.
    let handed_to = start_at(&agent, "10.0.0.1");
    next.wait_until(|agent| agent.register_count == 4).await;
    drop(next.registrant);
    sleep(SETTLED).await;
    let status = handed_to.state.current();
    assert_eq!((status.phase, status.conflict()), (RegistrationPhase::Registered, None));
}

#[tokio::test(start_paused = true)]
async fn one_id_at_two_agents_is_no_conflict() {
    let both = [(); 2].map(|()| start_at(&Arc::new(FakeAgent::default()), "10.0.0.1"));
    sleep(SETTLED).await;
    for one in both {
        assert_eq!((one.agent.register_calls(), one.state.current().conflict()), (1, None));
    }
}

#[tokio::test(start_paused = true)]
async fn of_three_processes_one_keeps_the_id_and_one_follows_it() {
    let [first, second] = in_conflict(["10.0.0.1", "10.0.0.2"]).await;
    let third = start_at(&first.agent, "10.0.0.3");
    sleep(SETTLED).await;
    assert_eq!(held_address(&first.agent).as_deref(), Some("10.0.0.1"));
    withdraw_at_once(first.registrant, &first.state).await;
    sleep(SETTLED).await;
    let registrations = second.agent.register_calls();
    assert_eq!(held_address(&second.agent).as_deref(), Some("10.0.0.2"));
    assert_eq!(second.state.current().phase, RegistrationPhase::Registered);
    assert_eq!(third.state.current().phase, RegistrationPhase::Conflict);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(second.agent.register_calls(), registrations);
}

#[tokio::test(start_paused = true)]
async fn the_first_process_stays_the_first_one_over_a_restart_with_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let place =
        |name: &str| Some(ClaimPlace::new(&folder.path().join(name), "orders-1", "http://127.0.0.1:8500"));
    // One folder for both, too: the first one has locked the file.
    for [of_first, of_later] in [["first", "later"], ["shared", "shared"]] {
        let agent = Arc::new(FakeAgent::default());
        let first = start_with_claim(&agent, "10.0.0.1", place(of_first));
        sleep(SETTLED).await;
        let later = start_with_claim(&agent, "10.0.0.2", place(of_later));
        sleep(SETTLED).await;
        assert_eq!(later.state.current().phase, RegistrationPhase::Conflict);
        withdraw_at_once(first.registrant, &first.state).await;
        sleep(SETTLED).await;
        assert_eq!(held_address(&agent).as_deref(), Some("10.0.0.2"), "it is the only one");
        let first = start_with_claim(&agent, "10.0.0.1", place(of_first));
        sleep(SETTLED).await;
        assert_eq!(held_address(&agent).as_deref(), Some("10.0.0.1"), "{of_first}");
        assert_eq!(later.state.current().phase, RegistrationPhase::Conflict);
        let status = first.state.current();
        assert_eq!((status.phase, status.reported), (RegistrationPhase::Registered, PASSING));
        assert!(
            status.conflict().unwrap().ends_with("this process was first and keeps the id"),
            "{status:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_process_comes_back_from_a_crash_while_the_later_one_waits() {
    let [first, later] = in_conflict(["10.0.0.1", "10.0.0.2"]).await;
    let agent = first.agent.clone();
    drop(first.registrant);
    let before = agent.register_calls();
    let first = start_at(&agent, "10.0.0.1");
    sleep(SETTLED).await;
    assert_eq!(agent.register_calls(), before + 1, "nothing but its own");
    assert_eq!(held_address(&agent).as_deref(), Some("10.0.0.1"));
    let status = first.state.current();
    assert_eq!((status.phase, status.conflict()), (RegistrationPhase::Registered, None));
    assert_eq!(later.state.current().phase, RegistrationPhase::Conflict);
}

#[tokio::test(start_paused = true)]
async fn a_reload_of_the_later_process_is_announced_when_it_has_the_id() {
    let [first, mut later] = in_conflict(["10.0.0.1", "10.0.0.2"]).await;
    let agent = first.agent.clone();
    let before = agent.register_calls();
    for address in ["10.0.0.3", "10.0.0.4"] {
        let registration = Registration { address: Some(address.into()), ..test_registration() };
        later.registrant.apply_settings(registration, Default::default());
        sleep(SETTLED).await;
    }
    assert_eq!(agent.register_calls(), before);
    assert_eq!(held_address(&agent).as_deref(), Some("10.0.0.1"));
    withdraw_at_once(first.registrant, &first.state).await;
    sleep(SETTLED).await;
    assert_eq!(held_address(&agent).as_deref(), Some("10.0.0.4"));
    assert_eq!(later.state.current().phase, RegistrationPhase::Registered);
}

#[tokio::test(start_paused = true)]
async fn the_later_process_leaves_the_registration_of_the_first_one_whenever_it_stops() {
    // Before its app was probed, at the first announcement, within the rounds of the conflict, and after them.
    for (after, health) in [
        (0, None),
        (2000, None),
        (5, PASSING),
        (500, PASSING),
        (1100, PASSING),
        (2500, PASSING),
        (60_000, PASSING),
    ] {
        let agent = Arc::new(FakeAgent::default());
        let first = start_at(&agent, "10.0.0.1");
        sleep(SETTLED).await;
        let later = start_registrant_on(
            agent.clone(),
            Registration { address: Some("10.0.0.2".into()), ..test_registration() },
            health,
            MaintenanceFile::default(),
            None,
        );
        sleep(Duration::from_millis(after)).await;
        withdraw_at_once(later.registrant, &later.state).await;
        sleep(Duration::from_secs(15)).await;
        assert_eq!(held_address(&agent).as_deref(), Some("10.0.0.1"), "after {after} ms");
        assert_eq!(held_health(&agent), PASSING, "after {after} ms");
        let status = first.state.current();
        assert_eq!(
            (status.phase, status.reported),
            (RegistrationPhase::Registered, PASSING),
            "after {after} ms"
        );
        let was_replaced = agent.register_calls() > 1;
        let deregistered = agent.call_times(|call| *call == AgentCall::Deregister).len();
        assert!(deregistered == 0 || was_replaced, "after {after} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_down_takes_the_id_from_no_other_address() {
    let start_down = |agent: &Arc<FakeAgent>, address: &str| {
        let registration = Registration { address: Some(address.into()), ..test_registration() };
        let down = Some(ReportedHealth::Critical);
        start_registrant_on(agent.clone(), registration, down, MaintenanceFile::default(), None)
    };
    let agent = Arc::new(FakeAgent::default());
    let first = start_at(&agent, "10.0.0.1");
    sleep(SETTLED).await;
    let later = start_down(&agent, "10.0.0.2");
    sleep(SETTLED).await;
    assert_eq!((agent.register_calls(), held_health(&agent)), (1, PASSING));
    assert_eq!(held_address(&agent).as_deref(), Some("10.0.0.1"));
    assert_eq!(later.state.current().phase, RegistrationPhase::AwaitingApp);
    // Once it is up, both see the conflict.
    later.health.send_replace(PASSING);
    sleep(SETTLED).await;
    assert_eq!(held_address(&agent).as_deref(), Some("10.0.0.1"));
    assert_eq!(later.state.current().phase, RegistrationPhase::Conflict);
    assert!(first.state.current().conflict().is_some());

    // At its own address it is what a crashed run left.
    let agent = Arc::new(FakeAgent::default());
    let crashed = start_at(&agent, "10.0.0.1");
    sleep(SETTLED).await;
    drop(crashed.registrant);
    let _next = start_down(&agent, "10.0.0.1");
    sleep(SETTLED).await;
    assert_eq!(held_health(&agent), Some(ReportedHealth::Critical));
}

#[tokio::test(start_paused = true)]
async fn what_a_crashed_run_left_is_taken_over_without_an_alarm_and_withdrawn() {
    let folder = tempfile::tempdir().unwrap();
    let place = || Some(ClaimPlace::new(folder.path(), "orders-1", "http://127.0.0.1:8500"));
    for claim in [&place as &dyn Fn() -> Option<ClaimPlace>, &|| None] {
        let agent = Arc::new(FakeAgent::default());
        drop(start_with_claim(&agent, "10.0.0.1", claim()).registrant);
        sleep(SETTLED).await;
        let crashed = start_with_claim(&agent, "10.0.0.1", claim());
        sleep(SETTLED).await;
        drop(crashed.registrant);
        let next = start_with_claim(&agent, "10.0.0.2", claim());
        for _ in 0..600 {
            sleep(Duration::from_millis(100)).await;
            assert_eq!(next.state.current().conflict(), None);
        }
        assert_eq!(held_address(&agent).as_deref(), Some("10.0.0.2"));
        withdraw_at_once(next.registrant, &next.state).await;
        assert_eq!(held_address(&agent), None);
    }
    // The app of the next run is not healthy yet: what it left itself is removed, because its file says that it is its own.
    let agent = Arc::new(FakeAgent::default());
    drop({
        let crashed = start_with_claim(&agent, "10.0.0.1", place());
        sleep(SETTLED).await;
        crashed.registrant
    });
    let next =
        start_registrant_on(agent.clone(), test_registration(), None, MaintenanceFile::default(), place());
    sleep(Duration::from_secs(1)).await;
    withdraw_at_once(next.registrant, &next.state).await;
    assert_eq!(held_address(&agent), None);
}
