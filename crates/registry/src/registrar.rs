//! Where the local app is registered: five verbs, whatever the registry is.

use std::{any::Any, collections::BTreeMap, fmt, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::registry::AnswerFuture;

/// A place where the local app is registered.
///
/// Each verb is one question or one order. The loop that announces again is in the `registration` crate.
pub trait Registrar: fmt::Debug + Send + Sync + 'static {
    /// Announces `registration`, or corrects the registration of the same id, with the current credentials. A new
    /// check starts with [`Registration::initial_health`]; an existing check keeps its status, and maintenance stays.
    /// From then on [`drift`](Self::drift) with the same `seen` compares with this registration.
    fn announce<'a>(&'a self, registration: &'a Registration, seen: &'a mut Seen) -> AnswerFuture<'a, ()>;

    /// Reports the health of the app that is registered as `id`, which also renews its TTL.
    fn report<'a>(&'a self, id: &'a str, report: Report<'a>) -> AnswerFuture<'a, ()>;

    /// Turns maintenance on for `reason`, or off without one.
    fn maintain<'a>(&'a self, id: &'a str, reason: Option<&'a str>) -> AnswerFuture<'a, ()>;

    /// Removes a registration, its checks and its maintenance. An unknown id is not an error.
    fn withdraw<'a>(&'a self, id: &'a str) -> AnswerFuture<'a, ()>;

    /// Whether the registry still holds what was announced. Blocks as [`Registry::watch`](crate::Registry::watch) does:
    /// the answer comes when something differs, and [`Drift::None`] after some seconds. What can be corrected without
    /// a new announcement (checks that other clients added to the registration, registrations that earlier runs left) the registrar corrects itself.
    ///
    /// Before the first [`announce`](Self::announce) with this `seen`, the answer comes at once, corrects nothing, and
    /// says only whether the registry holds the id ([`Drift::Forgotten`]: it does not) and whether it is in maintenance. After
    /// [`Seen::only_look`] the next answer is of the same kind.
    fn drift<'a>(
        self: Arc<Self>,
        registration: &'a Registration,
        seen: &'a mut Seen,
    ) -> AnswerFuture<'a, Drift>;
}

/// How the registry differs from what was announced. Where several answers are right, the first is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// It does not differ.
    None,
    /// The registry does not hold the registration.
    Forgotten,
    /// Another client changed the registration.
    Changed,
    /// The registration is held, but callers do not find it.
    Unlisted,
    /// The reason for maintenance is another one than [`Seen::maintenance`]. `None`: not in maintenance.
    Maintenance(Option<String>),
    /// The registration was announced with credentials that were replaced since. Once they expire, the registry no
    /// longer follows it.
    Credentials,
    /// Another process registers the same id, and registered it first: [`Seen::rival`]. It keeps the id, and nothing is corrected,
    /// until [`Forgotten`](Self::Forgotten) or [`Changed`](Self::Changed) says that it is gone.
    Taken,
}

/// Another process that registers the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rival {
    /// The address and the port that it registers, with the word for it: `address 10.0.0.5:8080`, or `the agent's address, port 8080`.
    pub address: String,
    /// It registered first and keeps the id.
    pub keeps_id: bool,
}

/// By what a registrar tells which of two processes with one id was first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Claim {
    /// A number that rises with the time of the first registration, microseconds since 1970 or more. From the claim of an earlier run
    /// with the same id, or set by the registrar with the first announcement. `None`: not announced, and no earlier run is known.
    pub since: Option<u64>,
    /// Microseconds since 1970, where this is the first run. The number of another process that was found is exceeded in any case, so that clocks
    /// that differ decide nothing.
    pub now: u64,
}

/// What was seen of one registration: the memory between two questions of [`Registrar::drift`].
#[derive(Default)]
pub struct Seen {
    /// The reason for maintenance that the caller knows of.
    pub maintenance: Option<String>,
    /// The process that registers the same id. `None`: none is known, or none has registered it for ten minutes.
    pub rival: Option<Rival>,
    /// By what this process is the first or the later one of two. Set before the first announcement.
    pub claim: Claim,
    /// Another process was seen that may register the same id: before a report or a withdrawal the caller has to ask whether what
    /// the registry holds [is another process's](Self::is_others).
    pub is_contested: bool,
    /// After an answer that only looked: another process announced what the registry holds, and this one has not replaced it.
    pub is_others: bool,
    /// The same, and for another address than the registration: perhaps the app of a process that still runs.
    pub is_elsewhere: bool,
    /// The number of the credentials of the last announcement. Absent: nothing was announced.
    pub(crate) credentials: Option<watch::Receiver<u64>>,
    pub(crate) at_once: bool,
    pub(crate) only_look: bool,
    memory: Option<Box<dyn Any + Send>>,
}

impl Seen {
    /// The next answer comes at once.
    pub fn ask_at_once(&mut self) {
        self.at_once = true;
    }

    /// The next answer comes at once and corrects nothing, as before the first announcement.
    pub fn only_look(&mut self) {
        self.only_look = true;
    }

    /// Whether the credentials were replaced since the last announcement. A change is seen with the next question or
    /// order of any kind.
    pub fn has_new_credentials(&self) -> bool {
        self.credentials.as_ref().is_some_and(|credentials| credentials.has_changed().unwrap_or(false))
    }

    /// What the registrar keeps here, of its own type.
    pub(crate) fn memory<T: Any + Default + Send>(&mut self) -> &mut T {
        if !self.memory.as_ref().is_some_and(|kept| kept.is::<T>()) {
            self.memory = Some(Box::<T>::default());
        }
        match self.memory.as_mut().and_then(|kept| kept.downcast_mut()) {
            Some(memory) => memory,
            None => unreachable!("it was made just now"),
        }
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seen").field("maintenance", &self.maintenance).finish_non_exhaustive()
    }
}

/// The local app's registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its id, unique on the agent.
    pub id: String,
    /// The service's name.
    pub name: String,
    /// Its address. Absent: the address of the agent.
    pub address: Option<String>,
    /// The app's port.
    pub port: u16,
    /// Tags.
    pub tags: Vec<String>,
    /// Metadata.
    pub meta: BTreeMap<String, String>,
    /// Shares of traffic.
    pub weights: outrigger_config::Weights,
    /// The check becomes critical when it is not renewed for this time.
    pub ttl: Duration,
    /// The registry removes the registration when it has been critical for this time.
    pub deregister_after: Duration,
    /// The status of a check that is new to the agent. Without it callers see a healthy app as critical
    /// until the first report.
    pub initial_health: ReportedHealth,
}

/// The health of the app, as the sidecar reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportedHealth {
    /// The app is healthy.
    Passing,
    /// The app answers, and asks for less traffic (HTTP 429).
    Warning,
    /// The app is not healthy.
    Critical,
}

/// What is reported of the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report<'a> {
    /// Its health.
    Health(ReportedHealth),
    /// Its health, and why.
    Explained {
        /// The health.
        health: ReportedHealth,
        /// Why, as one line. Constant while the cause is the same, because a changing text wakes every watcher.
        why: &'a str,
    },
    /// Its health is unknown, because it cannot be probed from here: the last one that was known stays. A shortage of the sidecar
    /// must not take an app out that may work, nor bring one back that does not.
    Unprobed {
        /// The last health.
        last: ReportedHealth,
        /// Why it cannot be probed. Constant until it can, because a changing text wakes every watcher.
        why: &'a str,
    },
    /// It is critical because it leaves, and still takes requests. Callers use it where no other instance is left.
    Draining,
}
