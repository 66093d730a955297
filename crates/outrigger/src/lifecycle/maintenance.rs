//! Takes the app out of service by hand, and keeps it out: the order is remembered, so that a registration
//! which had to be made again is in maintenance before anybody is told that the app is well.
//!
//! The order is the sidecar's own. What somebody else ordered at the agent (`consul maint`) is left alone by
//! every registration, and ended by `off`, for Consul keeps one order per service. Leaving in order ends
//! it with the registration.

use std::{sync::Arc, time::Duration};

use outrigger_registry::{Error, Registrar};
use tokio::time::timeout;
use tracing::info;

use super::standing::{Board, Phase};
use crate::telemetry::causes;

/// Longest wait for one call. Above the 7 s for which an agent stalls without a leader.
const CALL: Duration = Duration::from_secs(8);

/// Most calls for one order: another only where the order was changed meanwhile.
const TRIES: u32 = 3;

/// Why an order was not, or not yet, carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("nothing is registered by this sidecar: it has no service, or a registry of static instances")]
    NothingToRegister,
    #[error("the app is leaving the registry")]
    Leaving,
    /// An order to go in holds all the same: it is carried out with the next registration.
    #[error("the registry has not confirmed it: {0}; give the order again")]
    Unconfirmed(String),
}

/// Where orders are given.
#[derive(Debug, Clone)]
pub(super) struct Office {
    pub(super) registrar: Arc<dyn Registrar>,
    pub(super) board: Board,
}

impl Office {
    /// `Some`: in maintenance, for that reason. `None`: out of it. Before the app is registered the
    /// order is noted, and carried out with the registration. Takes 24 s at most.
    pub(super) async fn order(&self, reason: Option<String>) -> Result<(), Refused> {
        let standing = self.board.now();
        if standing.phase == Phase::Left {
            return Err(Refused::Leaving);
        }
        info!(id = standing.id, on = reason.is_some(), reason = reason.as_deref(), "maintenance was ordered");
        self.board.order(reason);
        if !standing.asked {
            return Ok(());
        }
        // Two orders at once: whoever finds that the other's came later sends that one again, so that
        // the registry ends with the last. A lock would have to be held over the call.
        for _ in 0..TRIES {
            let order = self.board.now().maintenance;
            self.send(&standing.id, order.as_deref()).await.map_err(Refused::Unconfirmed)?;
            if self.board.now().maintenance == order {
                return Ok(());
            }
        }
        Err(Refused::Unconfirmed("others give orders, too".into()))
    }

    async fn send(&self, id: &str, order: Option<&str>) -> Result<(), String> {
        let call = self.registrar.maintenance(id, order.is_some(), order.unwrap_or_default());
        match timeout(CALL, call).await {
            Ok(done) => done.map_err(|error| causes(&error)),
            Err(_) => Err(format!("no answer within {CALL:?}")),
        }
    }
}

/// Carries out the order that holds, after a registration that may have lost it. Without one nothing is
/// ended: it may be somebody else's.
pub(super) async fn restore(registrar: &dyn Registrar, id: &str, board: &Board) -> Result<(), Error> {
    match board.now().maintenance {
        Some(reason) => registrar.maintenance(id, true, &reason).await,
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "maintenance_tests.rs"]
mod tests;
