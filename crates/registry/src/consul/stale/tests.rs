//! Which registrations are stale, against a fake agent on a paused clock.

use std::collections::BTreeMap;

use tokio::time::{Instant, timeout};

use super::{
    super::{
        agent::CHECK_OUTPUT,
        agent_api::OwnCheck,
        testing::{AgentCall, FakeAgent, registration},
    },
    *,
};
use crate::{Claim, ReportedHealth};

/// From one report of a running sidecar to the next.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);

fn ours() -> Registration {
    let id = "orders-new-8080".into();
    let ours = Registration { id, address: Some("10.0.0.5".into()), tags: Vec::new(), ..registration() };
    with_mark(&ours, &RunMark::new(&Claim::default(), None))
}

/// A registration that an earlier version left.
fn left() -> AgentService {
    AgentService {
        id: "orders-old-8080".into(),
        name: "orders".into(),
        address: Some("10.0.0.5".into()),
        port: 8080,
        tags: vec!["old".into()],
        meta: [(OWNER_KEY.to_owned(), "0.0.1".to_owned())].into(),
        weights: Default::default(),
        enable_tag_override: false,
        content_hash: String::new(),
    }
}

fn check(as_made: bool) -> Option<OwnCheck> {
    let (id, output) = ("service:orders-old-8080".into(), CHECK_OUTPUT.into());
    Some(OwnCheck { id, has_our_name: as_made, health: ReportedHealth::Warning, output, ttl_expired: false })
}

/// Whether the removal removes the registration.
async fn removes_stale(agent: &Arc<FakeAgent>, ours: Registration) -> bool {
    let mut removal = StaleRemoval::default();
    // Each turn is cut, as a question about the agent cuts it.
    while !matches!(removal, StaleRemoval::Done) {
        let _ = timeout(Duration::from_secs(5), removal.run(agent, &ours)).await;
    }
    agent.state().held.is_none()
}

#[tokio::test(start_paused = true)]
async fn only_a_marked_registration_with_another_id_at_the_same_address_and_port_removes_stale() {
    type ServiceChange = fn(&mut AgentService);
    let cases: [(&str, ServiceChange, Option<OwnCheck>, bool); 10] = [
        ("left by an earlier version", |_| {}, check(true), true),
        ("left under another name", |held| held.name = "payments".into(), check(true), true),
        ("the own id", |held| held.id = "orders-new-8080".into(), check(true), false),
        ("another port", |held| held.port = 8081, check(true), false),
        ("another address", |held| held.address = Some("10.0.0.6".into()), check(true), false),
        ("the agent's address", |held| held.address = None, check(true), false),
        ("without the mark", |held| held.meta.clear(), check(true), false),
        ("with other metadata", |held| held.meta = [("a".into(), "b".into())].into(), check(true), false),
        ("with the mark, without a check", |_| {}, None, false),
        ("with the mark and a foreign check", |_| {}, check(false), false),
    ];
    for (what, change, own, expected) in cases {
        let mut held = left();
        change(&mut held);
        let agent = FakeAgent::holding(held, own.clone());
        assert_eq!(removes_stale(&agent, ours()).await, expected, "{what}");
        let health = own.map(|own| own.health);
        for (_, call) in &agent.state().calls {
            let kept = !matches!(call, AgentCall::Report(reported, _) if Some(*reported) != health);
            assert!(kept, "{what}: the challenge keeps the health of the check: {call:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_is_renewed_stays() {
    let agent = FakeAgent::holding(left(), check(true));
    let registrant = tokio::spawn({
        let agent = agent.clone();
        async move {
            loop {
                sleep(RENEW_INTERVAL).await;
                let _ = agent.update_check("orders-old-8080", ReportedHealth::Passing, CHECK_OUTPUT).await;
            }
        }
    });
    let from = Instant::now();
    assert!(!removes_stale(&agent, ours()).await);
    assert!(from.elapsed() >= RENEW_INTERVAL, "a renewal has time to arrive");
    registrant.abort();
    assert!(removes_stale(&agent, ours()).await, "removed when the renewals end");
}

#[tokio::test(start_paused = true)]
async fn no_address_and_an_empty_one_are_the_same() {
    let mut held = left();
    held.address = Some(String::new());
    let agent = FakeAgent::holding(held, check(true));
    assert!(removes_stale(&agent, Registration { address: None, ..ours() }).await);
}

#[test]
fn settings_with_the_key_or_with_all_pairs_get_no_mark() {
    let taken: BTreeMap<_, _> = [(OWNER_KEY.to_owned(), "mine".to_owned())].into();
    let taken = with_mark(&Registration { meta: taken, ..ours() }, &RunMark::new(&Claim::default(), None));
    assert_eq!(taken.meta[OWNER_KEY], "mine");
    assert!(!is_candidate(&left(), &taken));

    let full: BTreeMap<_, _> = (0..MAX_META_PAIRS).map(|n| (format!("k{n}"), String::new())).collect();
    let full = with_mark(&Registration { meta: full, ..ours() }, &RunMark::new(&Claim::default(), None));
    assert_eq!(full.meta.len(), MAX_META_PAIRS);
    assert!(!is_candidate(&left(), &full));
}
