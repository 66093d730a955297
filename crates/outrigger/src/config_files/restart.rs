//! Restarts the app for a changed file, as one step of a rolling deploy of its service.
//!
//! ```text
//! Idle ─change─→ Pausing ─min_interval over─→ Waiting ─slot acquired─→ Leaving ─callers have left─→ Stopping
//!  ↑                                            ↑                        │ slot lost                  │ app started
//!  │                                            └────────────────────────┘                            ↓
//!  └──────────────healthy and registered: the slot is given back───────────────────────────────── Starting
//!  └──────────────the same──────── Held ←───────it ends, or is not healthy in time─────────────────────┘
//!                                    └─another change─→ Leaving, with its slot
//! ```
//!
//! The slot is one of `at_once` places of a semaphore that all instances of the service share. An instance that is ill after its
//! restart keeps it, so that at most `at_once` instances read a content that makes the app ill. The slot ends with the sidecar: its
//! session is given up, or ends with its time to live. An app that is started for another reason meanwhile has read the content and
//! needs no restart.

use std::{collections::BTreeMap, future::Future, path::PathBuf, sync::Arc, time::Duration};

use outrigger_events::{Event, EventKind, Events};
use outrigger_policy::backoff::Backoff;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::process::{AppControl, AppRequest, AppRun};

/// An app that is not healthy this long after its start is held to be ill.
const HELD_AFTER: Duration = Duration::from_secs(30);
/// The first question for a slot ends after this time, so that it is told soon why there is none.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// A later one: then the reason is told again where it is another one.
const NEXT_WAIT: Duration = Duration::from_secs(30);
/// Pauses after a slot was refused before the end of the wait.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(10) };

/// How a file asks for a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RestartTerms {
    /// Most instances of the service that restart at once.
    pub(super) at_once: u32,
    /// Shortest time between two restarts of this instance.
    pub(super) min_interval: Duration,
}

/// A change that asks for a restart.
#[derive(Debug, Clone, Copy)]
struct WantedRestart {
    terms: RestartTerms,
    /// An app that has read this version of the files needs no restart.
    version: u64,
}

/// The changes that ask for a restart. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct RestartRequests(watch::Sender<BTreeMap<PathBuf, WantedRestart>>);

impl RestartRequests {
    /// The file at `path` has another content.
    pub(super) fn add(&self, path: PathBuf, terms: RestartTerms, version: u64) {
        self.0.send_modify(|all| {
            all.insert(path, WantedRestart { terms, version });
        });
    }

    /// Drops what is asked for by other files than these: the settings name them no more.
    pub(super) fn retain(&self, is_named: impl Fn(&PathBuf) -> bool) {
        self.0.send_if_modified(|all| {
            let before = all.len();
            all.retain(|path, _| is_named(path));
            all.len() != before
        });
    }

    /// Whether an app that has read version `has_read` is to be restarted.
    #[cfg(test)]
    pub(super) fn is_asking(&self, has_read: u64) -> bool {
        self.outstanding(has_read).is_some()
    }

    /// What the app, which has read version `has_read`, is to be restarted for. `None`: nothing.
    fn outstanding(&self, has_read: u64) -> Option<Outstanding> {
        let all = self.0.borrow();
        let open: Vec<_> = all.iter().filter(|(_, wanted)| wanted.version > has_read).collect();
        let terms = open.iter().map(|(_, wanted)| wanted.terms).reduce(|a, b| RestartTerms {
            at_once: a.at_once.min(b.at_once),
            min_interval: a.min_interval.max(b.min_interval),
        })?;
        let paths: Vec<_> = open.iter().map(|(path, _)| path.display().to_string()).collect();
        Some(Outstanding { terms, paths: paths.join(", ") })
    }
}

/// The strictest terms of all files, and their paths.
struct Outstanding {
    terms: RestartTerms,
    paths: String,
}

/// What the coordinator does at this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum RestartState {
    /// Nothing is to be done.
    #[default]
    Idle,
    /// The last restart is not `min_interval` ago.
    Pausing,
    /// Other instances restart, or the registry does not answer.
    Waiting,
    /// Callers are leaving the app.
    Leaving,
    /// The app is ending, and will be started.
    Stopping,
    /// The app was started, and is not healthy yet.
    Starting,
    /// The app is ill after its restart: the slot is kept.
    Held,
}

