//! Takes the app out of service by hand, and keeps it out.
//!
//! Consul keeps one order per service, and anybody may give it there (`consul maint`), so the registry's word
//! is the truth, whoever caused it: what [`super::look`] sees is what the pages say, what is restored when
//! the registration had to be made anew, and what is written down ([`super::note`]) for the next run. An
//! order given here goes before it until the registry has taken it, both ways, however long that takes.
//! `off` ends it; a restart of the app, the sidecar or the registry does not, and no reload: it is the same
//! app under another name.

use std::{path::PathBuf, sync::Arc, time::Duration};

use outrigger_registry::Registrar;
use tracing::{info, warn};

use super::{
    calls::within,
    note::Note,
    standing::{Board, Order, Phase, Standing},
};

/// Longest wait for one order. Above the 7 s for which an agent stalls without a leader.
const CALL: Duration = Duration::from_secs(8);

/// Longest wait for the registry before a page says what was seen last.
const LOOK: Duration = Duration::from_secs(3);

/// Most calls for one order: another only where the order was changed meanwhile.
const TRIES: u32 = 3;

/// Why an order was not, or not yet, carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("nothing is registered by this sidecar: it has no service, or a registry of static instances")]
    NothingToRegister,
    #[error("the app is leaving the registry")]
    Leaving,
    /// The order holds all the same.
    #[error("the registry has not confirmed it: {0}; the sidecar goes on trying")]
    Unconfirmed(String),
}

/// Where orders are given, and carried out.
#[derive(Debug, Clone)]
pub(super) struct Office {
    pub(super) registrar: Arc<dyn Registrar>,
    pub(super) board: Board,
    pub(super) note: Note,
}

impl Office {
    /// Opens it with what an earlier run wrote down.
    pub(super) fn open(registrar: Arc<dyn Registrar>, board: Board, note: Note) -> Self {
        let office = Self { registrar, board, note };
        office.recall(office.note.read());
        office
    }

    /// Writes down at another place from now on, because a reload has named the app otherwise, or for the
    /// first time. What is to be goes along; where nothing is, what an earlier run has left there holds, as it
    /// would after a restart.
    pub(super) async fn move_to(&self, place: Option<PathBuf>) {
        let to_be = |left| {
            if self.board.now().to_be().is_none() {
                self.recall(left);
            }
            self.board.now().to_be().map(str::to_owned)
        };
        self.note.move_to(place, to_be).await;
    }

    fn recall(&self, left: Option<String>) {
        if let Some(reason) = &left {
            warn!(
                reason,
                "the app is in maintenance since an earlier run; `outrigger maintenance off` ends it"
            );
        }
        self.board.recall(left);
    }

    /// Takes an order, and tries to carry it out. Before the app is registered it is noted, and carried out
    /// with the registration. Takes 27 s at most.
    pub(super) async fn order(&self, order: Order) -> Result<(), Refused> {
        let standing = self.board.now();
        if standing.phase == Phase::Left {
            return Err(Refused::Leaving);
        }
        info!(id = standing.id, ?order, "maintenance was ordered");
        let again = standing.maintenance.is_some() && order != Order::Off;
        self.board.order(order);
        self.write_down().await;
        self.carry_out().await.map_err(Refused::Unconfirmed)?;
        if again {
            // Consul keeps the first reason, and its word is what is said. A failure: the next look tells.
            let _ = self.look().await;
        }
        Ok(())
    }

    /// Sends what is to be, until the registry has taken the last order; to nobody as long as nothing is
    /// registered.
    pub(super) async fn carry_out(&self) -> Result<(), String> {
        // Two orders at once: whoever finds that the other's came later sends that one again, so that
        // the registry ends with the last. A lock would have to be held over the call.
        for _ in 0..TRIES {
            let standing = self.board.now();
            if !standing.asked {
                return Ok(());
            }
            let sent = self.send(&standing.id, standing.to_be()).await;
            if sent.is_err() && standing.order.is_some() && self.board.now().order.is_none() {
                return Ok(()); // a look has carried it out meanwhile
            }
            sent?;
            if self.board.confirmed(&standing) {
                return Ok(());
            }
        }
        Err("others give orders, too".into())
    }

    async fn send(&self, id: &str, reason: Option<&str>) -> Result<(), String> {
        let call = self.registrar.set_maintenance(id, reason.is_some(), reason.unwrap_or_default());
        within(CALL, call).await.map_err(|trouble| trouble.text)
    }

    /// After a registration: carries out an order that waits for it; and where the registry held nothing
    /// (`fresh`), what is to be. Else nothing is touched: maintenance outlives a correction.
    pub(super) async fn restore(&self, fresh: bool) -> Result<(), String> {
        let standing = self.board.now();
        if standing.order.is_some() || (fresh && standing.maintenance.is_some()) {
            return self.carry_out().await;
        }
        Ok(())
    }

    /// Takes the registry's word, from an answer to a question asked at `before`.
    pub(super) async fn saw(&self, before: &Standing, maintenance: Option<String>) {
        if self.board.saw(before, maintenance.clone()) {
            let id = &before.id;
            match maintenance {
                Some(reason) => info!(id, reason, "somebody put the app into maintenance"),
                None => info!(id, "somebody ended maintenance"),
            }
            self.write_down().await;
        }
    }

    /// Asks the registry how it is. `Err`: it does not say, and what was seen last stands.
    pub(super) async fn look(&self) -> Result<(), String> {
        let before = self.board.now();
        if before.phase != Phase::Registered {
            return Ok(());
        }
        let checks =
            within(LOOK, self.registrar.service_checks(&before.id)).await.map_err(|trouble| trouble.text)?;
        // Without our check it is no registration of ours, and says nothing.
        if checks.own.is_some() {
            self.saw(&before, checks.maintenance).await;
        }
        Ok(())
    }

    async fn write_down(&self) {
        self.note.write(|| self.board.now().to_be().map(str::to_owned)).await;
    }
}

#[cfg(test)]
#[path = "maintenance_tests.rs"]
mod tests;
