//! Host names: that of the agent, and those of instances. No name is looked up by the system.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use outrigger_net::Lookups;

use super::{
    scripted_agent::{AgentAction, health_response, response},
    *,
};

/// A client of the agent by a name that `lookups` resolves.
fn client_by_name(agent: &ScriptedAgent, lookups: Lookups) -> Consul {
    let address = config::ConsulAddress { tls: false, host: "consul.test".into(), port: agent.addr().port() };
    let settings = config::ConsulSettings { address, ..config::ConsulSettings::default() };
    let mut consul = Consul::new(&settings).unwrap();
    consul.api.dialer = dial::Dialer::with_lookups(&settings, lookups).unwrap();
    consul
}

/// A resolver that finds the agent `times` times, and hangs until the sender is dropped.
fn found_then_hung(times: usize, ips: &[[u8; 4]]) -> (Lookups, mpsc::Sender<()>) {
    let ips: Vec<_> = ips.iter().copied().map(IpAddr::from).collect();
    let (held, hang) = mpsc::channel::<()>();
    let (hang, asked) = (Mutex::new(hang), AtomicUsize::new(0));
    let lookups = Lookups::with_resolver(1, move |_| {
        if asked.fetch_add(1, Ordering::SeqCst) < times {
            return Ok(ips.clone());
        }
        let _ = hang.lock().unwrap().recv();
        Err(io::Error::other("it hung"))
    });
    (lookups, held)
}

#[tokio::test]
async fn an_agent_whose_name_has_an_address_without_it_is_found_at_the_other() {
    // Each answer ends its connection.
    let agent = ScriptedAgent::start(|_, _| AgentAction::SendAndClose(health_response("5", "[]"))).await;
    // Nothing listens on the first one.
    let (lookups, _held) = found_then_hung(usize::MAX, &[[127, 0, 0, 2], [127, 0, 0, 1]]);
    let consul = client_by_name(&agent, lookups);
    for _ in 0..3 {
        watch(&consul, 0).await.unwrap();
    }
    assert_eq!(agent.connections(), 3);
}

#[tokio::test]
async fn the_error_of_a_name_that_cannot_be_looked_up_names_it() {
    let agent = ScriptedAgent::start(|_, _| AgentAction::Hang).await;
    let lookups = Lookups::with_resolver(1, |_| Err(io::Error::other("no such host")));
    let error = watch(&client_by_name(&agent, lookups), 0).await.unwrap_err();
    let text = outrigger_config::error_chain(&error);
    assert!(text.contains("look up \"consul.test\": no such host"), "{text}");
}

#[tokio::test]
async fn a_resolver_that_hangs_keeps_no_report_and_no_registration_waiting() {
    let agent = ScriptedAgent::start(|_, text| {
        let listed = r#"[{"Node": {"Node": "n", "Address": "10.0.0.1", "Datacenter": "dc1"},
            "Service": {"ID": "orders-1", "Service": "orders", "Address": "hung.test", "Port": 80}, "Checks": []}]"#;
        AgentAction::SendAndClose(match text.starts_with("PUT") {
            true => response(200, &[], ""),
            false => health_response("5", listed),
        })
    })
    .await;
    let (lookups, _held) = found_then_hung(1, &[[127, 0, 0, 1]]);
    let mut consul = client_by_name(&agent, lookups);
    let (hung, _hang) = found_then_hung(0, &[]);
    consul.resolver = Resolver::with_lookups(hung);
    consul.update_check("orders-1", ReportedHealth::Passing, "well").await.unwrap();
    let consul = Arc::new(consul);
    let watching = {
        let consul = consul.clone();
        tokio::spawn(async move { watch(&consul, 0).await })
    };
    // Every exchange needs a new connection, and so an address of the agent.
    let from = Instant::now();
    for _ in 0..10 {
        consul.update_check("orders-1", ReportedHealth::Passing, "well").await.unwrap();
    }
    let us = super::registration::registration();
    let listed = consul.catalog_entry(&us, Cursor::START, Duration::from_secs(1)).await.unwrap();
    assert_eq!(listed.instances[0].addr, Ok(([0, 0, 0, 0], 80).into()), "not looked up");
    assert!(from.elapsed() < Duration::from_secs(10), "{:?}", from.elapsed());
    let answer = watching.await.unwrap().unwrap();
    assert!(answer.instances[0].addr.is_err(), "{answer:?}");
}
