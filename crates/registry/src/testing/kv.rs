//! A KV of which the test answers the questions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::LONGEST_WAIT;
use crate::{
    AnswerFuture, Consistency, Cursor, Error, HeldPut, Kv, KvAnswer, KvChange, KvEntry, KvScope, SessionId,
};

/// A KV that answers questions about prefixes as the test says. It takes no writes, and a question about a key finds none.
#[derive(Debug)]
pub struct ScriptedKv {
    questions: mpsc::UnboundedSender<PendingKvQuestion>,
    is_denied: AtomicBool,
    /// Whole keys.
    hidden: Mutex<Vec<String>>,
    returned: watch::Sender<()>,
}

impl ScriptedKv {
    /// A KV, and the end at which its questions come out.
    #[allow(clippy::new_ret_no_self, reason = "the two ends are made together")]
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<PendingKvQuestion>) {
        let (questions, asked) = mpsc::unbounded_channel();
        let returned = watch::Sender::new(());
        let is_denied = AtomicBool::new(false);
        (Arc::new(Self { questions, is_denied, hidden: Mutex::default(), returned }), asked)
    }

    /// Whether the token may not read from now on: a prefix looks empty, a key is refused.
    pub fn deny(&self, is_denied: bool) {
        self.is_denied.store(is_denied, Relaxed);
    }

    /// The registry answers others again.
    pub fn note_return(&self) {
        self.returned.send_replace(());
    }

    /// The keys that the token may not read from now on. The test leaves them out of its answers.
    pub fn hide(&self, keys: &[&str]) {
        *self.hidden.lock() = keys.iter().map(|key| (*key).to_owned()).collect();
    }
}

/// A question about a prefix that the test answers. One that is dropped is never answered.
#[derive(Debug)]
pub struct PendingKvQuestion {
    /// The prefix.
    pub prefix: String,
    /// Where the watch stands.
    pub cursor: Cursor,
    /// When it was asked.
    pub at: Instant,
    reply: oneshot::Sender<Result<KvAnswer, Error>>,
}

impl PendingKvQuestion {
    /// Answers. Each entry: its key without the prefix, its index and its value.
    pub fn answer(self, index: u64, all: &[(&str, u64, &str)]) {
        let entry = |(name, modify_index, value): &(&str, u64, &str)| KvEntry {
            key: format!("{}{name}", self.prefix),
            value: value.as_bytes().to_vec(),
            flags: 0,
            session: None,
            lock_index: 0,
            create_index: *modify_index,
            modify_index: *modify_index,
        };
        let _ = self.reply.send(Ok(KvAnswer {
            entries: all.iter().map(entry).collect(),
            cursor: Cursor::at(index),
            index_went_back: false,
            age: None,
            known_leader: true,
        }));
    }

    /// Answers with an error.
    pub fn fail(self) {
        let error = Error::Timeout { request: "GET /v1/kv".to_owned(), after: LONGEST_WAIT };
        let _ = self.reply.send(Err(error));
    }
}

impl Kv for ScriptedKv {
    fn returned(&self) -> Option<watch::Receiver<()>> {
        Some(self.returned.subscribe())
    }

    fn watch_kv<'a>(
        &'a self,
        scope: KvScope<'a>,
        cursor: Cursor,
        _: Consistency,
        _: Duration,
    ) -> AnswerFuture<'a, KvAnswer> {
        let prefix = match scope {
            KvScope::Prefix(prefix) => prefix,
            KvScope::Key(key)
                if self.is_denied.load(Relaxed) || self.hidden.lock().iter().any(|hidden| hidden == key) =>
            {
                let (request, text) = (format!("GET {key}"), "Permission denied".to_owned());
                return Box::pin(async { Err(Error::Refused { request, status: 403, text, hint: None }) });
            }
            KvScope::Key(_) => {
                let (entries, cursor) = (Vec::new(), Cursor::at(1));
                let none =
                    KvAnswer { entries, cursor, index_went_back: false, age: None, known_leader: true };
                return Box::pin(async { Ok(none) });
            }
        };
        let (reply, answer) = oneshot::channel();
        let question = PendingKvQuestion { prefix: prefix.to_owned(), cursor, at: Instant::now(), reply };
        let _ = self.questions.send(question);
        Box::pin(async move {
            match answer.await {
                Ok(answer) => answer,
                // The test dropped the question: it is never answered.
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn put_kv<'a>(&'a self, _: &'a str, _: &'a [u8], _: u64, _: Option<u64>) -> AnswerFuture<'a, bool> {
        panic!("a scripted KV takes no writes")
    }

    fn delete_kv<'a>(&'a self, _: &'a str, _: Option<u64>) -> AnswerFuture<'a, bool> {
        panic!("a scripted KV takes no writes")
    }

    fn change_kv<'a>(&'a self, _: &'a [KvChange<'a>]) -> AnswerFuture<'a, Option<u64>> {
        panic!("a scripted KV takes no writes")
    }

    fn put_held_kv<'a>(&'a self, _: &'a str, _: &'a [u8], _: &'a SessionId) -> AnswerFuture<'a, HeldPut> {
        panic!("a scripted KV takes no writes")
    }
}
