//! Tree, flags and environment → [`Config`], or all problems.
//!
//! Each part reads its keys through a [`reader::Reader`], which applies the precedence, expands variables,
//! records origins and collects problems. The default stands in for a wrong value, so that the other
//! settings are still checked; the result is valid only when there is no problem.

mod api;
mod app_config;
mod dns;
mod documents;
mod dynamic_config;
mod environment;
mod listeners;
mod open;
mod policy;
mod protocol;
mod prune;
mod quote;
mod reader;
mod registry;
mod section;
mod service;
mod state_dir;
mod tls;
mod traffic;
mod upstreams;

use std::{sync::Arc, time::Duration};

pub(crate) use documents::{DocumentTree, PolicyReader, PolicyReading, Subject, parse_scalar};
use reader::Reader;
use section::Section;
pub(crate) use traffic::{NamedServices, ServiceLinks, ServicePolicies, TrafficReading};

use crate::{
    AwaitApp, Config, DiscoverySettings, Drain, Environment, InheritedToken, Limits, Log, LogFormat,
    MassLoss, OnAppExit, Origins, Outbound, Problem, ProcessGroup, Propagation, WorkerThreads, address,
    error::InvalidValue,
    layers::Overlay,
    names,
    raw::Node,
    renamed::RenamedKeys,
    units::{
        DAY, HOUR, KIB, MIB, MINUTE, MS, SECOND, duration_in, integer, on_or_off, one_of, size_in, switch,
    },
};

