//! [`Config`] → a flat list of dotted keys and values, in the order of a settings file, for `render`,
//! `summary` and `diff`. It never holds a secret.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use crate::{
    AddressKind, ApiListen, AppConfigSettings, AppSignal, AwaitApp, Balance, Bounds, CircuitBreaker, Config,
    ConfigFile, ConfigFormat, ConsulSettings, DnsAnswer, DnsBrowsers, DynamicConfig, Health, HedgePolicy,
    InheritedToken, KvLayout, Layer, LogFormat, OnAppExit, OnChange, Origin, Origins, OutlierDetection,
    Policy, Pool, Probe, ProcessGroup, Propagation, PropertySource, Protocol, ReachTest, Registry,
    RetryPolicy, Route, Service, SettingGroup, SpringSource, TcpSettings, Tls, TlsVerify, Token,
    TrafficRules, Upstream, WorkerThreads,
    check::ServicePolicies,
    format_duration, format_size,
    keys::join,
    text::HIDDEN,
    traffic_text::{self, Flow},
};

/// The list of [`Config::tuned`].
pub(crate) const TUNED: &str = "x-services";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) value: DisplayValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DisplayValue {
    Text(String),
    List(Vec<String>),
    Map(BTreeMap<String, String>),
    /// Several values within each other.
    Nested(Flow),
}

impl fmt::Display for DisplayValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(|item| quote_item(item)).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Self::Map(entries) => {
                let entries = entries.iter().map(|(key, value)| format!("{key}: {value}"));
                write!(f, "{{{}}}", entries.collect::<Vec<_>>().join(", "))
            }
            Self::Nested(flow) => flow.fmt(f),
        }
    }
}

/// An item of a list, in quotes where it could be taken for another list: two lists that differ are shown differently.
fn quote_item(item: &str) -> Cow<'_, str> {
    let is_syntax = |one: char| matches!(one, ',' | '[' | ']' | '"');
    if item.is_empty() || item.contains(is_syntax) { format!("{item:?}").into() } else { item.into() }
}

/// Every setting with its value. Of an upstream only its own: the others come from the defaults.
pub(crate) fn list_settings(config: &Config, origins: &Origins) -> Vec<Setting> {
    collect_settings(config, |key| *effective_origin(origins, key) != Origin::Default)
}

/// Every setting with its value, also those that an upstream takes from the defaults.
pub(crate) fn list_every_setting(config: &Config) -> Vec<Setting> {
    collect_settings(config, |_| true)
}

/// `wanted`: which keys of an upstream's policy.
fn collect_settings(config: &Config, wanted: impl Fn(&str) -> bool) -> Vec<Setting> {
    let mut list = SettingList(Vec::new());
    for (n, service) in config.services.iter().enumerate() {
        list.service(&config.service_key(n), service);
    }
    match &config.registry {
        Registry::Consul(consul) => list.consul(consul),
        Registry::File(path) => list.text("registry.file", path.to_string_lossy()),
    }
    list.discovery(config);
    list.outbound(config);
    list.policy("defaults", &config.defaults, |_| true);
    for (n, upstream) in config.upstreams.iter().enumerate() {
        let path = format!("upstreams[{n}]");
        list.upstream(&path, upstream);
        list.traffic(&path, (&upstream.traffic, &upstream.policy), config);
        list.policy(&path, &upstream.policy, &wanted);
    }
    for (n, tuned) in config.tuned.iter().enumerate() {
        let path = tuned_path(n);
        list.text(join(&path, "service"), &tuned.service);
        list.traffic(&path, (&tuned.traffic, &tuned.policy), config);
        list.policy(&path, &tuned.policy, &wanted);
    }
    list.dynamic_config(&config.dynamic_config);
    list.process(config);
    list.0
}

/// The path of the settings of a service that only documents set. A settings file may have such a key and ignores it.
pub(crate) fn tuned_path(n: usize) -> String {
    format!("{TUNED}[{n}]")
}

/// Where a value comes from: the key itself or, as in `retry: off`, its section.
pub(crate) fn effective_origin<'a>(origins: &'a Origins, key: &str) -> &'a Origin {
    own_layers(origins, key).first().map_or(&Origin::Default, |layer| &layer.origin)
}

