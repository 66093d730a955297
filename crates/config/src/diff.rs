//! Running settings and new settings → what runs next, and a list of the changes.
//!
//! A reload applies all settings that can change in a running sidecar. The others ([`RESTART_ONLY`]) keep
//! their values and are listed, so that the difference between file and sidecar is visible. This module
//! applies nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    Config, ConsulSettings, LoadedConfig, Origins, Registry, Route, Secret, Service, Token, Upstream,
    settings::{Setting, TUNED, list_every_setting, list_settings},
    tag_list,
    text::HIDDEN,
};

/// Settings, or sections of them, that only a restart changes:
///
/// - where instances come from: the answers of one registry, its indexes and the cache of its answers mean nothing to another one,
/// - the number of its connections, which are handed out from the start,
/// - `state_dir`: its file of answers is open from the start,
/// - `api.locks`: a lock that is held stays at its place,
/// - `workers`: each thread owns the sockets and the idle connections that it began with,
/// - `log.format`: it is one of the process, and the spans in progress hold fields in that format.
///
/// From one kind of registry to the other, every setting of `registry` needs a restart.
pub const RESTART_ONLY: [&str; 9] = [
    "registry.file",
    "registry.consul.address",
    "registry.consul.datacenter",
    "registry.consul.tls",
    "registry.consul.max_connections",
    "state_dir",
    "api.locks",
    "workers",
    "log.format",
];

/// One setting with a new value. Displays as `defaults.timeout: 15s → 5s`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingChange {
    /// The setting, dotted; the key of an upstream begins with its name: `upstreams.orders[v2]@dc2.timeout`.
    pub key: String,
    /// The old value. Absent: not set, or there was no such upstream.
    pub old: Option<String>,
    /// The new value. Absent: as for `old`.
    pub new: Option<String>,
}

impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "(not set)".to_owned());
        write!(f, "{}: {} → {}", self.key, text(&self.old), text(&self.new))
    }
}

/// What a reload does.
#[derive(Debug, Clone, PartialEq)]
pub struct ReloadPlan {
    /// What runs next: the new settings, without those that need a restart.
    pub next: LoadedConfig,
    /// The changes.
    pub changed: Vec<SettingChange>,
    /// Changes that take effect only after a restart.
    pub needs_restart: Vec<SettingChange>,
}

/// Compares the running settings with the new ones.
pub fn plan_reload(running: &LoadedConfig, read: LoadedConfig) -> ReloadPlan {
    let fixed = |change: &SettingChange| is_restart_only(&change.key, running, &read);
    let (needs_restart, changed) = list_changes(running, &read).into_iter().partition(fixed);
    ReloadPlan { next: keep_restart_only(running, read), changed, needs_restart }
}

/// A hash of the settings without their origins and without secrets; 48 bits, so that it is exact as a
/// floating-point number.
pub fn fingerprint(config: &Config) -> u64 {
    // FNV-1a: unlike the standard library's hash, it is the same with every version of the compiler.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for setting in list_every_setting(config) {
        for byte in format!("{}={}\n", setting.key, setting.value).bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash >> 16
}

fn is_restart_only(key: &str, running: &LoadedConfig, read: &LoadedConfig) -> bool {
    let is_below =
        |fixed: &str| key.strip_prefix(fixed).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let other_kind = matches!(
        (&running.config.registry, &read.config.registry),
        (Registry::Consul(_), Registry::File(_)) | (Registry::File(_), Registry::Consul(_))
    );
    RESTART_ONLY.into_iter().any(is_below) || (other_kind && is_below("registry"))
}

fn keep_restart_only(running: &LoadedConfig, read: LoadedConfig) -> LoadedConfig {
    let mut origins = Origins::default();
    let is_fixed = |key: &str| is_restart_only(key, running, &read);
    origins.extend(&running.origins, is_fixed);
    origins.extend(&read.origins, |key| !is_fixed(key));
    let (old, mut next) = (&running.config, read);
    next.origins = origins;
    match (&old.registry, &mut next.config.registry) {
        (Registry::Consul(old), Registry::Consul(new)) => {
            let (token, wait) = (new.token.take(), new.wait);
            *new = ConsulSettings { token, wait, ..old.clone() };
        }
        (old, new) => new.clone_from(old),
    }
    next.config.state_dir.clone_from(&old.state_dir);
    next.config.api.locks.clone_from(&old.api.locks);
    next.config.workers = old.workers;
    next.config.log.format = old.log.format;
    next
}

