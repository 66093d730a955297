//! One process's life: learn, register, be ready, leave.
//!
//! | module | its job |
//! |---|---|
//! | `state` | the states and what moves them, a pure table |
//! | `identity` | what the registry is told about the app |
//! | `health` | asks the local app how it is |
//! | `register` | keeps the registration true |
//! | `report` | tells the registry how the app is, renews the TTL |
//! | `keeper` | owns those three, and takes them back |
//! | `leave` | which step of leaving comes after which, a pure table |
//! | `callers` | whether callers have heard of it |
//! | `standing` | what is known about the registration |
//! | `drain` | the order of leaving |
//! | `maintenance` | takes the app out of service by hand, and keeps it out |
//! | `orphans` | removes what earlier runs left in the registry |
//! | `port` | whether the app still listens |
//! | `metrics` | all of it as gauges |
//!
//! It opens no listener and carries no request: [`crate::app`] wires those to it.

pub(crate) mod callers;
pub(crate) mod drain;
mod health;
mod identity;
mod keeper;
mod leave;
mod maintenance;
mod metrics;
mod orphans;
pub(crate) mod port;
mod register;
mod report;
mod standing;
mod state;

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use outrigger_registry::{Registrar, Registration, ReportedHealth};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use standing::{Phase as RegistrationPhase, Standing};
pub use state::State;

pub(crate) use health::label as health_label;
pub(crate) use identity::{host_name, registration};
pub(crate) use maintenance::Refused;

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
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Cancelled once the app may be asked how it is. One that is still to be started must not be
    /// mistaken for an earlier one that has not ended yet.
    pub(crate) started: CancellationToken,
    pub(crate) registrar: Arc<dyn Registrar>,
    pub(crate) registration: Registration,
    pub(crate) probe: outrigger_config::Health,
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
    wanted: watch::Sender<Wanted>,
}

impl Vitals {
    fn new(plan: Option<Plan>) -> Self {
        let board = match &plan {
            Some(plan) => Board::new(standing::Phase::AwaitingApp, &plan.registration.id),
            None => Board::new(standing::Phase::Off, ""),
        };
        let state = watch::Sender::new(State::Starting);
        let wanted = watch::Sender::new(Wanted { plan, drain: None });
        Self(Arc::new(Organs { state, board, drain: Drain::new(), wanted }))
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

    /// Takes the app out of service, for this reason, or puts it back.
    pub(crate) async fn order_maintenance(&self, reason: Option<String>) -> Result<(), Refused> {
        let plan = self.0.wanted.borrow().plan.clone().ok_or(Refused::NothingToRegister)?;
        let office = Office { registrar: plan.registrar, board: self.0.board.clone() };
        if self.drain_phase() != drain::Phase::Serving {
            return Err(Refused::Leaving);
        }
        office.order(reason).await
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
        let task = tokio::spawn(live(vitals.clone(), first_answers, callers));
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

async fn live(
    vitals: Vitals,
    first_answers: impl Future<Output = ()> + Send + 'static,
    mut callers: Callers,
) {
    let _end = EndOfLife(vitals.clone());
    let first_answers = pin!(first_answers);
    let mut first_answers = Some(first_answers);
    let mut wanted = vitals.0.wanted.subscribe();
    let mut keeper = None;
    loop {
        let Wanted { plan, drain } = wanted.borrow_and_update().clone();
        drain.into_iter().for_each(|drain| callers.adopt(drain));
        follow(&vitals, plan.as_ref(), &mut keeper).await;
        tokio::select! {
            () = vitals.0.drain.begun() => break,
            () = rise(&vitals, &mut first_answers, plan, &mut keeper) => {}
            // The sender is ours.
            _ = wanted.changed() => {}
        }
    }
    // Before the registry hears of it: whoever asks whether we are ready must not be told yes by now.
    vitals.apply(Event::Drain);
    let drain = &vitals.0.drain;
    if let Some(keeper) = keeper {
        leave::run(keeper, &mut callers, drain, drain.hurried()).await;
    }
    drain.enter(drain::Phase::Safe);
}

/// Makes a registration under way the one that is wanted: in place where it is the same instance, else
/// the old one leaves before the new one comes. Takes [`leave::LEAVE`] at most.
async fn follow(vitals: &Vitals, plan: Option<&Plan>, keeper: &mut Option<Keeper>) {
    match (keeper.as_mut(), plan) {
        (Some(keeper), Some(plan)) if keeper.is_of(&plan.registration) => {
            return keeper.adopt(plan.registration.clone(), plan.probe.clone());
        }
        (Some(_), _) => {
            info!("the app is to be registered otherwise, or not at all: leaving first");
            if let Some(keeper) = keeper.take()
                && timeout(leave::LEAVE, keeper.leave()).await.is_err()
            {
                warn!("gave up leaving the registry; deregister_after will remove the app");
            }
        }
        (None, _) => {}
    }
    match plan {
        Some(plan) => vitals.0.board.begin(standing::Phase::AwaitingApp, &plan.registration.id),
        None => vitals.0.board.begin(standing::Phase::Off, ""),
    }
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

/// From Learning to Ready, from wherever it stands; then for ever.
async fn rise<F: Future<Output = ()>>(
    vitals: &Vitals,
    first_answers: &mut Option<Pin<&mut F>>,
    plan: Option<Plan>,
    keeper: &mut Option<Keeper>,
) {
    if let Some(answers) = first_answers {
        if timeout(LEARN, answers.as_mut()).await.is_err() {
            warn!(after = ?LEARN, "the registry has not answered for every declared service, going on without");
        }
        *first_answers = None;
    }
    vitals.apply(Event::Learned);
    if let Some(plan) = plan {
        register_app(vitals, plan, keeper).await;
    } else {
        vitals.apply(Event::NothingToRegister);
    }
    std::future::pending().await
}

/// Until the registry has been told that the app is well.
async fn register_app(vitals: &Vitals, plan: Plan, keeper: &mut Option<Keeper>) {
    let Plan { started, registrar, registration, probe } = plan;
    started.cancelled().await;
    let board = vitals.0.board.clone();
    let mut standing = board.subscribe();
    if keeper.is_none() {
        *keeper = Some(Keeper::start(registrar, registration, probe, board));
    }
    let _ = standing.wait_for(Standing::is_taken).await;
    vitals.apply(Event::Registered);
    let well = |standing: &Standing| {
        matches!(standing.told, Some(ReportedHealth::Passing | ReportedHealth::Warning))
    };
    let _ = standing.wait_for(well).await;
    vitals.apply(Event::Told);
}

#[cfg(test)]
mod tests;