/// Every place that sets this key, first the one that is in effect: below those of a service are those of the defaults. Empty:
/// the value is the built-in default.
pub(crate) fn effective_layers<'a>(origins: &'a Origins, key: &str) -> Vec<&'a Layer> {
    let mut layers: Vec<_> = own_layers(origins, key).iter().collect();
    if let Some((_, of_policy)) = key.split_once("].").filter(|_| is_of_service(key)) {
        layers.extend(own_layers(origins, &join("defaults", of_policy)));
    }
    layers
}

/// Whether the key is one of an upstream, or of a service that only documents set.
fn is_of_service(key: &str) -> bool {
    ["upstreams[", TUNED].iter().any(|list| key.starts_with(list))
}

fn own_layers<'a>(origins: &'a Origins, key: &str) -> &'a [Layer] {
    let mut key = key;
    loop {
        if origins.is_set(key) {
            return origins.layers(key);
        }
        match key.rsplit_once('.') {
            Some((parent, _)) => key = parent,
            None => return &[],
        }
    }
}

/// Every setting of a policy: its key below the service, and its value.
pub(crate) fn list_policy(policy: &Policy) -> Vec<(String, String)> {
    let mut list = SettingList(Vec::new());
    list.policy("", policy, |_| true);
    list.0.into_iter().map(|setting| (setting.key, setting.value.to_string())).collect()
}

/// What a route sets of the policy of its target, as in a file.
fn list_route_policy(route: &Route, own: &Policy, others: &ServicePolicies) -> Vec<(String, Flow)> {
    let Some(policy) = &route.policy else { return Vec::new() };
    let list = |policy: &Policy| {
        let mut list = SettingList(Vec::new());
        list.policy("", policy, |_| true);
        list.0
    };
    let before = list(others.of_target(&route.to, own));
    let mut root = Vec::new();
    for Setting { key, value } in list(policy).into_iter().filter(|setting| !before.contains(setting)) {
        let value = match value {
            DisplayValue::List(items) => Flow::List(items.into_iter().map(Flow::Scalar).collect()),
            other => Flow::Scalar(other.to_string()),
        };
        traffic_text::insert(&mut root, &key, value);
    }
    root
}

struct SettingList(Vec<Setting>);

impl SettingList {
    fn push(&mut self, key: impl Into<String>, value: DisplayValue) {
        self.0.push(Setting { key: key.into(), value });
    }

    fn text(&mut self, key: impl Into<String>, text: impl ToString) {
        self.push(key, DisplayValue::Text(text.to_string()));
    }

