//! Leases by their ids and by their owners.

use std::{sync::Arc, time::Duration};

use outrigger_registry::LockPlace;
use tokio::time::{Instant, timeout_at};

use super::{ANSWER_MARGIN, Acquire, Lease, LockManager, Shared};
use crate::{AcquireError, LeaseError, LockName, Released, hold::Hold};

impl LockManager {
    /// Acquires a lock for a lease of `ttl`. The same owner gets the lease that it has.
    ///
    /// # Errors
    /// When it was not acquired within the wait.
    pub async fn lease(
        &self,
        request: Acquire,
        owner: Option<String>,
        ttl: Duration,
    ) -> Result<Lease, AcquireError> {
        let request = Acquire { session_ttl: request.session_ttl.max(ttl), ..request };
        let hold = self.acquire(request, Some((owner, ttl))).await?;
        Ok(self.0.lease_now(&hold))
    }

    /// Lets a lease of the lock `name` begin again.
    ///
    /// # Errors
    /// When it is lost or unknown, or is being taken over.
    pub async fn renew(&self, name: &LockName, id: &str) -> Result<Lease, LeaseError> {
        let hold = self.0.find_lease(name, id).await?;
        if let Some(reason) = hold.loss_at(self.0.clock.now()) {
            // What was told stays true.
            hold.lose(reason.clone());
            return Err(LeaseError::Lost(reason));
        }
        if !hold.is_kept() {
            return Err(self.0.missing_lease(name, id));
        }
        hold.extend(self.0.clock.now());
        Ok(self.0.lease_now(&hold))
    }

    /// Gives a lease of the lock `name` back.
    ///
    /// # Errors
    /// When it is lost or unknown, or is being taken over.
    pub async fn release(&self, name: &LockName, id: &str) -> Result<Released, LeaseError> {
        let hold = self.0.find_lease(name, id).await?;
        if let Some(reason) = hold.loss_at(self.0.clock.now()) {
            hold.lose(reason.clone());
            return Err(LeaseError::Lost(reason));
        }
        match hold.release().await {
            Ok(released) => Ok(released),
            // It has ended meanwhile.
            Err(_) => match hold.loss_at(self.0.clock.now()) {
                Some(reason) => Err(LeaseError::Lost(reason)),
                None => Err(self.0.missing_lease(name, id)),
            },
        }
    }
}

impl Shared {
    /// Waits for the first read of the record, until `until` at most. `false`: it was not read.
    pub(super) async fn wait_until_read(&self, until: Instant) -> bool {
        if !self.record.is_on_disk() {
            return true;
        }
        let mut restoring = self.restoring.subscribe();
        timeout_at(until, restoring.wait_for(Option::is_some)).await.is_ok_and(|read| read.is_ok())
    }

    async fn find_lease(&self, name: &LockName, id: &str) -> Result<Arc<Hold>, LeaseError> {
        if !self.wait_until_read(Instant::now() + ANSWER_MARGIN).await {
            return Err(LeaseError::Restoring);
        }
        let found = {
            let holds = self.holds.lock();
            holds.get(id).filter(|hold| hold.lease.is_some() && hold.grant.name == *name).cloned()
        };
        found.ok_or_else(|| self.missing_lease(name, id))
    }

    /// Why there is no such lease.
    fn missing_lease(&self, name: &LockName, id: &str) -> LeaseError {
        let is_restoring =
            self.restoring.borrow().iter().flatten().any(|recorded| {
                recorded.id == id && recorded.name == name.as_str() && recorded.lease.is_some()
            });
        if self.handed_over().is_cancelled() {
            LeaseError::HandedOver
        } else if is_restoring {
            LeaseError::Restoring
        } else {
            let loss = self.record.loss_of(id, name.as_str(), self.clock.now());
            loss.map_or(LeaseError::Unknown, LeaseError::Lost)
        }
    }

    fn lease_now(&self, hold: &Hold) -> Lease {
        let now = self.clock.now();
        Lease {
            id: hold.id.clone(),
            token: hold.grant.token,
            ttl: hold.promised(now),
            certain_for: hold.certain_until().saturating_sub(now),
        }
    }

    /// Whether `owner` may have a lease of an earlier process there, which is not taken over yet.
    pub(super) fn is_restoring_of(&self, place: &LockPlace, owner: Option<&str>) -> bool {
        let Some(owner) = owner else { return false };
        self.restoring.borrow().iter().flatten().any(|recorded| {
            recorded.path == place.path
                && recorded.lease.as_ref().is_some_and(|lease| lease.owner.as_deref() == Some(owner))
        })
    }

    /// The lease that `owner` has there, which begins again.
    pub(super) fn extended_lease_of(&self, place: &LockPlace, owner: Option<&str>) -> Option<Arc<Hold>> {
        let now = self.clock.now();
        let mut holds = self.leases_of(place, owner?).into_iter();
        let hold = holds.find(|hold| hold.loss_at(now).is_none() && hold.adopt())?;
        hold.extend(now);
        Some(hold)
    }

    /// The lease of `owner` there that ends now, and may still have the lock at the registry.
    pub(super) fn ending_lease_of(&self, place: &LockPlace, owner: Option<&str>) -> Option<Arc<Hold>> {
        let holds = self.leases_of(place, owner?);
        holds.into_iter().find(|hold| !hold.is_kept() && !hold.freed.is_cancelled())
    }

    fn leases_of(&self, place: &LockPlace, owner: &str) -> Vec<Arc<Hold>> {
        let holds = self.holds.lock();
        holds.values().filter(|hold| hold.grant.place == *place && hold.is_of_owner(owner)).cloned().collect()
    }
}
