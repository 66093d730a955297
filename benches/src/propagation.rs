//! How soon a change in Consul reaches a follower.
//!
//! A real Consul server, with the client and the discovery of a sidecar. The time runs from just before
//! the request that makes the change (including its connection) until a follower sees the change; all of
//! it on this machine.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use outrigger_config as config;
use outrigger_discovery::{Discovery, Follower, Snapshot, WatchReason};
use outrigger_registry::{HealthStatus, Instance, Query, consul::Consul as Client};
use outrigger_tests::consul::{Consul, http};
use tokio::{
    runtime,
    time::{sleep, timeout},
};

use crate::{
    Effort, Error, clock,
    error::doing,
    report::{Finding, Section, Table},
    stats::{Samples, ThreeDigits},
};

const SERVICE: &str = "orders";
/// Longest wait for one change.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(20);
/// Shortest pause between two changes; up to as much again is added at random. A watch with more than ten
/// changes a second is slowed down on purpose.
const PAUSE: Duration = Duration::from_millis(150);

/// One kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConsulChange {
    Register,
    Critical,
    Passing,
    Deregister,
}

impl ConsulChange {
    const ALL: [Self; 4] = [Self::Register, Self::Critical, Self::Passing, Self::Deregister];

    fn path(self, id: &str) -> String {
        match self {
            Self::Register => "/v1/agent/service/register".into(),
            Self::Critical | Self::Passing => format!("/v1/agent/check/update/service:{id}"),
            Self::Deregister => format!("/v1/agent/service/deregister/{id}"),
        }
    }

    fn body(self, id: &str) -> String {
        match self {
            Self::Register => registration(id),
            Self::Critical => r#"{"Status": "critical", "Output": "-"}"#.into(),
            Self::Passing => r#"{"Status": "passing", "Output": "-"}"#.into(),
            Self::Deregister => String::new(),
        }
    }

    /// The status after the change; `None`: the instance is gone.
    fn expected_status(self) -> Option<HealthStatus> {
        match self {
            Self::Register | Self::Passing => Some(HealthStatus::Passing),
            Self::Critical => Some(HealthStatus::Critical),
            Self::Deregister => None,
        }
    }
}

impl fmt::Display for ConsulChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Register => "an instance is registered",
            Self::Critical => "its check turns critical",
            Self::Passing => "its check passes again",
            Self::Deregister => "it is deregistered",
        })
    }
}

fn registration(id: &str) -> String {
    format!(
        r#"{{"ID": "{id}", "Name": "{SERVICE}", "Address": "127.0.0.1", "Port": 8080,
            "Check": {{"TTL": "10m", "Status": "passing"}}}}"#
    )
}

/// Measures changes from the request that makes them to the follower. Without a Consul program the section
/// says so.
///
/// # Errors
/// Consul does not start, refuses a change, or a change does not arrive.
pub fn run(effort: Effort) -> Result<Section, Error> {
    if let Err(why) = Consul::find() {
        return Ok(Section::new("Propagation").remark(format!("Not measured: {why}")));
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(doing("build a runtime"))?.block_on(measure(effort.choose(60, 5)))
}

async fn measure(rounds: u32) -> Result<Section, Error> {
    let consul = Consul::server().await.map_err(doing("start Consul"))?;
    let table = ServiceWatch::start(consul.http_addr())?;
    let mut follower = table.follower;
    change(&consul, &mut follower, ConsulChange::Register, "orders-0").await?; // so that the service is never empty
    let mut samples = ConsulChange::ALL.map(|_| Vec::new());
    for round in 1..=rounds {
        let id = format!("{SERVICE}-{round}");
        for (kind, samples) in ConsulChange::ALL.into_iter().zip(&mut samples) {
            sleep(PAUSE + PAUSE.mul_f64(fastrand::f64())).await;
            samples.push(change(&consul, &mut follower, kind, &id).await?);
        }
    }
    drop(follower);
    table.discovery.shutdown().await;
    Ok(section(samples))
}

fn section(samples: [Vec<f64>; 4]) -> Section {
    let mut table = Table::new(
        "Milliseconds from sending the change to Consul until the table has it",
        ["change", "samples", "p50", "p99", "greatest"],
    );
    let mut row = |what: &str, samples: &Samples| {
        let [p50, p99, max] = [samples.median(), samples.percentile(0.99), samples.max()].map(ThreeDigits);
        table.row([
            what.to_owned(),
            samples.count().to_string(),
            p50.to_string(),
            p99.to_string(),
            max.to_string(),
        ]);
    };
    for (kind, samples) in ConsulChange::ALL.into_iter().zip(&samples) {
        row(&kind.to_string(), &Samples::new(samples.iter().copied()));
    }
    let all = Samples::new(samples.into_iter().flatten());
    row("all of them", &all);
    let figures =
        format!("p50 {} ms, p99 {} ms", ThreeDigits(all.median()), ThreeDigits(all.percentile(0.99)));
    Section::new("Propagation")
        .finding(Finding::plain("a change in Consul until the table has it", figures))
        .table(table)
}

/// A follower of the service, and its discovery.
#[derive(Debug)]
struct ServiceWatch {
    discovery: Arc<Discovery>,
    follower: Follower,
}

impl ServiceWatch {
    fn start(agent: SocketAddr) -> Result<Self, Error> {
        let address = config::ConsulAddress { tls: false, host: agent.ip().to_string(), port: agent.port() };
        let client = Client::new(&config::ConsulSettings { address, ..config::ConsulSettings::default() });
        let client = Arc::new(client.map_err(doing("make the Consul client"))?);
        let metrics = prometheus::Registry::new();
        let runtime = runtime::Handle::current();
        let discovery = Discovery::new(client, config::DiscoverySettings::default(), runtime, &metrics)
            .map_err(doing("set up discovery"))?;
        let query = Query::new(SERVICE, None);
        let follower = discovery.follow(query, WatchReason::Declared).map_err(doing("follow the service"))?;
        Ok(Self { discovery, follower })
    }
}

/// Makes the change. Returns the milliseconds until the follower has it.
async fn change(
    consul: &Consul,
    follower: &mut Follower,
    change: ConsulChange,
    id: &str,
) -> Result<f64, Error> {
    let (path, body) = (change.path(id), change.body(id));
    let start = clock::now();
    let (sent, seen) = tokio::join!(
        http::put(consul.http_addr(), &path, &body),
        timeout(ARRIVAL_TIMEOUT, arrival(follower, id, change.expected_status())),
    );
    let sent = sent.map_err(doing(format!("PUT {path}")))?;
    if !sent.status().is_success() {
        let text = String::from_utf8_lossy(sent.body()).into_owned();
        return Err(Error::new(format!("PUT {path}: Consul answered {}: {text}", sent.status())));
    }
    let seen = seen.map_err(doing(format!("wait for PUT {path} to reach the follower")))?;
    Ok((seen - start).as_secs_f64() * 1e3)
}

/// Waits until `id` has this status, or is gone.
async fn arrival(follower: &mut Follower, id: &str, status: Option<HealthStatus>) -> std::time::Instant {
    let of = |snapshot: &Snapshot| {
        let ours = |instance: &&Instance| &*instance.id.id == id;
        snapshot.instances.iter().find(ours).map(|instance| instance.status)
    };
    while of(&*follower.changed().await) != status {}
    clock::now()
}
