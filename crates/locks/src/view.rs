//! One watch for each lock, shared by all that wait for it, hold it or look at it.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use outrigger_policy::backoff::Backoff;
use outrigger_registry::{Cursor, LockAnswer, LockHolder, LockKind, LockPlace, Locks, SessionId};
use outrigger_task::essential;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::sightings::Sightings;

/// Most locks that are watched by blocking queries, each of which needs a connection to the registry; further ones are read
/// again and again.
const MAX_WATCHED: usize = 32;
/// Longest wait of one query.
const QUERY_WAIT: Duration = Duration::from_secs(60);
/// Longest time without an answer, the wait included: the registry bounds it too.
const QUERY_TIMEOUT: Duration = Duration::from_secs(90);
/// Time between two reads of a lock that is not watched. A quarter is added at random.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Time between two questions about a lock that was never used, because every write of any key answers them.
const UNUSED_INTERVAL: Duration = Duration::from_secs(1);
/// Least time between two answers that say the same.
const UNCHANGED_INTERVAL: Duration = Duration::from_millis(250);
/// Least time between two questions about a watched lock beside its watch, however many ask for them.
const CHECK_INTERVAL: Duration = Duration::from_secs(4);
/// Pauses after a failed question.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(5) };

/// The state of a lock, as it was seen last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenLock {
    pub(crate) kind: LockKind,
    pub(crate) holders: Vec<LockHolder>,
    /// The index of the answer; 0: it could not be used.
    index: u64,
}

/// A lock as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedLock {
    /// What stands at its place.
    pub kind: LockKind,
    /// The sessions that hold it.
    pub holders: Vec<LockHolder>,
}

impl From<LockAnswer> for SeenLock {
    fn from(answer: LockAnswer) -> Self {
        Self { kind: answer.kind, holders: answer.holders, index: answer.cursor.index() }
    }
}

impl From<SeenLock> for WatchedLock {
    fn from(seen: SeenLock) -> Self {
        Self { kind: seen.kind, holders: seen.holders }
    }
}

impl WatchedLock {
    /// `unused`, `mutex`, `semaphore` or `foreign`.
    pub fn kind_text(&self) -> &'static str {
        match self.kind {
            LockKind::Unused => "unused",
            LockKind::Mutex => "mutex",
            LockKind::Semaphore { .. } => "semaphore",
            LockKind::Foreign => "foreign",
        }
    }

    /// Most holders. Absent: the place was never used, or for something else.
    pub fn limit(&self) -> Option<u32> {
        match self.kind {
            LockKind::Mutex => Some(1),
            LockKind::Semaphore { limit } => Some(limit),
            LockKind::Unused | LockKind::Foreign => None,
        }
    }
}

impl SeenLock {
    /// Whether the session no longer holds the lock that it acquired with `token`. An answer from before does not say it.
    pub(crate) fn has_lost(&self, session: &SessionId, token: u64) -> bool {
        self.index >= token && !self.holders.iter().any(|holder| holder.session == *session)
    }

    /// Whether one more may hold the lock.
    pub(crate) fn is_open(&self, place: &LockPlace) -> bool {
        self.holders.len() < usize::try_from(place.limit).unwrap_or(usize::MAX)
    }
}

/// The watch of one lock. It ends with its last copy.
#[derive(Debug, Clone)]
pub(crate) struct View {
    seen: watch::Receiver<Option<SeenLock>>,
    watch: Arc<Watch>,
}

#[derive(Debug)]
struct Watch {
    place: LockPlace,
    sender: watch::Sender<Option<SeenLock>>,
    /// Its copies show what was seen before them as new.
    seen: watch::Receiver<Option<SeenLock>>,
    /// When the registry was asked beside the watch, and why it has not answered.
    checked: tokio::sync::Mutex<Option<(Instant, Option<Arc<str>>)>>,
    _task: AbortOnDropHandle<()>,
}

/// All watches of a process.
#[derive(Debug)]
pub(crate) struct Views {
    registry: Arc<dyn Locks>,
    runtime: Handle,
    sightings: Arc<Sightings>,
    open: Mutex<HashMap<LockPlace, Weak<Watch>>>,
    slots: Arc<Semaphore>,
}

impl Views {
    pub(crate) fn new(registry: Arc<dyn Locks>, runtime: Handle, sightings: Arc<Sightings>) -> Self {
        let slots = Arc::new(Semaphore::new(MAX_WATCHED));
        Self { registry, runtime, sightings, open: Mutex::default(), slots }
    }

