//! Sidecars that are replaced while they serve (`run --replace`): an instance's, and its caller's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_net::reserve_addr;
use outrigger_tests::{
    consul::Consul,
    load::{Load, LoadPlan, RequestResults},
    process::Process,
    registry::ConsulAgent,
    scrape::Scrape,
};
use tokio::task::JoinHandle;

use crate::{
    case::{CaseResult, RunLength},
    case_report::{CaseReport, format_millis},
    fleet::{FINE_POLL_INTERVAL, Fleet},
};

/// Longest that the old process may take to end: its idle connections have 10 s for a last request.
const END_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) async fn both(form: RunLength) -> CaseResult {
    let consul = Consul::server().await?;
    let agent = ConsulAgent(consul.http_addr());
    let mut fleet = Fleet::new("orders");
    let member = fleet.add_own_server();
    member.start().await;
    let (id, registry) =
        (member.name.clone(), format!("registry: {{consul: {{address: \"http://{}\"}}}}", agent.0));
    let listeners =
        || format!("outbound: {{listen: \"{}\"}}\nadmin: {{listen: \"{}\"}}", reserve_addr(), reserve_addr());
    let service = format!(
        "service: {{name: orders, id: {id}, port: {}, address: \"{}\", health: {{interval: 500ms, timeout: 500ms}}}}",
        member.addr.port(),
        member.addr.ip()
    );
    let mut instance = Process::run(&format!("{registry}\n{service}\n{}", listeners())).await;
    agent.wait_health("orders", &[(&id, "passing")]).await;
    let upstreams = "upstreams: [{service: orders}]";
    let mut caller = Process::run(&format!("{registry}\n{upstreams}\n{}", listeners())).await;
    caller.wait_ready().await;

    let watch = RegistrationWatch::start(agent, id);
    let kept_alive =
        Load::start(caller.outbound(), LoadPlan { connections: 32, ..LoadPlan::mixed("orders", 200) });
    let anew = LoadPlan { connections: 32, per_connection: 1, ..LoadPlan::mixed("orders", 200) };
    let anew = Load::start(caller.outbound(), anew);
    kept_alive.wait_requests(200).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..form.pick([10, 3]) {
        for process in [&mut caller, &mut instance] {
            let mut old = replace(process, &mut slowest).await;
            anew.wait_requests(anew.requests() + 100).await;
            old.wait_exit(END_TIMEOUT).await;
        }
    }
    let retried = Scrape::parse(&caller.admin_get("/metrics").await.text());
    let tally = RequestResults([kept_alive.stop().await.0, anew.stop().await.0].concat());
    let changes = watch.stop().await;
    let mut row = CaseReport::from_load(&tally, retried.sum("outrigger_retries_total", &[]) + 0.0);
    row.require(tally.failures().requests() == 0, || format!("{} failed", tally.describe_failures()));
    row.require(changes.is_empty(), || format!("the registration was {}", changes.join(", ")));
    row.note(format!("the slowest took the place within {}", format_millis(slowest)));
    fleet.check_posts(&tally, &mut row);
    Ok(row)
}

/// Replaces `running`, and returns the old process.
async fn replace(running: &mut Process, slowest: &mut Duration) -> Process {
    let from = tokio::time::Instant::now();
    let next = running.replace().await;
    *slowest = (*slowest).max(from.elapsed());
    std::mem::replace(running, next)
}

/// What the registry lists of one service, as long as it differs from one passing instance.
struct RegistrationWatch {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<String>>,
}

impl RegistrationWatch {
    fn start(agent: ConsulAgent, id: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut others = Vec::new();
            while !is_stopped.load(Relaxed) {
                let listed = agent.health("orders").await;
                if listed != [(id.clone(), "passing".to_owned())] {
                    others.push(format!("{listed:?}"));
                }
                tokio::time::sleep(FINE_POLL_INTERVAL).await;
            }
            others
        });
        Self { stop, task }
    }

    async fn stop(self) -> Vec<String> {
        self.stop.store(true, Relaxed);
        self.task.await.unwrap_or_else(|error| vec![format!("not watched: {error}")])
    }
}
