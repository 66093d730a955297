//! The cached answer from before a restart, and how long it is served.

use std::{sync::Arc, time::Duration};

use outrigger_registry::{Consistency, Cursor};
use tokio::time::{Instant, sleep, timeout};

use super::{PendingQuery, Rig, ids, list, log_capture, settle, unreachable};
use crate::{DiskCache, Follower, Knowledge};

const REGISTRY: &str = "consul http://127.0.0.1:8500";

/// A folder with a cache in which `orders` has these instances at index 100.
async fn cache_with_orders(instances: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::with_cache(DiskCache::open(folder.path(), "test", REGISTRY));
    let (_follower, _asked) = rig.follow_and_answer("orders", list(100, instances)).await;
    rig.discovery.shutdown().await;
    folder
}

/// Restarts with that cache; the first query is pending.
async fn restart(folder: &tempfile::TempDir) -> (Rig, Follower, PendingQuery) {
    let mut rig = Rig::with_cache(DiskCache::open(folder.path(), "test", REGISTRY));
    let follower = rig.follow("orders");
    let asked = rig.next().await;
    (rig, follower, asked)
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_is_used_instead_of_the_cache() {
    let folder = cache_with_orders(&["a", "b"]).await;
    let (mut rig, mut follower, asked) = restart(&folder).await;
    assert_eq!((follower.snapshot().knowledge, ids(&follower).len()), (Knowledge::Unasked, 0));
    asked.answer(list(101, &["a", "c"]));
    let snapshot = follower.changed().await;
    assert_eq!((snapshot.version, snapshot.knowledge), (1, Knowledge::Answered));
    assert_eq!(ids(&follower), ["a", "c"]);
    assert_eq!(rig.next().await.cursor, Cursor::at(101));
}

#[tokio::test(start_paused = true)]
async fn the_cache_is_served_as_soon_as_the_first_query_fails() {
    log_capture::take();
    let folder = cache_with_orders(&["a", "b"]).await;
    let (rig, mut follower, asked) = restart(&folder).await;
    let start = Instant::now();
    asked.fail(unreachable());
    follower.first_answer().await;
    let snapshot = follower.changed().await;
    assert!(start.elapsed() < Duration::from_millis(10));
    assert_eq!((snapshot.version, snapshot.knowledge), (1, Knowledge::Remembered));
    assert_eq!(ids(&follower), ["a", "b"]);
    let status = follower.status();
    assert_eq!((status.knowledge, status.index), (Knowledge::Remembered, 100));
    assert!(follower.ever_had_instances() && status.confirmed_ago.is_some() && status.learned_ago.is_some());
    assert!(rig.metric("outrigger_table_age_seconds{datacenter=\"\",service=\"orders\"}").is_some());
    let logged = log_capture::take();
    let count = |text: &str| logged.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("serving what was known before the restart"), 1, "{logged:?}");
    // The answers from before the restart are none of this process's registry.
    assert_eq!(count("the registry has given no usable answer since the start"), 1, "{logged:?}");
    assert_eq!(count("going on with its last answers"), 0, "{logged:?}");
}

