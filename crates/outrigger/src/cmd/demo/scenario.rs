//! The steps of the demo, their times, and the result.

use std::{collections::BTreeMap, fmt, net::SocketAddr, time::Duration};

use outrigger_config::count;
use outrigger_proxy::{ClusterStatus, EndpointStatus};
use tokio::time::{Instant, interval};

use super::{
    instance::{DemoInstance, SERVICE},
    screen::{InstanceRow, Screen, TableFrame},
    traffic::{TrafficGenerator, quantile},
};
use crate::App;

/// How often the picks of the killed instance are read: the precision of "how long after".
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// How often the table is drawn.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);

/// The instance that is killed, and the one that changes its weight.
const KILLED_INSTANCE: usize = 1;
const REWEIGHTED_INSTANCE: usize = 0;

/// The weight of the first four instances.
const INITIAL_WEIGHTS: [u16; 4] = [1, 1, 1, 3];

/// The next step, with its begin in twelfths of the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScenarioStep {
    Kill = 4,
    Add = 7,
    ChangeWeight = 9,
    End = 12,
}

impl ScenarioStep {
    fn at(self, whole: Duration) -> Duration {
        whole * self as u32 / 12
    }
}

/// The instances and what was observed of them.
#[derive(Debug)]
pub(super) struct Scenario {
    registry: SocketAddr,
    instances: Vec<DemoInstance>,
    /// Failed attempts on each instance. The sidecar forgets them when it drops the instance.
    failed: BTreeMap<String, u64>,
    kill: Option<KillRecord>,
}

#[derive(Debug, Clone)]
struct KillRecord {
    instance: String,
    at: Instant,
    after_start: Duration,
    picks: u64,
    /// The last attempt after the kill, as the time since the kill.
    last_attempt: Option<Duration>,
    attempts: u64,
}

impl Scenario {
    /// Starts and registers the first four instances.
    pub(super) async fn start(registry: SocketAddr) -> Result<Self, String> {
        let mut scenario = Self { registry, instances: Vec::new(), failed: BTreeMap::new(), kill: None };
        for weight in INITIAL_WEIGHTS {
            scenario.add(weight).await?;
        }
        Ok(scenario)
    }

    async fn add(&mut self, weight: u16) -> Result<String, String> {
        let id = format!("{SERVICE}-{}", self.instances.len() + 1);
        let instance = DemoInstance::start(&id).await.map_err(|error| format!("start {id}: {error}"))?;
        let registered = instance.register(self.registry, weight).await;
        registered.map_err(|error| format!("register {id}: {error}"))?;
        self.instances.push(instance);
        Ok(id)
    }

    /// Sends requests to `outbound` for `length`, and runs the steps meanwhile.
    pub(super) async fn run(
        &mut self,
        app: &App,
        outbound: SocketAddr,
        length: Duration,
        screen: &mut Screen,
    ) -> Result<DemoResult, String> {
        let mut traffic = TrafficGenerator::start(outbound);
        let start = Instant::now();
        let mut ticks = interval(CHECK_INTERVAL);
        let mut drawn = start;
        let mut step = ScenarioStep::Kill;
        while step != ScenarioStep::End || start.elapsed() < length {
            ticks.tick().await;
            let cluster = orders_cluster(app);
            self.record_picks_after_kill(cluster.as_ref());
            self.record_failed_attempts(cluster.as_ref());
            if step != ScenarioStep::End && start.elapsed() >= step.at(length) {
                let (line, next) = self.run_step(step, start, cluster.as_ref()).await?;
                screen.print_line(&format!("{:5.1} s  {line}", start.elapsed().as_secs_f64()));
                step = next;
            }
            if drawn.elapsed() >= DRAW_INTERVAL {
                drawn = Instant::now();
                screen.draw(&self.frame(&traffic, cluster.as_ref(), start.elapsed(), length));
            }
        }
        traffic.stop().await;
        let cluster = orders_cluster(app);
        screen.draw(&self.frame(&traffic, cluster.as_ref(), length, length));
        let stats = traffic.stats();
        Ok(DemoResult {
            requests: stats.requests,
            failures: stats.failures,
            reasons: stats.reasons.iter().map(|(reason, count)| format!("{count} × {reason}")).collect(),
            retries: cluster.map_or(0, |cluster| cluster.retries),
            length,
            kill: self.kill.clone(),
        })
    }