/// The result; `config` is valid only when `problems` is empty.
pub(crate) struct CheckOutcome {
    pub(crate) config: Config,
    pub(crate) origins: Origins,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

/// Checks everything. `file` is the name in problems, `renamed` has the keys of `tree` with an old name.
pub(crate) fn check(
    file: &Arc<str>,
    tree: Option<&Node>,
    renamed: RenamedKeys,
    env: &Environment,
    overlay: Overlay,
) -> CheckOutcome {
    let mut r = Reader::new(file, renamed, env, overlay);
    let root = r.root(tree);
    let mut config = Config {
        services: service::read_services(&mut r, &root),
        registry: registry::read_registry(&mut r, &root),
        ..Config::default()
    };
    let section = r.section(&root, "discovery");
    read_discovery(&mut r, &section, &mut config.discovery);
    state_dir::read_state_dir(&mut r, &root, &mut config.state_dir);
    let section = r.section(&root, "outbound");
    read_outbound(&mut r, &section, &mut config.outbound);
    let section = r.section(&root, "dynamic_config");
    config.dynamic_config = dynamic_config::read_dynamic_config(&mut r, &section, &config.registry);
    let section = r.section(&root, "defaults");
    config.defaults = policy::read_policy(&mut r, &section, &config.defaults);
    upstreams::read_upstreams(&mut r, &root, &mut config);
    let section = r.section(&root, "routing");
    r.set(&section, "consul", &mut config.routing.consul, switch);
    if config.routing.consul && matches!(config.registry, crate::Registry::File(_)) {
        let key = "routing.consul";
        r.warn(r.origins.get(key).clone(), key, "is not used: the registry is a file", "remove it");
    }
    let section = r.section(&root, "admin");
    r.set(&section, "listen", &mut config.admin.listen, address::listen_address);
    config.admin.metrics_listen = r.get(&section, "metrics_listen", address::listen_address);
    config.api = api::read_api(&mut r, &root, &config);
    config.dns = dns::read_dns(&mut r, &root);
    read_drain(&mut r, &root, &mut config.drain);
    let section = r.section(&root, "app");
    let ways = one_of(InheritedToken::ALL, InheritedToken::as_str);
    r.set(&section, "consul_token", &mut config.app.consul_token, ways);
    let groups = one_of(ProcessGroup::ALL, ProcessGroup::as_str);
    r.set(&section, "process_group", &mut config.app.process_group, groups);
    r.set(&root, "on_app_exit", &mut config.on_app_exit, one_of(OnAppExit::ALL, OnAppExit::as_str));
    r.set(&root, "workers", &mut config.workers, parse_workers);
    let section = r.section(&root, "log");
    read_log(&mut r, &section, &mut config.log);
    listeners::check(&mut r, &config);
    dns::check_peers(&mut r, &config);
    upstreams::check_count(&mut r, &root, &config);
    upstreams::check_names(&mut r, &config);
    registry::check_service(&mut r, &config);
    api::check_registry(&mut r, &config);
    traffic::check_registry(&mut r, &config);
    traffic::check_failovers(&mut r, &config);
    environment::check(&mut r, tree);
    let Reader { origins, mut problems, warnings, renamed, .. } = r;
    problems.iter_mut().for_each(|problem| renamed.restore_key(problem));
    CheckOutcome { config, origins, problems, warnings }
}

fn read_discovery(r: &mut Reader<'_>, s: &Section<'_>, out: &mut DiscoverySettings) {
    r.set(s, "first_answer", &mut out.first_answer, duration_in(MS..=MINUTE));
    r.set(s, "idle", &mut out.idle, duration_in(SECOND..=DAY));
    r.set(s, "max_services", &mut out.max_services, integer(1..=10_000));
    r.set(s, "max_new_per_second", &mut out.max_new_per_second, integer(1..=10_000));
    r.set(s, "max_unknown", &mut out.max_unknown, integer(1..=10_000));
    r.set(s, "unknown_ttl", &mut out.unknown_ttl, duration_in(SECOND..=HOUR));
    out.mass_loss = read_mass_loss(r, s);
}

/// `mass_loss: off` turns it off; `mass_loss: on` is the default.
fn read_mass_loss(r: &mut Reader<'_>, parent: &Section<'_>) -> Option<MassLoss> {
    let mut out = MassLoss::default();
    match r.read_switch(parent, "mass_loss") {
        Some(false) => return None,
        Some(true) => return Some(out),
        None => {}
    }
    let section = r.section(parent, "mass_loss");
    r.set(&section, "confirm_for", &mut out.confirm_for, duration_in(Duration::ZERO..=MINUTE));
    r.set(&section, "hold_for", &mut out.hold_for, duration_in(Duration::ZERO..=10 * MINUTE));
    r.set(&section, "probe_timeout", &mut out.probe_timeout, duration_in(10 * MS..=5 * SECOND));
    let confirm_for = ("confirm_for", out.confirm_for);
    service::check_not_above(r, &section, confirm_for, ("hold_for", out.hold_for));
    Some(out)
}

fn read_outbound(r: &mut Reader<'_>, s: &Section<'_>, out: &mut Outbound) {
    r.set(s, "listen", &mut out.listen, address::listen_address);
    r.set_list(s, "names", &mut out.names, names::own_name);
    r.set(s, "connect", &mut out.connect, on_or_off);
    r.set(s, "x_forwarded", &mut out.x_forwarded, switch);
    r.set(s, "via", &mut out.via, switch);
    r.set(s, "loop_guard", &mut out.loop_guard, on_or_off);
    r.set(s, "rewrite_cookie_path", &mut out.rewrite_cookie_path, switch);
    r.set_list(s, "allow_origins", &mut out.allow_origins, address::allowed_origin);
    if let Some(origin) = out.allow_origins.iter().find(|origin| origin.allows_any_page()) {
        let key = s.key("allow_origins");
        let what = format!("\"{origin}\" lets any page in a browser on this machine send requests");
        let hint = "name the pages, as https://app.example or https://*.example";
        r.warn(r.origins.get(&key).clone(), &key, what, hint);
    }
    let section = r.section(s, "limits");
    read_limits(r, &section, &mut out.limits);
}

fn read_limits(r: &mut Reader<'_>, s: &Section<'_>, out: &mut Limits) {
    r.set(s, "max_header_bytes", &mut out.max_header_bytes, size_in(8 * KIB..=MIB));
    r.set(s, "max_headers", &mut out.max_headers, integer(10..=5_000));
    r.set(s, "head_timeout", &mut out.head_timeout, duration_in(100 * MS..=10 * MINUTE));
    r.set(s, "idle", &mut out.idle, duration_in(SECOND..=DAY));
    r.set(s, "max_connections", &mut out.max_connections, integer(1..=1_000_000));
    r.set(s, "tunnel_idle", &mut out.tunnel_idle, duration_in(SECOND..=7 * DAY));
    r.set_or_off(s, "tunnel_grace", &mut out.tunnel_grace, duration_in(Duration::ZERO..=DAY));
}

/// `drain: 30s` is short for `drain: {timeout: 30s}`.
fn read_drain(r: &mut Reader<'_>, root: &Section<'_>, out: &mut Drain) {
    let timeout = duration_in(Duration::ZERO..=HOUR);
    let section = r.section_or_value(root, "drain", "timeout");
    r.set(&section, "timeout", &mut out.timeout, timeout);
    r.set(&section, "propagation", &mut out.propagation, parse_propagation);
    r.set(&section, "margin", &mut out.margin, duration_in(Duration::ZERO..=MINUTE));
    r.set(&section, "max_propagation", &mut out.max_propagation, duration_in(Duration::ZERO..=5 * MINUTE));
    r.set(&section, "unobserved_wait", &mut out.unobserved_wait, duration_in(Duration::ZERO..=5 * MINUTE));
    let ways = one_of(AwaitApp::ALL, AwaitApp::as_str);
    r.set(&section, "await_app", &mut out.await_app, |text| match text {
        // YAML 1.1 and the other switches of a settings file accept both.
        "true" => Ok(AwaitApp::On),
        "false" => Ok(AwaitApp::Off),
        _ => ways(text),
    });
    r.set(&section, "linger", &mut out.linger, duration_in(Duration::ZERO..=HOUR));
}

fn parse_propagation(text: &str) -> Result<Propagation, InvalidValue> {
    if text == "measured" {
        return Ok(Propagation::Measured);
    }
    duration_in(Duration::ZERO..=5 * MINUTE)(text)
        .map(Propagation::Fixed)
        .map_err(|wrong| InvalidValue::new(wrong.what, "allowed: measured, or a duration of 0s to 5m"))
}

fn parse_workers(text: &str) -> Result<WorkerThreads, InvalidValue> {
    if text == "auto" {
        return Ok(WorkerThreads::Auto);
    }
    integer(1..=256)(text)
        .map(WorkerThreads::Count)
        .map_err(|wrong| InvalidValue::new(wrong.what, "allowed: auto, or 1 to 256"))
}

fn read_log(r: &mut Reader<'_>, s: &Section<'_>, out: &mut Log) {
    r.set(s, "level", &mut out.level, names::log_filter);
    r.set(s, "format", &mut out.format, one_of(LogFormat::ALL, LogFormat::as_str));
    r.set(s, "access", &mut out.access, switch);
}
