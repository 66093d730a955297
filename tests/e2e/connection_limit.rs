//! Sidecars of one host share the connections that a Consul allows to one address.

use std::time::Duration;

use outrigger_tests::{
    consul::{self, Consul},
    instance::Instance,
    process::Process,
    registry::ConsulAgent,
    wait,
};
use serde_json::json;
use tokio::time::{Instant, sleep};

const UPSTREAMS: usize = 8;
/// What three sidecars of eight upstreams would use is 33: eight watches and three for the registration each.
const LIMIT: usize = 20;
/// Longest time until a sidecar without a connection has one: the others notice within half a minute.
const SHARED_WITHIN: Duration = Duration::from_secs(90);

fn upstream(number: usize) -> String {
    format!("upstream-{number}")
}

async fn register(agent: ConsulAgent, service: &str, id: &str, instance: &Instance) {
    let registration = json!({"Name": service, "ID": format!("{service}-{id}"), "Address": "127.0.0.1", "Port": instance.addr().port()});
    agent.put("/v1/agent/service/register", &registration).await;
}

async fn start(agent: ConsulAgent, number: usize, app: &Instance) -> Process {
    let upstreams: Vec<_> =
        (0..UPSTREAMS).map(|number| format!("{{service: {}}}", upstream(number))).collect();
    let settings = format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\nupstreams: [{}]\ndrain: {{propagation: 500ms, timeout: 5s}}\n\
         service: {{name: app-{number}, id: app-{number}, port: {}, address: 127.0.0.1}}\n",
        agent.0,
        upstreams.join(", "),
        app.addr().port(),
    );
    Process::run(&settings).await
}

/// Waits until every sidecar knows `count` instances of each upstream.
async fn wait_known(processes: &[Process], count: usize) {
    for process in processes {
        wait::until(&format!("{count} of each upstream are known"), SHARED_WITHIN, async || {
            let page = process.admin_get("/metrics").await.text();
            let known = format!("status=\"passing\"}} {count}");
            let rows = page.lines().filter(|line| {
                line.starts_with("outrigger_table_instances{")
                    && line.ends_with(&known)
                    && line.contains("upstream-")
            });
            rows.count() == UPSTREAMS
        })
        .await;
    }
}

async fn is_passing(agent: ConsulAgent, number: usize) -> bool {
    let id = format!("app-{number}");
    agent.health(&id).await == [(id, "passing".to_owned())]
}

#[tokio::test]
async fn registration_and_reports_come_first_and_watches_take_turns_where_connections_are_few() {
    if !consul::available("sidecars share the connections that Consul allows to one address") {
        return;
    }
    let consul =
        Consul::server_with(&format!("limits {{ http_max_conns_per_client = {LIMIT} }}")).await.unwrap();
    let agent = ConsulAgent(consul.http_addr());
    let (first, second) = (Instance::start("a").await, Instance::start("b").await);
    for number in 0..UPSTREAMS {
        register(agent, &upstream(number), "a", &first).await;
    }
    let apps = [Instance::start("x").await, Instance::start("y").await, Instance::start("z").await];
    let mut processes = Vec::new();
    for (number, app) in apps.iter().enumerate() {
        // One after the other, so that the last one finds no connection.
        processes.push(start(agent, number, app).await);
        wait::until(&format!("app-{number} is registered"), SHARED_WITHIN, async || {
            is_passing(agent, number).await
        })
        .await;
    }
    wait_known(&processes, 1).await;
    let named = processes.iter().filter(|one| one.log().contains("http_max_conns_per_client")).count();
    assert!(named > 0, "the log names the limit:\n{}", processes[2].log());

    // Longer than the TTL of 30 s, so that a missed report would be seen.
    let end = Instant::now() + Duration::from_secs(40);
    while Instant::now() < end {
        for (number, process) in processes.iter().enumerate() {
            assert!(is_passing(agent, number).await, "app-{number} in\n{}", process.log());
        }
        sleep(Duration::from_millis(500)).await;
    }
    // Each watch gets its turn.
    for number in 0..UPSTREAMS {
        register(agent, &upstream(number), "b", &second).await;
    }
    wait_known(&processes, 2).await;

    for (number, process) in processes.iter_mut().enumerate().rev() {
        process.signal("TERM");
        assert_eq!(process.wait_exit(wait::TIMEOUT).await.code(), Some(0), "{}", process.log());
        assert_eq!(agent.health(&format!("app-{number}")).await, [], "{}", process.log());
    }
}
