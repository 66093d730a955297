//! The writer against a registry of one process, on a paused clock.

use std::collections::BTreeMap;

use outrigger_registry::{
    AnswerFuture, KnownLock, KvAnswer, KvChange, KvEntry, LockAnswer, LockAttempt, LockPlace, SessionInfo,
};
use parking_lot::Mutex;
use tokio::{task::JoinHandle, time::sleep};

use super::*;

/// What the token may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Denied {
    Nothing,
    Sessions,
    Keys,
}

#[derive(Debug)]
struct FakeState {
    sessions: Vec<String>,
    opened: usize,
    /// Value and session.
    keys: BTreeMap<String, (Vec<u8>, String)>,
    denied: Denied,
    is_away: bool,
    hangs: bool,
    /// Each call, and when it was made.
    calls: Vec<(Instant, &'static str)>,
}

/// Sessions and held keys. Sessions end only by a call.
#[derive(Debug)]
struct FakeRegistry(Mutex<FakeState>);

impl FakeRegistry {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(FakeState {
            sessions: Vec::new(),
            opened: 0,
            keys: BTreeMap::new(),
            denied: Denied::Nothing,
            is_away: false,
            hangs: false,
            calls: Vec::new(),
        })))
    }

    fn call<'a, T: Send + 'a>(
        &'a self,
        name: &'static str,
        needs: Denied,
        answer: impl FnOnce(&mut FakeState) -> T,
    ) -> AnswerFuture<'a, T> {
        let mut state = self.0.lock();
        state.calls.push((Instant::now(), name));
        if state.hangs {
            return Box::pin(std::future::pending());
        }
        let request = name.to_owned();
        let answer = if state.is_away {
            Err(Error::Timeout { request, after: CHECK_WAIT })
        } else if state.denied == needs && needs != Denied::Nothing {
            Err(Error::Refused { request, status: 403, text: "Permission denied".into(), hint: None })
        } else {
            Ok(answer(&mut state))
        };
        Box::pin(async { answer })
    }

    fn end_session(&self, id: &str) {
        let mut state = self.0.lock();
        state.sessions.retain(|known| known != id);
        state.keys.retain(|_, (_, session)| session != id);
    }

    fn count(&self, name: &str) -> usize {
        self.0.lock().calls.iter().filter(|(_, call)| *call == name).count()
    }

    /// The index in the receipt of each key.
    fn shown(&self) -> Vec<(String, u64)> {
        let index = |value: &[u8]| serde_json::from_slice::<Receipt>(value).unwrap().index;
        self.0.lock().keys.iter().map(|(key, (value, _))| (key.clone(), index(value))).collect()
    }
}

impl Kv for FakeRegistry {
    fn watch_kv<'a>(
        &'a self,
        scope: KvScope<'a>,
        _: Cursor,
        _: Consistency,
        _: Duration,
    ) -> AnswerFuture<'a, KvAnswer> {
        let KvScope::Key(key) = scope else { panic!("the writer reads its own key") };
        self.call("read", Denied::Nothing, |state| {
            let entry = state.keys.get(key).map(|(value, session)| KvEntry {
                key: key.into(),
                value: value.clone(),
                flags: 0,
                session: Some(session.clone()),
                lock_index: 1,
                create_index: 1,
                modify_index: 1,
            });
            let entries = entry.into_iter().collect();
            KvAnswer { entries, cursor: Cursor::at(1), index_went_back: false, age: None, known_leader: true }
        })
    }

    fn put_held_kv<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        session: &'a SessionId,
    ) -> AnswerFuture<'a, HeldPut> {
        self.call("put", Denied::Keys, |state| {
            let session = session.as_str().to_owned();
            if !state.sessions.contains(&session) {
                return HeldPut::SessionLost;
            }
            if state.keys.get(key).is_some_and(|(_, holder)| *holder != session) {
                return HeldPut::HeldByOther;
            }
            state.keys.insert(key.into(), (value.to_vec(), session));
            HeldPut::Written
        })
    }

    fn put_kv<'a>(&'a self, _: &'a str, _: &'a [u8], _: u64, _: Option<u64>) -> AnswerFuture<'a, bool> {
        panic!("a receipt is held by a session")
    }

    fn delete_kv<'a>(&'a self, _: &'a str, _: Option<u64>) -> AnswerFuture<'a, bool> {
        panic!("a receipt goes with its session")
    }

    fn change_kv<'a>(&'a self, _: &'a [KvChange<'a>]) -> AnswerFuture<'a, Option<u64>> {
        panic!("a receipt is one key")
    }
}

