//! A KV on a clock that stands still, and a reader of it.

use std::collections::BTreeMap;

use outrigger_registry::{AnswerFuture, HeldPut, KvChange, SessionId};
use tokio::time::sleep;

use super::super::*;
use crate::PrefixStore;

/// A KV that blocks as Consul does, but for its wake-ups of missing keys, and counts its questions.
#[derive(Debug)]
pub(super) struct TestKv {
    pub(super) state: watch::Sender<KvState>,
    /// Questions that wait, and others.
    pub(super) waiting: AtomicUsize,
    pub(super) reads: AtomicUsize,
}

#[derive(Debug, Clone, Default)]
pub(super) struct KvState {
    pub(super) index: u64,
    pub(super) entries: BTreeMap<String, KvEntry>,
    /// No question is answered.
    pub(super) is_away: bool,
    /// Every question is refused.
    pub(super) is_refused: bool,
    /// No question is answered; each hangs.
    pub(super) hangs: bool,
    /// The same for those that the leader answers.
    pub(super) is_leader_silent: bool,
    /// The entries and the index that a restarted server has while it reads its log. A consistent question waits for the end of that.
    pub(super) earlier: Option<(u64, BTreeMap<String, KvEntry>)>,
}

impl KvState {
    fn answer(&self, scope: KvScope<'_>) -> Result<KvAnswer, Error> {
        let refused = |status, text: &str| Error::Refused {
            request: "GET /v1/kv".into(),
            status,
            text: text.to_owned(),
            hint: None,
        };
        if self.is_away {
            return Err(refused(500, "No cluster leader"));
        }
        if self.is_refused {
            return Err(refused(403, "Permission denied"));
        }
        let is_in = |key: &str| match scope {
            KvScope::Key(own) => own == key,
            KvScope::Prefix(prefix) => key.starts_with(prefix),
        };
        let entries: Vec<_> = self.entries.values().filter(|entry| is_in(&entry.key)).cloned().collect();
        let own = entries.iter().map(|entry| entry.modify_index).max();
        let index = if let KvScope::Key(_) = scope { own.unwrap_or(self.index) } else { self.index };
        Ok(KvAnswer {
            entries,
            cursor: Cursor::at(index),
            index_went_back: false,
            age: None,
            known_leader: true,
        })
    }
}

impl Kv for TestKv {
    fn watch_kv<'a>(
        &'a self,
        scope: KvScope<'a>,
        cursor: Cursor,
        consistency: Consistency,
        wait: Duration,
    ) -> AnswerFuture<'a, KvAnswer> {
        Box::pin(async move {
            let counter = if cursor == Cursor::START { &self.reads } else { &self.waiting };
            counter.fetch_add(1, Relaxed);
            // On the way.
            sleep(Duration::from_millis(1)).await;
            if cursor != Cursor::START {
                let mut state = self.state.subscribe();
                let is_other = |state: &KvState| match state.answer(scope) {
                    Ok(answer) => answer.cursor != cursor,
                    Err(_) => true,
                };
                let _ = timeout(wait, state.wait_for(is_other)).await;
            }
            // A watch ends its question itself, long after a read.
            let mut state = self.state.subscribe();
            let of_leader = consistency != Consistency::Stale;
            let _ = state.wait_for(|state| !(state.hangs || of_leader && state.is_leader_silent)).await;
            if consistency == Consistency::Consistent {
                let _ = state.wait_for(|state| state.earlier.is_none()).await;
            }
            let mut state = self.state.borrow().clone();
            if let Some((index, entries)) = state.earlier.take() {
                (state.index, state.entries) = (index, entries);
            }
            state.answer(scope)
        })
    }

    fn put_kv<'a>(&'a self, _: &'a str, _: &'a [u8], _: u64, _: Option<u64>) -> AnswerFuture<'a, bool> {
        panic!("the reader writes nothing")
    }

    fn delete_kv<'a>(&'a self, _: &'a str, _: Option<u64>) -> AnswerFuture<'a, bool> {
        panic!("the reader writes nothing")
    }

    fn change_kv<'a>(&'a self, _: &'a [KvChange<'a>]) -> AnswerFuture<'a, Option<u64>> {
        panic!("the reader writes nothing")
    }

    fn put_held_kv<'a>(&'a self, _: &'a str, _: &'a [u8], _: &'a SessionId) -> AnswerFuture<'a, HeldPut> {
        panic!("the reader writes nothing")
    }
}