    async fn run_step(
        &mut self,
        step: ScenarioStep,
        start: Instant,
        cluster: Option<&ClusterStatus>,
    ) -> Result<(String, ScenarioStep), String> {
        match step {
            ScenarioStep::Kill => {
                let Some(killed) = self.instances.get_mut(KILLED_INSTANCE) else {
                    return Ok((String::new(), ScenarioStep::Add));
                };
                let picks = find_endpoint(cluster, killed.addr).map_or(0, |endpoint| endpoint.picks);
                killed.kill().await;
                let instance = killed.id.clone();
                let line = format!("{instance} is killed; the registry still lists it until its check fails");
                let at = Instant::now();
                let after_start = at - start;
                self.kill =
                    Some(KillRecord { instance, at, after_start, picks, last_attempt: None, attempts: 0 });
                Ok((line, ScenarioStep::Add))
            }
            ScenarioStep::Add => Ok((format!("{} is added", self.add(1).await?), ScenarioStep::ChangeWeight)),
            ScenarioStep::ChangeWeight => {
                let Some(reweighted) = self.instances.get(REWEIGHTED_INSTANCE) else {
                    return Ok((String::new(), ScenarioStep::End));
                };
                reweighted.register(self.registry, 3).await?;
                Ok((format!("{} gets weight 3", reweighted.id), ScenarioStep::End))
            }
            ScenarioStep::End => Ok((String::new(), ScenarioStep::End)),
        }
    }

    fn record_failed_attempts(&mut self, cluster: Option<&ClusterStatus>) {
        for instance in &self.instances {
            let now = find_endpoint(cluster, instance.addr).map_or(0, |endpoint| endpoint.failures);
            let most = self.failed.entry(instance.id.clone()).or_default();
            *most = now.max(*most);
        }
    }

    fn record_picks_after_kill(&mut self, cluster: Option<&ClusterStatus>) {
        let Some(kill) = &mut self.kill else { return };
        let addr = self.instances.get(KILLED_INSTANCE).map(|killed| killed.addr);
        let picks = addr.and_then(|addr| find_endpoint(cluster, addr)).map_or(0, |endpoint| endpoint.picks);
        if picks > kill.picks {
            kill.attempts += picks - kill.picks;
            kill.picks = picks;
            kill.last_attempt = Some(kill.at.elapsed());
        }
    }

    fn frame(
        &self,
        traffic: &TrafficGenerator,
        cluster: Option<&ClusterStatus>,
        at: Duration,
        of: Duration,
    ) -> TableFrame {
        let mut stats = traffic.stats();
        let now = Instant::now();
        let recent: Vec<_> = self
            .instances
            .iter()
            .map(|instance| match stats.by_instance.get_mut(&instance.id) {
                Some(answers) => (answers.recent(now), answers.count),
                None => (Vec::new(), 0),
            })
            .collect();
        let total = recent.iter().map(|(latencies, _)| latencies.len()).sum::<usize>().max(1);
        let rows = self.instances.iter().zip(recent).map(|(instance, (latencies, requests))| {
            let endpoint = find_endpoint(cluster, instance.addr);
            InstanceRow {
                instance: instance.id.clone(),
                state: endpoint.map_or("unknown", |endpoint| endpoint.status).to_owned(),
                weight: endpoint.map_or(0, |endpoint| endpoint.weight),
                share: latencies.len() as f64 / total as f64,
                p50: quantile(&latencies, 0.5),
                p99: quantile(&latencies, 0.99),
                requests,
                failures: self.failed.get(&instance.id).copied().unwrap_or_default(),
            }
        });
        TableFrame {
            elapsed: at,
            length: of,
            rows: rows.collect(),
            requests: stats.requests,
            retries: cluster.map_or(0, |cluster| cluster.retries),
            failures: stats.failures,
        }
    }
}