/// Changed and new settings in the order of a file, then the removed ones.
fn list_changes(old: &LoadedConfig, new: &LoadedConfig) -> Vec<SettingChange> {
    let is_list = [old, new].iter().any(|loaded| loaded.config.services.len() > 1);
    let (before, after) = (settings_by_name(old, is_list), settings_by_name(new, is_list));
    let find = |all: &[Setting], key: &str| {
        all.iter().find(|setting| setting.key == key).map(|setting| setting.value.to_string())
    };
    let keys: BTreeSet<&str> = after.iter().map(|setting| &*setting.key).collect();
    let removed = before.iter().filter(|setting| !keys.contains(&*setting.key));
    let mut changes: Vec<SettingChange> = after
        .iter()
        .chain(removed)
        .map(|setting| {
            let key = setting.key.clone();
            SettingChange { old: find(&before, &key), new: find(&after, &key), key }
        })
        .filter(|change| change.old != change.new)
        .collect();
    if let (Some(before), Some(after)) = (literal_token(&old.config), literal_token(&new.config))
        && before != after
    {
        let hidden = || Some(HIDDEN.to_owned());
        changes.push(SettingChange { key: "registry.consul.token".into(), old: hidden(), new: hidden() });
    }
    let headers = probe_headers(old, is_list);
    for (key, after) in probe_headers(new, is_list) {
        // Other names show as a change above.
        let before = headers.get(&key).filter(|before| before.keys().eq(after.keys()));
        if before.is_some_and(|before| *before != after) {
            let hidden = || Some(HIDDEN.to_owned());
            changes.push(SettingChange { key, old: hidden(), new: hidden() });
        }
    }
    let routes = routes_by_key(old);
    for (key, now) in routes_by_key(new) {
        let is_shown = changes.iter().any(|change| change.key == key);
        if !is_shown && routes.get(&key).is_some_and(|before| *before != now) {
            // Only values differ that no setting shows.
            let all = find(&after, &key);
            changes.push(SettingChange { key, old: all.clone(), new: all });
        }
    }
    changes
}

/// The routes of each service by their keys.
fn routes_by_key(loaded: &LoadedConfig) -> BTreeMap<String, &[Route]> {
    let key = |label: &str| format!("upstreams.{label}.routes");
    let upstreams = loaded.config.upstreams.iter();
    let declared = upstreams.map(|upstream| (key(&upstream_label(upstream)), &*upstream.traffic.routes));
    let tuned = loaded.config.tuned.iter().map(|tuned| (key(&tuned.service), &*tuned.traffic.routes));
    declared.chain(tuned).collect()
}

/// The header fields of the health probes by their keys. No setting shows their values.
fn probe_headers(loaded: &LoadedConfig, is_list: bool) -> BTreeMap<String, &BTreeMap<String, Secret>> {
    let key = |n| format!("{}.health.headers", changed_service(loaded, n, is_list));
    loaded.config.services.iter().enumerate().map(|(n, service)| (key(n), &service.health.headers)).collect()
}

/// The key of the service at `n` in a list of changes.
fn changed_service(loaded: &LoadedConfig, n: usize, is_list: bool) -> String {
    match loaded.config.services.get(n).filter(|_| is_list) {
        Some(service) => format!("services.{}", service_label(service)),
        None => loaded.config.service_key(n),
    }
}

fn literal_token(config: &Config) -> Option<&str> {
    let Registry::Consul(consul) = &config.registry else { return None };
    match &consul.token {
        Some(Token::Value(secret)) => Some(secret.reveal()),
        Some(Token::File(_)) | None => None,
    }
}

