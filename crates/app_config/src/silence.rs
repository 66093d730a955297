//! Knows that the registry leaves questions without an answer, as an agent that hangs does.
//!
//! A read that got no answer in time begins a silence. While it lasts, reads do not wait for the registry: one question of the silence's own
//! waits instead, and its answer, which may be an error, ends the silence.
//!
//! The question of a watch waits at the registry for most of a minute, and says nothing meanwhile. So a reader of what the watches have asks
//! a question of its own ([`Silences::check`]), which all readers share.

use std::{collections::HashMap, sync::Arc, time::Duration};

use outrigger_registry::{Consistency, Cursor, Error, Kv, KvAnswer, KvScope};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// Between two questions that were not answered.
const PAUSE: Duration = Duration::from_millis(250);

/// Longest wait for an answer that only shows that the registry is there.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Longest wait of one question of a silence.
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// Least time between two checks.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The silences of one registry. A server that hangs may answer no question but those that any server answers, so each consistency has
/// its own.
#[derive(Debug, Default)]
pub(crate) struct Silences {
    lasting: Mutex<HashMap<Consistency, Silence>>,
    /// When the last check was answered.
    checked: tokio::sync::Mutex<Option<Instant>>,
    /// The last question that the leader answers was not answered.
    is_unheard: watch::Sender<bool>,
}

#[derive(Debug)]
struct Silence {
    since: Instant,
    begun: Instant,
    question: AbortOnDropHandle<()>,
}

impl Silence {
    fn lasts(&self) -> bool {
        !self.question.is_finished()
    }
}

impl Silences {
    /// For how long questions have not been answered. `None`: the last one was.
    pub(crate) fn lasted(&self, consistency: Consistency) -> Option<Duration> {
        let of: &[_] = match consistency {
            // The leader that answers no other question does not answer this one.
            Consistency::Consistent => &[Consistency::Consistent, Consistency::Default],
            Consistency::Default | Consistency::Stale => &[consistency],
        };
        let silences = self.lasting.lock();
        let last = of.iter().filter_map(|consistency| silences.get(consistency));
        last.filter(|silence| silence.lasts()).map(|silence| silence.since.elapsed()).max()
    }

    /// For how long the leader has not answered, where it is not known whether another server does ([`Consistency::Stale`]).
    pub(crate) fn may_be_of_all(&self) -> Option<Duration> {
        let silences = self.lasting.lock();
        let of_leader = silences.get(&Consistency::Default).filter(|silence| silence.lasts())?;
        let of_all = silences.get(&Consistency::Stale);
        let is_known = of_all.is_some_and(|of_all| of_all.begun >= of_leader.begun);
        (!is_known).then(|| of_leader.since.elapsed())
    }

    /// A question was not answered for `unanswered`. `key` is asked about until there is an answer.
    pub(crate) fn begin(&self, kv: &Arc<dyn Kv>, key: &str, consistency: Consistency, unanswered: Duration) {
        let mut silences = self.lasting.lock();
        if silences.get(&consistency).is_some_and(Silence::lasts) {
            return;
        }
        let is_of_leader = consistency == Consistency::Default;
        let is_unheard = self.is_unheard.clone();
        if is_of_leader {
            set(&is_unheard, true);
        }
        let (kv, key) = (kv.clone(), key.to_owned());
        let ask = async move {
            let answer = ask_until_answered(&*kv, &key, consistency).await;
            if is_of_leader {
                set(&is_unheard, is_outage(&answer));
            }
        };
        let now = Instant::now();
        let since = now.checked_sub(unanswered).unwrap_or(now);
        // Contained: a panic ends the silence, and the next read asks.
        let question = AbortOnDropHandle::new(tokio::spawn(ask));
        silences.insert(consistency, Silence { since, begun: now, question });
    }

    /// Asks about `key`, unless a silence lasts, or the last check was a moment ago. Returns whether the registry does not answer.
    pub(crate) async fn check(&self, kv: &Arc<dyn Kv>, key: &str) -> bool {
        let consistency = Consistency::Default;
        if self.lasted(consistency).is_some() {
            return true;
        }
        // Those that wait share the answer.
        let mut checked = self.checked.lock().await;
        let is_known = checked.is_some_and(|at| at.elapsed() < CHECK_EVERY);
        if is_known || self.lasted(consistency).is_some() {
            return *self.is_unheard.borrow();
        }
        let answer = ask_once(&**kv, key, consistency, ANSWER_WITHIN).await;
        if let Err(Error::Timeout { .. }) = &answer {
            self.begin(kv, key, consistency, ANSWER_WITHIN);
        }
        *checked = Some(Instant::now());
        set(&self.is_unheard, is_outage(&answer));
        is_outage(&answer)
    }

    /// Whether the registry does not answer, from now on: as the reads and the checks find it.
    pub(crate) fn is_unheard(&self) -> watch::Receiver<bool> {
        self.is_unheard.subscribe()
    }
}

fn set(is_unheard: &watch::Sender<bool>, value: bool) {
    is_unheard.send_if_modified(|is| std::mem::replace(is, value) != value);
}

/// A refusal is an answer.
fn is_outage(answer: &Result<KvAnswer, Error>) -> bool {
    matches!(answer, Err(error) if !is_refusal(error))
}

/// The registry answers, and refuses this: an earlier answer is not shown in its place.
pub(crate) fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Refused { status: 400..=499, .. })
}

async fn ask_until_answered(kv: &dyn Kv, key: &str, consistency: Consistency) -> Result<KvAnswer, Error> {
    loop {
        match ask_once(kv, key, consistency, ASK_WITHIN).await {
            Err(Error::Timeout { .. }) => sleep(PAUSE).await,
            answer => return answer,
        }
    }
}

async fn ask_once(
    kv: &dyn Kv,
    key: &str,
    consistency: Consistency,
    within: Duration,
) -> Result<KvAnswer, Error> {
    let asked = kv.watch_kv(KvScope::Key(key), Cursor::START, consistency, within);
    let unanswered = || Error::Timeout { request: format!("GET /v1/kv/{key}"), after: within };
    timeout(within, asked).await.unwrap_or_else(|_| Err(unanswered()))
}