    fn text_if_some(&mut self, key: &str, text: Option<impl ToString>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    fn text_or_off(&mut self, key: impl Into<String>, text: Option<impl ToString>) {
        self.text(key, text.map_or_else(|| "off".to_owned(), |text| text.to_string()));
    }

    fn list(&mut self, key: impl Into<String>, items: &[impl ToString]) {
        self.push(key, DisplayValue::List(items.iter().map(ToString::to_string).collect()));
    }

    fn service(&mut self, path: &str, service: &Service) {
        self.text(join(path, "name"), &service.name);
        self.text(join(path, "port"), service.port);
        self.text_if_some(&join(path, "address"), service.address.as_ref());
        self.text_if_some(&join(path, "id"), service.id.as_ref());
        self.list(join(path, "tags"), &service.tags);
        self.push(join(path, "meta"), DisplayValue::Map(service.meta.clone()));
        self.text(join(path, "weights.passing"), service.weights.passing);
        self.text(join(path, "weights.warning"), service.weights.warning);
        match &service.health.probe {
            Probe::Http(asked) => self.http_probe(path, asked, &service.health),
            Probe::Tcp => self.text(join(path, "health.tcp"), true),
        }
        self.text_if_some(&join(path, "health.address"), service.health.address.as_ref());
        self.text(join(path, "health.interval"), format_duration(service.health.interval));
        self.text(join(path, "health.timeout"), format_duration(service.health.timeout));
        self.text(join(path, "health.reach"), service.health.reach.as_str());
        self.text(join(path, "deregister_after"), format_duration(service.deregister_after));
    }

    fn http_probe(&mut self, path: &str, asked: &str, health: &Health) {
        self.text(join(path, "health.http"), asked);
        self.text(join(path, "health.method"), &health.method);
        self.text_if_some(&join(path, "health.host"), health.host.as_ref());
        if !health.headers.is_empty() {
            // The values may be secrets.
            let hidden = health.headers.keys().map(|name| (name.clone(), HIDDEN.to_owned())).collect();
            self.push(join(path, "health.headers"), DisplayValue::Map(hidden));
        }
        self.text_if_some(&join(path, "health.status"), health.status.as_ref());
    }

    fn consul(&mut self, consul: &ConsulSettings) {
        self.text("registry.consul.address", &consul.address);
        self.text_if_some("registry.consul.datacenter", consul.datacenter.as_ref());
        self.text("registry.consul.domain", &consul.domain);
        match &consul.token {
            Some(Token::Value(_)) => self.text("registry.consul.token", HIDDEN),
            Some(Token::File(path)) => self.text("registry.consul.token_file", path.display()),
            None => {}
        }
        self.tls("registry.consul.tls", &consul.tls);
        self.text("registry.consul.wait", format_duration(consul.wait));
        self.text("registry.consul.max_connections", consul.max_connections);
    }

    fn tls(&mut self, path: &str, tls: &Tls) {
        let files = [("ca_file", &tls.ca_file), ("cert_file", &tls.cert_file), ("key_file", &tls.key_file)];
        for (name, file) in files {
            self.text_if_some(&join(path, name), file.as_ref().map(|path| path.display()));
        }
        self.text_if_some(&join(path, "server_name"), tls.server_name.as_ref());
        if !tls.sans.is_empty() {
            self.list(join(path, "sans"), &tls.sans);
        }
        if tls.verify != TlsVerify::default() {
            self.text(join(path, "verify"), tls.verify.as_str());
        }
    }

    fn discovery(&mut self, config: &Config) {
        let discovery = &config.discovery;
        self.text("discovery.first_answer", format_duration(discovery.first_answer));
        self.text("discovery.idle", format_duration(discovery.idle));
        self.text("discovery.max_services", discovery.max_services);
        self.text("discovery.max_new_per_second", discovery.max_new_per_second);
        self.text("discovery.max_unknown", discovery.max_unknown);
        self.text("discovery.unknown_ttl", format_duration(discovery.unknown_ttl));
        match &discovery.mass_loss {
            Some(mass_loss) => {
                self.text("discovery.mass_loss.confirm_for", format_duration(mass_loss.confirm_for));
                self.text("discovery.mass_loss.hold_for", format_duration(mass_loss.hold_for));
                self.text("discovery.mass_loss.probe_timeout", format_duration(mass_loss.probe_timeout));
            }
            None => self.text("discovery.mass_loss", "off"),
        }
        self.text_or_off("state_dir", config.state_dir.as_ref().map(|folder| folder.display()));
    }

    fn outbound(&mut self, config: &Config) {
        let (outbound, limits) = (&config.outbound, &config.outbound.limits);
        self.text("outbound.listen", &outbound.listen);
        self.list("outbound.names", &outbound.names);
        self.text("outbound.connect", if outbound.connect { "on" } else { "off" });
        self.text("outbound.x_forwarded", outbound.x_forwarded);
        self.text("outbound.via", outbound.via);
        self.text("outbound.loop_guard", if outbound.loop_guard { "on" } else { "off" });
        self.text("outbound.rewrite_cookie_path", outbound.rewrite_cookie_path);
        self.list("outbound.allow_origins", &outbound.allow_origins);
        self.text("outbound.limits.max_header_bytes", format_size(limits.max_header_bytes));
        self.text("outbound.limits.max_headers", limits.max_headers);
        self.text("outbound.limits.head_timeout", format_duration(limits.head_timeout));
        self.text("outbound.limits.idle", format_duration(limits.idle));
        self.text("outbound.limits.max_connections", limits.max_connections);
        self.text("outbound.limits.tunnel_idle", format_duration(limits.tunnel_idle));
        self.text_or_off("outbound.limits.tunnel_grace", limits.tunnel_grace.map(format_duration));
    }

    fn upstream(&mut self, path: &str, upstream: &Upstream) {
        self.text(join(path, "service"), &upstream.service);
        self.text_if_some(&join(path, "listen"), upstream.listen.as_ref());
        if upstream.protocol != Protocol::default() {
            self.text(join(path, "protocol"), upstream.protocol.as_str());
        }
        if let Some(tls) = &upstream.tls {
            self.tls(&join(path, "tls"), tls);
        }
        if !upstream.hosts.is_empty() {
            self.list(join(path, "hosts"), &upstream.hosts);
        }
        if !upstream.tags.is_empty() {
            self.list(join(path, "tags"), &upstream.tags);
        }
        self.text_if_some(&join(path, "datacenter"), upstream.datacenter.as_ref());
        if upstream.protocol == Protocol::Tcp {
            let TcpSettings { idle, max_connections, grace, proxy_protocol } = upstream.tcp;
            self.text(join(path, "tcp.idle"), format_duration(idle));
            self.text_or_off(join(path, "tcp.max_connections"), max_connections);
            self.text_or_off(join(path, "tcp.grace"), grace.map(format_duration));
            self.text(join(path, "tcp.proxy_protocol"), proxy_protocol.as_str());
        }
    }

    /// The rules of a service with this policy.
    fn traffic(&mut self, path: &str, (rules, own): (&TrafficRules, &Policy), config: &Config) {
        let TrafficRules { subsets, split, routes, mirror, failover, zone } = rules;
        let mut nested = |name: &str, flow| self.push(join(path, name), DisplayValue::Nested(flow));
        if !subsets.is_empty() {
            nested("subsets", traffic_text::subsets(subsets));
        }
        if let Some(split) = split {
            nested("split", traffic_text::split(split));
            if let Some(sticky) = &split.sticky {
                nested("sticky", traffic_text::sticky(sticky));
            }
        }
        if !routes.is_empty() {
            let others = ServicePolicies::new(config);
            let route = |route: &Route| traffic_text::route(route, list_route_policy(route, own, &others));
            nested("routes", Flow::List(routes.iter().map(route).collect()));
        }
        if let Some(mirror) = mirror {
            nested("mirror", traffic_text::mirror(mirror));
        }
        if let Some(zone) = zone {
            nested("zone", traffic_text::zone(zone));
        }
        if let Some(failover) = failover {
            nested("failover", traffic_text::failover(&failover.targets));
            self.text(join(path, "return_after"), format_duration(failover.return_after));
        }
    }

    /// The settings of a policy that `wanted` picks by their key.
    fn policy(&mut self, path: &str, policy: &Policy, wanted: impl Fn(&str) -> bool) {
        let Policy { balance, address, timeout, per_try_timeout, connect_timeout, body_idle, .. } = policy;
        let mut all = Self(Vec::new());
        all.text(join(path, "balance"), Balance::as_str(*balance));
        all.text(join(path, "address"), AddressKind::as_str(*address));
        all.text(join(path, "timeout"), format_duration(*timeout));
        all.text_or_off(join(path, "per_try_timeout"), per_try_timeout.map(format_duration));
        all.text_or_off(join(path, "deadline"), policy.deadline.map(format_duration));
        all.text(join(path, "connect_timeout"), format_duration(*connect_timeout));
        all.text(join(path, "body_idle"), format_duration(*body_idle));
        all.text_or_off(join(path, "max_in_flight"), policy.max_in_flight);
        all.text(join(path, "max_pending"), policy.max_pending);
        all.text(join(path, "pending_timeout"), format_duration(policy.pending_timeout));
        all.retry(&join(path, "retry"), &policy.retry);
        match &policy.hedge {
            Some(hedge) => all.hedge(&join(path, "hedge"), hedge),
            None => all.text(join(path, "hedge"), "off"),
        }
        match &policy.circuit_breaker {
            Some(breaker) => all.circuit_breaker(&join(path, "circuit_breaker"), breaker),
            None => all.text(join(path, "circuit_breaker"), "off"),
        }
        match &policy.outlier {
            Some(outlier) => all.outlier(&join(path, "outlier"), outlier),
            None => all.text(join(path, "outlier"), "off"),
        }
        all.pool(&join(path, "pool"), &policy.pool);
        self.0.extend(all.0.into_iter().filter(|setting| wanted(&setting.key)));
    }

    fn retry(&mut self, path: &str, retry: &RetryPolicy) {
        self.text(join(path, "max_retries"), retry.max_retries);
        self.text(join(path, "backoff_base"), format_duration(retry.backoff_base));
        self.text(join(path, "backoff_max"), format_duration(retry.backoff_max));
        self.list(join(path, "statuses"), &retry.statuses);
        self.text(join(path, "non_idempotent"), retry.non_idempotent);
        self.list(join(path, "grpc_methods"), &retry.grpc_methods);
        self.text(join(path, "max_retry_after"), format_duration(retry.max_retry_after));
        self.text(join(path, "stalled"), if retry.stalled { "on" } else { "off" });
        self.text(join(path, "max_body"), format_size(retry.max_body));
        self.text(join(path, "budget.ratio"), retry.budget.ratio);
        self.text(join(path, "budget.min_per_second"), retry.budget.min_per_second);
        self.text(join(path, "budget.window"), format_duration(retry.budget.window));
    }

    fn hedge(&mut self, path: &str, hedge: &HedgePolicy) {
        self.text(join(path, "percentile"), hedge.percentile);
        self.text(join(path, "min_delay"), format_duration(hedge.min_delay));
    }

    fn circuit_breaker(&mut self, path: &str, breaker: &CircuitBreaker) {
        self.text(join(path, "failure_ratio"), breaker.failure_ratio);
        self.text(join(path, "window"), format_duration(breaker.window));
        self.text(join(path, "min_requests"), breaker.min_requests);
        self.text_or_off(join(path, "consecutive_failures"), breaker.consecutive_failures);
        self.text(join(path, "open_for"), format_duration(breaker.open_for));
        self.text(join(path, "max_open_for"), format_duration(breaker.max_open_for));
        self.text(join(path, "probes"), breaker.probes);
    }

    fn outlier(&mut self, path: &str, outlier: &OutlierDetection) {
        self.text_or_off(join(path, "consecutive_failures"), outlier.consecutive_failures);
        self.text_or_off(join(path, "success_rate"), outlier.success_rate);
        self.text(join(path, "window"), format_duration(outlier.window));
        self.text(join(path, "min_requests"), outlier.min_requests);
        self.text(join(path, "max_ejection_percent"), format!("{}%", outlier.max_ejection_percent));
        self.text(join(path, "base_ejection_time"), format_duration(outlier.base_ejection_time));
        self.text(join(path, "max_ejection_time"), format_duration(outlier.max_ejection_time));
    }

    fn pool(&mut self, path: &str, pool: &Pool) {
        self.text(join(path, "idle_timeout"), format_duration(pool.idle_timeout));
        self.text(join(path, "non_idempotent_max_idle"), format_duration(pool.non_idempotent_max_idle));
        self.text(join(path, "max_idle"), pool.max_idle);
        self.text(join(path, "max_connections"), pool.max_connections);
        self.text(join(path, "max_waiting"), pool.max_waiting);
    }

    fn dynamic_config(&mut self, dynamic: &DynamicConfig) {
        self.text_or_off("dynamic_config.prefix", dynamic.prefix.as_ref());
        let allow: Vec<_> = dynamic.allow.iter().map(|group| group.as_str()).collect();
        self.list("dynamic_config.allow", &allow);
        self.list("dynamic_config.allow_services", &dynamic.allow_services);
        let bounds =
            dynamic.bounds.iter().map(|(key, Bounds { low, high })| (key.clone(), format!("{low}..{high}")));
        self.push("dynamic_config.bounds", DisplayValue::Map(bounds.collect()));
    }

    fn app_config(&mut self, settings: &AppConfigSettings) {
        if let Some(allow) = &settings.allow {
            self.list("api.config.allow", allow);
        }
        self.text("api.config.cache", if settings.cache { "on" } else { "off" });
        for (n, source) in settings.sources.iter().enumerate() {
            let path = format!("api.config.sources[{n}]");
            match source {
                PropertySource::Context(context) => {
                    self.text(join(&path, "prefix"), &context.prefix);
                    self.text(join(&path, "as"), context.layout.as_str());
                }
                PropertySource::Spring(spring) => self.spring(&join(&path, "spring"), spring),
            }
        }
        for (n, file) in settings.files.iter().enumerate() {
            self.config_file(&format!("api.config.files[{n}]"), file);
        }
    }

    fn spring(&mut self, path: &str, spring: &SpringSource) {
        self.text(join(path, "root"), &spring.root);
        self.text(join(path, "app"), &spring.app);
        self.list(join(path, "profiles"), &spring.profiles);
        self.text(join(path, "default_context"), &spring.default_context);
        self.text(join(path, "profile_separator"), &spring.profile_separator);
        self.text(join(path, "format"), spring.format.as_str());
        if !matches!(spring.format, KvLayout::Keys | KvLayout::Files) {
            self.text(join(path, "data_key"), &spring.data_key);
        }
    }

    fn config_file(&mut self, path: &str, file: &ConfigFile) {
        self.text_if_some(&join(path, "prefix"), file.prefix.as_ref());
        self.text(join(path, "path"), file.path.display());
        self.text(join(path, "format"), file.format.as_str());
        self.text(join(path, "mode"), format!("{:04o}", file.mode));
        self.text(join(path, "wait"), format_duration(file.wait));
        self.text(join(path, "required"), file.required);
        let path = join(path, "on_change");
        match &file.on_change {
            None => {}
            Some(OnChange::Signal(signal)) => self.text(join(&path, "signal"), signal.as_str()),
            Some(OnChange::Http(url)) => self.text(join(&path, "http"), url),
            Some(OnChange::Restart { at_once, min_interval }) => {
                self.text(join(&path, "restart"), true);
                self.text(join(&path, "at_once"), at_once);
                self.text(join(&path, "min_interval"), format_duration(*min_interval));
            }
        }
    }

    fn process(&mut self, config: &Config) {
        self.text("routing.consul", config.routing.consul);
        self.text("admin.listen", &config.admin.listen);
        self.text_if_some("admin.metrics_listen", config.admin.metrics_listen.as_ref());
        let api = &config.api;
        self.text_if_some("api.listen", api.listen.as_ref());
        if let Some(ApiListen::Unix(_)) = api.listen {
            self.text("api.mode", format!("{:04o}", api.socket.mode));
            self.text_if_some("api.owner", api.socket.owner.as_ref());
        }
        self.text_if_some("api.token_file", api.token_file.as_ref().map(|path| path.display()));
        self.app_config(&api.config);
        self.text("api.locks.prefix", &api.locks.prefix);
        self.text("api.locks.max_held", api.locks.max_held);
        self.text("api.locks.max_waiters", api.locks.max_waiters);
        if let Some(delay) = api.locks.lock_delay {
            self.text("api.locks.lock_delay", format_duration(delay));
        }
        self.text("api.locks.ends_with_node", api.locks.ends_with_node);
        self.text_if_some("dns.listen", config.dns.listen.as_ref());
        self.text("dns.answer", config.dns.answer.as_str());
        self.list("dns.forward", &config.dns.forward);
        self.text_if_some("dns.consul", config.dns.consul);
        self.text("dns.browsers", config.dns.browsers.as_str());
        self.text("drain.timeout", format_duration(config.drain.timeout));
        self.text("drain.propagation", config.drain.propagation);
        self.text("drain.margin", format_duration(config.drain.margin));
        self.text("drain.max_propagation", format_duration(config.drain.max_propagation));
        self.text("drain.unobserved_wait", format_duration(config.drain.unobserved_wait));
        self.text("drain.await_app", config.drain.await_app.as_str());
        self.text("drain.linger", format_duration(config.drain.linger));
        self.text("app.consul_token", config.app.consul_token.as_str());
        self.text("app.process_group", config.app.process_group.as_str());
        self.text("on_app_exit", config.on_app_exit.as_str());
        self.text("workers", config.workers);
        self.text("log.level", &config.log.level);
        self.text("log.format", config.log.format.as_str());
        self.text("log.access", config.log.access);
    }
}

impl fmt::Display for WorkerThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(n) => n.fmt(f),
        }
    }
}

