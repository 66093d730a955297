//! What a watch does about a suspect answer: examine the suspects, ask again, tell.
//!
//! The next questions are consistent reads, at once and then every 400 ms, so that their answers can
//! confirm the loss; the pacer has no say in them, because [`hold_for`](outrigger_config::MassLoss::hold_for)
//! bounds them. When one fails the back-off takes over and the default consistency is asked for until
//! something is answered. Before each of them whoever is kept is asked for a sign of life.
//!
//! A loss that was believed in the end may still be a mistake. Then the right answer may have the very
//! index of the wrong one, or a lower, and a question that waits for a higher one would sleep through
//! it: such a service is read from the start again after 1 s, 2 s, and then every 4 s for as long as the
//! loss is spoken of ([`crate::lost`]). A mistake that lasted for a minute is not to last for another.

use std::{collections::HashSet, sync::Arc, time::Duration};

use outrigger_registry::{Consistency, Instance, InstanceId};
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use super::Watcher;
use crate::{
    Snapshot,
    guard::{AcceptedLoss, Findings, Review, ReviewedAnswer},
    lost::PresumedGone,
    table::now,
};

/// Pause between two questions about a suspect answer.
const RECHECK_INTERVAL: Duration = Duration::from_millis(400);
/// The first pause before a service that has lost instances in a mass is read from the start again.
const REREAD_AFTER_LOSS: Duration = Duration::from_secs(1);
/// The longest, for as long as it may have been a mistake.
pub(super) const REREAD_WHILE_LOST: Duration = Duration::from_secs(4);

impl Watcher {
    pub(super) fn consistency(&self) -> Consistency {
        if self.guard.has_suspects() && self.failures == 0 {
            Consistency::Consistent
        } else {
            Consistency::Default
        }
    }

    /// What is known after `answer` instead of just that, if it is not believed as a whole.
    pub(super) fn screen(
        &mut self,
        current: &Snapshot,
        answer: &ReviewedAnswer<'_>,
    ) -> Option<Arc<[Instance]>> {
        self.guard.apply_settings(self.context.services.settings().mass_loss);
        let had_suspects = self.guard.has_suspects();
        let (prober, service) = (&self.context.prober, &self.service.query.service);
        let Review { mut known, findings, accepted_losses } =
            self.guard.review(&current.instances, answer, |id| prober.recently_served(service, id));
        self.record_presumed_gone(accepted_losses, answer);
        if self.guard.has_suspects() {
            let taken = self.reassigned(answer.instances);
            if !taken.is_empty() {
                debug!(service = %self.service.query, instances = taken.len(), "the addresses of suspect instances are listed for others");
                self.guard.drop_suspects(&taken);
                known = self.guard.has_suspects().then(|| self.guard.known());
            }
        }
        if findings.suspected.is_some() && !had_suspects {
            self.recheck_at = now();
        }
        self.record_findings(findings);
        self.publish_suspects();
        known
    }

    /// Asks for signs of life, tells what is kept, and waits until the registry is to be asked again.
    /// Returns at once when nobody is kept.
    pub(super) async fn check_suspects(&mut self) {
        if !self.guard.has_suspects() {
            return;
        }
        let (prober, service) = (&self.context.prober, &self.service.query.service);
        let silent = prober.find_silent(service, self.guard.suspects_to_probe()).await;
        if !silent.is_empty() {
            self.drop_silent(&silent);
        }
        self.warn_of_suspects();
        if self.guard.has_suspects() {
            sleep_until(self.recheck_at.into()).await;
            self.recheck_at = now() + RECHECK_INTERVAL;
        }
    }

    /// Notes who is believed gone by this answer although nothing else speaks against them, and who was
    /// before and is listed again.
    fn record_presumed_gone(&mut self, accepted_losses: Vec<AcceptedLoss>, answer: &ReviewedAnswer<'_>) {
        let given_up: Vec<_> = accepted_losses.into_iter().filter(|one| !one.is_listed).collect();
        if given_up.is_empty() {
            if self.service.watch_health().presumed_gone.is_some() {
                self.service.update_watch_health(|contact| {
                    contact.presumed_gone =
                        contact.presumed_gone.as_ref().and_then(|lost| lost.without(answer.instances));
                });
            }
            return;
        }
        let index = given_up.iter().map(|one| one.listed_at).min().unwrap_or(answer.index);
        let instances = given_up.into_iter().map(|one| one.instance).collect();
        self.service.update_watch_health(|contact| {
            let lost = PresumedGone::merge(contact.presumed_gone.as_ref(), instances, index, answer.now);
            contact.presumed_gone = lost.without(answer.instances);
        });
        self.reread_interval = REREAD_AFTER_LOSS;
        self.reread_at = answer.now + REREAD_AFTER_LOSS;
    }

    /// Believes the loss of these.
    fn drop_silent(&mut self, silent: &[InstanceId]) {
        let known = {
            self.guard.drop_suspects(silent);
            self.guard.known()
        };
        info!(
            service = %self.service.query,
            instances = silent.len(),
            kept = self.guard.suspects().len(),
            "instances that the registry no longer lists do not answer either, believing it"
        );
        self.publish_suspects();
        if *known != *self.service.snapshot().instances {
            self.publish(known, now());
        }
    }

    /// Suspects whose address belongs to somebody else: to another instance that this answer lists, or
    /// to another service. What answers there is not them.
    fn reassigned(&self, listed: &[Instance]) -> Vec<InstanceId> {
        let suspects = self.guard.suspects_to_probe();
        let addrs: HashSet<_> = suspects.iter().map(|(_, addr, _)| *addr).collect();
        let mut taken = self.context.services.addrs_of_other_services(&self.service.query.service, &addrs);
        let known: HashSet<_> = self.guard.suspects().collect();
        let listed = listed.iter().filter(|one| one.weight() > 0 && !known.contains(&one.id));
        taken.extend(listed.filter_map(|one| one.addr.clone().ok()));
        suspects.into_iter().filter(|(_, addr, _)| taken.contains(addr)).map(|(id, ..)| id).collect()
    }

    fn record_findings(&mut self, findings: Findings) {
        let service = &self.service.query;
        if let Some((reason, count)) = findings.suspected {
            self.service.count_suspect(reason);
            let before = self.unreported.map_or(0, |(_, before)| before);
            self.unreported = Some((reason, before + count));
        }
        if findings.listed_again > 0 {
            info!(%service, instances = findings.listed_again, "suspect instances are listed again");
        }
        if findings.accepted > 0 {
            // A warning, for they still answer: it is the registry's word alone.
            warn!(%service, instances = findings.accepted, "the registry insists that suspect instances are gone, believing it");
        }
    }

    /// Once for each suspect answer, and not for one whose suspects are all gone in truth.
    fn warn_of_suspects(&mut self) {
        let Some((reason, vanished)) = self.unreported.take() else { return };
        let kept = self.guard.suspects().len();
        if kept > 0 {
            warn!(
                service = %self.service.query,
                reason = reason.label(),
                vanished,
                kept,
                "the registry's answer is suspect, keeping instances that still answer"
            );
        }
    }

    fn publish_suspects(&self) {
        let kept = self.guard.suspects();
        if kept.len() == 0 && self.service.watch_health().suspects.is_empty() {
            return;
        }
        let suspects: Arc<[InstanceId]> = kept.cloned().collect();
        self.service.update_watch_health(|contact| contact.suspects = suspects);
    }
}
