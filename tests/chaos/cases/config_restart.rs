//! A file of the app changes in the KV: the instances of the service restart in turns.

use std::time::Duration;

use outrigger_tests::{
    consul::{Consul, http},
    load::{Load, LoadPlan},
    registry::ConsulAgent,
    wait,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    caller::CallerSidecar,
    case::{CaseResult, RunLength},
    case_report::{CaseReport, format_millis},
    deployed::{DeployedInstance, stop_all},
    fleet::{FINE_POLL_INTERVAL, Fleet},
};

const SERVICE: &str = "orders";
const KEY: &str = "config/orders";
const INSTANCES: usize = 4;

/// Longest time of one change of all instances. Measured, an instance takes about three seconds.
const ROUND_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a roll-out that has stopped is watched.
const STOPPED_FOR: Duration = Duration::from_secs(6);

pub(super) async fn all(form: RunLength) -> CaseResult {
    let consul = Consul::server().await?;
    let agent = ConsulAgent(consul.http_addr());
    let folder = tempfile::Builder::new().prefix("chaos-config-").tempdir()?;
    put(agent, "0").await;
    let mut fleet = Fleet::new(SERVICE);
    let mut running = Vec::new();
    for n in 0..INSTANCES {
        let path = folder.path().join(n.to_string());
        let settings = format!(
            "api: {{config: {{files: [{{prefix: {KEY}, path: {path:?}, format: value, required: true, \
             on_change: {{restart: true, at_once: 1, min_interval: 0s}}}}]}}}}"
        );
        let arguments = [format!("--config={}", path.display())];
        let member = fleet.add_own_server();
        running.push(DeployedInstance::start_with(member, SERVICE, agent.0, &settings, &arguments).await);
    }
    let caller = CallerSidecar::start(agent.0, SERVICE, "").await;
    let load = Load::start(caller.addr(), LoadPlan::mixed(SERVICE, form.pick([400, 300])));
    load.wait_requests(200).await;

    let watch = PassingWatch::start(agent);
    let mut broken = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 1..=form.pick([4, 1]) {
        slowest = slowest.max(change(agent, &running, &round.to_string()).await);
    }
    let fewest = watch.stop().await;
    if fewest + 1 < INSTANCES {
        broken.push(format!("only {fewest} of {INSTANCES} were passing at once"));
    }

    // One app does not serve, or ends at once.
    for content in form.pick([&["end", "ill"][..], &["end"][..]]) {
        let watch = PassingWatch::start(agent);
        put(agent, content).await;
        wait::until("one is ill, and the others wait", ROUND_TIMEOUT, async || {
            count(&running, "held").await == 1 && count(&running, "waiting").await == INSTANCES - 1
        })
        .await;
        sleep(STOPPED_FOR).await;
        let held = count(&running, "held").await;
        if held != 1 {
            broken.push(format!("{held} instances are ill with {content:?}"));
        }
        slowest = slowest.max(change(agent, &running, &format!("after {content}")).await);
        let fewest = watch.stop().await;
        if fewest + 1 < INSTANCES {
            broken.push(format!("only {fewest} of {INSTANCES} were passing at once with {content:?}"));
        }
    }
    load.wait_requests(load.requests() + 200).await;
    let tally = load.stop().await;
    stop_all(running).await;
    let mut report = CaseReport::from_load(&tally, caller.retried().await);
    for what in broken {
        report.require(false, || what);
    }
    report.require(tally.failures().requests() == 0, || format!("{} failed", tally.describe_failures()));
    report.note(format!("the slowest change took {}", format_millis(slowest)));
    fleet.check_posts(&tally, &mut report);
    Ok(report)
}

async fn put(agent: ConsulAgent, content: &str) {
    let answer = http::put(agent.0, &format!("/v1/kv/{KEY}"), content).await.expect("a put");
    assert_eq!(answer.status(), 200, "{:?}", answer.body());
}

/// Writes a good content, and waits until every instance has read it and is passing. Returns how long that took.
async fn change(agent: ConsulAgent, running: &[DeployedInstance], content: &str) -> Duration {
    let restarts = async |one: &DeployedInstance| {
        let done = [("action", "restart"), ("result", "done")];
        one.metrics().await.sum("outrigger_on_change_total", &done)
    };
    let mut before = Vec::new();
    for one in running {
        before.push(restarts(one).await);
    }
    let from = Instant::now();
    put(agent, content).await;
    wait::until(&format!("all have restarted with {content:?}"), ROUND_TIMEOUT, async || {
        for (one, before) in running.iter().zip(&before) {
            if restarts(one).await <= *before || state_of(&one.metrics().await) != Some("idle") {
                return false;
            }
        }
        true
    })
    .await;
    let took = from.elapsed();
    let mut all: Vec<_> = running.iter().map(|one| (one.id.as_str(), "passing")).collect();
    all.sort_unstable();
    agent.wait_health(SERVICE, &all).await;
    took
}

fn state_of(metrics: &outrigger_tests::scrape::Scrape) -> Option<&'static str> {
    let states = ["idle", "pausing", "waiting", "leaving", "stopping", "starting", "held"];
    states.into_iter().find(|state| metrics.sum("outrigger_app_restart_state", &[("state", state)]) == 1.0)
}

/// How many instances are in this state of their restart.
async fn count(running: &[DeployedInstance], state: &str) -> usize {
    let mut count = 0;
    for one in running {
        count += usize::from(state_of(&one.metrics().await) == Some(state));
    }
    count
}

/// Looks at the registry all the time, for the fewest instances that are passing.
struct PassingWatch {
    end: watch::Sender<bool>,
    task: JoinHandle<usize>,
}

impl PassingWatch {
    fn start(agent: ConsulAgent) -> Self {
        let (end, mut ended) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut fewest = INSTANCES;
            loop {
                let listed = agent.health(SERVICE).await;
                // None: the registry did not answer.
                if !listed.is_empty() {
                    let passing = listed.iter().filter(|(_, status)| status == "passing").count();
                    fewest = fewest.min(passing);
                }
                tokio::select! {
                    () = sleep(FINE_POLL_INTERVAL) => {}
                    _ = ended.wait_for(|end| *end) => return fewest,
                }
            }
        });
        Self { end, task }
    }

    async fn stop(self) -> usize {
        self.end.send_replace(true);
        self.task.await.expect("the watch of the registry")
    }
}
