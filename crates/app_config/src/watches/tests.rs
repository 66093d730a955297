//! The watches against a KV that the test answers, on a paused clock.

use std::path::Path;

use outrigger_registry::{
    Cursor,
    testing::{PendingKvQuestion, ScriptedKv},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::*;

const WAIT: Duration = Duration::from_secs(45);

fn unix_time() -> Duration {
    Duration::from_secs(2_000_000_000)
}

struct Rig {
    kv: Arc<ScriptedKv>,
    watches: PrefixWatches,
    questions: mpsc::UnboundedReceiver<PendingKvQuestion>,
}

impl Rig {
    fn new(store: PrefixStore) -> Self {
        let (kv, questions) = ScriptedKv::new();
        Self { watches: PrefixWatches::new(kv.clone(), || WAIT, store), kv, questions }
    }

    fn follow(&self, prefixes: &[&str], cache: bool) {
        let prefixes: Vec<_> = prefixes.iter().map(|prefix| prefix.to_string()).collect();
        self.watches.follow(&prefixes, cache);
    }

    async fn question(&mut self) -> PendingKvQuestion {
        let question = timeout(Duration::from_secs(3_600), self.questions.recv()).await;
        question.expect("a question within an hour").unwrap()
    }

    async fn wait_for(&self, prefix: &str, wanted: impl FnMut(&Arc<PrefixView>) -> bool) -> Arc<PrefixView> {
        let mut view = self.watches.view(prefix).unwrap();
        let found = timeout(Duration::from_secs(3_600), view.wait_for(wanted)).await;
        found.expect("such a view within an hour").unwrap().clone()
    }
}

/// `a=1 b=2`
fn text(entries: Option<&Arc<crate::KvEntries>>) -> Option<String> {
    let text = |(key, entry): (&String, &Arc<outrigger_registry::KvEntry>)| {
        format!("{key}={}", String::from_utf8_lossy(&entry.value))
    };
    Some(entries?.iter().map(text).collect::<Vec<_>>().join(" "))
}

fn store(folder: &Path) -> PrefixStore {
    PrefixStore::at(folder, "orders", "a registry", unix_time)
}

#[tokio::test(start_paused = true)]
async fn one_question_about_a_prefix_waits_for_a_change_which_is_seen_at_once() {
    let mut rig = Rig::new(PrefixStore::none());
    rig.follow(&["config/a"], true);
    let view = rig.watches.view("config/a").unwrap();
    assert_eq!((view.borrow().entries.clone(), view.borrow().is_stale()), (None, true));
    let question = rig.question().await;
    assert_eq!((question.prefix.as_str(), question.cursor), ("config/a", Cursor::START));
    question.answer(9, &[("", 3, "x"), ("-secret", 4, "hush"), ("/b", 9, "y")]);
    let view = rig.wait_for("config/a", |view| view.entries.is_some()).await;
    assert_eq!(
        text(view.entries.as_ref()).as_deref(),
        Some("config/a=x config/a/b=y"),
        "and not config/a-secret"
    );
    assert_eq!((view.index, view.is_stale(), view.age(Instant::now())), (9, false, Some(Duration::ZERO)));
    let question = rig.question().await;
    assert_eq!(question.cursor, Cursor::at(9));
    sleep(Duration::from_secs(5)).await;
    let asked = Instant::now();
    question.answer(12, &[("", 12, "z")]);
    let view = rig.wait_for("config/a", |view| view.index == 12).await;
    assert_eq!(asked.elapsed(), Duration::ZERO);
    // What is gone still counts, because it may be written again.
    assert_eq!(text(view.answered.as_ref()).as_deref(), Some("config/a=z"));
    assert_eq!(text(view.entries.as_ref()).as_deref(), Some("config/a=z config/a/b=y"));
    let all = |view: &Arc<PrefixView>| view.entries.as_ref().is_some_and(|entries| entries.len() == 1);
    rig.wait_for("config/a", all).await;
    assert_eq!(asked.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn an_outage_leaves_the_entries_and_their_age_grows() {
    let mut rig = Rig::new(PrefixStore::none());
    rig.follow(&["a/"], true);
    rig.question().await.answer(1, &[("x", 1, "1")]);
    let answered = Instant::now();
    let question = rig.question().await;
    sleep(Duration::from_secs(10)).await;
    question.fail();
    let view = rig.wait_for("a/", |view| view.failure.is_some()).await;
    assert_eq!((text(view.entries.as_ref()).as_deref(), view.is_stale()), (Some("a/x=1"), true));
    assert_eq!(view.age(Instant::now()), Some(answered.elapsed()));
    rig.question().await.answer(1, &[("x", 1, "1")]);
    let view = rig.wait_for("a/", |view| view.failure.is_none()).await;
    assert_eq!((view.is_stale(), view.age(Instant::now())), (false, Some(Duration::ZERO)));
}

#[tokio::test(start_paused = true)]
async fn an_index_that_went_back_begins_the_watch_again() {
    let mut rig = Rig::new(PrefixStore::none());
    rig.follow(&["a/"], true);
    rig.question().await.answer(9, &[("x", 9, "1")]);
    // `ScriptedKv` hands on the cursor that the registry's crate makes of an index that went back.
    rig.question().await.answer(0, &[("x", 2, "0")]);
    // A server may have earlier entries while it reads its log: what the leader has counts.
    let question = rig.question().await;
    assert_eq!(question.cursor, Cursor::START);
    question.answer(4, &[("x", 3, "2")]);
    let view = rig.wait_for("a/", |view| text(view.entries.as_ref()).as_deref() != Some("a/x=1")).await;
    assert_eq!((text(view.entries.as_ref()).as_deref(), view.index), (Some("a/x=2"), 4));
    assert_eq!(rig.question().await.cursor, Cursor::at(4));
}

#[tokio::test(start_paused = true)]
async fn an_empty_prefix_is_known_to_be_empty_and_asked_about_every_half_minute() {
    let mut rig = Rig::new(PrefixStore::none());
    rig.follow(&["a/"], true);
    let question = rig.question().await;
    let at = question.at;
    question.answer(5, &[]);
    let view = rig.wait_for("a/", |view| view.entries.is_some()).await;
    assert_eq!((text(view.entries.as_ref()).as_deref(), view.is_stale()), (Some(""), false));
    let question = rig.question().await;
    assert_eq!(question.cursor, Cursor::START);
    assert!((24..=36).contains(&(question.at - at).as_secs()), "{:?}", question.at - at);
}

#[tokio::test(start_paused = true)]
async fn a_prefix_that_the_token_may_not_read_is_not_an_empty_one() {
    for prefix in ["a/", "a"] {
        let mut rig = Rig::new(PrefixStore::none());
        rig.kv.deny(true);
        rig.follow(&[prefix], true);
        rig.question().await.answer(5, &[]);
        let view = rig.wait_for(prefix, |view| view.failure.is_some()).await;
        assert_eq!(view.entries, None, "{prefix}");
        assert!(view.failure.as_ref().is_some_and(|reason| reason.contains("Permission denied")), "{view:?}");
        rig.kv.deny(false);
        rig.question().await.answer(5, &[]);
        let view = rig.wait_for(prefix, |view| view.entries.is_some()).await;
        assert_eq!((text(view.entries.as_ref()).as_deref(), view.is_stale()), (Some(""), false), "{prefix}");
    }
    // A rule about the keys below it, or about it alone.
    for hidden in ["a", "a/"] {
        let mut rig = Rig::new(PrefixStore::none());
        rig.kv.hide(&[hidden]);
        rig.follow(&["a"], true);
        rig.question().await.answer(5, &[]);
        rig.wait_for("a", |view| view.entries.is_some()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_good_entries_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(store(folder.path()));
    rig.follow(&["a/", "b/"], true);
    for _ in 0..2 {
        rig.question().await.answer(7, &[("x", 7, "1")]);
    }
    // The next question is asked when the file is written.
    for _ in 0..2 {
        rig.question().await;
    }
    while store(folder.path()).load("b/").is_none() || store(folder.path()).load("a/").is_none() {
        sleep(Duration::from_millis(1)).await;
    }
    let mut rig = Rig::new(store(folder.path()));
    rig.follow(&["a/"], true);
    let view = rig.watches.view("a/").unwrap().borrow().clone();
    assert_eq!(
        (text(view.entries.as_ref()).as_deref(), view.index, view.is_stale()),
        (Some("a/x=1"), 7, true)
    );
    assert_eq!(view.answered, None);
    assert_eq!(store(folder.path()).load("b/"), None, "it is not followed any more");
    // An equal answer changes nothing but what is known of its age.
    rig.question().await.answer(7, &[("x", 7, "1")]);
    let view = rig.wait_for("a/", |view| !view.is_stale()).await;
    assert_eq!(text(view.entries.as_ref()).as_deref(), Some("a/x=1"));
    // Without the cache nothing stays there.
    rig.follow(&["a/"], false);
    assert_eq!(store(folder.path()).load("a/"), None);
    assert_eq!(rig.watches.view("a/").unwrap().borrow().entries, None);
    rig.question().await.answer(8, &[("x", 8, "2")]);
    rig.wait_for("a/", |view| view.index == 8).await;
    rig.question().await;
    assert_eq!(store(folder.path()).load("a/"), None);
}

#[tokio::test(start_paused = true)]
async fn other_settings_keep_the_watches_that_they_name_too() {
    let mut rig = Rig::new(PrefixStore::none());
    rig.follow(&["a/", "b/"], true);
    for _ in 0..2 {
        rig.question().await.answer(1, &[("x", 1, "1")]);
    }
    let mut gone = rig.watches.view("b/").unwrap();
    rig.wait_for("a/", |view| view.entries.is_some()).await;
    rig.follow(&["a/", "c/"], true);
    assert!(rig.watches.view("a/").unwrap().borrow().entries.is_some(), "it goes on");
    assert!(rig.watches.view("b/").is_none() && rig.watches.view("c/").is_some());
    let closed = async { while gone.changed().await.is_ok() {} };
    timeout(Duration::from_secs(60), closed).await.expect("the view of what is not followed is closed");
}