fn orders_cluster(app: &App) -> Option<ClusterStatus> {
    app.clusters().into_iter().find(|cluster| cluster.service == SERVICE)
}

fn find_endpoint(cluster: Option<&ClusterStatus>, addr: SocketAddr) -> Option<&EndpointStatus> {
    let addr = addr.to_string();
    cluster?.endpoints.iter().find(|endpoint| endpoint.address == addr)
}

/// The result. Displays as the summary.
#[derive(Debug)]
pub(super) struct DemoResult {
    requests: u64,
    failures: u64,
    reasons: Vec<String>,
    retries: u64,
    length: Duration,
    kill: Option<KillRecord>,
}

impl DemoResult {
    /// No request failed, and at least one was sent.
    pub(super) fn is_success(&self) -> bool {
        self.failures == 0 && self.requests > 0
    }

    /// Why the demo failed.
    pub(super) fn failure_text(&self) -> String {
        format!("{} of {} failed", self.failures, count(self.requests, "request"))
    }
}

impl fmt::Display for DemoResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, failures, retries, length, .. } = self;
        let requests = count(*requests, "request");
        write!(f, "\n{requests} in {:.0} s, {failures} failed; ", length.as_secs_f64())?;
        write!(f, "{} repeated on another instance.", count(*retries, "attempt"))?;
        for reason in &self.reasons {
            write!(f, "\n  failed: {reason}")?;
        }
        let Some(KillRecord { instance, after_start, last_attempt, attempts, .. }) = &self.kill else {
            return Ok(());
        };
        write!(f, "\n{instance} was killed at {:.1} s; ", after_start.as_secs_f64())?;
        match last_attempt {
            Some(last) => write!(
                f,
                "{} tried it after that, the last one {:.0} ms after the kill.",
                count(*attempts, "request"),
                last.as_secs_f64() * 1_000.0
            ),
            None => f.write_str("no request tried it after the kill."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo_result(requests: u64, failures: u64) -> DemoResult {
        DemoResult {
            requests,
            failures,
            reasons: if failures > 0 { vec!["2 × 502: no_answer".into()] } else { Vec::new() },
            retries: 7,
            length: Duration::from_secs(12),
            kill: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_summary_has_the_failures_and_the_last_attempt_on_the_killed_instance() {
        let mut good = demo_result(4_800, 0);
        good.kill = Some(KillRecord {
            instance: "orders-2".into(),
            at: Instant::now(),
            after_start: Duration::from_secs(4),
            picks: 9,
            last_attempt: Some(Duration::from_millis(312)),
            attempts: 6,
        });
        let text = good.to_string();
        for part in
            ["4800 requests in 12 s, 0 failed", "orders-2 was killed at 4.0 s", "312 ms after the kill"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(good.is_success());

        let bad = demo_result(4_800, 2);
        assert!(!bad.is_success());
        assert!(bad.to_string().contains("failed: 2 × 502: no_answer"));
        assert_eq!(bad.failure_text(), "2 of 4800 requests failed");
        assert!(!demo_result(0, 0).is_success(), "nothing sent proves nothing");
    }

    #[test]
    fn the_steps_come_in_order_within_the_length() {
        let whole = Duration::from_secs(12);
        let times = [ScenarioStep::Kill, ScenarioStep::Add, ScenarioStep::ChangeWeight, ScenarioStep::End]
            .map(|step| step.at(whole));
        assert!(times.is_sorted() && times[3] == whole, "{times:?}");
        assert_eq!(times[0], whole / 3);
    }
}