impl RestartState {
    /// Every state.
    pub(super) const ALL: [Self; 7] =
        [Self::Idle, Self::Pausing, Self::Waiting, Self::Leaving, Self::Stopping, Self::Starting, Self::Held];

    /// The name on pages and in metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Pausing => "pausing",
            Self::Waiting => "waiting",
            Self::Leaving => "leaving",
            Self::Stopping => "stopping",
            Self::Starting => "starting",
            Self::Held => "held",
        }
    }
}

/// The state, and why it is so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RestartStatus {
    pub(super) state: RestartState,
    pub(super) why: String,
}

/// Why there is no slot.
#[derive(Debug)]
pub(super) enum SlotError {
    /// Ask again; why.
    NotNow(String),
    /// The sidecar leaves.
    Leaving,
}

/// One of the places of the service.
pub(super) trait RestartSlot: Send {
    /// Whether it is held for certain now.
    fn is_certain(&self) -> bool;
    /// Resolves when it is lost; why.
    fn lost(&mut self) -> impl Future<Output = String> + Send;
    /// Gives it back.
    fn give_back(self) -> impl Future<Output = ()> + Send;
}

/// What a restart needs of the rest of the sidecar.
pub(super) trait RestartTarget: Send + Sync {
    /// See [`RestartSlot`].
    type Slot: RestartSlot;
    /// Waits for one of `at_once` places.
    fn acquire(
        &self,
        at_once: u32,
        wait: Duration,
    ) -> impl Future<Output = Result<Self::Slot, SlotError>> + Send;
    /// Cancelled to skip the waits for callers.
    fn skip_token(&self) -> CancellationToken;
    /// Takes the app out of the registry. Returns when it may be stopped.
    fn take_out(&self, skip_waits: CancellationToken) -> impl Future<Output = ()> + Send;
    /// The app may be registered again.
    fn put_back(&self);
    /// Resolves when the app that was started at `since` is healthy, and the registry has taken that.
    fn serving(&self, since: Instant) -> impl Future<Output = ()> + Send;
    /// The name of the service, for events.
    fn service(&self) -> Option<String>;
    /// Resolves when the sidecar leaves.
    fn leaving(&self) -> impl Future<Output = ()> + Send;
}

/// How the time after a restart ends.
enum TrialEnd {
    Serving,
    /// It is ill, and there is another content: it is restarted again.
    AnotherContent,
}

/// Restarts the app when a file asks for it.
pub(super) struct RestartCoordinator<T: RestartTarget> {
    pub(super) target: T,
    pub(super) requests: RestartRequests,
    pub(super) app: Arc<AppControl>,
    pub(super) status: watch::Sender<RestartStatus>,
    pub(super) events: Events,
    /// Counts the restarts that ended well, and those after which the app was ill.
    pub(super) count: Box<dyn Fn(bool) + Send + Sync>,
}

impl<T: RestartTarget> RestartCoordinator<T> {
    /// Returns when the sidecar leaves. The slot is given back then, whatever the app does.
    pub(super) async fn run(self) {
        let leaving = self.target.leaving();
        tokio::select! {
            () = leaving => {}
            () = self.run_until_leaving() => {}
        }
        self.app.set_replaceable(false);
        self.show(RestartState::Idle, "the sidecar leaves: no restart begins any more");
    }

    async fn run_until_leaving(&self) {
        let mut last_restart: Option<Instant> = None;
        loop {
            self.show(RestartState::Idle, "");
            self.until_outstanding().await;
            let slot = tokio::select! {
                slot = self.queue(last_restart) => slot,
                // Settings that ask for nothing any more, or a start for another reason.
                () = self.until_nothing_outstanding() => {
                    info!("the app needs no restart any more: it was started meanwhile, or the settings changed");
                    continue;
                }
            };
            match slot {
                Ok(slot) => self.restart(slot, &mut last_restart).await,
                // `leaving` ends this.
                Err(()) => std::future::pending().await,
            }
        }
    }

    fn outstanding(&self) -> Option<Outstanding> {
        self.requests.outstanding(self.app.now().has_read)
    }