impl fmt::Display for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Measured => f.write_str("measured"),
            Self::Fixed(wait) => f.write_str(&format_duration(*wait)),
        }
    }
}

/// The variants of a type, and their names in a settings file.
macro_rules! name_variants {
    ($type:ident { $($variant:ident: $name:literal),+ }) => {
        impl $type {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name in a settings file.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }
    };
}

name_variants!(ReachTest { Warn: "warn", Require: "require", Off: "off" });
name_variants!(AwaitApp { Auto: "auto", On: "on", Connections: "connections", Off: "off" });
name_variants!(InheritedToken { Pass: "pass", Drop: "drop" });
name_variants!(ProcessGroup { Own: "own", Shared: "shared" });
name_variants!(OnAppExit { Exit: "exit", Restart: "restart" });
name_variants!(KvLayout {
    Keys: "keys",
    Yaml: "yaml",
    Properties: "properties",
    Json: "json",
    Files: "files"
});
name_variants!(ConfigFormat {
    Json: "json",
    Env: "env",
    Yaml: "yaml",
    Properties: "properties",
    Value: "value"
});
name_variants!(AppSignal { Hup: "HUP", Usr1: "USR1", Usr2: "USR2", Winch: "WINCH", Quit: "QUIT" });
name_variants!(SettingGroup { Tuning: "tuning", Routing: "routing" });
name_variants!(DnsAnswer { Loopback: "loopback", Instances: "instances" });
name_variants!(DnsBrowsers { Refuse: "refuse", Allow: "allow" });
name_variants!(LogFormat { Auto: "auto", Text: "text", Json: "json" });
