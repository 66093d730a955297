//! Looks at what the agent holds of the app, and mends what can be mended without registering again.
//!
//! It asks with the agent's blocking query on the content hash, so that a change is seen within
//! milliseconds, and without it a restart of the agent within one back-off. Checks have no such query: they
//! are read with each look. It registers nothing: it says why that has to be done ([`super::register`]).

use std::time::Duration;

use outrigger_registry::{AgentService, OwnCheck, Registration, ReportedHealth};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::warn;

use super::{
    calls::{Trouble, call, held},
    register::{Reason, Register},
    report::{KNOCK, OUTPUT},
};

/// Fewest time between two looks: an agent that answers at once must not be asked in a tight loop.
const PACE: Duration = Duration::from_secs(1);

/// What was seen.
enum Seen {
    /// What should be, with its hash.
    Right(Option<String>),
    /// It has to be registered again.
    Wrong(Reason),
}

impl Register {
    /// Looks until the registration is not what it should be.
    pub(super) async fn look(&self) -> Reason {
        let generation = self.board.now().generation;
        let mut settings = self.wanted.clone();
        let wanted = settings.borrow().clone();
        let mut credentials = self.credentials.clone();
        let mut hash: Option<String> = None;
        let (mut failures, mut doubted) = (0, false);
        loop {
            let started = Instant::now();
            let seen = tokio::select! {
                // First: what the agent holds by the old settings is no change of somebody's.
                biased;
                () = changed(&mut settings) => return Reason::Settings,
                () = changed(&mut credentials) => return Reason::Rotated,
                () = raised(&self.unlisted, generation) => return Reason::Unlisted,
                // Asked again at once: it may be forgotten.
                () = raised(&self.doubt, generation), if !doubted => {
                    doubted = true;
                    continue;
                }
                seen = self.look_once(&wanted, hash.take()) => seen,
            };
            let pause = match seen {
                Ok(Seen::Wrong(reason)) => return reason,
                Ok(Seen::Right(_)) if doubted => return Reason::Doubted,
                Ok(Seen::Right(held)) => {
                    failures = 0;
                    hash = held;
                    PACE.saturating_sub(started.elapsed())
                }
                Err(trouble) => {
                    let error = &trouble.text;
                    if self.board.failed(error.clone()) {
                        warn!(id = wanted.id, error, "could not look at the registration, trying on");
                    }
                    failures += 1;
                    trouble.pause(failures - 1)
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = raised(&self.doubt, generation), if !doubted => {
                    doubted = true;
                    hash = None;
                }
                () = changed(&mut settings) => return Reason::Settings,
                () = changed(&mut credentials) => return Reason::Rotated,
                () = raised(&self.unlisted, generation) => return Reason::Unlisted,
            }
        }
    }

    async fn look_once(&self, wanted: &Registration, hash: Option<String>) -> Result<Seen, Trouble> {
        let Some(held) = held(&*self.registrar, &wanted.id, hash.as_deref()).await? else {
            return Ok(Seen::Wrong(Reason::Forgotten));
        };
        if self.board.now().order.is_some() {
            self.office.carry_out().await?;
        }
        let before = self.board.now();
        let checks = call(self.registrar.service_checks(&wanted.id)).await?;
        let Some(own) = checks.own else { return Ok(Seen::Wrong(Reason::Forgotten)) };
        self.office.saw(&before, checks.maintenance).await;
        for check in &checks.others {
            call(self.registrar.deregister_check(check)).await?;
            warn!(id = wanted.id, check, "removed a check of the app that is not the sidecar's");
        }
        if !is_ours(&own, before.told) {
            // Before it is registered: Consul would go on with somebody's HTTP check under our check's id.
            warn!(id = wanted.id, said = own.output, "somebody else sets the app's check, making it anew");
            call(self.registrar.deregister_check(&own.id)).await?;
            return Ok(Seen::Wrong(Reason::Changed));
        }
        if !agrees(&held, wanted) {
            return Ok(Seen::Wrong(Reason::Changed));
        }
        Ok(Seen::Right(Some(held.content_hash).filter(|hash| !hash.is_empty())))
    }
}

/// Resolves when there is a doubt of registration `generation`, or of a newer one.
async fn raised(doubt: &watch::Receiver<u64>, generation: u64) {
    if doubt.clone().wait_for(|doubted| *doubted >= generation).await.is_err() {
        std::future::pending().await
    }
}

/// Resolves when it is another value than was last seen.
async fn changed<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Whether our check is what we made and says what we said; before we said anything, whatever it says.
fn is_ours(own: &OwnCheck, told: Option<ReportedHealth>) -> bool {
    own.has_our_name && (told.is_none() || own.ttl_expired || [OUTPUT, KNOCK].contains(&&*own.output))
}

/// Whether the agent holds what is wanted. Its own additions (an address of its own) are no change.
fn agrees(held: &AgentService, wanted: &Registration) -> bool {
    let address = |address: &Option<String>| address.clone().unwrap_or_default();
    held.name == wanted.name
        && held.port == i64::from(wanted.port)
        && address(&held.address) == address(&wanted.address)
        && held.tags == wanted.tags
        && held.meta == wanted.meta
        && held.weights == wanted.weights
        && !held.enable_tag_override
}
