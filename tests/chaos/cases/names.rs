//! The registry is killed, and then silent, while a client asks the DNS listener for the names of services.

use std::{net::SocketAddr, time::Duration};

use outrigger_net::reserve_addr;
use outrigger_tests::{
    consul::Consul,
    dns::{self, A, NXDOMAIN, SERVFAIL, SRV},
    registry::ConsulAgent,
    wait,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    caller::CallerSidecar,
    case::{CaseResult, RunLength},
    case_report::{CaseReport, format_millis},
    fault::{Fault, FaultProxy},
    fleet::{FINE_POLL_INTERVAL, Fleet},
};

/// Longest wait for an answer: `discovery.first_answer` bounds that about an unknown name to 1 s.
const ANSWERED_WITHIN: Duration = Duration::from_millis(1500);

pub(super) async fn kept(form: RunLength) -> CaseResult {
    let mut consul = Consul::server().await?;
    let mut fleet = Fleet::start_three("orders", ConsulAgent(consul.http_addr())).await;
    let (proxy, listen) = (FaultProxy::start(consul.http_addr()).await, reserve_addr());
    // No request and no setting names `orders`: its name is followed for DNS alone.
    let settings = format!("dns: {{listen: \"{listen}\", answer: instances}}");
    let _caller = CallerSidecar::start(proxy.addr(), "payments", &settings).await;
    let count = async || dns::ask(listen, "orders.service.consul", SRV).await.answers().len();
    wait::until("the name is known", wait::TIMEOUT, async || count().await == 3).await;

    let asks = NameLoad::start(listen);
    let away = Duration::from_secs(form.pick([60, 6]));
    let mut row = CaseReport::without_requests();
    consul.kill()?;
    require_unknown(listen, SERVFAIL, "killed", &mut row).await;
    sleep(away).await;
    consul.start().await?;
    wait_unknown(listen).await;
    proxy.set(Fault::Hang);
    require_unknown(listen, SERVFAIL, "silent", &mut row).await;
    sleep(away).await;
    proxy.set(Fault::None);
    wait_unknown(listen).await;
    let (asked, longest, wrong) = asks.stop().await;
    row.require(wrong.is_empty(), || format!("{} wrong answers, as {}", wrong.len(), wrong[0]));
    row.require(longest < ANSWERED_WITHIN, || format!("an answer took {}", format_millis(longest)));
    row.note(format!("{asked} questions, the longest answer after {}", format_millis(longest)));
    // What was kept is followed again.
    fleet.members[0].kill();
    wait::until("the killed one has left the answers", wait::TIMEOUT, async || count().await == 2).await;
    Ok(row)
}

/// Asks for a name that was never asked for.
async fn ask_unknown(listen: SocketAddr) -> (u8, Duration) {
    let from = Instant::now();
    let name = format!("unknown-{}.service.consul", fastrand::u64(..));
    (dns::ask(listen, &name, A).await.code(), from.elapsed())
}

/// Such a name has the code `expected`, and soon: whether it exists is not known while the registry is `state`.
async fn require_unknown(listen: SocketAddr, expected: u8, state: &str, row: &mut CaseReport) {
    for _ in 0..3 {
        let (code, took) = ask_unknown(listen).await;
        row.require(code == expected, || {
            format!("an unknown name has code {code} with the registry {state}")
        });
        row.require(took < ANSWERED_WITHIN, || format!("an unknown name took {}", format_millis(took)));
    }
}

/// Waits until the registry answers about such a name again.
async fn wait_unknown(listen: SocketAddr) {
    let what = "the registry is asked again";
    wait::until(what, wait::TIMEOUT * 3, async || ask_unknown(listen).await.0 == NXDOMAIN).await;
}

/// A client that asks for the name of the service all the time.
struct NameLoad {
    stop: CancellationToken,
    task: JoinHandle<(u64, Duration, Vec<String>)>,
}

impl NameLoad {
    fn start(listen: SocketAddr) -> Self {
        let stop = CancellationToken::new();
        let is_stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (mut asked, mut longest, mut wrong) = (0, Duration::ZERO, Vec::new());
            while !is_stopped.is_cancelled() {
                for (record_type, expected) in [(A, 1), (SRV, 3)] {
                    let from = Instant::now();
                    let answer = dns::ask(listen, "orders.service.consul", record_type).await;
                    (asked, longest) = (asked + 1, longest.max(from.elapsed()));
                    // The three have one address.
                    if answer.code() != 0 || answer.answers().len() != expected {
                        wrong.push(format!("code {} with {:?}", answer.code(), answer.answers()));
                    }
                }
                sleep(FINE_POLL_INTERVAL).await;
            }
            (asked, longest, wrong)
        });
        Self { stop, task }
    }

    /// How many questions were asked, the longest time to an answer, and the answers that were not those of three instances.
    async fn stop(self) -> (u64, Duration, Vec<String>) {
        self.stop.cancel();
        self.task.await.expect("each question has an answer")
    }
}