/// Every setting; those of an upstream by its name, so that another upstream above it changes no key. Where one of the two
/// settings has several services (`is_list`), those of a service by its name and port, or by its id.
fn settings_by_name(loaded: &LoadedConfig, is_list: bool) -> Vec<Setting> {
    let mut all = list_settings(&loaded.config, &loaded.origins);
    for setting in &mut all {
        let services = 0..loaded.config.services.len();
        let own = services.filter(|_| is_list).find_map(|n| {
            let key = setting.key.strip_prefix(&loaded.config.service_key(n))?;
            key.starts_with('.').then(|| format!("{}{key}", changed_service(loaded, n, is_list)))
        });
        if let Some(key) = own {
            setting.key = key;
            continue;
        }
        let Some((list, (n, key))) =
            setting.key.split_once('[').and_then(|(list, rest)| Some((list, rest.split_once(']')?)))
        else {
            continue;
        };
        let Ok(n) = n.parse::<usize>() else { continue };
        let label = match list {
            "upstreams" => loaded.config.upstreams.get(n).map(upstream_label),
            TUNED => loaded.config.tuned.get(n).map(|tuned| tuned.service.clone()),
            _ => None,
        };
        if let Some(label) = label {
            setting.key = format!("upstreams.{label}{key}");
        }
    }
    all
}

/// `orders:8080`, or the id: no two services of one list have the same.
fn service_label(service: &Service) -> String {
    service.id.clone().unwrap_or_else(|| format!("{}:{}", service.name, service.port))
}