impl Locks for FakeRegistry {
    fn open_session<'a>(&'a self, session: NewSession<'a>) -> AnswerFuture<'a, SessionId> {
        assert!(session.removes_keys && session.lock_delay.is_zero());
        self.call("open", Denied::Sessions, |state| {
            state.opened += 1;
            let id = format!("s{}", state.opened);
            state.sessions.push(id.clone());
            SessionId::recorded(id)
        })
    }

    fn renew_session<'a>(&'a self, session: &'a SessionId) -> AnswerFuture<'a, bool> {
        self.call("renew", Denied::Sessions, |state| {
            state.sessions.iter().any(|known| known == session.as_str())
        })
    }

    fn close_session<'a>(&'a self, session: &'a SessionId) -> AnswerFuture<'a, ()> {
        let answer = self.call("close", Denied::Sessions, |_| ());
        if !self.0.lock().hangs {
            self.end_session(session.as_str());
        }
        answer
    }

    fn session_info<'a>(&'a self, _: &'a SessionId) -> AnswerFuture<'a, Option<SessionInfo>> {
        panic!("not asked")
    }

    fn try_lock<'a>(
        &'a self,
        _: &'a LockPlace,
        _: &'a SessionId,
        _: &'a [u8],
        _: &'a mut KnownLock,
    ) -> AnswerFuture<'a, LockAttempt> {
        panic!("a receipt is no lock")
    }

    fn unlock<'a>(
        &'a self,
        _: &'a LockPlace,
        _: &'a SessionId,
        _: &'a mut KnownLock,
    ) -> AnswerFuture<'a, bool> {
        panic!("a receipt is no lock")
    }

    fn remove_unused_lock<'a>(&'a self, _: &'a LockPlace) -> AnswerFuture<'a, bool> {
        panic!("a receipt is no lock")
    }

    fn watch_lock<'a>(&'a self, _: &'a LockPlace, _: Cursor, _: Duration) -> AnswerFuture<'a, LockAnswer> {
        panic!("a receipt is no lock")
    }
}

struct WriterRig {
    registry: Arc<FakeRegistry>,
    wanted: watch::Sender<Option<PlacedReceipt>>,
    results: Arc<Mutex<Vec<ReceiptWrite>>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

const KEY: &str = "o/receipts/shop/shop-1";

fn placed(key: &str, index: u64) -> Option<PlacedReceipt> {
    let receipt = Receipt { index, ..Receipt::new(&[], "1") };
    Some(PlacedReceipt { key: key.into(), receipt })
}

impl WriterRig {
    fn start(registry: Arc<FakeRegistry>) -> Self {
        Self::start_with(registry, SessionFile::none())
    }

