//! The registry answers, and wrongly: every kind of nonsense between the sidecar and the real Consul.
//!
//! Two sidecars live through it. One carries the load. The other carries nothing, so that all the CPU time
//! it uses is what the fault costs, and registers an app, so that it asks all that a sidecar asks.

use std::time::Duration;

use outrigger_tests::{consul::Consul, registry::Agent, usage, wait};
use tokio::time::{Instant, sleep};

use super::{Case, Form, Need, Trouble};
use crate::{
    client::{Load, Plan},
    fault::{Fault, FaultProxy, Index},
    fleet::Fleet,
    row::{Row, millis},
    sidecar::Caller,
};

/// All of them, one after the other.
pub(crate) const ALL: Case = Case {
    name: "registry-faults",
    promise: "Consul answers garbage, 500, 429, nothing, half a body, half a list, or an empty list: \
              0 failed; it is asked less often; CPU stays under 5 % of a core",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(600), Duration::from_secs(300)],
    run: |form| Box::pin(all(form)),
};

/// Most CPU time that a fault costs, of a core.
const CPU_SHARE: f64 = 0.05;
/// Most questions during a fault: a few at once, and then so many a second. They are of a sidecar that watches
/// one service and keeps one app registered. Suspect answers are asked about every 400 ms.
const AT_ONCE: f64 = 15.0;
const PER_SECOND: f64 = 3.0;
/// Longest wait until the table is confirmed again: the longest pause is 30 s.
const CONFIRMED: Duration = Duration::from_secs(60);
/// How long an empty list is told at a time: for longer than 10 s it would be believed.
const DOUBTED: Duration = Duration::from_secs(8);

/// What is answered, for how long at a time, and how often.
struct Spell {
    fault: Fault,
    lasts: Duration,
    times: u32,
}

/// How long every other fault lasts.
fn long(form: Form) -> Duration {
    Duration::from_secs(form.pick([20, 3]))
}

fn spells(form: Form) -> Vec<Spell> {
    let long = long(form);
    let once = |fault| Spell { fault, lasts: long, times: 1 };
    vec![
        once(Fault::Garbage),
        once(Fault::Status(500)),
        once(Fault::Status(429)),
        once(Fault::Hang),
        once(Fault::HalfBody),
        once(Fault::HalfJson),
        Spell { fault: Fault::Nobody(Index::Next), lasts: DOUBTED.min(long), times: form.pick([3, 1]) },
        Spell { fault: Fault::Nobody(Index::Back), lasts: DOUBTED.min(long), times: 1 },
        Spell { fault: Fault::Nobody(Index::Missing), lasts: DOUBTED.min(long), times: 1 },
    ]
}

async fn all(form: Form) -> Result<Row, Trouble> {
    let consul = Consul::server().await?;
    let agent = Agent(consul.http_addr());
    let fleet = Fleet::three("orders", agent).await;
    let mut own = Fleet::of("payments");
    own.add_ours().start().await;
    let (before_busy, before_idle) =
        (FaultProxy::before(consul.http_addr()).await, FaultProxy::before(consul.http_addr()).await);
    let busy = Caller::start(before_busy.addr(), "orders", "").await;
    let port = own.members[0].addr.port();
    let service = format!("service: {{name: payments, id: payments-1, port: {port}, address: 127.0.0.1}}");
    let idle = Caller::start(before_idle.addr(), "orders", &service).await;
    let load = Load::start(busy.addr(), Plan::mixed("orders", form.pick([200, 100])));
    load.reaches(100).await;

    let (mut broken, mut most_cpu, mut most_asked) = (Vec::new(), 0.0_f64, 0.0_f64);
    for spell in spells(form) {
        for _ in 0..spell.times {
            let Seen { met, cpu, asked } = through(&spell, &idle, [&before_busy, &before_idle]).await;
            let (fault, over, lasted) = (spell.fault, Instant::now(), spell.lasts.as_secs_f64());
            if !met {
                broken.push(format!("{fault:?} was never met"));
            }
            if cpu >= CPU_SHARE {
                broken.push(format!("{fault:?} cost {:.1} % of a core", cpu * 100.0));
            }
            if asked > AT_ONCE + PER_SECOND * lasted {
                broken.push(format!("{fault:?} was asked {asked} times in {lasted} s"));
            }
            (most_cpu, most_asked) = (most_cpu.max(cpu), most_asked.max(asked / lasted));
            confirmed(&busy, over).await;
            confirmed(&idle, over).await;
        }
    }
    Agent(consul.http_addr()).shows("payments", &[("payments-1", "passing")]).await;
    let tally = load.stop().await;
    let mut row = Row::of(&tally, busy.retried().await);
    row.promise(tally.failed().requests() == 0, || format!("{} failed", tally.failed_by_class()));
    row.promise(broken.is_empty(), || broken.join(", "));
    row.note(format!(
        "without load at most {:.1} % of a core and {most_asked:.1} questions a second; \
         an empty list for {} at a time",
        most_cpu * 100.0,
        millis(DOUBTED.min(long(form)))
    ));
    fleet.audit(&tally, &mut row);
    Ok(row)
}

/// What one spell came to.
struct Seen {
    /// Both sidecars got a wrong answer.
    met: bool,
    /// Share of a core.
    cpu: f64,
    /// Questions.
    asked: f64,
}

/// Lets both have it, and looks at the one without load.
async fn through(spell: &Spell, idle: &Caller, proxies: [&FaultProxy; 2]) -> Seen {
    let spoiled = proxies.map(FaultProxy::spoiled);
    let (cpu, asked, from) = (usage::cpu(idle.process.pid()), proxies[1].questions(), Instant::now());
    proxies.iter().for_each(|proxy| proxy.set(spell.fault));
    sleep(spell.lasts).await;
    let cpu = usage::cpu(idle.process.pid()) - cpu;
    let seen = Seen {
        met: (0..2).all(|at| proxies[at].spoiled() > spoiled[at]),
        cpu: cpu.as_secs_f64() / from.elapsed().as_secs_f64(),
        asked: (proxies[1].questions() - asked) as f64,
    };
    proxies.iter().for_each(|proxy| proxy.set(Fault::None));
    seen
}

/// Waits until the table is confirmed by the registry again.
async fn confirmed(caller: &Caller, from: Instant) {
    wait::until("the table is confirmed again", CONFIRMED, async || {
        let page = caller.process.ask("/services").await.json();
        let watch = &page["services"][0]["registry"];
        let heard = watch["heard_ago_ms"].as_u64().unwrap_or(u64::MAX);
        watch["error"].is_null() && u128::from(heard) < from.elapsed().as_millis()
    })
    .await;
}
