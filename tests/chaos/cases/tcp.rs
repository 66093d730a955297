//! `kill -9` of an instance behind a TCP listener.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_tests::{client::Client, consul::Consul, registry::ConsulAgent, wait};
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    caller::CallerSidecar,
    case::{CaseResult, RunLength},
    case_report::CaseReport,
    fleet::Fleet,
    testbed::SERVICE,
};

/// Connections that are open at once.
const CONNECTIONS: usize = 40;
/// Answers after which a client begins another connection by itself.
const ANSWERS: usize = 50;

/// What the clients have seen.
#[derive(Debug, Default)]
struct Seen {
    answers: AtomicU64,
    /// The instance of each connection that was cut.
    cut: Mutex<Vec<String>>,
    /// Why connections got no first answer.
    unanswered: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

pub(super) async fn kill_one_of_two(form: RunLength) -> CaseResult {
    let consul = Consul::server().await?;
    let agent = ConsulAgent(consul.http_addr());
    let mut fleet = Fleet::new(SERVICE);
    fleet.add_own_server();
    fleet.add_own_server();
    for member in &mut fleet.members {
        member.start().await;
    }
    fleet.register(agent).await;
    let listen = outrigger_net::reserve_addr();
    let upstream = format!("{SERVICE}, protocol: tcp, listen: \"{listen}\"");
    let caller = CallerSidecar::start(consul.http_addr(), &upstream, "").await;
    let mut row = CaseReport::without_requests();
    let mut kills = 0;
    for nth in 0..form.pick([6, 2]) {
        let seen = Arc::<Seen>::default();
        let mut clients = JoinSet::new();
        for _ in 0..CONNECTIONS {
            clients.spawn(call(listen, Arc::clone(&seen)));
        }
        wait_answers(&seen, 2000).await;
        let (early, before) = (std::mem::take(&mut *seen.unanswered.lock()), seen.cut.lock().len());
        row.require(early.is_empty() && before == 0, || format!("before the kill: {early:?}, {before} cut"));
        let victim = &mut fleet.members[nth % 2];
        let name = victim.name.clone();
        victim.kill();
        wait_answers(&seen, 3000).await;
        seen.is_over.store(true, Relaxed);
        while clients.join_next().await.is_some() {}
        let (cut, unanswered) = (seen.cut.lock().clone(), seen.unanswered.lock().clone());
        let others = cut.iter().filter(|instance| **instance != name).count();
        row.require(others == 0, || format!("{others} connections of the other instance were cut"));
        row.require(!cut.is_empty(), || "no connection of the killed instance was cut".to_owned());
        // What was on its way to the killed one at that moment is its own.
        row.require(unanswered.len() <= CONNECTIONS / 4, || {
            format!("{} connections without an answer: {:?}", unanswered.len(), unanswered.first())
        });
        kills += cut.len();
        fleet.members[nth % 2].start().await;
        fleet.wait_passing(agent).await;
        wait::until("both are trusted", wait::TIMEOUT, async || {
            caller.metrics().await.sum("outrigger_instances_trust", &[("trust", "trusted")]) == 2.0
        })
        .await;
    }
    let refused = caller.metrics().await.sum("outrigger_tcp_connections_total", &[("result", "refused")]);
    row.require(refused == 0.0, || format!("{refused} connections found no instance"));
    row.note(format!("{kills} connections of killed instances ended, and no other"));
    Ok(row)
}

async fn wait_answers(seen: &Seen, more: u64) {
    let until = seen.answers.load(Relaxed) + more;
    wait::until("more answers", 3 * wait::TIMEOUT, async || seen.answers.load(Relaxed) >= until).await;
}

/// One connection after the other, each of many requests, of which the sidecar sees bytes alone.
async fn call(listen: SocketAddr, seen: Arc<Seen>) {
    while !seen.is_over.load(Relaxed) {
        let mut client = Client::connect(listen).await;
        let mut instance = None;
        for _ in 0..ANSWERS {
            let sent = client.try_send("GET / HTTP/1.1\r\nHost: any\r\n\r\n").await;
            let answer = match sent {
                Ok(()) => client.try_response_to("GET").await,
                Err(error) => Err(error),
            };
            match (answer, &instance) {
                (Ok(answer), _) => {
                    instance = Some(answer.instance().to_owned());
                    seen.answers.fetch_add(1, Relaxed);
                }
                (Err(_), Some(instance)) => {
                    seen.cut.lock().push(instance.clone());
                    break;
                }
                (Err(error), None) => {
                    seen.unanswered.lock().push(error.to_string());
                    break;
                }
            }
            sleep(Duration::from_millis(2)).await;
        }
    }
}
