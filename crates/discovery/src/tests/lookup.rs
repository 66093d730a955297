//! Host names are looked up again when a follower asks for it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use outrigger_registry::{
    AnswerFuture, Consistency, Cursor, Instance, LookupFuture, Query, Registry, WatchAnswer,
};
use tokio::time::{Instant, sleep};

use super::*;

/// A registry that lists a host name. The address of the name changes with every look-up.
#[derive(Debug)]
struct Moving {
    registry: Arc<ScriptedRegistry>,
    looked_up: Arc<Mutex<Vec<Instant>>>,
}

impl Registry for Moving {
    fn watch<'a>(
        &'a self,
        query: &'a Query,
        cursor: Cursor,
        consistency: Consistency,
        wait: Duration,
    ) -> AnswerFuture<'a, WatchAnswer> {
        self.registry.watch(query, cursor, consistency, wait)
    }

    fn longest_wait(&self) -> Duration {
        self.registry.longest_wait()
    }

    fn look_up_again<'a>(&'a self, instances: &'a [Instance]) -> LookupFuture<'a> {
        let mut looked_up = self.looked_up.lock().unwrap();
        looked_up.push(Instant::now());
        let port = u16::try_from(looked_up.len()).unwrap();
        let moved =
            instances.iter().map(|one| Instance { addr: Ok(([10, 0, 0, 1], port).into()), ..one.clone() });
        let moved = moved.collect();
        Box::pin(async move {
            sleep(Duration::from_millis(200)).await;
            Some(moved)
        })
    }
}

fn rig() -> (Rig, Arc<Mutex<Vec<Instant>>>) {
    let looked_up = Arc::new(Mutex::default());
    let times = looked_up.clone();
    let rig = Rig::of(|registry, metrics, _| {
        let registry = Arc::new(Moving { registry, looked_up: times });
        let settings = outrigger_config::DiscoverySettings::default();
        Discovery::new(registry, settings, Handle::current(), metrics)
    });
    (rig, looked_up)
}

fn port(follower: &Follower) -> u16 {
    follower.snapshot().instances[0].addr.as_ref().unwrap().port()
}

#[tokio::test(start_paused = true)]
async fn a_requested_look_up_is_published_while_the_watch_waits_and_made_once_a_second() {
    let (mut rig, looked_up) = rig();
    let (follower, pending) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    for _ in 0..100 {
        follower.request_lookup();
        sleep(Duration::from_millis(100)).await;
    }
    let times = looked_up.lock().unwrap().clone();
    assert!((8..=10).contains(&times.len()), "{} in ten seconds", times.len());
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(1)), "{times:?}");
    assert_eq!(usize::from(port(&follower)), times.len());
    assert!(!pending.is_cancelled(), "the registry is not asked again for it");
    let idle = Duration::from_secs(30);
    sleep(idle).await;
    assert!(looked_up.lock().unwrap().len() <= times.len() + 1, "only on request");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_during_a_look_up_is_kept() {
    let (mut rig, looked_up) = rig();
    let (follower, pending) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    follower.request_lookup();
    sleep(Duration::from_millis(100)).await;
    pending.answer(list(8, &["b"]));
    sleep(Duration::from_millis(500)).await;
    assert_eq!((looked_up.lock().unwrap().len(), ids(&follower)), (1, vec!["b".to_owned()]));
    assert_eq!(port(&follower), addr("b").port());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_looked_up_before_the_first_answer() {
    let (mut rig, looked_up) = rig();
    let follower = rig.follow("orders");
    follower.request_lookup();
    rig.next().await.fail(unreachable());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(looked_up.lock().unwrap().len(), 0);
}
