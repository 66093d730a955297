//! The instances that a watch keeps although the registry no longer lists them: probe them, ask the
//! registry again, log.
//!
//! While there are suspects the registry is asked with consistent reads, at once and then every
//! 400 ms, so that the answers can confirm the loss. The rate limiter does not apply to these reads,
//! because [`hold_for`](outrigger_config::MassLoss::hold_for) bounds them. When a read fails, the
//! back-off applies, with the default consistency until the registry answers. The suspects are probed
//! before each read.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_events::EventKind;
use outrigger_registry::{Instance, InstanceId};
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use super::context::WatchContext;
use crate::{
    Snapshot,
    clock::now,
    service::Service,
    suspects::{
        AcceptedLoss, Findings, MassLossGuard, PresumedGone, Review, ReviewedAnswer, SuspectReason,
        SuspectToProbe,
    },
};

/// Pause between two consistent reads.
const RECHECK_INTERVAL: Duration = Duration::from_millis(400);

/// The suspects of one watch.
#[derive(Debug)]
pub(super) struct SuspectRecheck {
    context: Arc<WatchContext>,
    service: Arc<Service>,
    pub(super) guard: MassLossGuard,
    /// A suspect answer that is not yet logged: why, and how many instances it lost.
    unreported: Option<(SuspectReason, usize)>,
    /// When the registry is asked again.
    recheck_at: Instant,
}

/// What [`SuspectRecheck::screen`] found.
#[derive(Debug, Default)]
pub(super) struct Screened {
    /// What to publish instead of the answer. `None`: the answer is believed as it is.
    pub(super) known: Option<Arc<[Instance]>>,
    /// Instances were presumed gone that may still be there.
    pub(super) presumed_gone: bool,
}

impl SuspectRecheck {
    pub(super) fn new(context: Arc<WatchContext>, service: Arc<Service>) -> Self {
        let guard = MassLossGuard::new(context.services.settings().mass_loss);
        Self { context, service, guard, unreported: None, recheck_at: now() }
    }

    /// Decides how much of `answer` is believed.
    pub(super) fn screen(&mut self, current: &Snapshot, answer: &ReviewedAnswer<'_>) -> Screened {
        self.guard.apply_settings(self.context.services.settings().mass_loss);
        let had_suspects = self.guard.has_suspects();
        let (prober, service) = (&self.context.prober, &self.service.query.service);
        let Review { mut known, findings, accepted_losses } =
            self.guard.review(&current.instances, answer, |id| prober.recently_served(service, id));
        let presumed_gone = self.record_presumed_gone(accepted_losses, answer);
        if self.guard.has_suspects() {
            let reassigned = self.reassigned(answer.instances);
            if !reassigned.is_empty() {
                debug!(service = %self.service.query, instances = reassigned.len(), "the addresses of suspect instances are listed for others");
                self.guard.drop_suspects(&reassigned);
                let reason = format!("the registry lists the addresses of {} for others", reassigned.len());
                self.record_event(EventKind::LossBelieved, reason);
                known = self.guard.has_suspects().then(|| self.guard.known());
            }
        }
        if findings.suspected.is_some() && !had_suspects {
            self.recheck_at = now();
        }
        self.record_findings(findings);
        self.publish_suspects();
        Screened { known, presumed_gone }
    }

    /// Probes the suspects and drops those that are silent. Returns the instances to publish, where
    /// that changes them.
    pub(super) async fn drop_silent(&mut self) -> Option<Arc<[Instance]>> {
        let (prober, service) = (&self.context.prober, &self.service.query.service);
        let probe_timeout = self.context.services.settings().mass_loss.unwrap_or_default().probe_timeout;
        let silent = prober.find_silent(service, self.guard.suspects_to_probe(), probe_timeout).await;
        if silent.is_empty() {
            return None;
        }
        self.guard.drop_suspects(&silent);
        info!(
            service = %self.service.query,
            instances = silent.len(),
            kept = self.guard.suspects().len(),
            "instances that the registry no longer lists do not answer either, removing them"
        );
        let reason =
            format!("{} do not answer either; {} are kept", silent.len(), self.guard.suspects().len());
        self.record_event(EventKind::LossBelieved, reason);
        self.publish_suspects();
        let known = self.guard.known();
        (*known != *self.service.snapshot().instances).then_some(known)
    }

