//! The follower against a KV that the test answers, on a paused clock.

use outrigger_config::{AppliedDocuments, Environment, LoadedConfig, Overrides, load};
use outrigger_registry::{
    Cursor,
    testing::{PendingKvQuestion, ScriptedKv},
};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::*;

const WAIT: Duration = Duration::from_secs(45);

/// A sidecar's settings, and a follower.
struct Rig {
    questions: mpsc::UnboundedReceiver<PendingKvQuestion>,
    applied: mpsc::UnboundedReceiver<(Instant, AppliedDocuments)>,
    signals: FollowerSignals,
    kv: Arc<ScriptedKv>,
    /// How many applications fail.
    failing: Arc<Mutex<u32>>,
    /// The next application takes this time.
    slow: Arc<Mutex<Duration>>,
    task: JoinHandle<()>,
}

fn settings() -> LoadedConfig {
    let text = "service: {name: shop, port: 80}\ndynamic_config: {prefix: team/outrigger}\n";
    load(Some(("o.yaml", text)), &Environment::default(), &Overrides::default()).unwrap()
}

impl Rig {
    fn start(store: DocumentStore) -> (Self, Vec<DocumentVersions>) {
        let (kv, questions) = ScriptedKv::new();
        let follower =
            DocumentFollower::open(kv.clone(), || WAIT, "team/outrigger", store, DocumentSaver::default());
        let stored = follower.documents();
        let (apply, applied) = mpsc::unbounded_channel();
        let signals = FollowerSignals {
            again: Arc::default(),
            stop: CancellationToken::new(),
            first_answer: watch::Sender::new(FirstAnswer::Pending),
        };
        let failing = Arc::new(Mutex::new(0));
        let slow = Arc::new(Mutex::new(Duration::ZERO));
        let (fail, wait) = (failing.clone(), slow.clone());
        let base = settings();
        let task = tokio::spawn(follower.run(signals.clone(), move |followed| {
            let FollowedDocuments { documents, .. } = followed;
            let takes = std::mem::take(&mut *wait.lock());
            let failing: u32 = std::mem::replace(&mut *fail.lock(), 0);
            *fail.lock() = failing.saturating_sub(1);
            let result = (failing == 0).then(|| base.with_documents(&documents, "shop-1"));
            if let Some(result) = &result {
                let _ = apply.send((Instant::now(), result.clone()));
            }
            async move {
                sleep(takes).await;
                result.map(|result| result.documents)
            }
        }));
        (Self { questions, applied, signals, kv, failing, slow, task }, stored)
    }

    async fn question(&mut self) -> PendingKvQuestion {
        let question = timeout(Duration::from_secs(3_600), self.questions.recv()).await;
        question.expect("a question within an hour").unwrap()
    }

    /// The time-out of the defaults after the next application, and when it was.
    async fn applied(&mut self) -> (Instant, AppliedDocuments) {
        timeout(Duration::from_secs(3_600), self.applied.recv())
            .await
            .expect("applied within an hour")
            .unwrap()
    }

    async fn applied_timeout(&mut self) -> u64 {
        self.applied().await.1.loaded.config.defaults.timeout.as_secs()
    }

    async fn assert_nothing_is_applied_for(&mut self, time: Duration) {
        assert!(timeout(time, self.applied.recv()).await.is_err(), "something was applied");
    }

    fn restart(self, store: DocumentStore) -> (Self, Vec<DocumentVersions>) {
        self.task.abort();
        Self::start(store)
    }
}