    fn start_with(registry: Arc<FakeRegistry>, file: SessionFile) -> Self {
        let (wanted, receiver) = watch::channel(None);
        let (results, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let seen = results.clone();
        let observe = move |result| seen.lock().push(result);
        let writer = ReceiptWriter::new(registry.clone(), registry.clone(), receiver, file, observe);
        let task = tokio::spawn(writer.run(stop.clone()));
        Self { registry, wanted, results, stop, task }
    }

    fn want(&self, index: u64) {
        self.wanted.send_replace(placed(KEY, index));
    }

    /// Waits until the keys are these.
    async fn wait_for(&self, expected: &[(&str, u64)]) {
        let expected: Vec<_> = expected.iter().map(|(key, index)| ((*key).to_owned(), *index)).collect();
        let is_so = async {
            while self.registry.shown() != expected {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(7_200), is_so).await.unwrap_or_else(|_| {
            panic!("{:?} in place of {expected:?}", self.registry.shown());
        });
    }

    async fn stop(self) -> Duration {
        let began = Instant::now();
        self.stop.cancel();
        self.task.await.unwrap();
        began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_receipt_is_written_once_and_within_two_seconds() {
    let rig = WriterRig::start(FakeRegistry::new());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.registry.0.lock().calls, [], "there is nothing to write");
    let mut waits = Vec::new();
    for index in 1..20 {
        let began = Instant::now();
        rig.want(index);
        rig.wait_for(&[(KEY, index)]).await;
        waits.push(began.elapsed());
    }
    assert!(waits.iter().all(|wait| *wait <= JITTER + Duration::from_millis(10)), "{waits:?}");
    assert!(waits.iter().max() > waits.iter().min().map(|min| *min + JITTER / 4).as_ref(), "{waits:?}");
    // Those that follow each other at once are one write, and one that is back as it was is none.
    (20..40).for_each(|index| rig.want(index));
    rig.wait_for(&[(KEY, 39)]).await;
    rig.want(40);
    rig.want(39);
    sleep(Duration::from_secs(60)).await;
    assert_eq!((rig.registry.count("put"), rig.registry.count("open")), (20, 1));
    assert_eq!(*rig.results.lock(), [ReceiptWrite::Written; 20]);
}

#[tokio::test(start_paused = true)]
async fn a_receipt_lives_as_long_as_its_sidecar() {
    let rig = WriterRig::start(FakeRegistry::new());
    rig.want(1);
    rig.wait_for(&[(KEY, 1)]).await;
    let registry = rig.registry.clone();
    sleep(Duration::from_secs(600)).await;
    let renewals: Vec<_> =
        registry.0.lock().calls.iter().filter(|(_, call)| *call == "renew").map(|(at, _)| *at).collect();
    let pauses: Vec<_> = renewals.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(pauses.len() > 20 && pauses.iter().all(|pause| *pause < SESSION_TTL), "{pauses:?}");
    rig.stop().await;
    assert_eq!((registry.shown(), registry.0.lock().sessions.len()), (Vec::new(), 0));
    // A registry that is away holds a stop up for a second.
    let rig = WriterRig::start(registry.clone());
    rig.want(2);
    rig.wait_for(&[(KEY, 2)]).await;
    registry.0.lock().hangs = true;
    assert_eq!(rig.stop().await, CLOSE_WITHIN);
}

#[tokio::test(start_paused = true)]
async fn a_receipt_without_its_session_is_written_again() {
    let rig = WriterRig::start(FakeRegistry::new());
    rig.want(1);
    rig.wait_for(&[(KEY, 1)]).await;
    // Found by the renewal.
    rig.registry.end_session("s1");
    rig.wait_for(&[(KEY, 1)]).await;
    // Found by the write.
    rig.registry.end_session("s2");
    rig.want(2);
    rig.wait_for(&[(KEY, 2)]).await;
    // An operator deletes the key.
    rig.registry.0.lock().keys.clear();
    let deleted = Instant::now();
    rig.wait_for(&[(KEY, 2)]).await;
    assert!(deleted.elapsed() < CHECK_INTERVAL + Duration::from_secs(60), "{:?}", deleted.elapsed());
    assert_eq!(rig.registry.0.lock().sessions, ["s3"]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_away_is_tried_ever_less_often() {
    let rig = WriterRig::start(FakeRegistry::new());
    rig.want(1);
    rig.wait_for(&[(KEY, 1)]).await;
    rig.registry.0.lock().is_away = true;
    rig.want(2);
    let before = rig.registry.0.lock().calls.len();
    sleep(Duration::from_secs(3_600)).await;
    let calls = rig.registry.0.lock().calls.len() - before;
    // A write and a renewal about every 15 s each.
    assert!((200..700).contains(&calls), "{calls}");
    assert!(rig.results.lock().contains(&ReceiptWrite::Failed));
    // It is back, and knows nothing.
    rig.registry.end_session("s1");
    rig.registry.0.lock().is_away = false;
    let back = Instant::now();
    rig.wait_for(&[(KEY, 2)]).await;
    assert!(back.elapsed() < Duration::from_secs(90), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_token_without_the_rights_is_tried_every_five_minutes() {
    for denied in [Denied::Sessions, Denied::Keys] {
        let rig = WriterRig::start(FakeRegistry::new());
        rig.registry.0.lock().denied = denied;
        for index in 0..60 {
            rig.want(index);
            sleep(Duration::from_secs(60)).await;
        }
        let calls = rig.registry.0.lock().calls.len();
        assert!((11..=13 * 3).contains(&calls), "{denied:?}: {calls} in an hour");
        assert!(rig.registry.0.lock().sessions.is_empty(), "{denied:?}: nothing is kept for it");
        assert!(rig.results.lock().iter().all(|result| *result == ReceiptWrite::Forbidden));
        rig.registry.0.lock().denied = Denied::Nothing;
        rig.wait_for(&[(KEY, 59)]).await;
        // The rights are taken away again.
        rig.registry.0.lock().denied = Denied::Sessions;
        let calls = rig.registry.0.lock().calls.len();
        sleep(Duration::from_secs(3_600)).await;
        let calls = rig.registry.0.lock().calls.len() - calls;
        assert!((11..=15).contains(&calls), "{denied:?}: {calls} in an hour");
    }
}

#[tokio::test(start_paused = true)]
async fn the_key_of_an_earlier_process_is_written_when_its_session_has_ended() {
    let registry = FakeRegistry::new();
    let earlier = WriterRig::start(registry.clone());
    earlier.want(1);
    earlier.wait_for(&[(KEY, 1)]).await;
    let rig = WriterRig::start(registry.clone());
    rig.want(2);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(registry.shown(), [(KEY.to_owned(), 1)]);
    assert!(rig.results.lock().iter().all(|result| *result == ReceiptWrite::Held));
    earlier.stop().await;
    rig.wait_for(&[(KEY, 2)]).await;
}

#[tokio::test(start_paused = true)]
async fn the_next_process_of_a_state_folder_ends_the_session_of_one_that_was_killed() {
    let registry = FakeRegistry::new();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("state");
    let start = || WriterRig::start_with(registry.clone(), SessionFile::at(&folder, "shop-8080"));
    for index in 1..4 {
        let (rig, began) = (start(), Instant::now());
        rig.want(index);
        rig.wait_for(&[(KEY, index)]).await;
        assert!(began.elapsed() <= JITTER + Duration::from_millis(20), "{:?}", began.elapsed());
        assert_eq!(registry.0.lock().sessions.len(), 1);
        // Killed.
        rig.task.abort();
    }
    // Another process with the same id, of another machine, is left alone.
    let other = WriterRig::start(registry.clone());
    other.want(9);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(registry.shown(), [(KEY.to_owned(), 3)]);
    // Neither is it while the end of its session fails, and it is tried again.
    registry.0.lock().is_away = true;
    let rig = start();
    rig.want(4);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(registry.shown(), [(KEY.to_owned(), 3)]);
    other.task.abort();
    registry.0.lock().is_away = false;
    rig.wait_for(&[(KEY, 4)]).await;
}

#[tokio::test(start_paused = true)]
async fn another_key_takes_the_place_of_the_earlier_one() {
    let rig = WriterRig::start(FakeRegistry::new());
    rig.want(1);
    rig.wait_for(&[(KEY, 1)]).await;
    rig.wanted.send_replace(placed("team/receipts/shop/shop-1", 3));
    rig.wait_for(&[("team/receipts/shop/shop-1", 3)]).await;
    rig.wanted.send_replace(None);
    rig.wait_for(&[]).await;
    assert!(rig.registry.0.lock().sessions.is_empty());
}
