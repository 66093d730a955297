//! Every answer of a question, against an agent in memory on a paused clock.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{
    super::testing::{AgentCall, AgentState, CHECK_OUTPUT, FakeAgent, own_check, registration},
    *,
};
use crate::{Registrar as _, ReportedHealth};

/// An agent that holds what was announced, and what was seen of it.
async fn announced() -> (Arc<FakeAgent>, Seen) {
    let (agent, mut seen) = (Arc::new(FakeAgent::default()), Seen::default());
    agent.announce(&registration(), &mut seen).await.unwrap();
    assert_eq!(
        ask_once(&agent, &mut seen).await,
        (Drift::None, Duration::ZERO),
        "the first answer comes at once"
    );
    (agent, seen)
}

/// The answer, and the time until it came.
async fn ask_once(agent: &Arc<FakeAgent>, seen: &mut Seen) -> (Drift, Duration) {
    let (from, ours) = (Instant::now(), registration());
    let drift = agent.clone().drift(&ours, seen).await.unwrap();
    (drift, from.elapsed())
}

/// The answer after `change`, which is made while the question waits.
async fn drift_after(change: impl FnOnce(&mut AgentState)) -> Drift {
    let (agent, mut seen) = announced().await;
    let change = async {
        sleep(Duration::from_secs(1)).await;
        agent.change(change);
    };
    tokio::join!(ask_once(&agent, &mut seen), change).0.0
}

#[tokio::test(start_paused = true)]
async fn before_the_announcement_the_answer_comes_at_once_and_corrects_nothing() {
    let (agent, mut seen) = (Arc::new(FakeAgent::default()), Seen::default());
    assert_eq!(ask_once(&agent, &mut seen).await, (Drift::Forgotten, Duration::ZERO));
    agent.register(&registration()).await.unwrap();
    agent.change(|agent| agent.checks.others.push("theirs".into()));
    for _ in 0..3 {
        assert_eq!(ask_once(&agent, &mut seen).await, (Drift::None, Duration::ZERO));
    }
    agent.change(|agent| agent.checks.maintenance = Some("disk".into()));
    assert_eq!(ask_once(&agent, &mut seen).await.0, Drift::Maintenance(Some("disk".into())));
    seen.maintenance = Some("disk".into());
    assert_eq!(ask_once(&agent, &mut seen).await.0, Drift::None);
    // The maintenance of a registration that is not this program's.
    agent.change(|agent| (agent.checks.own, seen.maintenance) = (None, None));
    assert_eq!(ask_once(&agent, &mut seen).await.0, Drift::None);
    let calls: Vec<_> = agent.state().calls.iter().map(|(_, call)| call.clone()).collect();
    assert_eq!(calls, [AgentCall::Register]);
}

#[tokio::test(start_paused = true)]
async fn a_question_waits_for_a_difference_and_at_last_finds_none() {
    let (agent, mut seen) = announced().await;
    assert_eq!(ask_once(&agent, &mut seen).await, (Drift::None, MAX_QUERY_WAIT));
    seen.ask_at_once();
    assert_eq!(ask_once(&agent, &mut seen).await, (Drift::None, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn every_difference_has_its_answer() {
    let change = |change: fn(&mut AgentService)| {
        drift_after(move |agent: &mut AgentState| {
            let held = agent.held.as_mut().unwrap();
            change(held);
            held.content_hash = "another".into();
        })
    };
    assert_eq!(change(|held| held.port = 1).await, Drift::Changed);
    assert_eq!(change(|held| held.meta.clear()).await, Drift::Changed, "the mark belongs to it");
    assert_eq!(drift_after(AgentState::wipe).await, Drift::Forgotten);
    assert_eq!(drift_after(|agent| agent.checks.own = None).await, Drift::Forgotten);
    let maintained = drift_after(|agent| agent.checks.maintenance = Some("disk".into())).await;
    assert_eq!(maintained, Drift::Maintenance(Some("disk".into())));

    let (agent, mut seen) = announced().await;
    agent.rotate_credentials();
    assert_eq!(ask_once(&agent, &mut seen).await, (Drift::Credentials, Duration::ZERO));
    assert!(seen.has_new_credentials());
    agent.announce(&registration(), &mut seen).await.unwrap();
    assert!(!seen.has_new_credentials());
    assert_eq!(ask_once(&agent, &mut seen).await.0, Drift::None);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_another_client_sets_is_a_change_once_a_report_was_seen() {
    let foreign = || Some(own_check(ReportedHealth::Critical, "connection refused"));
    let (agent, mut seen) = announced().await;
    agent.change(|agent| agent.checks.own = foreign());
    assert_eq!(ask_once(&agent, &mut seen).await.0, Drift::None, "an earlier run may have left it");
    agent.update_check("orders-1", ReportedHealth::Passing, CHECK_OUTPUT).await.unwrap();
    assert_eq!(ask_once(&agent, &mut seen).await.0, Drift::None);
    agent.change(|agent| agent.checks.own = foreign());
    assert_eq!(ask_once(&agent, &mut seen).await.0, Drift::Changed);
    assert_eq!(agent.state().checks.own, None, "the registration makes it anew");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_the_catalog_lost_is_unlisted_although_each_question_is_short() {
    let (agent, mut seen) = announced().await;
    assert_eq!(ask_once(&agent, &mut seen).await.0, Drift::None);
    let requests = agent.state().list_requests;
    for _ in 0..4 {
        assert_eq!(ask_once(&agent, &mut seen).await.0, Drift::None);
    }
    assert!(agent.state().list_requests - requests <= 1, "the query of the catalog outlasts a question");
    agent.change(|agent| agent.unlisted = true);
    let from = Instant::now();
    let unlisted = async { while ask_once(&agent, &mut seen).await.0 != Drift::Unlisted {} };
    timeout(Duration::from_secs(20), unlisted).await.unwrap();
    assert!(from.elapsed() >= Duration::from_secs(5), "{:?}", from.elapsed());
}
