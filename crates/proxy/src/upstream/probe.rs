//! One task per cluster: lets time pass for its ejected endpoints, and probes endpoints by connecting.

use std::{sync::Arc, time::Duration};

use outrigger_net::Purpose;
use outrigger_policy::{Outcome, Sent, outlier_detection::FailureAttribution};
use outrigger_task::essential;
use tokio::{task::JoinSet, time::Instant};

use crate::upstream::{cluster::Cluster, connect::connect_outcome, endpoint::Endpoint};

/// How often the breaker's state is checked while anything is due: while it is open, probes are due.
const BREAKER_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Runs until the cluster manager aborts the task. A probe without a result would keep its endpoint out for ever.
pub(crate) async fn run(cluster: Arc<Cluster>) {
    let mut probes = JoinSet::new();
    loop {
        let now = Instant::now();
        cluster.check_failover(now);
        cluster.update_zones();
        let open = !cluster.are_breakers_closed(now);
        let due = cluster.ejector.advance(now, open);
        for endpoint in due.ejected {
            probes.spawn(essential(
                "the probe of an ejected instance",
                probe_ejected(cluster.clone(), endpoint),
            ));
        }
        for endpoint in due.stalled {
            probes.spawn(essential(
                "the probe of a stalled instance",
                probe_stalled(cluster.clone(), endpoint),
            ));
        }
        let next_check = Instant::now() + BREAKER_CHECK_INTERVAL;
        let next = due.next.map_or(next_check, |next| next.min(next_check));
        // With no ejection and closed breakers, only a notification changes anything.
        let quiet = due.next.is_none() && !open;
        tokio::select! {
            () = cluster.ejector.wakeup.notified() => {}
            Some(_) = probes.join_next() => {}
            () = tokio::time::sleep_until(next), if !quiet => {}
        }
    }
}

/// Probes an endpoint that requests wait for. A host that has vanished sends no reset, so each request to
/// it would wait for its time-out. The result counts as the connect of any attempt: two time-outs without
/// a response between them eject the endpoint.
async fn probe_stalled(cluster: Arc<Cluster>, endpoint: Arc<Endpoint>) {
    let settings = cluster.view.load().settings.clone();
    let mut timeouts = 0;
    let within = settings.policy.connect_timeout;
    while timeouts < 2 {
        let connected = endpoint.dial(within, Purpose::Probe, || cluster.serves_besides(&endpoint)).await;
        let Err(error) = connected else { break };
        let outcome = connect_outcome(&error);
        let now = Instant::now();
        let guard = endpoint.stats.begin_attempt(settings.policy.outlier.as_ref(), true);
        let blame = &mut FailureAttribution::default();
        let outlier = settings.policy.outlier.as_ref();
        let report =
            guard.and_then(|guard| guard.record_end(outlier, blame, outcome, Sent::Nothing, now.into_std()));
        if let Some(report) = report {
            cluster.report(&endpoint, report, now);
        }
        // A refused connection means that the host is there: it may be finishing the requests that it has.
        if !matches!(outcome, Outcome::ConnectTimeout | Outcome::ConnectFailed) {
            break;
        }
        timeouts += 1;
    }
    if timeouts == 2 {
        cluster.ejector.record_unreachable(&endpoint);
    }
    endpoint.stall.end_probe(timeouts == 2, Instant::now().into_std());
}

/// Tries a connection to an ejected endpoint, and closes it at once.
async fn probe_ejected(cluster: Arc<Cluster>, endpoint: Arc<Endpoint>) {
    let within = cluster.view.load().settings.policy.connect_timeout;
    let connected =
        match endpoint.open(within, Purpose::Probe, None, || cluster.serves_besides(&endpoint)).await {
            Ok(_) => true,
            // The sidecar's own shortage says nothing about the instance; the detector asks again.
            Err(error) if error.outcome == Outcome::Resource => return,
            Err(_) => {
                cluster.note_connect_failure(&endpoint);
                false
            }
        };
    let settings = cluster.view.load().settings.clone();
    if cluster.ejector.report_probe(settings.policy.outlier.as_ref(), &endpoint, connected) {
        cluster.half_open_breakers(&endpoint);
    }
}