    /// Resolves when an app that runs has not read the last content.
    async fn until_outstanding(&self) {
        self.until(|run| run.pid.is_some() && self.requests.outstanding(run.has_read).is_some()).await;
    }

    async fn until_nothing_outstanding(&self) {
        self.until(|run| self.requests.outstanding(run.has_read).is_none()).await;
    }

    async fn until(&self, is: impl Fn(AppRun) -> bool) {
        let (mut runs, mut requests) = (self.app.watch(), self.requests.0.subscribe());
        loop {
            runs.mark_unchanged();
            requests.mark_unchanged();
            if is(self.app.now()) {
                return;
            }
            // Never an error: `self` holds the senders.
            tokio::select! {
                _ = runs.changed() => {}
                _ = requests.changed() => {}
            }
        }
    }

    /// Waits for `min_interval`, and then for a slot. An error: the sidecar leaves.
    async fn queue(&self, last_restart: Option<Instant>) -> Result<T::Slot, ()> {
        while let Some(Outstanding { terms, .. }) = self.outstanding() {
            let until = last_restart.map_or_else(Instant::now, |last| last + terms.min_interval);
            if until <= Instant::now() {
                break;
            }
            let why = format!("min_interval: the last restart is not {:?} ago", terms.min_interval);
            self.show(RestartState::Pausing, &why);
            // Other settings may have a shorter one.
            let mut requests = self.requests.0.subscribe();
            tokio::select! {
                () = sleep_until(until) => {}
                _ = requests.changed() => {}
            }
        }
        self.acquire().await
    }

    async fn acquire(&self) -> Result<T::Slot, ()> {
        let mut told = String::new();
        for failures in 0.. {
            let Some(Outstanding { terms, paths }) = self.outstanding().or_else(|| self.held_terms()) else {
                // The caller gives up.
                return std::future::pending().await;
            };
            if failures == 0 && self.state() != RestartState::Held {
                self.show(RestartState::Waiting, "for a slot of the service");
            }
            let (asked, wait) = (Instant::now(), if failures == 0 { FIRST_WAIT } else { NEXT_WAIT });
            match self.target.acquire(terms.at_once, wait).await {
                Ok(slot) => return Ok(slot),
                Err(SlotError::Leaving) => return Err(()),
                Err(SlotError::NotNow(why)) => {
                    if told != why {
                        info!(%why, files = paths, "the restart of the app waits");
                        self.record(EventKind::RestartWaits, &format!("{paths}: {why}"));
                        told.clone_from(&why);
                    }
                    if self.state() != RestartState::Held {
                        self.show(RestartState::Waiting, &why);
                    }
                }
            }
            if asked.elapsed() < wait {
                sleep(BACKOFF.pause_of_half(failures, fastrand::u64(..))).await;
            }
        }
        Err(())
    }

    /// An instance that is ill takes a slot, too, when it has lost its own.
    fn held_terms(&self) -> Option<Outstanding> {
        (self.state() == RestartState::Held).then(|| Outstanding {
            terms: self
                .requests
                .outstanding(0)
                .map_or(RestartTerms { at_once: 1, min_interval: Duration::ZERO }, |all| all.terms),
            paths: "an ill instance".to_owned(),
        })
    }

    async fn restart(&self, slot: T::Slot, last_restart: &mut Option<Instant>) {
        let mut before = self.app.now();
        if self.requests.outstanding(before.has_read).is_none() {
            // It was started in the moment in which the slot became free.
            return slot.give_back().await;
        }
        let mut slot = Some(slot);
        self.app.set_replaceable(true);
        loop {
            let paths = self.requests.outstanding(before.has_read).map(|all| all.paths).unwrap_or_default();
            self.record(EventKind::RestartBegan, &format!("for {paths}"));
            info!(files = paths, "restarting the app for its new configuration: callers leave it first");
            self.show(RestartState::Leaving, "callers are leaving the app");
            self.take_out(before).await;
            // Nothing has happened to the app yet.
            if !slot.as_ref().is_some_and(T::Slot::is_certain)
                && self.app.now().starts == before.starts
                && self.app.now().pid.is_some()
            {
                warn!("the restart of the app is called off, because the slot is lost; it is tried again");
                self.record(EventKind::RestartWaits, "called off: the slot is lost");
                self.target.put_back();
                break;
            }
            self.show(RestartState::Stopping, "the app is ending, and will be started again");
            // Not one that is started before it is asked.
            self.app.ask(AppRequest::Replace { starts: before.starts });
            let end = self.watch_trial(&mut slot, before, last_restart).await;
            match end {
                TrialEnd::Serving => {
                    info!("the app is healthy and registered after its restart");
                    self.record(EventKind::RestartEnded, "the app is healthy and registered");
                    (self.count)(true);
                    break;
                }
                TrialEnd::AnotherContent => before = self.app.now(),
            }
        }
        self.app.set_replaceable(false);
        if let Some(slot) = slot {
            slot.give_back().await;
        }
    }