#[tokio::test(start_paused = true)]
async fn the_cache_is_served_while_the_registry_is_silent_until_it_answers() {
    let folder = cache_with_orders(&["a", "b"]).await;
    let (_rig, mut follower, asked) = restart(&folder).await;
    let start = Instant::now();
    assert_eq!(follower.changed().await.knowledge, Knowledge::Remembered);
    assert_eq!(start.elapsed().as_millis(), 250);
    sleep(Duration::from_secs(5)).await;
    asked.answer(list(101, &["a", "b"]));
    let snapshot = follower.changed().await;
    assert_eq!(
        (snapshot.version, snapshot.knowledge),
        (2, Knowledge::Answered),
        "the same instances, confirmed"
    );
    assert_eq!(follower.status().confirmed_ago, Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_suspect_first_answer_is_compared_with_the_cache() {
    for silent_before in [false, true] {
        let folder = cache_with_orders(&["a", "b"]).await;
        let (mut rig, follower, mut asked) = restart(&folder).await;
        rig.liveness.set_accepting(&["a"]);
        if silent_before {
            asked.fail(unreachable());
            asked = rig.next().await;
        }
        asked.answer(list(101, &[]));
        let asked = rig.next().await;
        assert_eq!(asked.consistency, Consistency::Consistent);
        assert_eq!((ids(&follower), follower.snapshot().knowledge), (vec!["a".into()], Knowledge::Answered));
        assert_eq!(follower.status().suspects.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_index_lower_than_the_cached_one_is_an_index_that_went_back() {
    let folder = cache_with_orders(&["a", "b", "c"]).await;
    let (mut rig, follower, asked) = restart(&folder).await;
    rig.liveness.set_accepting(&["a", "b", "c"]);
    asked.answer(list(12, &["a", "b"]));
    let asked = rig.next().await;
    assert_eq!((ids(&follower).len(), asked.consistency), (3, Consistency::Consistent));
    assert_eq!(rig.metric("outrigger_watch_index_resets_total"), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_never_followed_is_not_in_the_cache() {
    let folder = cache_with_orders(&["a"]).await;
    let mut rig = Rig::with_cache(DiskCache::open(folder.path(), "test", REGISTRY));
    let follower = rig.follow("payments");
    rig.next().await.fail(unreachable());
    settle().await;
    assert_eq!(follower.snapshot().knowledge, Knowledge::Unasked);
    assert!(timeout(Duration::from_secs(9), follower.first_answer()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_empty_at_the_end_is_not_in_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::with_cache(DiskCache::open(folder.path(), "test", REGISTRY));
    let (_follower, asked) = rig.follow_and_answer("orders", list(100, &["a"])).await;
    sleep(Duration::from_secs(3)).await;
    asked.answer(list(101, &[]));
    rig.next().await;
    rig.discovery.shutdown().await;
    drop(rig);
    let (_rig, follower, asked) = restart(&folder).await;
    asked.fail(unreachable());
    settle().await;
    assert_eq!(follower.snapshot().knowledge, Knowledge::Unasked);
}

/// A folder with a cache in which both instances of `orders` are presumed gone since `ago`: the registry
/// insisted that they are gone while they still answered.
async fn cache_after_presumed_loss(ago: Duration) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::with_cache(DiskCache::open(folder.path(), "test", REGISTRY));
    let (follower, asked) = rig.follow_and_answer("orders", list(100, &["a", "b"])).await;
    rig.liveness.set_accepting(&["a", "b"]);
    asked.answer(list(100, &[]));
    let mut asked = rig.next().await;
    while !ids(&follower).is_empty() {
        asked.answer(list(100, &[]));
        asked = rig.next().await;
    }
    sleep(ago).await;
    rig.discovery.shutdown().await;
    folder
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_restarted_while_the_registry_is_wrong_suspects_the_loss_again() {
    let folder = cache_after_presumed_loss(Duration::from_secs(60)).await;
    let (mut rig, follower, asked) = restart(&folder).await;
    rig.liveness.set_accepting(&["a", "b"]);
    let start = Instant::now();
    asked.answer(list(100, &[]));
    let mut asked = rig.next().await;
    while asked.consistency == Consistency::Consistent {
        assert_eq!(ids(&follower), ["a", "b"], "after {:?}", start.elapsed());
        asked.answer(list(100, &[]));
        asked = rig.next().await;
    }
    assert!((10_000..10_800).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_restarted_after_a_presumed_loss_serves_while_the_registry_is_silent() {
    let folder = cache_after_presumed_loss(Duration::from_secs(60)).await;
    let (_rig, follower, asked) = restart(&folder).await;
    asked.fail(unreachable());
    settle().await;
    assert_eq!((ids(&follower), follower.status().index), (vec!["a".into(), "b".into()], 100));
}

#[tokio::test(start_paused = true)]
async fn instances_presumed_gone_long_ago_are_not_in_the_cache() {
    let folder = cache_after_presumed_loss(Duration::from_secs(601)).await;
    let (_rig, follower, asked) = restart(&folder).await;
    asked.fail(unreachable());
    settle().await;
    assert_eq!(follower.snapshot().knowledge, Knowledge::Unasked);
}

#[tokio::test(start_paused = true)]
async fn the_cache_survives_a_process_that_did_not_use_it() {
    let folder = cache_with_orders(&["a"]).await;
    for _ in 0..2 {
        let mut rig = Rig::with_cache(DiskCache::open(folder.path(), "test", REGISTRY));
        let (_follower, _asked) = rig.follow_and_answer("payments", list(5, &["p"])).await;
        rig.discovery.shutdown().await;
    }
    let (_rig, follower, asked) = restart(&folder).await;
    asked.fail(unreachable());
    settle().await;
    assert_eq!(ids(&follower), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_on_disk_after_a_second_without_a_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::with_cache(DiskCache::open(folder.path(), "test", REGISTRY));
    let (_follower, asked) = rig.follow_and_answer("orders", list(100, &["a"])).await;
    let file = folder.path().join("test.state");
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    wait_until(|| text().contains("\"a\"")).await;
    let before = text();
    asked.answer(list(101, &["a", "b"]));
    wait_until(|| text() != before).await;
    assert!(text().contains("\"b\""));
    drop(rig);
}

#[tokio::test(start_paused = true)]
async fn the_file_is_written_once_a_second_at_most() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::with_cache(DiskCache::open(folder.path(), "test", REGISTRY));
    let file = folder.path().join("test.state");
    let (mut followers, mut writes, mut last) = (Vec::new(), Vec::new(), None);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        let service = format!("s{}", followers.len());
        followers.push(rig.follow_and_answer(&service, list(100, &["a"])).await);
        // The paused clock does not advance while a thread works: a write that has begun ends within this sleep.
        sleep(Duration::from_millis(100)).await;
        let seen = std::fs::metadata(&file).ok().map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec()));
        if seen != last {
            writes.push(start.elapsed());
            last = seen;
        }
    }
    assert!((3..=5).contains(&writes.len()), "{} changes: {writes:?}", followers.len());
}

/// Waits in real time too, because a thread writes the file and the paused clock does not wait for it.
async fn wait_until(done: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    }
    panic!("nothing was written");
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_cannot_be_used_does_not_stop_discovery() {
    let folder = tempfile::tempdir().unwrap();
    let taken = Arc::new(DiskCache::open(folder.path(), "test", REGISTRY));
    let mut rig = Rig::with_cache(DiskCache::open(folder.path(), "test", REGISTRY));
    let (follower, _asked) = rig.follow_and_answer("orders", list(100, &["a"])).await;
    assert_eq!(ids(&follower), ["a"]);
    rig.discovery.shutdown().await;
    assert!(!folder.path().join("test.state").exists());
    drop(taken);
}

#[tokio::test(start_paused = true)]
async fn a_service_followed_again_within_one_process_is_served_from_the_cache_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::with_cache(DiskCache::open(folder.path(), "test", REGISTRY));
    let (follower, asked) = rig.follow_and_answer("orders", list(100, &["a"])).await;
    drop((follower, asked));
    settle().await;
    sleep(Duration::from_secs(600)).await;
    let follower = rig.follow("orders");
    rig.next().await.fail(unreachable());
    settle().await;
    assert_eq!((ids(&follower), follower.snapshot().knowledge), (vec!["a".into()], Knowledge::Remembered));
    assert!(follower.status().confirmed_ago >= Some(Duration::from_secs(600)));
}