    /// The watch of the lock at `place`, which is started where there is none.
    pub(crate) fn open(&self, place: &LockPlace) -> View {
        let mut open = self.open.lock();
        let watch = open.get(place).and_then(Weak::upgrade).unwrap_or_else(|| {
            open.retain(|_, watch| watch.strong_count() > 0);
            let (sender, seen) = watch::channel(None);
            let slot = self.slots.clone().try_acquire_owned().ok();
            let name = format!("the watch of the lock {}", place.path);
            let task =
                run(self.registry.clone(), place.clone(), sender.clone(), slot, self.sightings.clone());
            let task = AbortOnDropHandle::new(self.runtime.spawn(essential(name, task)));
            let watch = Arc::new(Watch {
                place: place.clone(),
                sender,
                seen,
                checked: Default::default(),
                _task: task,
            });
            open.insert(place.clone(), Arc::downgrade(&watch));
            watch
        });
        View { seen: watch.seen.clone(), watch }
    }

    /// What an open watch of the lock at `place` has seen last.
    pub(crate) fn peek(&self, place: &LockPlace) -> Option<SeenLock> {
        let watch = self.open.lock().get(place).and_then(Weak::upgrade)?;
        watch.seen.borrow().clone()
    }
}

impl View {
    /// What was seen last. `None`: nothing yet.
    pub(crate) fn last(&self) -> Option<SeenLock> {
        self.seen.borrow().clone()
    }

    /// What was seen until now is no change.
    pub(crate) fn mark_seen(&mut self) {
        self.seen.mark_unchanged();
    }

    /// Asks the registry a question of its own, because that of the watch says nothing for most of a minute, and shows a newer answer to all that
    /// look at the lock. `Some`: why it does not answer within `limit`.
    pub(crate) async fn check(&self, registry: &dyn Locks, limit: Duration) -> Option<Arc<str>> {
        let Watch { place, sender, checked, .. } = &*self.watch;
        let mut checked = checked.lock().await;
        if let Some((_, failure)) = checked.as_ref().filter(|(at, _)| at.elapsed() < CHECK_INTERVAL) {
            return failure.clone();
        }
        let failure: Option<Arc<str>> =
            match timeout(limit, registry.watch_lock(place, Cursor::START, limit)).await {
                Ok(Ok(answer)) => {
                    let now = SeenLock::from(answer);
                    sender.send_if_modified(|before| {
                        let is_newer = before.as_ref().is_none_or(|before| before.index < now.index);
                        if is_newer {
                            *before = Some(now);
                        }
                        is_newer
                    });
                    None
                }
                Ok(Err(error)) => Some(outrigger_config::error_chain(&error).into()),
                Err(_) => Some(format!("the registry gave no answer within {limit:?}").into()),
            };
        *checked = Some((Instant::now(), failure.clone()));
        failure
    }

    /// Resolves when something else is seen. Dropping the future loses nothing.
    pub(crate) async fn changed(&mut self) -> Option<SeenLock> {
        if self.seen.changed().await.is_err() {
            // The task ends only with the process.
            std::future::pending::<()>().await;
        }
        self.seen.borrow_and_update().clone()
    }
}

async fn run(
    registry: Arc<dyn Locks>,
    place: LockPlace,
    seen: watch::Sender<Option<SeenLock>>,
    slot: Option<OwnedSemaphorePermit>,
    sightings: Arc<Sightings>,
) {
    let (mut cursor, mut failures) = (Cursor::START, 0);
    loop {
        let asked_at = Instant::now();
        let answer = timeout(QUERY_TIMEOUT, registry.watch_lock(&place, cursor, QUERY_WAIT)).await;
        let pause = match answer {
            Ok(Ok(answer)) => {
                failures = 0;
                cursor = if slot.is_some() { answer.cursor } else { Cursor::START };
                sightings.record(&place, answer.kind, &answer.holders);
                let now = SeenLock::from(answer);
                let is_unused = now.kind == LockKind::Unused;
                let is_new = seen.send_if_modified(|before| {
                    let is_new = before.as_ref() != Some(&now);
                    *before = Some(now);
                    is_new
                });
                let interval = match (is_unused, is_new) {
                    _ if slot.is_none() => POLL_INTERVAL + POLL_INTERVAL.mul_f64(fastrand::f64() / 4.0),
                    (true, _) => UNUSED_INTERVAL,
                    (false, true) => Duration::ZERO,
                    (false, false) => UNCHANGED_INTERVAL,
                };
                interval.saturating_sub(asked_at.elapsed())
            }
            Ok(Err(error)) => {
                cursor = Cursor::START;
                failures += 1;
                debug!(
                    lock = place.path,
                    error = outrigger_config::error_chain(&error),
                    "cannot watch the lock"
                );
                BACKOFF.pause(failures, fastrand::u64(..))
            }
            Err(_) => {
                cursor = Cursor::START;
                UNCHANGED_INTERVAL
            }
        };
        sleep(pause).await;
    }
}
