//! The registry gives wrong answers of every kind; a fault proxy stands between the sidecar and the real Consul.
//!
//! Two sidecars live through it. One carries the load. The other carries nothing, so that all the CPU time
//! it uses is what the fault costs, and registers an app, so that it asks all that a sidecar asks.

use std::time::Duration;

use outrigger_tests::{
    consul::Consul,
    load::{Load, LoadPlan},
    registry::ConsulAgent,
    usage, wait,
};
use tokio::time::{Instant, sleep};

use crate::{
    caller::CallerSidecar,
    case::{CaseResult, RunLength},
    case_report::{CaseReport, format_millis},
    fault::{EmptyListIndex, Fault, FaultProxy},
    fleet::Fleet,
};

/// Most CPU time that a fault costs, of a core.
const MAX_CPU_SHARE: f64 = 0.05;
/// Most questions during a fault: a few at once, and then so many a second. They are of a sidecar that watches
/// one service and keeps one app registered. Suspect answers are asked about every 400 ms.
const QUERY_BURST: f64 = 15.0;
const QUERIES_PER_SECOND: f64 = 3.0;
/// Longest wait until the table is confirmed again: the longest pause is 30 s.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an empty list is answered at a time: after 10 s it would be accepted.
const EMPTY_LIST_TIME: Duration = Duration::from_secs(8);

/// What is answered, for how long at a time, and how often.
struct FaultPhase {
    fault: Fault,
    lasts: Duration,
    times: u32,
}

/// How long every other fault lasts.
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
    for spell in fault_phases(form) {
        for _ in 0..spell.times {
            let PhaseResult { met, cpu, asked } =
                run_phase(&spell, &idle, [&before_busy, &before_idle]).await;
            let (fault, over, lasted) = (spell.fault, Instant::now(), spell.lasts.as_secs_f64());
            if !met {
                broken.push(format!("{fault:?} was never met"));
            }
            if cpu >= MAX_CPU_SHARE {
                broken.push(format!("{fault:?} cost {:.1} % of a core", cpu * 100.0));
            }
            if asked > QUERY_BURST + QUERIES_PER_SECOND * lasted {
                broken.push(format!("{fault:?} was asked {asked} times in {lasted} s"));
            }
            (most_cpu, most_asked) = (most_cpu.max(cpu), most_asked.max(asked / lasted));
            wait_confirmed(&busy, over).await;
            wait_confirmed(&idle, over).await;
        }
    }
    ConsulAgent(consul.http_addr()).wait_health("payments", &[("payments-1", "passing")]).await;
    let tally = load.stop().await;
    let mut row = CaseReport::from_load(&tally, busy.retried().await);
    row.require(tally.failures().requests() == 0, || format!("{} failed", tally.describe_failures()));
    row.require(broken.is_empty(), || broken.join(", "));
    row.note(format!(
        "without load at most {:.1} % of a core and {most_asked:.1} questions a second; \
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
    /// Questions.
    asked: f64,
}

/// Sets the fault for both sidecars, and measures the one without load.
async fn run_phase(spell: &FaultPhase, idle: &CallerSidecar, proxies: [&FaultProxy; 2]) -> PhaseResult {
    let spoiled = proxies.map(FaultProxy::spoiled_count);
    let (cpu, asked, from) = (usage::cpu_time(idle.process.pid()), proxies[1].query_count(), Instant::now());
    proxies.iter().for_each(|proxy| proxy.set(spell.fault));
    sleep(spell.lasts).await;
    let cpu = usage::cpu_time(idle.process.pid()) - cpu;
    let seen = PhaseResult {
        met: (0..2).all(|at| proxies[at].spoiled_count() > spoiled[at]),
        cpu: cpu.as_secs_f64() / from.elapsed().as_secs_f64(),
        asked: (proxies[1].query_count() - asked) as f64,
    };
    proxies.iter().for_each(|proxy| proxy.set(Fault::None));
    seen
}

/// Waits until the table is confirmed by the registry again.
async fn wait_confirmed(caller: &CallerSidecar, from: Instant) {
    wait::until("the table is confirmed again", CONFIRM_TIMEOUT, async || {
        let page = caller.process.admin_get("/services").await.json();
        let watch = &page["services"][0]["registry"];
        let heard = watch["heard_ago_ms"].as_u64().unwrap_or(u64::MAX);
        watch["error"].is_null() && u128::from(heard) < from.elapsed().as_millis()
    })
    .await;
}