    /// Logs a new suspect answer, unless all of its suspects were silent.
    pub(super) fn warn_of_suspects(&mut self) {
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
            let reason =
                format!("{}: {vanished} vanished, {kept} that still answer are kept", reason.label());
            self.record_event(EventKind::LossDoubted, reason);
        }
    }

    /// Waits until the registry may be asked again; not at all without suspects.
    pub(super) async fn wait(&mut self) {
        if self.guard.has_suspects() {
            sleep_until(self.recheck_at.into()).await;
            self.recheck_at = now() + RECHECK_INTERVAL;
        }
    }

    /// Records the instances that this answer makes presumed gone, and removes those that it lists
    /// again. Returns whether any were added.
    fn record_presumed_gone(&self, accepted_losses: Vec<AcceptedLoss>, answer: &ReviewedAnswer<'_>) -> bool {
        let gone: Vec<_> = accepted_losses.into_iter().filter(|one| !one.is_listed).collect();
        if gone.is_empty() {
            if self.service.watch_health().presumed_gone.is_some() {
                self.service.update_watch_health(|health| {
                    health.presumed_gone =
                        health.presumed_gone.as_ref().and_then(|before| before.without(answer.instances));
                });
            }
            return false;
        }
        let index = gone.iter().map(|one| one.listed_at).min().unwrap_or(answer.index);
        let instances = gone.into_iter().map(|one| one.instance).collect();
        self.service.update_watch_health(|health| {
            let merged = PresumedGone::merge(health.presumed_gone.as_ref(), instances, index, answer.now);
            health.presumed_gone = merged.without(answer.instances);
        });
        true
    }

    /// Suspects with an address, the first one or another, that the registry lists for another instance or another service: a
    /// probe of that address says nothing about the suspect.
    fn reassigned(&self, listed: &[Instance]) -> Vec<InstanceId> {
        let mut suspects = self.guard.suspects_to_probe();
        let addrs: HashSet<_> = suspects.iter().flat_map(SuspectToProbe::addrs).collect();
        let mut taken = self.context.services.addrs_of_other_services(&self.service.query.service, &addrs);
        let suspect_ids: HashSet<_> = self.guard.suspects().collect();
        let listed = listed.iter().filter(|one| one.weight() > 0 && !suspect_ids.contains(&one.id));
        taken.extend(listed.filter_map(|one| one.addr.clone().ok()));
        suspects.retain(|one| one.addrs().any(|addr| taken.contains(&addr)));
        suspects.into_iter().map(|one| one.id).collect()
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
            let reason = format!("{} are listed again", findings.listed_again);
            self.record_event(EventKind::LossRefuted, reason);
        }
        if findings.accepted > 0 {
            // A warning, because these instances still answer: only the registry says that they are gone.
            warn!(%service, instances = findings.accepted, "the registry has confirmed that suspect instances are gone, removing them");
            let reason = format!("the registry has confirmed that {} are gone", findings.accepted);
            self.record_event(EventKind::LossBelieved, reason);
        }
    }

    fn record_event(&self, kind: EventKind, reason: String) {
        self.context.record_event(kind, &self.service.query, reason);
    }

    fn publish_suspects(&self) {
        let kept = self.guard.suspects();
        if kept.len() == 0 && self.service.watch_health().suspects.is_empty() {
            return;
        }
        let suspects: Arc<[InstanceId]> = kept.cloned().collect();
        self.service.update_watch_health(|health| health.suspects = suspects);
    }
}
