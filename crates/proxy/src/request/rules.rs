//! The traffic rules of a service: which cluster and which subset of it a request goes to, and what a route changes.
//!
//! Only requests to a service with rules come here. The first route that matches decides, else the split; a service that is
//! chosen is called with its own split and settings, and never with its routes.

use std::{borrow::Cow, sync::Arc};

use outrigger_config::{self as config, ExactTarget, PathMatch};
use outrigger_http1::Head;
use tokio::time::Instant;

use crate::{
    host::ServiceName,
    reason::{Reason, Refusal},
    request::{
        app::Downstream,
        applied::{AppliedRules, Otherwise, choose_entry},
        fields::RequestFacts,
        matching::{Asked, is_copy, mismatch},
    },
    upstream::{
        cluster::{Cluster, ClusterSettings},
        exact::LinkedTarget,
        manager::ClusterManager,
        subset::Subset,
        traffic::{Mirror, Route, RouteDestination, Split, Target, Traffic},
    },
};

/// Most services that one request is passed on through. The settings have no circle; those of two reloads may, for a moment.
pub(crate) const MAX_SERVICES: usize = 8;

/// The service of a request, as it was when the request found it.
pub(crate) struct RoutedService {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) settings: Arc<ClusterSettings>,
    /// `None`: the service has no rules, or they change nothing of where the attempts go.
    pub(crate) applied: Option<Box<AppliedRules>>,
}

/// What the rules of a service choose for a request.
pub(crate) struct Chosen {
    traffic: Arc<Traffic>,
    /// The route that takes it, by its place.
    route: Option<usize>,
    to: Target,
}

impl Chosen {
    /// Whether another service is to be found first.
    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(self.to, Target::Service(_) | Target::Exact(_))
    }
}

impl RoutedService {
    /// See [`AppliedRules::subset`].
    pub(crate) fn subset(&self) -> Option<&Subset> {
        self.applied.as_ref()?.subset.as_deref()
    }

    /// See [`RoutedService::applied`].
    pub(crate) fn rules(&self) -> Option<&AppliedRules> {
        self.applied.as_deref()
    }

    /// See [`AppliedRules::mirror`].
    pub(crate) fn mirror(&self) -> Option<&Arc<Mirror>> {
        self.applied.as_ref()?.mirror.as_ref()
    }

    /// What the rules choose. `None`: there are none.
    pub(crate) fn choose(
        &self,
        head: &Head,
        facts: &RequestFacts,
        clusters: &ClusterManager,
    ) -> Option<Chosen> {
        let traffic = self.settings.traffic.as_ref()?;
        let at = {
            let asked = Asked::new(head, facts.changes.target.as_deref().unwrap_or_else(|| head.target()));
            traffic
                .routes
                .iter()
                .position(|route| asked.may_match(route) && mismatch(route, &asked).is_none())
        };
        let (route, own) = (at.and_then(|at| traffic.routes.get(at)), &self.cluster);
        let mut to = match route.map(|route| &route.to) {
            None | Some(RouteDestination::Own) => choose_own(traffic.split.as_ref(), head, own, clusters),
            Some(RouteDestination::To(target)) => target.clone(),
            Some(RouteDestination::Split(split)) => choose(split, head, own, clusters),
        };
        if let Some(other) = route.and_then(|route| route.on_empty.as_ref())
            && !is_usable(&to, own, clusters)
        {
            to = other.clone();
        }
        Some(Chosen { traffic: traffic.clone(), route: at, to })
    }

    /// Notes what was chosen here, and in `facts` what the instance gets otherwise than the app wrote it. `chosen_by`: the service
    /// that the route is of, where it is another one.
    pub(crate) fn apply(
        &mut self,
        chosen_by: Option<&str>,
        Chosen { traffic, route: route_at, to }: Chosen,
        head: &Head,
        facts: &mut RequestFacts,
        clusters: &ClusterManager,
    ) -> Result<(), Refusal> {
        let route = route_at.and_then(|at| traffic.routes.get(at));
        let (mut subset, mut failover) = (None, clusters.failover_of(&self.cluster));
        match to {
            Target::Any => {}
            Target::Subset(one) => subset = Some(one),
            // `None`: what the chain named is gone.
            Target::Exact(target) => {
                if let Some(found) = clusters.exact_target(&self.cluster.key, &target) {
                    self.enter(&found, route.and_then(|route| route.rule.tuning.as_ref()));
                    (subset, failover) = (found.subset().cloned(), found.failover.clone());
                }
            }
            Target::Service(name) => return Err(refuse_long_way(&self.cluster.label, &name)),
        }
        let mirror = traffic
            .mirror
            .as_ref()
            .filter(|mirror| mirror.takes(head.method()) && !facts.changes.upgrades && !is_copy(head));
        let mirror = mirror.cloned();
        if let Some((at, route)) = route_at.and_then(|at| Some((at, traffic.routes.get(at)?))) {
            if let Some(policy) = &route.rule.policy {
                let label = chosen_by.unwrap_or(&self.cluster.label);
                let key = || format!("upstreams.{label}.routes[{at}]").into();
                self.settings = self.settings.with_policy(policy, key);
            }
            change_head(route, head, facts);
        }
        if subset.is_some() || failover.is_some() || mirror.is_some() {
            // Another service has applied its own split.
            let otherwise = match chosen_by {
                None => Some(Otherwise { traffic, route: route_at }),
                Some(_) => self.settings.traffic.clone().map(|traffic| Otherwise { traffic, route: None }),
            };
            self.applied = Some(Box::new(AppliedRules { subset, failover, mirror, otherwise }));
        }
        Ok(())
    }