/// As in metrics and logs: `orders`, `orders[v2]`, `orders@dc2`.
fn upstream_label(upstream: &Upstream) -> String {
    let mut tags = upstream.tags.clone();
    tags.sort();
    let tags = tag_list(&tags);
    let datacenter = upstream.datacenter.as_ref().map(|name| format!("@{name}")).unwrap_or_default();
    format!("{}{tags}{datacenter}", upstream.service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Environment, Overrides, keys, load};

    fn loaded(text: &str) -> LoadedConfig {
        let env: Environment = [("ONE", "hush"), ("OTHER", "hush-too")].into_iter().collect();
        load(Some(("outrigger.yaml", text)), &env, &Overrides::default()).unwrap()
    }

    fn lines(changes: &[SettingChange]) -> Vec<String> {
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_change_by_a_document_has_the_name_of_its_service() {
        let file = loaded("dynamic_config: {prefix: a}\nupstreams: [{service: orders, timeout: 2s}]");
        let document = |name: &str, text: &str| crate::DocumentVersions {
            current: crate::SettingsDocument { name: name.into(), index: 1, created: 1, value: text.into() },
            last_good: None,
        };
        let documents =
            [document("services/orders", "timeout: 3s"), document("services/billing", "timeout: 4s")];
        let over = file.with_documents(&documents, "shop-1").loaded;
        assert_eq!(
            lines(&plan_reload(&file, over.clone()).changed),
            [
                "upstreams.orders.timeout: 2s → 3s",
                "upstreams.billing.service: (not set) → billing",
                "upstreams.billing.timeout: (not set) → 4s",
            ]
        );
        assert_ne!(fingerprint(&file.config), fingerprint(&over.config));
    }

    #[test]
    fn a_change_of_one_of_several_services_has_its_name() {
        let one = loaded("service: {name: orders, port: 80, id: o-1}");
        let same = loaded("services: [{name: orders, port: 80, id: o-1}]");
        assert_eq!(plan_reload(&one, same.clone()).changed, []);
        assert_eq!(fingerprint(&one.config), fingerprint(&same.config));
        let two = loaded(
            "services: [{name: admin, port: 81, tags: [a]}, {name: orders, port: 80, id: o-1, tags: [b]}]",
        );
        let added = lines(&plan_reload(&one, two.clone()).changed);
        assert!(added.contains(&"services.admin:81.name: (not set) → admin".to_owned()), "{added:?}");
        assert!(added.contains(&"services.o-1.tags: [] → [b]".to_owned()), "{added:?}");
        assert!(added.iter().all(|line| !line.contains("o-1.name")), "{added:?}");
        let swapped = loaded(
            "services: [{name: orders, port: 80, id: o-1, tags: [b]}, {name: admin, port: 81, tags: [c]}]",
        );
        assert_eq!(lines(&plan_reload(&two, swapped).changed), ["services.admin:81.tags: [a] → [c]"]);
        assert_eq!(plan_reload(&two, loaded("{}")).needs_restart, []);
    }

    #[test]
    fn credentials_in_routes_stay_hidden_and_a_change_of_one_is_a_change() {
        let with = |matched: &str, set: &str| {
            loaded(&format!(
                "upstreams: [{{service: o, routes: [{{match: {{headers: {{authorization: {{prefix: {matched}}}, x-a: shown}}}}, \
                 headers: {{set: {{x-key: {set}}}}}}}]}}]"
            ))
        };
        let shown = "[{match: {headers: {authorization: {prefix: \"(hidden)\"}, x-a: {exact: shown}}}, \
                     headers: {set: {x-key: \"(hidden)\"}}}]";
        let before = with("hush", "hush");
        for after in [with("hush-too", "hush"), with("hush", "hush-too")] {
            let changed = lines(&plan_reload(&before, after).changed);
            assert_eq!(changed, [format!("upstreams.o.routes: {shown} → {shown}")]);
        }
        assert_eq!(plan_reload(&before, with("hush", "hush")).changed, []);
    }

    #[test]
    fn a_header_value_of_a_probe_that_changed_is_a_change_of_its_service_and_stays_hidden() {
        let with = |value: &str| {
            format!("{{name: orders, port: 80, health: {{http: /, headers: {{x-key: {value}}}}}}}")
        };
        let one = |value: &str| loaded(&format!("service: {}", with(value)));
        let line = "health.headers: (hidden) → (hidden)";
        assert_eq!(lines(&plan_reload(&one("hush"), one("hush-too")).changed), [format!("service.{line}")]);
        assert_eq!(plan_reload(&one("hush"), one("hush")).changed, []);
        assert_eq!(fingerprint(&one("hush").config), fingerprint(&one("hush-too").config));
        let two = |value: &str, first: bool| {
            let other = "{name: admin, port: 81}".to_owned();
            let all = if first { [with(value), other] } else { [other, with(value)] };
            loaded(&format!("services: [{}]", all.join(", ")))
        };
        // Its place in the list says nothing.
        for (old, new) in
            [(two("a", true), two("b", true)), (two("a", true), two("b", false)), (one("a"), two("b", false))]
        {
            let changed = lines(&plan_reload(&old, new).changed);
            assert!(changed.contains(&format!("services.orders:80.{line}")), "{changed:?}");
        }
        assert_eq!(plan_reload(&two("a", true), two("a", false)).changed, []);
        let named = loaded("service: {name: orders, port: 80, health: {http: /, headers: {x-other: hush}}}");
        let changed = lines(&plan_reload(&one("hush"), named).changed);
        assert_eq!(changed.len(), 1, "{changed:?}");
        assert!(!changed[0].contains("hush"), "{changed:?}");
    }

    #[test]
    fn a_change_has_the_key_and_both_values() {
        let old = "defaults: {timeout: 15s, retry: {statuses: [502]}}\nupstreams: [{service: orders, timeout: 2s}, {service: old}]";
        let new = "defaults: {timeout: 5s, retry: {statuses: [502, 503]}}\n\
                   upstreams: [{service: new, listen: 127.0.0.1:9201}, {service: orders, timeout: 3s}]";
        let reload = plan_reload(&loaded(old), loaded(new));
        assert_eq!(
            lines(&reload.changed),
            [
                "defaults.timeout: 15s → 5s",
                "defaults.retry.statuses: [502] → [502, 503]",
                "upstreams.new.service: (not set) → new",
                "upstreams.new.listen: (not set) → 127.0.0.1:9201",
                "upstreams.orders.timeout: 2s → 3s",
                "upstreams.old.service: old → (not set)",
            ]
        );
        assert_eq!(reload.needs_restart, []);
    }

    #[test]
    fn a_setting_that_needs_a_restart_keeps_its_value_and_is_listed() {
        let old = loaded("workers: 1\nlog: {level: warn}");
        let new = "workers: 2\nlog: {level: debug, format: json}\nstate_dir: /tmp/x\nadmin: {listen: 127.0.0.1:1}\n\
                   registry: {consul: {address: http://10.0.0.1:8500}}";
        let first = plan_reload(&old, loaded(new));
        assert_eq!(
            lines(&first.changed),
            ["admin.listen: localhost:7079 → 127.0.0.1:1", "log.level: warn → debug"]
        );
        assert_eq!(
            lines(&first.needs_restart),
            [
                "registry.consul.address: http://127.0.0.1:8500 → http://10.0.0.1:8500",
                "state_dir: off → /tmp/x",
                "workers: 1 → 2",
                "log.format: auto → json",
            ]
        );
        assert_eq!(first.next.config.workers, crate::WorkerThreads::Count(1));
        let again = plan_reload(&first.next, loaded(new));
        assert_eq!((again.changed, again.needs_restart), (Vec::new(), first.needs_restart));
        let back =
            plan_reload(&first.next, loaded("workers: 1\nlog: {level: debug}\nadmin: {listen: 127.0.0.1:1}"));
        assert_eq!((back.changed, back.needs_restart), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_new_secret_is_a_change_and_is_not_shown() {
        let with = |name| loaded(&format!("registry: {{consul: {{token: \"${{{name}}}\"}}}}"));
        let reload = plan_reload(&with("ONE"), with("OTHER"));
        assert_eq!(lines(&reload.changed), ["registry.consul.token: (hidden) → (hidden)"]);
        assert_eq!(reload.needs_restart, []);
        assert_eq!(reload.next, with("OTHER"));
    }

    #[test]
    fn token_and_wait_of_the_same_agent_are_applied_and_another_registry_is_not() {
        let old = loaded("registry: {consul: {token: \"${ONE}\"}}");
        let new = "registry: {consul: {address: http://10.0.0.1:8500, token_file: /t, wait: 20s}}";
        let reload = plan_reload(&old, loaded(new));
        assert_eq!(
            lines(&reload.changed),
            [
                "registry.consul.token_file: (not set) → /t",
                "registry.consul.wait: 45s → 20s",
                "registry.consul.token: (hidden) → (not set)",
            ]
        );
        assert_eq!(
            lines(&reload.needs_restart),
            ["registry.consul.address: http://127.0.0.1:8500 → http://10.0.0.1:8500"]
        );
        let Registry::Consul(consul) = &reload.next.config.registry else { panic!("{reload:?}") };
        assert_eq!(consul.address.port, 8500);
        assert_eq!((consul.address.host.as_str(), consul.wait.as_secs()), ("127.0.0.1", 20));
        assert_eq!(consul.token, Some(Token::File("/t".into())));

        let reload = plan_reload(&old, loaded("registry: {file: /s}"));
        assert_eq!(reload.changed, []);
        assert!(!reload.needs_restart.is_empty());
        assert_eq!(reload.next, old);
    }

    #[test]
    fn every_restart_only_setting_is_a_key_or_a_section() {
        for setting in RESTART_ONLY {
            assert!(
                keys().iter().any(|key| key == setting || key.starts_with(&format!("{setting}."))),
                "{setting}"
            );
        }
    }

    #[test]
    fn a_comma_within_a_tag_makes_another_list_of_tags() {
        let with = |tags| loaded(&format!("service: {{name: a, port: 1, tags: {tags}}}"));
        let (two, one) = (with("[a, b]"), with("['a, b']"));
        let reload = plan_reload(&two, one.clone());
        assert_eq!(lines(&reload.changed), [r#"service.tags: [a, b] → ["a, b"]"#]);
        assert_ne!(fingerprint(&two.config), fingerprint(&one.config));
    }

    #[test]
    fn the_fingerprint_depends_on_values_and_not_on_origins() {
        let plain = loaded("{}");
        assert_eq!(fingerprint(&plain.config), fingerprint(&loaded("defaults: {timeout: 15s}").config));
        let other = loaded("defaults: {timeout: 14s}");
        assert_ne!(fingerprint(&plain.config), fingerprint(&other.config));
        // An upstream takes the value from the defaults, or has the same value itself.
        let inherits = loaded("defaults: {timeout: 14s}\nupstreams: [{service: orders}]");
        let explicit = loaded("defaults: {timeout: 14s}\nupstreams: [{service: orders, timeout: 14s}]");
        assert_eq!(fingerprint(&inherits.config), fingerprint(&explicit.config));
        assert!(fingerprint(&explicit.config) < 1 << 48);
    }
}
