//! The sidecar as the restarts of its app see it: its registration, and the slots of its service.

use std::time::Duration;

use outrigger_config::error_chain;
use outrigger_locks::{Acquire, AcquireError, Held, HoldState, KnownHolder, LockManager, LockName};
use outrigger_registration::LifecycleHandle;
use outrigger_registry::SessionInfo;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::restart::{RestartSlot, RestartTarget, SlotError};

/// The time to live of the session of a slot, the default of a lock of the app.
const SLOT_TTL: Duration = Duration::from_secs(15);

/// A sidecar that registers its app.
pub(super) struct SidecarTarget {
    pub(super) lifecycle: LifecycleHandle,
    pub(super) locks: LockManager,
}

impl SidecarTarget {
    /// The name of the lock below `api.locks.prefix`, and what others read of this instance.
    fn place(&self) -> Result<(LockName, String), String> {
        let first = self.lifecycle.registrations().into_iter().next();
        let first = first.ok_or("no service is configured, so there is no slot to take")?;
        // A name of a service in Consul has no case.
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let service: String = first.service.to_ascii_lowercase().chars().map(plain).collect();
        let name =
            LockName::parse(&format!("outrigger/restart/{service}")).map_err(|error| error.to_string())?;
        Ok((name, first.status.id))
    }

    /// Why there is no slot now. Another `at_once` takes effect when no instance holds a slot by the one before.
    async fn explain(&self, name: &LockName, error: AcquireError) -> SlotError {
        let why = match error {
            AcquireError::Draining | AcquireError::HandedOver => return SlotError::Leaving,
            AcquireError::Held { .. } => self.name_holders(name).await,
            AcquireError::LimitMismatch { .. } | AcquireError::KindMismatch { .. } => {
                match self.locks.remove_unused(name).await {
                    Ok(true) => "the slots of another at_once are free, and were removed".to_owned(),
                    Ok(false) => format!("with another at_once, {}", self.name_holders(name).await),
                    Err(error) => no_slot(&error),
                }
            }
            AcquireError::Registry(error) => no_slot(&error),
            other => error_chain(&other),
        };
        SlotError::NotNow(why)
    }

    async fn name_holders(&self, name: &LockName) -> String {
        let view = self.locks.view(name).await;
        let mut holders: Vec<_> = view.iter().flat_map(|view| &view.holders).map(describe_holder).collect();
        holders.sort();
        match holders.as_slice() {
            [] => "other instances restart, or are ill after it".to_owned(),
            _ => format!("the slots are held: {}", holders.join(", ")),
        }
    }
}

/// An instance writes its id. Another program, as `consul lock`, is known by its session.
fn describe_holder(holder: &KnownHolder) -> String {
    let id = String::from_utf8_lossy(&holder.holder.value);
    let session = match &holder.session {
        Some(SessionInfo { name, node }) => format!("session {name:?} of node {node}"),
        None => format!("session {}", holder.holder.session),
    };
    match holder.holder.value.is_empty() {
        true => format!("another program, by {session}"),
        false => format!("{id} restarts or is ill after it"),
    }
}

fn no_slot(error: &outrigger_registry::Error) -> String {
    format!("no slot from the registry, and without one nothing is restarted: {}", error_chain(error))
}

impl RestartTarget for SidecarTarget {
    type Slot = Held;

    async fn acquire(&self, at_once: u32, wait: Duration) -> Result<Held, SlotError> {
        let (name, id) = self.place().map_err(SlotError::NotNow)?;
        let request = Acquire {
            name: name.clone(),
            limit: at_once,
            value: id.into_bytes(),
            wait,
            session_ttl: SLOT_TTL,
            is_internal: true,
        };
        match self.locks.hold(request).await {
            Ok(held) => Ok(held),
            Err(error) => Err(self.explain(&name, error).await),
        }
    }

    fn skip_token(&self) -> CancellationToken {
        self.lifecycle.drain().skip_waits.child_token()
    }

    async fn take_out(&self, skip_waits: CancellationToken) {
        self.lifecycle.take_out(skip_waits).await;
    }

    fn put_back(&self) {
        self.lifecycle.put_back();
    }

    async fn serving(&self, since: Instant) {
        self.lifecycle.wait_until_serving(since).await;
    }

    async fn leaving(&self) {
        self.lifecycle.drain().requested.cancelled().await;
    }

    fn service(&self) -> Option<String> {
        self.lifecycle.registrations().into_iter().next().map(|first| first.service)
    }
}

impl RestartSlot for Held {
    fn is_certain(&self) -> bool {
        Held::is_certain(self)
    }

    async fn lost(&mut self) -> String {
        let mut state = self.state();
        let lost = state.wait_for(|state| *state != HoldState::Held).await;
        match lost.as_deref() {
            Ok(HoldState::Lost(reason)) => reason.to_string(),
            Ok(HoldState::Released | HoldState::Held) | Err(_) => "it was given back".to_owned(),
        }
    }

    async fn give_back(self) {
        self.release().await;
    }
}
