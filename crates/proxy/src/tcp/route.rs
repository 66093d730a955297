//! Which instances a connection may go to.
//!
//! The split of the listener's service decides, then that of the service that it chooses. Routes look at requests, and have no part in
//! it.

use std::{borrow::Cow, sync::Arc, time::Duration};

use outrigger_config::{ExactPlace, ExactTarget};
use tokio::time::Instant;

use crate::{
    host::ServiceName,
    reason::Refusal,
    request::rules::{MAX_SERVICES, is_usable, refuse_long_way},
    upstream::{
        cluster::{Cluster, ClusterSettings},
        endpoint::Endpoint,
        failover::FailoverTarget,
        lease::Lease,
        manager::ClusterManager,
        over::{LinkedFailover, PickRequest},
        pick_set::Tried,
        subset::Subset,
        traffic::Target,
    },
};

/// The instances that a connection may go to.
#[derive(Debug)]
pub(crate) struct TcpRoute {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) settings: Arc<ClusterSettings>,
    /// `None`: all of the cluster.
    pub(crate) subset: Option<Arc<Subset>>,
    /// Where it goes while these instances cannot take it. `None`: nowhere.
    failover: Option<Arc<LinkedFailover>>,
}

impl TcpRoute {
    /// Finds them for the service of a listener. Waits only for the registry's first answer.
    ///
    /// # Errors
    /// When the splits lead in a circle, or to a service that cannot be watched.
    pub(crate) async fn find(clusters: &Arc<ClusterManager>, own: &Arc<Cluster>) -> Result<Self, Refusal> {
        let mut cluster = own.clone();
        clusters.wait_for_answer(&cluster, Duration::ZERO).await;
        for _ in 0..MAX_SERVICES {
            cluster.mark_used(Instant::now());
            let settings = cluster.view.load().settings.clone();
            let failover = clusters.failover_of(&cluster);
            let split = settings.traffic.as_ref().and_then(|traffic| traffic.split.as_ref());
            let chosen = split
                .and_then(|split| split.choose(None, |target| is_usable(target, &cluster, clusters)))
                .cloned();
            match chosen.unwrap_or(Target::Any) {
                Target::Any => return Ok(Self { cluster, settings, subset: None, failover }),
                Target::Subset(subset) => {
                    return Ok(Self { cluster, settings, subset: Some(subset), failover });
                }
                Target::Exact(target) => match Self::find_exact(clusters, &cluster, &target).await? {
                    Some(route) => return Ok(route),
                    // What the chain named is gone.
                    None => return Ok(Self { cluster, settings, subset: None, failover }),
                },
                Target::Service(name) => cluster = clusters.find_or_open(&ServiceName::plain(&name)).await?,
            }
        }
        Err(refuse_long_way(&own.label, &cluster.label))
    }

    /// What a chain of the registry names.
    async fn find_exact(
        clusters: &Arc<ClusterManager>,
        own: &Cluster,
        target: &Arc<ExactTarget>,
    ) -> Result<Option<Self>, Refusal> {
        let Some(found) = clusters.exact_target(&own.key, target) else { return Ok(None) };
        let place = Some(&target.place).filter(|_| !found.cluster.has_answer());
        for place in place.into_iter().chain(&target.failover) {
            // Its failover is not known yet either, when the first connection needs it.
            if *place == target.place || !found.has_usable() {
                clusters.find_or_open(&name_of(place)).await?;
            }
        }
        let mut settings = found.cluster.view.load().settings.clone();
        if let Some(connect_timeout) = found.rule.connect_timeout {
            settings = settings.tuned(None, Some(connect_timeout));
        }
        let (cluster, subset) = (found.cluster.clone(), found.subset().cloned());
        Ok(Some(Self { cluster, settings, subset, failover: found.failover.clone() }))
    }

    /// The part of the cluster's endpoints that the connection goes to. `None`: all.
    pub(crate) fn subset(&self) -> Option<&Subset> {
        self.subset.as_deref()
    }

    /// An endpoint that was not tried, or any usable one when all were; none of `passed`.
    pub(crate) fn pick(
        &self,
        tried: &[Arc<Endpoint>],
        passed: &[Arc<Endpoint>],
        retryable: bool,
        now: Instant,
    ) -> Option<Arc<Endpoint>> {
        match &self.failover {
            None => self.cluster.pick(self.subset(), tried, passed, retryable),
            Some(failover) => {
                let request = PickRequest { subset: self.subset(), tried, passed, retryable, now };
                self.cluster.pick_over(&failover.failover, request)
            }
        }
    }

    /// Whether [`TcpRoute::pick`] would give an endpoint that is neither in `tried` nor `current`.
    pub(crate) fn has_other(
        &self,
        tried: &[Arc<Endpoint>],
        current: &Arc<Endpoint>,
        retryable: bool,
        now: Instant,
    ) -> bool {
        match &self.failover {
            None => self.cluster.pick_other(self.subset(), tried, current, retryable),
            Some(failover) => {
                let passed = std::slice::from_ref(current);
                let request = PickRequest { subset: self.subset(), tried, passed, retryable, now };
                self.cluster.pick_untried_over(&failover.failover, request, &Tried(tried, passed))
            }
        }
        .is_some()
    }

    /// The failover target that an endpoint is of, with its cluster. `None`: it is one of the cluster's own.
    pub(crate) fn target_of(&self, endpoint: &Endpoint) -> Option<(&FailoverTarget, &Arc<Cluster>)> {
        self.failover.as_ref()?.target_of(endpoint)
    }

    /// Gives `act` the cluster that an endpoint is of, with its settings: that of the connection, or a failover target.
    pub(crate) fn with_owner<R>(
        &self,
        endpoint: &Endpoint,
        act: impl FnOnce(&Arc<Cluster>, &ClusterSettings) -> R,
    ) -> R {
        match self.target_of(endpoint) {
            None => act(&self.cluster, &self.settings),
            Some((_, owner)) => act(owner, &owner.view.load().settings),
        }
    }

    /// Begins an attempt at an endpoint; see [`Lease::begin`].
    pub(crate) fn lease(
        &self,
        endpoint: Arc<Endpoint>,
        retryable: bool,
        now: Instant,
    ) -> Result<Lease, Arc<Endpoint>> {
        match self.target_of(&endpoint) {
            None => Lease::begin(&self.settings, endpoint, retryable, now),
            Some((_, owner)) => Lease::begin(&owner.view.load().settings, endpoint, retryable, now),
        }
    }
}

/// The name of the service that a chain names.
fn name_of(place: &ExactPlace) -> ServiceName<'_> {
    let datacenter = place.datacenter.as_deref().map(Cow::Borrowed);
    ServiceName { service: Cow::Borrowed(&*place.service), tag: None, datacenter }
}
