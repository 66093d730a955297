//! A whole sidecar in the test's process, with a registry that has Consul's HTTP API.

use std::net::SocketAddr;

use outrigger::App;
use outrigger_config::{Environment, LoadedConfig, Overrides, load};
use outrigger_proxy::Workers;
use outrigger_tests::wait;

/// Starts a sidecar that only routes, and waits until it is ready. `more` are lines of YAML.
pub(crate) async fn start_router(consul: SocketAddr, more: &str) -> (App, SocketAddr) {
    start_router_by(&format!("address: \"http://{consul}\""), more).await
}

/// As [`start_router`]; `consul` are the keys of `registry.consul`.
pub(crate) async fn start_router_by(consul: &str, more: &str) -> (App, SocketAddr) {
    let app =
        App::start(router_settings(consul, more), Workers::CurrentRuntime).await.expect("start the app");
    wait::within("it is ready", app.ready()).await;
    let addr = app.outbound_addrs()[0];
    (app, addr)
}

/// The settings of a sidecar that only routes. `consul` are the keys of `registry.consul`, `more` further lines.
pub(crate) fn router_settings(consul: &str, more: &str) -> LoadedConfig {
    load_text(&format!(
        "registry: {{consul: {{{consul}}}}}\noutbound: {{listen: \"127.0.0.1:0\"}}\n\
         admin: {{listen: \"127.0.0.1:0\"}}\n{more}\n"
    ))
}

/// The settings of a file with this text, without flags and variables.
pub(crate) fn load_text(text: &str) -> LoadedConfig {
    load(Some(("test.yaml", text)), &Environment::default(), &Overrides::default())
        .unwrap_or_else(|problems| panic!("{problems}"))
}
