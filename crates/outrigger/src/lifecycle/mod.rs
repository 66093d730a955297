//! One process's life: learn, register, be ready, leave.
//!
//! | module | its job |
//! |---|---|
//! | `state` | the states and what moves them, a pure table |
//! | `identity` | what the registry is told about the app |
//! | `health` | asks the local app how it is |
//! | `register` | keeps the registration true |
//! | `look` | what the agent holds of it, and whether that is right |
//! | `report` | tells the registry how the app is, renews the TTL |
//! | `keeper` | owns those, and takes the registration back |
//! | `leave` | which step of leaving comes after which, a pure table |
//! | `callers` | whether callers have heard of it |
//! | `standing` | what is known about the registration |
//! | `drain` | the order of leaving |
//! | `maintenance` | takes the app out of service by hand, and keeps it out |
//! | `note` | remembers that across a restart |
//! | `orphans` | removes what earlier runs left in the registry |
//! | `port` | whether the app still listens |
//! | `metrics` | all of it as gauges |
//!
//! It opens no listener and carries no request: [`crate::app`] wires those to it.

pub(crate) mod callers;
pub(crate) mod drain;
#[cfg(test)]
mod fake;
mod health;
mod identity;
mod keeper;
mod leave;
mod look;
mod maintenance;
mod metrics;
mod note;
mod orphans;
pub(crate) mod port;
mod register;
mod report;
mod standing;
mod state;

use std::{future::Future, sync::Arc, time::Duration};

use outrigger_registry::{Registrar, Registration, ReportedHealth};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use standing::{Order, Phase as RegistrationPhase, Standing};
pub use state::State;

pub(crate) use health::label as health_label;
pub(crate) use identity::{host_name, registration};
pub(crate) use maintenance::Refused;
pub(crate) use note::Note;

use callers::Callers;
use drain::{Drain, Traffic};
use keeper::Keeper;
use maintenance::Office;
use standing::Board;
use state::Event;

/// Longest wait for the first answers at start. Then it goes on: a request for a service that is
/// still unknown has a bounded wait of its own.
const LEARN: Duration = Duration::from_secs(5);

/// What is to be registered, where, and what is asked of the app before.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Cancelled once the app may be asked how it is. One that is still to be started must not be
    /// mistaken for an earlier one that has not ended yet.
    pub(crate) started: CancellationToken,
    pub(crate) registrar: Arc<dyn Registrar>,
    pub(crate) registration: Registration,
    pub(crate) probe: outrigger_config::Health,
    /// Where maintenance is written down.
    pub(crate) note: Note,
}

/// What the admin pages and the metrics see of a life.
#[derive(Debug, Clone)]
pub(crate) struct Vitals(Arc<Organs>);

#[derive(Debug)]
struct Organs {
    state: watch::Sender<State>,
    board: Board,
    drain: Drain,
    /// Absent: there is nothing to register.
    office: Option<Office>,
}

impl Vitals {
    fn new(plan: Option<&Plan>) -> Self {
        let board = match plan {
            Some(plan) => Board::new(standing::Phase::AwaitingApp, &plan.registration.id),
            None => Board::new(standing::Phase::Off, ""),
        };
        let office = plan.map(|plan| Office::open(plan.registrar.clone(), board.clone(), plan.note.clone()));
        let state = watch::Sender::new(State::Starting);
        Self(Arc::new(Organs { state, board, drain: Drain::new(), office }))
    }

    pub(crate) fn state(&self) -> State {
        *self.0.state.borrow()
    }

    pub(crate) fn standing(&self) -> Standing {
        self.0.board.now()
    }

    pub(crate) fn drain_phase(&self) -> drain::Phase {
        self.0.drain.phase()
    }

    /// Takes the app out of service, or puts it back.
    pub(crate) async fn order_maintenance(&self, order: Order) -> Result<(), Refused> {
        let office = self.0.office.as_ref().ok_or(Refused::NothingToRegister)?;
        if self.drain_phase() != drain::Phase::Serving {
            return Err(Refused::Leaving);
        }
        office.order(order).await
    }

    /// Asks the registry whether the app is in maintenance. `Err`: what was seen last stands.
    pub(crate) async fn look_at_maintenance(&self) -> Result<(), String> {
        match &self.0.office {
            Some(office) => office.look().await,
            None => Ok(()),
        }
    }

    /// Says that callers need not be waited for when it leaves: the app has ended, or somebody insists.
    pub(crate) fn hurry(&self) {
        self.0.drain.hurry();
    }

