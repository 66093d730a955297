//! What is known of the registry while no service is watched.

use std::time::Duration;

use outrigger_registry::Error;
use tokio::time::{Instant, sleep};

use super::{Rig, list, log_capture::take, settle, unreachable};
use crate::RegistryContact;

fn wrong_token() -> Error {
    let request = "GET /v1/health/service/consul".to_owned();
    Error::Refused { request, status: 403, text: "ACL not found".into(), hint: None }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_cannot_be_used_is_known_and_logged_at_the_start() {
    for (error, text) in [(unreachable(), "refused by the test"), (wrong_token(), "ACL not found")] {
        take();
        let mut rig = Rig::new();
        assert_eq!(rig.discovery.contact(), RegistryContact::default(), "nothing is claimed");
        rig.discovery.start_contact_check();
        rig.next().await.fail(error);
        settle().await;
        let contact = rig.discovery.contact();
        assert!(contact.answered_ago.is_none() && contact.error.is_some_and(|why| why.contains(text)));
        let logged = take();
        let [line] = &logged[..] else { panic!("not one line: {logged:?}") };
        let message = "the registry has given no usable answer since the start";
        assert!(line.starts_with("WARN") && line.contains(text) && line.contains(message), "{line}");
        assert!(!line.contains("service=") && !line.contains("never"), "{line}");

        // It is asked again within seconds, and what it does then is known.
        let failed_at = Instant::now();
        rig.next().await.answer(list(7, &[]));
        assert!(failed_at.elapsed() < Duration::from_secs(1), "{:?}", failed_at.elapsed());
        settle().await;
        assert_eq!(rig.discovery.contact().error, None);
        assert!(rig.discovery.contact().answered_ago.is_some());
        assert!(take().iter().any(|line| line.contains("the registry answers again")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_watched_is_asked_for_instead() {
    let mut rig = Rig::new();
    let (follower, asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    rig.discovery.start_contact_check();
    sleep(Duration::from_secs(10)).await;
    assert!(rig.asked.try_recv().is_err(), "the watch suffices");
    assert_eq!(rig.discovery.contact().answered_ago.map(|ago| ago.as_secs()), Some(10));
    asked.fail(unreachable());
    sleep(Duration::from_secs(2)).await;
    assert!(rig.discovery.contact().error.is_some());
    drop(follower);
    sleep(Duration::from_secs(2)).await;
    let mut last = rig.next().await;
    while *last.query.service != *"consul" {
        last = rig.next().await;
    }
    last.answer(list(9, &[]));
    settle().await;
    assert_eq!(rig.discovery.contact().error, None);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_answers_at_once_is_asked_every_few_seconds_only() {
    let mut rig = Rig::new();
    rig.discovery.start_contact_check();
    let from = Instant::now();
    for _ in 0..10 {
        rig.next().await.answer(list(7, &[]));
    }
    assert!(from.elapsed() >= Duration::from_secs(40), "{:?}", from.elapsed());
}
