//! A sidecar with the services that it registers, at an agent of Consul, real or not.

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_net::reserve_addr;
use outrigger_tests::{instance::Instance, registry::ConsulAgent};

/// A dev registry, which ends when it is dropped.
pub(crate) async fn dev_registry() -> (DevRegistry, ConsulAgent) {
    let registry =
        DevRegistry::bind(reserve_addr(), DevRegistryOptions::default()).await.expect("a registry");
    let agent = ConsulAgent(registry.addr());
    (registry, agent)
}

/// An item of `services`: `id` is `NAME-1`. `more` are further keys of the service, `health` those of its health.
pub(crate) fn item_with(name: &str, app: &Instance, more: &str, health: &str) -> String {
    let port = app.addr().port();
    format!(
        "{{name: {name}, id: {name}-1, port: {port}, {more}, \
         health: {{http: /health, interval: 200ms, timeout: 200ms, {health}}}}}"
    )
}

/// The same with the address at which every [`Instance`] listens.
pub(crate) fn item(name: &str, app: &Instance) -> String {
    item_with(name, app, "address: 127.0.0.1", "")
}

/// The settings of a sidecar of these services.
pub(crate) fn settings(agent: ConsulAgent, items: &[String]) -> String {
    format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\ndrain: {{propagation: 0s}}\nservices: [{}]\n",
        agent.0,
        items.join(", ")
    )
}
