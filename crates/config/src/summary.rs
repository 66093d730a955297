//! Settings → a summary on one screen: what would run, what is set, and where.

use std::fmt::Write as _;

use crate::{
    Config, DnsAnswer, LoadedConfig, Origin, Probe, Registry, Service, Token, format_duration,
    settings::{DisplayValue, Setting, effective_origin, list_settings},
};

/// Most upstreams and most values that are listed.
const MAX_UPSTREAMS: usize = 8;
const MAX_SET_VALUES: usize = 24;
/// Most settings that are shown beside an upstream.
const MAX_UPSTREAM_SETTINGS: usize = 4;
/// Longest value that is shown in full, in characters.
const MAX_VALUE_CHARS: usize = 40;

/// What would run, the origin of each value that is not a default, and the warnings. No secrets; about 40
/// lines at most.
pub fn summarize(loaded: &LoadedConfig) -> String {
    let mut out = String::new();
    let all = list_settings(&loaded.config, &loaded.origins);
    for (title, line) in list_overview(&loaded.config, &all) {
        let _ = writeln!(out, "{title:<10} {line}");
    }
    let set: Vec<_> = all
        .iter()
        .filter(|setting| *effective_origin(&loaded.origins, &setting.key) != Origin::Default)
        .collect();
    if set.is_empty() {
        out.push_str("\nEverything is at its default.\n");
    } else {
        out.push_str("\nSet (all else is at its default):\n");
        write_table(&mut out, &set, loaded);
    }
    for warning in &loaded.warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    out
}

fn write_table(out: &mut String, set: &[&Setting], loaded: &LoadedConfig) {
    let keys = set.iter().map(|setting| setting.key.len()).max().unwrap_or_default();
    let values = set.iter().map(|setting| shorten(&setting.value).chars().count()).max().unwrap_or_default();
    for setting in set.iter().take(MAX_SET_VALUES) {
        let (value, origin) = (shorten(&setting.value), effective_origin(&loaded.origins, &setting.key));
        let _ = writeln!(out, "  {:<keys$}  {value:<values$}  {origin}", setting.key);
    }
    if let Some(more) = set.len().checked_sub(MAX_SET_VALUES).filter(|more| *more > 0) {
        let _ = writeln!(out, "  and {more} more");
    }
}

fn shorten(value: &DisplayValue) -> String {
    let text = value.to_string().replace(char::is_control, "?");
    match text.char_indices().nth(MAX_VALUE_CHARS) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// What would run: a title and a line each.
fn list_overview(config: &Config, all: &[Setting]) -> Vec<(&'static str, String)> {
    let mut lines: Vec<_> = match config.services.as_slice() {
        [] => vec![("register", "nothing: routes only".to_owned())],
        services => services.iter().map(|one| ("register", describe_registration(config, one))).collect(),
    };
    lines.iter_mut().skip(1).for_each(|(title, _)| *title = "");
    lines.push(("registry", describe_registry(config)));
    lines.push(("outbound", format!("{}, any service by its name", config.outbound.listen)));
    for (n, line) in describe_upstreams(config, all).into_iter().enumerate() {
        lines.push((if n == 0 { "upstreams" } else { "" }, line));
    }
    let metrics = config.admin.metrics_listen.as_ref();
    let metrics = metrics.map(|listen| format!("; metrics and health alone: {listen}")).unwrap_or_default();
    lines.push(("admin", format!("{}{metrics}", config.admin.listen)));
    if let Some(listen) = &config.dns.listen {
        let answer = match config.dns.answer {
            DnsAnswer::Loopback => "the outbound listener",
            DnsAnswer::Instances => "the usable instances",
        };
        lines.push(("dns", format!("{listen}, {answer} for the name of a service")));
    }
    lines.push(("workers", config.workers.to_string()));
    lines
}

fn describe_registration(config: &Config, service: &Service) -> String {
    if let Registry::File(_) = config.registry {
        return format!("nothing: {} would need registry.consul", service.name);
    }
    let probe = match &service.health.probe {
        Probe::Tcp => "TCP connect".to_owned(),
        Probe::Http(path) => format!("{} {path}", service.health.method),
    };
    let address = service.address.as_deref().unwrap_or("the agent's address");
    let interval = format_duration(service.health.interval);
    format!("{} at {address}, port {}; health: {probe} every {interval}", service.name, service.port)
}

fn describe_registry(config: &Config) -> String {
    match &config.registry {
        Registry::File(path) => format!("instances in {}", path.display()),
        Registry::Consul(consul) => {
            let token = match &consul.token {
                Some(Token::Value(_)) => "token given",
                Some(Token::File(_)) => "token from a file",
                None => "no token",
            };
            format!("Consul at {}, {token}", consul.address)
        }
    }
}

/// Each declared service with its own settings.
fn describe_upstreams(config: &Config, all: &[Setting]) -> Vec<String> {
    let mut lines = Vec::new();
    for (n, upstream) in config.upstreams.iter().enumerate().take(MAX_UPSTREAMS) {
        let prefix = format!("upstreams[{n}].");
        let own = all.iter().filter_map(|setting| Some((setting.key.strip_prefix(&prefix)?, &setting.value)));
        let own =
            own.filter(|(key, _)| *key != "service").map(|(key, value)| format!("{key} {}", shorten(value)));
        let mut own: Vec<_> = own.collect();
        if own.len() > MAX_UPSTREAM_SETTINGS {
            let more = format!("and {} more", own.len() - MAX_UPSTREAM_SETTINGS);
            own.truncate(MAX_UPSTREAM_SETTINGS);
            own.push(more);
        }
        let own = if own.is_empty() { "the defaults".to_owned() } else { own.join(", ") };
        lines.push(format!("{}: {own}", upstream.service));
    }
    if config.upstreams.len() > MAX_UPSTREAMS {
        lines.push(format!("and {} more", config.upstreams.len() - MAX_UPSTREAMS));
    }
    lines
}
