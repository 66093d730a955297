//! An upstream with `protocol: tcp`: each connection of the app becomes one to an instance, and bytes pass both ways.

mod connect;
mod end;
mod path;
mod pick;

use std::net::SocketAddr;

use outrigger_tests::{
    sidecar::{Services, Sidecar},
    tcp::TcpInstance,
};

/// Settings with a listener of `orders`, and further keys of it.
fn settings(keys: &str) -> String {
    format!("upstreams: [{{service: orders, listen: \"127.0.0.1:0\", protocol: tcp{keys}}}]")
}

fn listed(instances: &[&TcpInstance]) -> Services {
    and(Services::default().empty("orders"), "orders", instances)
}

fn and(services: Services, service: &str, instances: &[&TcpInstance]) -> Services {
    instances.iter().fold(services, |all, one| all.and_at(service, one.name(), one.addr(), ""))
}

/// A sidecar with a TCP listener of `orders`, and the listener's address.
async fn start(keys: &str, services: &Services) -> (Sidecar, SocketAddr) {
    let sidecar = Sidecar::start(&settings(keys), services).await;
    let addr = sidecar.upstream_addr("orders");
    (sidecar, addr)
}

fn ended(sidecar: &Sidecar, result: &str) -> f64 {
    sidecar.metric("outrigger_tcp_connections_total", &[("service", "orders"), ("result", result)])
}

fn refused(sidecar: &Sidecar, reason: &str) -> f64 {
    sidecar.metric("outrigger_errors_total", &[("service", "orders"), ("reason", reason)])
}

fn open(sidecar: &Sidecar) -> f64 {
    sidecar.metric("outrigger_tcp_connections", &[("service", "orders")])
}
