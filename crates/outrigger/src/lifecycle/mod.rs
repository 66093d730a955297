//! One process's life: learn, register, be ready, leave.
//!
//! | module | its job |
//! |---|---|
//! | `state` | the states and what moves them, a pure table |
//! | `live` | the one task that walks through them, and follows a reload |
//! | `identity` | what the registry is told about the app |
//! | `health` | asks the local app how it is |
//! | `register` | keeps the registration true |
//! | `calls` | calls to the agent, and the pauses between those that fail |
//! | `look` | what the agent holds of it, and whether that is right |
//! | `listed` | whether callers find it |
//! | `report` | tells the registry how the app is, renews the TTL |
//! | `keeper` | owns those, and takes the registration back |
//! | `step` | which step of leaving comes after which, a pure table |
//! | `leave` | walks through them |
//! | `callers` | whether callers have heard of it |
//! | `sight` | which instance in a list it is |
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
mod calls;
pub(crate) mod drain;
#[cfg(test)]
mod fake;
mod health;
mod identity;
mod keeper;
mod leave;
mod listed;
mod live;
mod look;
mod maintenance;
mod metrics;
mod note;
mod orphans;
pub(crate) mod port;
mod register;
#[cfg(test)]
mod reload_tests;
mod report;
mod sight;
mod standing;
mod state;
mod step;

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use outrigger_registry::{Registrar, Registration};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use standing::{Order, Phase as RegistrationPhase, Standing};
pub use state::State;

pub(crate) use health::label as health_label;
pub(crate) use identity::{host_name, registration};
pub(crate) use maintenance::Refused;
pub(crate) use note::place as note_place;

use callers::Callers;
use drain::{Drain, Traffic};
use maintenance::Office;
use note::Note;
use standing::Board;
use state::Event;

/// What is to be registered, where, and what is asked of the app before.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Cancelled once the app may be asked how it is. One that is still to be started must not be
    /// mistaken for an earlier one that has not ended yet.
    pub(crate) started: CancellationToken,
    pub(crate) registrar: Arc<dyn Registrar>,
    pub(crate) registration: Registration,
    pub(crate) probe: outrigger_config::Health,
    /// Where maintenance is written down. Absent: nowhere.
    pub(crate) note: Option<PathBuf>,
}

/// What a life is to keep true, until a reload wants something else.
#[derive(Debug, Clone)]
struct Wanted {
    /// Absent: there is nothing to register.
    plan: Option<Plan>,
    /// Absent: as [`Callers`] were made.
    drain: Option<outrigger_config::Drain>,
}

/// What the admin pages and the metrics see of a life.
#[derive(Debug, Clone)]
pub(crate) struct Vitals(Arc<Organs>);

#[derive(Debug)]
struct Organs {
    state: watch::Sender<State>,
    board: Board,
    drain: Drain,
    note: Note,
    wanted: watch::Sender<Wanted>,
}

impl Vitals {
    fn new(plan: Option<Plan>) -> Self {
        let board = match &plan {
            Some(plan) => Board::new(standing::Phase::AwaitingApp, &plan.registration.id),
            None => Board::new(standing::Phase::Off, ""),
        };
        let note = Note::new(plan.as_ref().and_then(|plan| plan.note.clone()));
        if let Some(plan) = &plan {
            // For what an earlier run has written down.
            Office::open(plan.registrar.clone(), board.clone(), note.clone());
        }
        let state = watch::Sender::new(State::Starting);
        let wanted = watch::Sender::new(Wanted { plan, drain: None });
        Self(Arc::new(Organs { state, board, drain: Drain::new(), note, wanted }))
    }

    /// Absent: there is nothing to register.
    fn office(&self) -> Option<Office> {
        let registrar = self.0.wanted.borrow().plan.as_ref()?.registrar.clone();
        Some(self.office_at(registrar))
    }

    /// One office, whatever a reload makes of the registration: the board and the note are the life's.
    fn office_at(&self, registrar: Arc<dyn Registrar>) -> Office {
        Office { registrar, board: self.0.board.clone(), note: self.0.note.clone() }
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
        let office = self.office().ok_or(Refused::NothingToRegister)?;
        if self.drain_phase() != drain::Phase::Serving {
            return Err(Refused::Leaving);
        }
        office.order(order).await
    }

    /// Asks the registry whether the app is in maintenance. `Err`: what was seen last stands.
    pub(crate) async fn look_at_maintenance(&self) -> Result<(), String> {
        match self.office() {
            Some(office) => office.look().await,
            None => Ok(()),
        }
    }

    /// Whether somebody has asked to leave.
    pub(crate) fn is_leaving(&self) -> bool {
        self.0.drain.is_begun()
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
        let vitals = Vitals::new(plan);
        vitals.apply(Event::Bound);
        let task = tokio::spawn(live::live(vitals.clone(), first_answers, callers));
        Self { vitals, task }
    }

    pub(crate) fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// Keeps another registration true from now on, or none, and leaves by other settings.
    pub(crate) fn adopt(&self, plan: Option<Plan>, drain: outrigger_config::Drain) {
        self.vitals.0.wanted.send_replace(Wanted { plan, drain: Some(drain) });
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

#[cfg(test)]
mod tests;
