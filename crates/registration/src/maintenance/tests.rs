//! Requests to the sidecar and changes at the registry, against an agent in memory on a paused clock.

use outrigger_registry::consul::{AgentApi as _, ServiceChecks};
use tokio::time::{Instant, sleep};

use super::*;
use crate::testing::*;

fn on(reason: &str) -> MaintenanceRequest {
    MaintenanceRequest::On(reason.into())
}

fn held(fixture: &RegistrantFixture) -> Option<String> {
    fixture.agent.state().checks.maintenance.clone()
}

/// A registrant that has been registered for a while, with its file in `folder`.
async fn settled(folder: &tempfile::TempDir) -> RegistrantFixture {
    let fixture = next_run(FakeAgent::default(), folder);
    sleep(Duration::from_secs(103)).await; // between two renewals
    fixture
}

/// Another run with the same folder, at this agent.
fn next_run(fake: FakeAgent, folder: &tempfile::TempDir) -> RegistrantFixture {
    start_registrant_at(fake, PASSING, MaintenanceFile::at(maintenance_path(folder.path(), "orders", 8080)))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_request_begins_maintenance_and_another_ends_it() {
    let fixture = settled(&folder()).await;
    fixture.maintenance.request(on("disk")).await.unwrap();
    assert_eq!(held(&fixture).as_deref(), Some("disk"));
    assert_eq!(
        (fixture.state.current().maintenance.as_deref(), fixture.state.current().pending_request),
        (Some("disk"), None)
    );
    fixture.maintenance.request(MaintenanceRequest::Off).await.unwrap();
    assert_eq!((held(&fixture), fixture.state.current().maintenance), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_request_before_the_registration_is_carried_out_before_the_first_report() {
    let fixture = start_registrant(None);
    fixture.maintenance.request(on("disk")).await.unwrap();
    assert_eq!(fixture.state.current().desired_maintenance(), Some("disk"));
    fixture.health.send_replace(PASSING);
    fixture.wait_until(|agent| agent.calls.len() >= 3).await;
    let calls: Vec<_> = fixture.agent.state().calls.iter().map(|(_, call)| call.clone()).collect();
    assert!(
        matches!(calls[..3], [AgentCall::Register, AgentCall::Maintenance(true), AgentCall::Report(..)]),
        "{calls:?}"
    );
    assert_eq!(fixture.state.current().maintenance.as_deref(), Some("disk"));
}

#[tokio::test(start_paused = true)]
async fn an_unconfirmed_request_returns_in_time_and_is_carried_out_when_the_registry_is_back() {
    type RequestFault = fn(&mut AgentState);
    let refuses: RequestFault = |agent| agent.refuses = Some((403, "Permission denied"));
    let down: RequestFault = |agent| agent.down = true;
    let stalls: RequestFault = |agent| agent.stalls = ["maintenance"; 9].into();
    for (fault, why) in [(refuses, "Permission denied"), (down, "connect"), (stalls, "no answer within 8s")] {
        let fixture = settled(&folder()).await;
        for (request, expected) in [(on("disk"), Some("disk")), (MaintenanceRequest::Off, None)] {
            fixture.agent.change(fault);
            let from = Instant::now();
            let refused = fixture.maintenance.request(request.clone()).await.unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
            assert!(from.elapsed() <= REQUEST_TIMEOUT, "{:?}", from.elapsed());
            assert_eq!(fixture.state.current().pending_request, Some(request));

            fixture.agent.change(|agent| {
                (agent.refuses, agent.down) = (None, false);
                agent.stalls.clear();
            });
            let took = fixture.wait_until(|agent| agent.checks.maintenance.as_deref() == expected).await;
            assert!(took <= Duration::from_secs(13), "{why}: {took:?}");
            sleep(Duration::from_secs(1)).await;
            assert_eq!(
                (fixture.state.current().pending_request, fixture.state.current().maintenance.as_deref()),
                (None, expected)
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_requests_at_once_the_registry_ends_with_the_later_one() {
    let fixture = settled(&folder()).await;
    fixture.agent.change(|agent| agent.stalls = ["maintenance"].into());
    // The first call stalls; the agent check sends the desired state meanwhile.
    let later = async {
        sleep(Duration::from_secs(1)).await;
        fixture.maintenance.request(MaintenanceRequest::Off).await
    };
    let (_, second) = tokio::join!(fixture.maintenance.request(on("disk")), later);
    assert_eq!(second, Ok(()));
    sleep(Duration::from_secs(30)).await;
    assert_eq!((held(&fixture), fixture.state.current().desired_maintenance()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn maintenance_that_another_client_changes_is_seen_within_one_query() {
    let fixture = settled(&folder()).await;
    for reason in [Some("theirs"), None] {
        fixture.agent.change(|agent| agent.checks.maintenance = reason.map(str::to_owned));
        let from = Instant::now();
        let _ = fixture.state.subscribe().wait_for(|now| now.maintenance.as_deref() == reason).await;
        assert!(from.elapsed() <= Duration::from_secs(6), "{:?}", from.elapsed());
        sleep(Duration::from_secs(60)).await;
        assert_eq!(held(&fixture).as_deref(), reason, "it is not changed");
    }
    // Requested here, ended by another client.
    fixture.maintenance.request(on("ours")).await.unwrap();
    fixture.agent.change(|agent| agent.checks.maintenance = None);
    assert_eq!(fixture.maintenance.refresh().await, Ok(()), "a refresh shows it at once");
    assert_eq!(fixture.state.current().maintenance, None);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(held(&fixture), None);
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_of_the_registry_the_last_known_state_stays() {
    let fixture = settled(&folder()).await;
    fixture.maintenance.request(on("disk")).await.unwrap();
    fixture.agent.change(|agent| agent.down = true);
    assert!(fixture.maintenance.refresh().await.unwrap_err().contains("connect"));
    assert_eq!(fixture.state.current().maintenance.as_deref(), Some("disk"));
}

#[tokio::test(start_paused = true)]
async fn maintenance_from_any_client_is_restored_at_an_agent_that_forgot_the_app() {
    for ours in [true, false] {
        let fixture = settled(&folder()).await;
        if ours {
            fixture.maintenance.request(on("disk")).await.unwrap();
        } else {
            fixture.agent.change(|agent| agent.checks.maintenance = Some("disk".into()));
            sleep(Duration::from_secs(60)).await;
        }
        let before = fixture.agent.state().calls.len();
        fixture.agent.forget();
        fixture.wait_until(|agent| agent.calls.len() >= before + 3).await;
        let calls: Vec<_> =
            fixture.agent.state().calls[before..].iter().map(|(_, call)| call.clone()).collect();
        assert!(
            matches!(calls[..3], [AgentCall::Register, AgentCall::Maintenance(true), AgentCall::Report(..)]),
            "{calls:?}"
        );
        assert_eq!(held(&fixture).as_deref(), Some("disk"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_run_restores_maintenance() {
    let folder = folder();
    let fixture = settled(&folder).await;
    fixture.maintenance.request(on("disk")).await.unwrap();
    withdraw_at_once(fixture.registrant, &fixture.state).await;
    assert_eq!(fixture.agent.state().checks, ServiceChecks::default());

    let fixture = settled(&folder).await;
    assert_eq!(held(&fixture).as_deref(), Some("disk"));
    fixture.maintenance.request(MaintenanceRequest::Off).await.unwrap();
    withdraw_at_once(fixture.registrant, &fixture.state).await;
    assert_eq!(held(&settled(&folder).await), None);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_kept_the_app_counts_more_than_the_file() {
    for (saved, at_the_registry) in [(Some("disk"), None), (None, Some("theirs"))] {
        let folder = folder();
        MaintenanceFile::at(maintenance_path(folder.path(), "orders", 8080))
            .write(|| saved.map(str::to_owned))
            .await;
        let fake = FakeAgent::default();
        fake.register(&test_registration()).await.unwrap();
        fake.change(|agent| agent.checks.maintenance = at_the_registry.map(str::to_owned));
        let fixture = next_run(fake, &folder);
        assert_eq!(fixture.state.current().maintenance.as_deref(), saved);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(held(&fixture).as_deref(), at_the_registry);
        assert_eq!(fixture.state.current().maintenance.as_deref(), at_the_registry);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deregistered_app_takes_no_requests() {
    let fixture = settled(&folder()).await;
    fixture.state.set_phase(RegistrationPhase::Left);
    assert_eq!(fixture.maintenance.request(on("disk")).await, Err(MaintenanceError::Leaving));
    assert_eq!(held(&fixture), None);
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_an_earlier_registration_does_not_end_maintenance() {
    let state = RegistrationState::new(RegistrationPhase::AwaitingApp, "orders-1");
    state.load_maintenance(Some("disk".into()));
    state.record_registered();
    let before = state.current();
    state.set_phase(RegistrationPhase::Lost);
    assert!(
        !state.record_maintenance(&before, None),
        "the app is being registered again, and not yet in maintenance"
    );
    state.record_registered();
    assert!(!state.record_maintenance(&before, None));
    assert_eq!(state.current().maintenance.as_deref(), Some("disk"));
    assert!(state.record_maintenance(&state.current(), None));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_old_registration_took_stays_pending_for_the_registration_of_a_reload() {
    let fixture = settled(&folder()).await;
    fixture.state.request_maintenance(on("disk"));
    let before = fixture.state.current();
    fixture.state.start_registration(RegistrationPhase::AwaitingApp, "payments-1");
    assert!(!fixture.state.confirm_maintenance(&before));
    assert_eq!(fixture.state.current().pending_request, Some(on("disk")));
    assert_eq!(fixture.maintenance.send_desired().await, Ok(()), "with the registration");
    assert_eq!((held(&fixture), fixture.state.current().pending_request), (None, Some(on("disk"))));
}

#[tokio::test(start_paused = true)]
async fn maintenance_is_an_event_with_its_origin() {
    let folder = folder();
    let fixture = settled(&folder).await;
    fixture.maintenance.request(on("disk")).await.unwrap();
    fixture.maintenance.request(MaintenanceRequest::Off).await.unwrap();
    fixture.agent.change(|agent| agent.checks.maintenance = Some("by another client".into()));
    sleep(Duration::from_secs(30)).await;
    fixture.agent.change(|agent| agent.checks.maintenance = None);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(
        event_lines(&fixture.events)[1..],
        [
            "maintenance_on: requested: disk",
            "maintenance_off: requested",
            "maintenance_on: at the registry: by another client",
            "maintenance_off: another client ended it",
        ]
    );
}
