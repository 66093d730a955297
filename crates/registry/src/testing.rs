//! A registry for tests of other crates (feature `testing`): [`ScriptedRegistry`] hands every question to
//! the test, or answers with the instances that the test lists.
//!
//! ```
//! # use outrigger_registry::{Consistency, Cursor, Query, Registry, testing::{ScriptedRegistry, list}};
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! # let query = Query::new("orders", None);
//! # let ask = |registry: std::sync::Arc<ScriptedRegistry>, query: Query| tokio::spawn(async move {
//! #     registry.watch(&query, Cursor::START, Consistency::Default, registry.longest_wait()).await
//! # });
//! // Every question reaches the test, which answers it when it likes.
//! let (registry, mut questions) = ScriptedRegistry::new();
//! let asked = ask(registry, query.clone());
//! questions.recv().await.unwrap().answer(list(7, []));
//! assert_eq!(asked.await.unwrap().unwrap().cursor, Cursor::at(7));
//!
//! // Every question is answered with what is listed, once that has changed.
//! let (registry, listed) = ScriptedRegistry::listing();
//! listed.set([]);
//! assert_eq!(ask(registry, query).await.unwrap().unwrap(), list(1, []));
//! # });
//! ```
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod kv;

use std::{sync::Arc, time::Duration};

pub use kv::{PendingKvQuestion, ScriptedKv};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use crate::{
    AnswerFuture, Consistency, Cursor, Error, HealthStatus, Instance, InstanceId, Query, Registry,
    WatchAnswer,
};

/// [`Registry::longest_wait`] of a [`ScriptedRegistry`].
pub const LONGEST_WAIT: Duration = Duration::from_secs(45);

/// A registry that answers as the test says.
#[derive(Debug)]
pub struct ScriptedRegistry(mpsc::UnboundedSender<PendingQuery>);

/// A question that the test answers. A question that is dropped is never answered.
#[derive(Debug)]
pub struct PendingQuery {
    /// The service that is asked about.
    pub query: Query,
    /// Where the watch stands.
    pub cursor: Cursor,
    /// How fresh the answer must be.
    pub consistency: Consistency,
    /// The longest wait.
    pub wait: Duration,
    /// When the question was asked.
    pub at: Instant,
    reply: oneshot::Sender<Result<WatchAnswer, Error>>,
}

/// What a [`ScriptedRegistry::listing`] lists, for every service: nothing is answered before the first
/// [`Listed::set`].
#[derive(Debug)]
pub struct Listed(watch::Sender<(u64, Vec<Instance>)>);

impl ScriptedRegistry {
    /// A registry, and the end at which its questions come out.
    #[allow(clippy::new_ret_no_self, reason = "the two ends are made together")]
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<PendingQuery>) {
        let (questions, asked) = mpsc::unbounded_channel();
        (Arc::new(Self(questions)), asked)
    }

    /// A registry that answers a question when what is listed has changed since the question's cursor, or
    /// after the question's wait. Must be called within a runtime.
    pub fn listing() -> (Arc<Self>, Listed) {
        let (registry, mut questions) = Self::new();
        let listed = Listed(watch::Sender::new((0, Vec::new())));
        let source = listed.0.clone();
        tokio::spawn(async move {
            while let Some(question) = questions.recv().await {
                tokio::spawn(answer_from(source.subscribe(), question));
            }
        });
        (registry, listed)
    }
}

async fn answer_from(mut listed: watch::Receiver<(u64, Vec<Instance>)>, question: PendingQuery) {
    let changed = |(index, _): &(u64, _)| *index > 0 && *index != question.cursor.index();
    // Over this wait the answer is what is listed now.
    let _ = timeout(question.wait, listed.wait_for(changed)).await;
    let (index, instances) = listed.borrow().clone();
    match index {
        0 => std::future::pending().await,
        _ => _ = question.reply.send(Ok(list(index, instances))),
    }
}

impl Listed {
    /// Lists `instances` from now on; the index rises by 1, from 1 at the first call.
    pub fn set(&self, instances: impl Into<Vec<Instance>>) {
        self.0.send_modify(|(index, listed)| (*index, *listed) = (*index + 1, instances.into()));
    }
}

impl PendingQuery {
    /// Answers.
    ///
    /// # Panics
    /// When the question was given up.
    pub fn answer(self, answer: WatchAnswer) {
        self.reply.send(Ok(answer)).expect("the watcher still waits");
    }

    /// Answers with an error.
    ///
    /// # Panics
    /// When the question was given up.
    pub fn fail(self, error: Error) {
        self.reply.send(Err(error)).expect("the watcher still waits");
    }

    /// Whether the watcher no longer waits for the answer.
    pub fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    /// Resolves when the watcher no longer waits for the answer.
    pub async fn cancelled(&mut self) {
        self.reply.closed().await;
    }
}

impl Registry for ScriptedRegistry {
    fn watch<'a>(
        &'a self,
        query: &'a Query,
        cursor: Cursor,
        consistency: Consistency,
        wait: Duration,
    ) -> AnswerFuture<'a, WatchAnswer> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let query = query.clone();
            let question = PendingQuery { query, cursor, consistency, wait, at: Instant::now(), reply };
            if self.0.send(question).is_ok()
                && let Ok(answer) = answer.await
            {
                return answer;
            }
            std::future::pending().await
        })
    }

    fn longest_wait(&self) -> Duration {
        LONGEST_WAIT
    }

    fn empty_hint(&self) -> Option<&'static str> {
        Some("may be the token")
    }
}

/// An answer that lists `instances`, current, from a server that knows a leader.
pub fn list(index: u64, instances: impl Into<Vec<Instance>>) -> WatchAnswer {
    WatchAnswer {
        instances: instances.into(),
        cursor: Cursor::at(index),
        index_went_back: false,
        age: None,
        known_leader: true,
    }
}

/// An instance of datacenter `dc1` at 127.0.0.1:8080, without tags and metadata, of weight 1.
pub fn instance(node: &str, id: &str, status: HealthStatus) -> Instance {
    Instance {
        id: InstanceId { datacenter: "dc1".into(), node: node.into(), id: id.into() },
        addr: Ok(([127, 0, 0, 1], 8080).into()),
        named: None,
        facts: Arc::default(),
        tags: Arc::from([]),
        meta: Arc::default(),
        weights: Default::default(),
        status,
        node_lost: false,
        draining: false,
        create_index: 1,
    }
}
