//! The one task of a life: learns, registers the app, keeps what a reload makes of its settings, and leaves when
//! it is asked to. It decides no order of its own: [`super::state`] and [`super::step`] are the tables.

use std::{
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use outrigger_registry::ReportedHealth;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    Plan, Vitals, Wanted,
    callers::Callers,
    drain,
    keeper::Keeper,
    leave,
    standing::{self, Standing},
    state::Event,
};

/// Longest wait for the first answers at start. Then it goes on: a request for a service that is
/// still unknown has a bounded wait of its own.
pub(super) const LEARN: Duration = Duration::from_secs(5);

/// From the first answers to the last word to the registry.
pub(super) async fn live(
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
    let Some(plan) = plan else { return vitals.0.board.begin(standing::Phase::Off, "") };
    vitals.0.board.begin(standing::Phase::AwaitingApp, &plan.registration.id);
    vitals.office_at(plan.registrar.clone()).move_to(plan.note.clone()).await;
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
    let mut standing = vitals.0.board.subscribe();
    if keeper.is_none() {
        let office = vitals.office_at(plan.registrar.clone());
        *keeper = Some(Keeper::start(plan, office));
    }
    let _ = standing.wait_for(Standing::is_taken).await;
    vitals.apply(Event::Registered);
    let well = |standing: &Standing| {
        matches!(standing.told, Some(ReportedHealth::Passing | ReportedHealth::Warning))
    };
    let _ = standing.wait_for(well).await;
    vitals.apply(Event::Told);
}