    /// Makes the target of a chain the service of the request.
    fn enter(&mut self, target: &LinkedTarget, tuning: Option<&Arc<config::PolicyTuning>>) {
        self.cluster = target.cluster.clone();
        self.settings = self.cluster.view.load().settings.clone();
        let connect_timeout = target.rule.connect_timeout;
        if tuning.is_some() || connect_timeout.is_some() {
            self.settings = self.settings.tuned(tuning, connect_timeout);
        }
    }
}

impl Downstream<'_> {
    /// Finds the service that was chosen, and what its own split chooses, and applies it. False: the app is gone.
    pub(crate) async fn apply_elsewhere(
        &mut self,
        service: &mut RoutedService,
        mut chosen: Chosen,
        head: &Head,
        facts: &mut RequestFacts,
        accepted: Instant,
    ) -> Result<bool, Refusal> {
        let clusters = self.info.clusters().clone();
        let chosen_by = service.cluster.label.clone();
        for _ in 0..MAX_SERVICES {
            let Target::Service(name) = &chosen.to else { break };
            let Some(next) = self.open_cluster(&ServiceName::plain(name), &facts.deadline, &accepted).await?
            else {
                return Ok(false);
            };
            next.mark_used(self.now);
            service.settings = next.view.load().settings.clone();
            service.cluster = next;
            let split = service.settings.traffic.as_ref().and_then(|traffic| traffic.split.as_ref());
            chosen.to = choose_own(split, head, &service.cluster, &clusters);
        }
        if let Target::Exact(target) = &chosen.to
            && !self.open_exact(&service.cluster, target, facts, &accepted).await?
        {
            return Ok(false);
        }
        service.apply(Some(&chosen_by), chosen, head, facts, &clusters)?;
        service.cluster.mark_used(self.now);
        Ok(true)
    }

    /// Waits for the instances that a chain of `own` names, where nothing is known of them yet. False: the app is gone.
    async fn open_exact(
        &mut self,
        own: &Cluster,
        target: &Arc<ExactTarget>,
        facts: &RequestFacts,
        accepted: &Instant,
    ) -> Result<bool, Refusal> {
        let Some(found) = self.info.clusters().exact_target(&own.key, target) else { return Ok(true) };
        let place = Some(&target.place).filter(|_| !found.cluster.has_answer());
        for place in place.into_iter().chain(&target.failover) {
            // Its failover is not known yet either, when the first request needs it.
            let is_needed = *place == target.place || !found.has_usable();
            if is_needed && self.open_cluster(&name_of(place), &facts.deadline, accepted).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The refusal of a request that the rules pass on too often, last to the service `next`.
pub(crate) fn refuse_long_way(label: &str, next: &str) -> Refusal {
    let detail = format!("{label}: its rules lead through more than {MAX_SERVICES} services, last to {next}");
    Refusal::new(Reason::LoopDetected, detail)
}

/// The name of the service that a chain names.
fn name_of(place: &config::ExactPlace) -> ServiceName<'_> {
    let datacenter = place.datacenter.as_deref().map(Cow::Borrowed);
    ServiceName { service: Cow::Borrowed(&*place.service), tag: None, datacenter }
}

/// What the split of a service says; without one, any instance.
fn choose_own(split: Option<&Split>, head: &Head, own: &Cluster, clusters: &ClusterManager) -> Target {
    split.map_or(Target::Any, |split| choose(split, head, own, clusters))
}

fn choose(split: &Split, head: &Head, own: &Cluster, clusters: &ClusterManager) -> Target {
    let chosen = choose_entry(split, head, |target| is_usable(target, own, clusters));
    chosen.cloned().unwrap_or(Target::Any)
}

/// Whether a target of `own`'s rules has a usable instance, or a failover for it, as far as it is known. Of a service that is not
/// open nothing is known.
pub(crate) fn is_usable(target: &Target, own: &Cluster, clusters: &ClusterManager) -> bool {
    match target {
        Target::Any => true,
        Target::Subset(subset) => own.has_usable(Some(&**subset)),
        Target::Service(name) => is_service_usable(name, clusters),
        Target::Exact(target) => {
            clusters.exact_target(&own.key, target).is_none_or(|target| target.has_usable())
        }
    }
}

/// As [`is_usable`], of another service.
pub(crate) fn is_service_usable(name: &str, clusters: &ClusterManager) -> bool {
    let cluster = clusters.find(&ServiceName::plain(name)).filter(|cluster| cluster.has_answer());
    cluster.is_none_or(|cluster| cluster.has_usable(None))
}

/// Notes what the route changes in the head that the instance gets.
pub(crate) fn change_head(route: &Route, head: &Head, facts: &mut RequestFacts) {
    let changes = &mut facts.changes;
    if let Some(prefix) = &route.rule.rewrite_prefix {
        let target = changes.target.as_deref().unwrap_or_else(|| head.target());
        let matched = match &route.rule.matcher.path {
            Some(PathMatch::Exact(text) | PathMatch::Prefix(text)) => text.len(),
            Some(PathMatch::Regex(_)) | None => 0,
        };
        let rest = target.get(matched..).unwrap_or_default();
        changes.target = Some([prefix.as_bytes(), rest].concat().into());
    }
    changes.add.extend_from_slice(&route.add);
    if !route.remove.is_empty() {
        changes.remove = Some(route.remove.clone());
    }
}
