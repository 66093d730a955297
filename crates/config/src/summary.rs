//! Settings → one screen for people: what would run, what was set, and by whom.

use std::fmt::Write as _;

use crate::{
    Config, Loaded, Origin, Probe, Registry, Token, format_duration,
    settings::{Setting, Shown, origin, settings},
};

/// Most upstreams and most set values that are listed one by one.
const MOST_UPSTREAMS: usize = 8;
const MOST_SET: usize = 24;
/// Most settings of its own that are shown beside an upstream.
const MOST_OWN: usize = 4;
/// Longest value that is shown whole, in characters.
const WIDTH: usize = 40;

/// What would run, where each value that is no default comes from, and the warnings. No secrets; about
/// 40 lines at most.
pub fn summary(loaded: &Loaded) -> String {
    let mut out = String::new();
    let all = settings(&loaded.config, &loaded.origins);
    for (title, line) in runs(&loaded.config, &all) {
        let _ = writeln!(out, "{title:<10} {line}");
    }
    let set: Vec<_> =
        all.iter().filter(|setting| *origin(&loaded.origins, &setting.key) != Origin::Default).collect();
    if set.is_empty() {
        out.push_str("\nEverything is at its default.\n");
    } else {
        out.push_str("\nSet (all else is at its default):\n");
        table(&mut out, &set, loaded);
    }
    for warning in &loaded.warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    out
}

fn table(out: &mut String, set: &[&Setting], loaded: &Loaded) {
    let keys = set.iter().map(|setting| setting.key.len()).max().unwrap_or_default();
    let values = set.iter().map(|setting| short(&setting.value).chars().count()).max().unwrap_or_default();
    for setting in set.iter().take(MOST_SET) {
        let (value, origin) = (short(&setting.value), origin(&loaded.origins, &setting.key));
        let _ = writeln!(out, "  {:<keys$}  {value:<values$}  {origin}", setting.key);
    }
    if let Some(more) = set.len().checked_sub(MOST_SET).filter(|more| *more > 0) {
        let _ = writeln!(out, "  and {more} more");
    }
}

fn short(value: &Shown) -> String {
    let text = value.to_string().replace(char::is_control, "?");
    match text.char_indices().nth(WIDTH) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// What would run, a line each.
fn runs(config: &Config, all: &[Setting]) -> Vec<(&'static str, String)> {
    let mut lines = vec![("register", register(config)), ("registry", registry(config))];
    lines.push(("outbound", format!("{}, any service by its name", config.outbound.listen)));
    for (n, line) in upstreams(config, all).into_iter().enumerate() {
        lines.push((if n == 0 { "upstreams" } else { "" }, line));
    }
    let metrics = config.admin.metrics_listen.as_ref();
    let metrics = metrics.map(|listen| format!("; metrics and health alone: {listen}")).unwrap_or_default();
    lines.push(("admin", format!("{}{metrics}", config.admin.listen)));
    lines.push(("workers", config.workers.to_string()));
    lines
}

fn register(config: &Config) -> String {
    let Some(service) = &config.service else { return "nothing: routes only".to_owned() };
    if let Registry::File(_) = config.registry {
        return format!("nothing: {} would need registry.consul", service.name);
    }
    let probe = match &service.health.probe {
        Probe::Tcp => "TCP connect".to_owned(),
        Probe::Http(path) => format!("GET {path}"),
    };
    let address = service.address.as_deref().unwrap_or("the agent's address");
    let interval = format_duration(service.health.interval);
    format!("{} at {address}, port {}; health: {probe} every {interval}", service.name, service.port)
}

fn registry(config: &Config) -> String {
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

/// Each declared service with what it has of its own.
fn upstreams(config: &Config, all: &[Setting]) -> Vec<String> {
    let mut lines = Vec::new();
    for (n, upstream) in config.upstreams.iter().enumerate().take(MOST_UPSTREAMS) {
        let prefix = format!("upstreams[{n}].");
        let own = all.iter().filter_map(|setting| Some((setting.key.strip_prefix(&prefix)?, &setting.value)));
        let own =
            own.filter(|(key, _)| *key != "service").map(|(key, value)| format!("{key} {}", short(value)));
        let mut own: Vec<_> = own.collect();
        if own.len() > MOST_OWN {
            let more = format!("and {} more", own.len() - MOST_OWN);
            own.truncate(MOST_OWN);
            own.push(more);
        }
        let own = if own.is_empty() { "the defaults".to_owned() } else { own.join(", ") };
        lines.push(format!("{}: {own}", upstream.service));
    }
    if config.upstreams.len() > MOST_UPSTREAMS {
        lines.push(format!("and {} more", config.upstreams.len() - MOST_UPSTREAMS));
    }
    lines
}