    /// Asks to leave; returns at once.
    pub(crate) fn begin_drain(&self) {
        self.0.drain.begin();
    }

    /// Has the app asked how it is at once, not only when the next probe is due.
    pub(crate) fn probe_now(&self) {
        self.0.board.probe_now();
    }

    /// Resolves once the state is at least as far as `wanted`.
    pub(crate) async fn reached(&self, wanted: impl FnMut(&State) -> bool) {
        // An error means that the sender is gone, and we hold it.
        let _ = self.0.state.subscribe().wait_for(wanted).await;
    }

    fn apply(&self, event: Event) {
        let mut next = None;
        self.0.state.send_if_modified(|state| {
            let after = state.after(event);
            let changed = after != *state;
            *state = after;
            next = changed.then_some(after);
            changed
        });
        if let Some(state) = next {
            info!(state = state.label(), "state changed");
        }
    }
}

/// A life under way. Dropping it ends its tasks without leaving the registry.
#[derive(Debug)]
pub(crate) struct Life {
    vitals: Vitals,
    task: JoinHandle<()>,
}

impl Life {
    /// A life whose sockets are bound. `first_answers` resolves once the registry has answered for
    /// every declared service.
    pub(crate) fn start(
        first_answers: impl Future<Output = ()> + Send + 'static,
        plan: Option<Plan>,
        callers: Callers,
    ) -> Self {
        let vitals = Vitals::new(plan.as_ref());
        vitals.apply(Event::Bound);
        let task = tokio::spawn(live(vitals.clone(), first_answers, plan, callers));
        Self { vitals, task }
    }

    pub(crate) fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// Leaves the registry, goes on routing, and returns when it is safe to stop.
    pub(crate) async fn drain(&self) {
        self.vitals.begin_drain();
        self.vitals.0.drain.safe().await;
    }

    /// All of it, to the end: how many requests were cut off.
    pub(crate) async fn end(&self, traffic: &impl Traffic, grace: Duration) -> usize {
        self.drain().await;
        let aborted = drain::finish(&self.vitals.0.drain, traffic, grace).await;
        self.vitals.apply(Event::Ended);
        self.vitals.0.drain.enter(drain::Phase::Gone);
        aborted
    }

    /// Registers the gauges of this life.
    pub(crate) fn observe(&self, metrics: &prometheus::Registry) -> Result<(), prometheus::Error> {
        metrics::register(metrics, self.vitals.clone())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn live(
    vitals: Vitals,
    first_answers: impl Future<Output = ()> + Send + 'static,
    plan: Option<Plan>,
    mut callers: Callers,
) {
    let _end = EndOfLife(vitals.clone());
    let mut keeper = None;
    tokio::select! {
        () = vitals.0.drain.begun() => {}
        () = rise(&vitals, first_answers, plan, &mut keeper) => vitals.0.drain.begun().await,
    }
    // Before the registry hears of it: whoever asks whether we are ready must not be told yes by now.
    vitals.apply(Event::Drain);
    let drain = &vitals.0.drain;
    if let Some(keeper) = keeper {
        leave::run(keeper, &mut callers, drain, drain.hurried()).await;
    }
    drain.enter(drain::Phase::Safe);
}

/// Nobody waits for ever for a life that ended by a mistake of ours: it counts as safe to stop.
struct EndOfLife(Vitals);

impl Drop for EndOfLife {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.apply(Event::Drain);
            self.0.0.drain.enter(drain::Phase::Safe);
        }
    }
}

/// From Learning to Ready.
async fn rise(
    vitals: &Vitals,
    first_answers: impl Future<Output = ()>,
    plan: Option<Plan>,
    keeper: &mut Option<Keeper>,
) {
    if timeout(LEARN, first_answers).await.is_err() {
        warn!(after = ?LEARN, "the registry has not answered for every declared service, going on without");
    }
    vitals.apply(Event::Learned);
    let Some((plan, office)) = plan.zip(vitals.0.office.clone()) else {
        return vitals.apply(Event::NothingToRegister);
    };
    let mut standing = vitals.0.board.subscribe();
    *keeper = Some(Keeper::start(plan, office));
    let _ = standing.wait_for(|standing| standing.generation > 0).await;
    vitals.apply(Event::Registered);
    let well = |standing: &Standing| {
        matches!(standing.told, Some(ReportedHealth::Passing | ReportedHealth::Warning))
    };
    let _ = standing.wait_for(well).await;
    vitals.apply(Event::Told);
}

#[cfg(test)]
mod tests;