    /// Callers leave. An app that has ended meanwhile is not waited for.
    async fn take_out(&self, before: AppRun) {
        let skip = self.target.skip_token();
        let mut out = std::pin::pin!(self.target.take_out(skip.clone()));
        tokio::select! {
            () = &mut out => return,
            () = self.until(|run| run.ends > before.ends) => {}
        }
        skip.cancel();
        out.await;
    }

    /// Waits until the app is healthy. One that is ill keeps the slot until then, or until there is another content.
    async fn watch_trial(
        &self,
        slot: &mut Option<T::Slot>,
        before: AppRun,
        last_restart: &mut Option<Instant>,
    ) -> TrialEnd {
        let mut runs = self.app.watch();
        // The end of the app that ran before is the restart itself.
        let expected_ends = before.ends + u64::from(before.pid.is_some());
        let mut is_held = false;
        loop {
            let run = *runs.borrow_and_update();
            let has_started = run.starts > before.starts;
            if has_started {
                if *last_restart < run.started_at {
                    *last_restart = run.started_at;
                    self.target.put_back();
                }
                if !is_held {
                    self.show(RestartState::Starting, "the app was started, and is not healthy yet");
                }
            }
            if run.ends > expected_ends && !is_held {
                is_held = true;
                self.hold("the app has ended again, or cannot be started");
            }
            let since = run.started_at.filter(|_| has_started && run.pid.is_some());
            let serving = async {
                match since {
                    Some(since) => self.target.serving(since).await,
                    None => std::future::pending().await,
                }
            };
            let ill_at = since.map_or_else(Instant::now, |since| since + HELD_AFTER);
            let has_slot = slot.is_some();
            let another_content = async {
                if has_slot {
                    self.until(|run| self.requests.outstanding(run.has_read).is_some()).await;
                } else {
                    // Not without a slot.
                    std::future::pending().await
                }
            };
            let lost = async {
                match slot.as_mut() {
                    Some(slot) => slot.lost().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = serving => return TrialEnd::Serving,
                _ = runs.changed() => {}
                () = another_content, if is_held => return TrialEnd::AnotherContent,
                () = sleep_until(ill_at), if since.is_some() && !is_held => {
                    is_held = true;
                    self.hold(&format!("the app is not healthy {HELD_AFTER:?} after its start"));
                }
                why = lost => {
                    warn!(%why, "the slot of the restart is lost: other instances may restart");
                    self.record(EventKind::RestartWaits, &format!("the slot is lost: {why}"));
                    *slot = None;
                }
                again = self.acquire(), if is_held && !has_slot => match again {
                    Ok(again) => *slot = Some(again),
                    Err(()) => std::future::pending().await,
                },
            }
        }
    }

    fn hold(&self, why: &str) {
        warn!(
            why,
            "the app is ill after its restart: it keeps its slot, so that the others are not restarted"
        );
        self.record(EventKind::RestartHeld, why);
        self.show(RestartState::Held, why);
        (self.count)(false);
    }

    fn state(&self) -> RestartState {
        self.status.borrow().state
    }

    fn show(&self, state: RestartState, why: &str) {
        self.status.send_if_modified(|status| {
            let changed = status.state != state || status.why != why;
            if changed {
                *status = RestartStatus { state, why: why.to_owned() };
            }
            changed
        });
    }

    fn record(&self, kind: EventKind, reason: &str) {
        let event = Event::new(kind, reason);
        self.events.record(match self.target.service() {
            Some(service) => event.of_service(service),
            None => event,
        });
    }
}

#[cfg(test)]
mod tests;
