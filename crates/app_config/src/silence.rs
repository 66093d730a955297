//! Knows that the registry leaves questions without an answer, as an agent that hangs does.
//!
//! A read that got no answer in time begins a silence. While it lasts, reads do not wait for the registry: one question of the silence's own
//! waits instead, and its answer, which may be an error, ends the silence.

use std::{collections::HashMap, sync::Arc, time::Duration};

use outrigger_registry::{Consistency, Cursor, Error, Kv, KvScope};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// Between two questions that were not answered.
const PAUSE: Duration = Duration::from_millis(250);

/// The silences of one registry. A server that hangs may answer no question but those that any server answers, so each consistency has
/// its own.
#[derive(Debug, Default)]
pub(crate) struct Silences(Mutex<HashMap<Consistency, Silence>>);

#[derive(Debug)]
struct Silence {
    since: Instant,
    question: AbortOnDropHandle<()>,
}

impl Silences {
    /// For how long questions have not been answered. `None`: the last one was.
    pub(crate) fn lasted(&self, consistency: Consistency) -> Option<Duration> {
        let of: &[_] = match consistency {
            // The leader that answers no other question does not answer this one.
            Consistency::Consistent => &[Consistency::Consistent, Consistency::Default],
            Consistency::Default | Consistency::Stale => &[consistency],
        };
        let silences = self.0.lock();
        let last = of.iter().filter_map(|consistency| silences.get(consistency));
        let lasting = last.filter(|silence| !silence.question.is_finished());
        lasting.map(|silence| silence.since.elapsed()).max()
    }

    /// A question was not answered for `unanswered`. `key` is asked about until there is an answer, each time for `within`.
    pub(crate) fn begin(
        &self,
        kv: &Arc<dyn Kv>,
        key: &str,
        consistency: Consistency,
        unanswered: Duration,
        within: Duration,
    ) {
        let mut silences = self.0.lock();
        if silences.get(&consistency).is_some_and(|silence| !silence.question.is_finished()) {
            return;
        }
        // Contained: a panic ends the silence, and the next read asks.
        let question = tokio::spawn(ask_until_answered(kv.clone(), key.to_owned(), consistency, within));
        let since = Instant::now().checked_sub(unanswered).unwrap_or_else(Instant::now);
        silences.insert(consistency, Silence { since, question: AbortOnDropHandle::new(question) });
    }
}

async fn ask_until_answered(kv: Arc<dyn Kv>, key: String, consistency: Consistency, within: Duration) {
    loop {
        let asked = kv.watch_kv(KvScope::Key(&key), Cursor::START, consistency, within);
        match timeout(within, asked).await {
            Err(_) | Ok(Err(Error::Timeout { .. })) => sleep(PAUSE).await,
            Ok(_) => return,
        }
    }
}