pub(super) struct ReaderRig {
    pub(super) kv: Arc<TestKv>,
    pub(super) watches: Arc<PrefixWatches>,
    pub(super) reader: Arc<KvReader>,
}

impl ReaderRig {
    pub(super) async fn start(prefix: &str) -> Self {
        let kv = Arc::new(TestKv {
            state: watch::Sender::new(KvState { index: 10, ..KvState::default() }),
            waiting: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
        });
        let watches =
            Arc::new(PrefixWatches::new(kv.clone(), || Duration::from_secs(45), PrefixStore::none()));
        watches.follow(&[prefix.to_owned()], true);
        let reader = Arc::new(KvReader::new(kv.clone(), watches.clone()));
        let text = format!("api: {{listen: localhost:1, config: {{allow: [{prefix}]}}}}");
        let config =
            outrigger_config::load(Some(("o.yaml", &text)), &Default::default(), &Default::default());
        reader.allow(AllowedKeys::of(&config.unwrap().config));
        Self { kv, watches, reader }
    }

    pub(super) fn put(&self, key: &str, value: &str) -> u64 {
        self.change(|state| {
            let create_index = state.entries.get(key).map_or(state.index, |entry| entry.create_index);
            let entry = KvEntry {
                key: key.to_owned(),
                value: value.as_bytes().to_vec(),
                flags: 0,
                session: None,
                lock_index: 0,
                create_index,
                modify_index: state.index,
            };
            state.entries.insert(key.to_owned(), entry);
        })
    }

    pub(super) fn delete(&self, key: &str) -> u64 {
        self.change(|state| drop(state.entries.remove(key)))
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut KvState)) -> u64 {
        self.kv.state.send_modify(|state| {
            state.index += 1;
            change(state);
        });
        self.kv.state.borrow().index
    }

    pub(super) async fn read(&self, scope: ReadScope, index: u64, wait: u64) -> KvReading {
        self.try_read(scope, index, wait).await.unwrap()
    }

    pub(super) async fn try_read(
        &self,
        scope: ReadScope,
        index: u64,
        wait: u64,
    ) -> Result<KvReading, KvReadError> {
        self.read_with(Consistency::Default, scope, index, wait).await
    }

    pub(super) async fn read_with(
        &self,
        consistency: Consistency,
        scope: ReadScope,
        index: u64,
        wait: u64,
    ) -> Result<KvReading, KvReadError> {
        let read = KvRead { scope, consistency, index, wait: Duration::from_secs(wait) };
        self.reader.read(&read, std::future::pending()).await
    }

    /// The watch has an entry.
    pub(super) async fn wait_until_known(&self, prefix: &str) {
        let mut view = self.watches.view(prefix).unwrap();
        let is_known =
            |view: &Arc<PrefixView>| view.entries.as_ref().is_some_and(|entries| !entries.is_empty());
        view.wait_for(is_known).await.unwrap();
    }

    pub(super) fn hang(&self, hangs: bool) {
        self.kv.state.send_modify(|state| state.hangs = hangs);
    }
}

pub(super) fn key(key: &str) -> ReadScope {
    ReadScope::Key(key.to_owned())
}

pub(super) fn prefix(prefix: &str) -> ReadScope {
    ReadScope::Prefix(prefix.to_owned())
}

pub(super) fn values(reading: &KvReading) -> String {
    let values = reading.entries.iter().map(|entry| String::from_utf8_lossy(&entry.value));
    values.collect::<Vec<_>>().join(" ")
}
