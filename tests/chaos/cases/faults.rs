//! The registry gives wrong answers of every kind; a fault proxy stands between the sidecar and the real Consul.
//!
//! There are two sidecars. One carries the load. The other carries no load, so that all its CPU time is the cost of
//! the fault, and registers an app, so that it sends every query that a sidecar sends.

use std::time::Duration;

use outrigger_tests::{
    consul::Consul,
    load::{Load, LoadPlan},
    registry::ConsulAgent,
    usage,
};
use tokio::time::{Instant, sleep};

use crate::{
    caller::{CallerSidecar, wait_confirmed},
    case::{CaseResult, RunLength},
    case_report::{CaseReport, format_millis},
    fault::{EmptyListIndex, Fault, FaultProxy},
    fleet::Fleet,
};

/// Highest CPU use during a fault, as a share of one core.
const MAX_CPU_SHARE: f64 = 0.05;
/// Most queries during a fault: [`QUERY_BURST`] at once, and then [`QUERIES_PER_SECOND`]. They come from a sidecar that
/// watches one service and keeps one app registered. Suspect answers are queried again every 400 ms.
const QUERY_BURST: f64 = 15.0;
const QUERIES_PER_SECOND: f64 = 3.0;
/// How long an empty list is answered at a time. It would be accepted after 10 s.
const EMPTY_LIST_TIME: Duration = Duration::from_secs(8);

/// A fault, how long it lasts, and how often it is repeated.
struct FaultPhase {
    fault: Fault,
    lasts: Duration,
    times: u32,
}

/// How long each fault lasts, except for empty lists.
fn fault_time(form: RunLength) -> Duration {
    Duration::from_secs(form.pick([20, 3]))
}

fn fault_phases(form: RunLength) -> Vec<FaultPhase> {
    let long = fault_time(form);
    let once = |fault| FaultPhase { fault, lasts: long, times: 1 };
    vec![
        once(Fault::Garbage),
        once(Fault::Status(500)),
        once(Fault::Status(429)),
        once(Fault::Hang),
        once(Fault::HalfBody),
        once(Fault::HalfJson),
        FaultPhase {
            fault: Fault::EmptyList(EmptyListIndex::Next),
            lasts: EMPTY_LIST_TIME.min(long),
            times: form.pick([3, 1]),
        },
        FaultPhase {
            fault: Fault::EmptyList(EmptyListIndex::Back),
            lasts: EMPTY_LIST_TIME.min(long),
            times: 1,
        },
        FaultPhase {
            fault: Fault::EmptyList(EmptyListIndex::Missing),
            lasts: EMPTY_LIST_TIME.min(long),
            times: 1,
        },
    ]
}

pub(super) async fn all(form: RunLength) -> CaseResult {
    let consul = Consul::server().await?;
    let agent = ConsulAgent(consul.http_addr());
    let fleet = Fleet::start_three("orders", agent).await;
    let mut own = Fleet::new("payments");
    own.add_own_server().start().await;
    let (before_busy, before_idle) =
        (FaultProxy::start(consul.http_addr()).await, FaultProxy::start(consul.http_addr()).await);
    let busy = CallerSidecar::start(before_busy.addr(), "orders", "").await;
    let port = own.members[0].addr.port();
    let service = format!("service: {{name: payments, id: payments-1, port: {port}, address: 127.0.0.1}}");
    let idle = CallerSidecar::start(before_idle.addr(), "orders", &service).await;
    let load = Load::start(busy.addr(), LoadPlan::mixed("orders", form.pick([200, 100])));
    load.wait_requests(100).await;

    let (mut broken, mut most_cpu, mut most_asked) = (Vec::new(), 0.0_f64, 0.0_f64);
    for phase in fault_phases(form) {
        for _ in 0..phase.times {
            let PhaseResult { met, cpu, asked } =
                run_phase(&phase, &idle, [&before_busy, &before_idle]).await;
            let (fault, over, lasted) = (phase.fault, Instant::now(), phase.lasts.as_secs_f64());
            if !met {
                broken.push(format!("{fault:?}: a sidecar got no wrong answer"));
            }
            if cpu >= MAX_CPU_SHARE {
                broken.push(format!("{fault:?} cost {:.1} % of a core", cpu * 100.0));
            }
            if asked > QUERY_BURST + QUERIES_PER_SECOND * lasted {
                broken.push(format!("{fault:?}: {asked} queries in {lasted} s"));
            }
            (most_cpu, most_asked) = (most_cpu.max(cpu), most_asked.max(asked / lasted));
            wait_confirmed(&busy.process, over).await;
            wait_confirmed(&idle.process, over).await;
        }
    }
    ConsulAgent(consul.http_addr()).wait_health("payments", &[("payments-1", "passing")]).await;
    let tally = load.stop().await;
    let mut row = CaseReport::from_load(&tally, busy.retried().await);
    row.require(tally.failures().requests() == 0, || format!("{} failed", tally.describe_failures()));
    row.require(broken.is_empty(), || broken.join(", "));
    row.note(format!(
        "without load at most {:.1} % of a core and {most_asked:.1} queries a second; \
         an empty list for {} at a time",
        most_cpu * 100.0,
        format_millis(EMPTY_LIST_TIME.min(fault_time(form)))
    ));
    fleet.check_posts(&tally, &mut row);
    Ok(row)
}

/// The result of one phase.
struct PhaseResult {
    /// Both sidecars got a wrong answer.
    met: bool,
    /// Share of a core.
    cpu: f64,
    /// Number of queries.
    asked: f64,
}

/// Sets the fault for both sidecars, and measures the one without load.
async fn run_phase(phase: &FaultPhase, idle: &CallerSidecar, proxies: [&FaultProxy; 2]) -> PhaseResult {
    let spoiled = proxies.map(FaultProxy::spoiled_count);
    let (cpu, asked, from) = (usage::cpu_time(idle.process.pid()), proxies[1].query_count(), Instant::now());
    proxies.iter().for_each(|proxy| proxy.set(phase.fault));
    sleep(phase.lasts).await;
    let cpu = usage::cpu_time(idle.process.pid()) - cpu;
    let result = PhaseResult {
        met: (0..2).all(|at| proxies[at].spoiled_count() > spoiled[at]),
        cpu: cpu.as_secs_f64() / from.elapsed().as_secs_f64(),
        asked: (proxies[1].query_count() - asked) as f64,
    };
    proxies.iter().for_each(|proxy| proxy.set(Fault::None));
    result
}