#[tokio::test(start_paused = true)]
async fn one_question_about_the_prefix_waits_for_a_change_which_is_applied_at_once() {
    let (mut rig, stored) = Rig::start(DocumentStore::none());
    assert_eq!(stored, []);
    let question = rig.question().await;
    assert_eq!((question.prefix.as_str(), question.cursor), ("team/outrigger/settings/", Cursor::START));
    question.answer(
        9,
        &[(".outrigger", 1, ""), ("services/", 2, ""), ("", 3, ""), ("defaults", 9, "timeout: 9s")],
    );
    let (_, first) = rig.applied().await;
    assert_eq!(first.documents.len(), 1);
    assert_eq!(
        first.loaded.origins.get("defaults.timeout").to_string(),
        "kv:team/outrigger/settings/defaults@9"
    );
    let question = rig.question().await;
    assert_eq!(question.cursor, Cursor::at(9));
    sleep(Duration::from_secs(5)).await;
    let at = Instant::now();
    question.answer(12, &[("defaults", 12, "timeout: 12s")]);
    let (applied_at, second) = rig.applied().await;
    assert_eq!((applied_at, second.loaded.config.defaults.timeout.as_secs()), (at, 12));
    // Changes that follow each other at once are gathered, and so are the questions.
    for n in 20..24 {
        let question = rig.question().await;
        question.answer(n, &[("defaults", n, &format!("timeout: {n}s"))]);
    }
    let (mut applications, mut last) = (0, 0);
    while last != 23 {
        last = rig.applied_timeout().await;
        applications += 1;
    }
    assert!(
        applications <= 4 && at.elapsed() >= Duration::from_millis(300),
        "{applications} in {:?}",
        at.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_prefix_is_asked_about_every_half_minute_without_waiting() {
    let (mut rig, _) = Rig::start(DocumentStore::none());
    let mut before = rig.question().await;
    let mut pauses = Vec::new();
    for index in 5..15 {
        let at = before.at;
        before.answer(index, &[]);
        before = rig.question().await;
        assert_eq!(
            before.cursor,
            Cursor::START,
            "a question that waits is answered at every write of the cluster"
        );
        pauses.push(before.at - at);
    }
    let range = Duration::from_secs(24)..=Duration::from_secs(36);
    assert!(pauses.iter().all(|pause| range.contains(pause)), "{pauses:?}");
    assert!(pauses.iter().any(|pause| *pause != pauses[0]), "all sidecars would ask at once: {pauses:?}");
    assert_eq!(rig.applied_timeout().await, 15, "after the first answer, which has nothing");
    before.answer(20, &[("defaults", 20, "timeout: 20s")]);
    assert_eq!(rig.applied_timeout().await, 20);
    assert_eq!(rig.question().await.cursor, Cursor::at(20));
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_is_deleted_is_asked_about_until_it_is_believed_or_written_again() {
    let (mut rig, _) = Rig::start(DocumentStore::none());
    let all = [("defaults", 1, "timeout: 1s"), ("services/a", 2, "timeout: 2s")];
    rig.question().await.answer(2, &all);
    assert_eq!(rig.applied_timeout().await, 1);
    let question = rig.question().await;
    let deleted_at = Instant::now();
    question.answer(3, &[]);
    // Written again after 600 ms: nothing changes but the index.
    while deleted_at.elapsed() < Duration::from_millis(600) {
        rig.question().await.answer(3, &[]);
    }
    let again = [("defaults", 7, "timeout: 1s"), ("services/a", 8, "timeout: 2s")];
    rig.question().await.answer(8, &again);
    assert_eq!(rig.applied_timeout().await, 1);
    // Deleted for good.
    let question = rig.question().await;
    let deleted_at = Instant::now();
    question.answer(9, &[]);
    let (applied_at, applied) = loop {
        tokio::select! {
            biased;
            applied = rig.applied.recv() => break applied.unwrap(),
            question = rig.questions.recv() => question.unwrap().answer(9, &[]),
        }
    };
    assert_eq!(applied_at - deleted_at, Duration::from_secs(1));
    assert_eq!(applied.loaded, settings(), "as before the first document");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_may_no_longer_read_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = || DocumentStore::at(folder.path(), "shop-80", "consul");
    let (mut rig, _) = Rig::start(store());
    rig.question().await.answer(1, &[("defaults", 1, "timeout: 1s")]);
    assert_eq!(rig.applied_timeout().await, 1);
    let question = rig.question().await;
    for denied_at in [Some(question), None] {
        rig.kv.deny(true);
        if let Some(question) = denied_at {
            question.answer(2, &[]);
        }
        for _ in 0..20 {
            rig.question().await.answer(2, &[]);
        }
        rig.assert_nothing_is_applied_for(Duration::from_millis(1)).await;
        // Nor at a start.
        (rig, _) = rig.restart(store());
    }
    rig.kv.deny(false);
    rig.question().await.answer(2, &[]);
    assert_eq!(rig.applied_timeout().await, 1, "after the first answer of this run");
    let gone = loop {
        tokio::select! {
            biased;
            applied = rig.applied.recv() => break applied.unwrap().1,
            question = rig.questions.recv() => question.unwrap().answer(2, &[]),
        }
    };
    assert_eq!(gone.loaded, settings());
}

#[tokio::test(start_paused = true)]
async fn a_document_that_the_token_may_no_longer_read_keeps_its_version() {
    let (mut rig, _) = Rig::start(DocumentStore::none());
    let (mine, theirs) = (("services/a", 1, "timeout: 1s"), ("services/b", 2, "timeout: 2s"));
    rig.question().await.answer(2, &[mine, theirs, ("services/c", 2, "timeout: 3s")]);
    let tuned = |applied: &AppliedDocuments| {
        let tuned = applied.loaded.config.tuned.iter();
        tuned.map(|one| (one.service.clone(), one.policy.timeout.as_secs())).collect::<Vec<_>>()
    };
    let of = |all: &[(&str, u64)]| all.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect::<Vec<_>>();
    assert_eq!(tuned(&rig.applied().await.1), of(&[("a", 1), ("b", 2), ("c", 3)]));
    // One is hidden, another one is deleted at the same time.
    rig.kv.hide(&["team/outrigger/settings/services/b"]);
    rig.question().await.answer(3, &[mine]);
    let question = rig.question().await;
    assert_eq!(question.cursor, Cursor::at(3), "the rest is followed as before");
    assert_eq!(tuned(&rig.applied().await.1), of(&[("a", 1), ("b", 2)]));
    question.answer(4, &[("services/a", 4, "timeout: 4s")]);
    assert_eq!(tuned(&rig.applied().await.1), of(&[("a", 4), ("b", 2)]));
    // It may be read again, and is gone.
    rig.kv.hide(&[]);
    rig.question().await.answer(5, &[("services/a", 4, "timeout: 4s")]);
    assert_eq!(tuned(&rig.applied().await.1), of(&[("a", 4)]));
}

#[tokio::test(start_paused = true)]
async fn of_many_documents_that_are_missing_some_are_looked_at_and_the_others_are_taken_for_the_same() {
    for (hidden, left) in [(true, 40), (false, 1)] {
        let (mut rig, _) = Rig::start(DocumentStore::none());
        let names: Vec<_> = (0..40).map(|n| format!("services/s{n:02}")).collect();
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), 1, "timeout: 1s")).collect();
        rig.question().await.answer(1, &all);
        assert_eq!(rig.applied().await.1.documents.len(), 40);
        if hidden {
            let keys: Vec<_> =
                names[..39].iter().map(|name| format!("team/outrigger/settings/{name}")).collect();
            rig.kv.hide(&keys.iter().map(String::as_str).collect::<Vec<_>>());
        }
        rig.question().await.answer(2, &all[39..]);
        rig.signals.again.notify_one();
        let last = ("services/s39", 3, "timeout: 3s");
        rig.question().await.answer(3, &[last]);
        let applied = loop {
            tokio::select! {
                biased;
                () = sleep(Duration::from_secs(5)) => panic!("{left} documents are not applied"),
                applied = rig.applied.recv() => {
                    let applied = applied.unwrap().1;
                    if applied.documents.len() == left && applied.documents[left - 1].index == 3 {
                        break applied;
                    }
                }
                question = rig.questions.recv() => drop(question),
            }
        };
        assert_eq!(applied.loaded.config.tuned.len(), left);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_is_told_when_its_documents_are_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let store = || DocumentStore::at(folder.path(), "shop-80", "consul");
    let (mut rig, _) = Rig::start(store());
    let mut first = rig.signals.first_answer.subscribe();
    let all = [("defaults", 1, "timeout: 1s")];
    rig.question().await.fail();
    first.wait_for(|state| *state == FirstAnswer::Failed).await.unwrap();
    *rig.failing.lock() = 1;
    rig.question().await.answer(1, &all);
    rig.assert_nothing_is_applied_for(Duration::from_millis(900)).await;
    assert_eq!(*first.borrow(), FirstAnswer::Failed, "the documents could not be applied yet");
    first.wait_for(|state| *state == FirstAnswer::Received).await.unwrap();
    assert_eq!(rig.applied_timeout().await, 1);
    rig.question().await.fail();
    rig.question().await;
    assert_eq!(*first.borrow(), FirstAnswer::Received, "a later failure is another matter");
    // The same documents as in the run before: they are applied again, because now they are the registry's.
    let (mut rig, stored) = rig.restart(store());
    assert_eq!(stored.len(), 1);
    let mut first = rig.signals.first_answer.subscribe();
    rig.question().await.answer(1, &all);
    first.wait_for(|state| *state == FirstAnswer::Received).await.unwrap();
    assert_eq!(rig.applied_timeout().await, 1);
    // A token that may not ask.
    let (mut rig, _) = rig.restart(store());
    let mut first = rig.signals.first_answer.subscribe();
    rig.kv.deny(true);
    rig.question().await.answer(1, &[]);
    first.wait_for(|state| *state == FirstAnswer::Refused).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_return_of_the_registry_ends_the_pause_after_failures() {
    let (mut rig, _) = Rig::start(DocumentStore::none());
    // Without the signal the pause is up to 15 s.
    let (mut asked_at, mut longest) = (Instant::now(), Duration::ZERO);
    for _ in 0..30 {
        let question = rig.question().await;
        longest = longest.max(question.at - asked_at);
        asked_at = question.at;
        question.fail();
    }
    assert!(longest > Duration::from_secs(7), "{longest:?}");
    sleep(Duration::from_millis(1)).await;
    let back = Instant::now();
    rig.kv.note_return();
    let question = rig.question().await;
    assert_eq!(question.at, back);
    // It has no leader yet: the pauses are short again.
    question.fail();
    let question = rig.question().await;
    assert!(question.at - back <= Duration::from_millis(250), "{:?}", question.at - back);
    question.answer(9, &[("defaults", 9, "timeout: 9s")]);
    assert_eq!(rig.applied_timeout().await, 9);
    // A question that waits is left alone.
    let question = rig.question().await;
    rig.kv.note_return();
    assert!(timeout(Duration::from_secs(3_600), rig.questions.recv()).await.is_err());
    drop(question);
}

#[tokio::test(start_paused = true)]
async fn what_is_being_applied_when_the_follower_is_to_stop_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let store = || DocumentStore::at(folder.path(), "shop-80", "consul");
    let (mut rig, _) = Rig::start(store());
    *rig.slow.lock() = Duration::from_secs(3);
    rig.question().await.answer(1, &[("defaults", 1, "timeout: 1s")]);
    assert_eq!(rig.applied_timeout().await, 1);
    rig.signals.stop.cancel();
    rig.task.await.unwrap();
    assert_eq!(store().load()["defaults"].index, 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_document_keeps_its_last_good_version_across_a_restart_and_an_outage() {
    let folder = tempfile::tempdir().unwrap();
    let store = || DocumentStore::at(folder.path(), "shop-80", "consul");
    let (mut rig, _) = Rig::start(store());
    rig.question().await.answer(1, &[("defaults", 1, "timeout: 1s"), ("services/a", 1, "timeout: 5s")]);
    assert_eq!(rig.applied_timeout().await, 1);
    rig.question().await.answer(2, &[("defaults", 2, "timeout: soon"), ("services/a", 2, "timeout: 6s")]);
    let (_, applied) = rig.applied().await;
    let tuned = |applied: &AppliedDocuments| applied.loaded.config.tuned[0].policy.timeout.as_secs();
    assert_eq!((applied.loaded.config.defaults.timeout.as_secs(), tuned(&applied)), (1, 6));
    assert_eq!(applied.documents[0].state, DocumentState::Refused);
    rig.question().await;

    // The registry is away: what was in effect is there from the start.
    let (mut rig, stored) = rig.restart(store());
    let at_start = settings().with_documents(&stored, "shop-1");
    assert_eq!((at_start.loaded.config.defaults.timeout.as_secs(), tuned(&at_start)), (1, 6));
    let mut failures = Vec::new();
    for _ in 0..12 {
        let question = rig.question().await;
        failures.push(question.at);
        question.fail();
    }
    let pauses: Vec<_> = failures.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(15)), "{pauses:?}");
    rig.assert_nothing_is_applied_for(Duration::from_millis(1)).await;
    // It is back, with the bad version.
    rig.question().await.answer(2, &[("defaults", 2, "timeout: soon"), ("services/a", 2, "timeout: 6s")]);
    let (_, applied) = rig.applied().await;
    assert_eq!((applied.loaded.config.defaults.timeout.as_secs(), tuned(&applied)), (1, 6));
    assert_eq!(applied.documents[0].in_effect, Some(1));
    // A document that is gone is gone from the disk too.
    rig.question().await.answer(3, &[("services/a", 2, "timeout: 6s")]);
    assert_eq!(rig.applied_timeout().await, 15);
    let is_saved = async {
        while store().load().keys().ne(["services/a"]) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(3_600), is_saved).await.expect("saved within an hour");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_does_not_wait_is_asked_ever_less_often() {
    let (mut rig, _) = Rig::start(DocumentStore::none());
    let all = [("defaults", 1, "timeout: 1s")];
    rig.question().await.answer(1, &all);
    assert_eq!(rig.applied_timeout().await, 1);
    let began = Instant::now();
    for _ in 0..20 {
        rig.question().await.answer(1, &all);
    }
    assert!(began.elapsed() > Duration::from_secs(120), "{:?}", began.elapsed());
    // It waits again, and the next change is not late.
    let question = rig.question().await;
    sleep(WAIT).await;
    question.answer(1, &all);
    let at = Instant::now();
    rig.question().await.answer(2, &[("defaults", 2, "timeout: 2s")]);
    assert_eq!((rig.applied_timeout().await, Instant::now()), (2, at));
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_applied_is_applied_again_and_so_is_all_with_other_settings() {
    let (mut rig, _) = Rig::start(DocumentStore::none());
    *rig.failing.lock() = 2;
    let at = Instant::now();
    rig.question().await.answer(1, &[("defaults", 1, "timeout: 1s")]);
    let (applied_at, _) = rig.applied().await;
    assert_eq!(applied_at - at, 2 * APPLY_AGAIN);
    rig.question().await;
    rig.signals.again.notify_one();
    assert_eq!(rig.applied_timeout().await, 1);
    rig.assert_nothing_is_applied_for(Duration::from_secs(600)).await;
}
