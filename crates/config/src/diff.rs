//! Running settings and those just read → what runs next, and what that changes, for people.
//!
//! A reload applies whatever can change under a running sidecar. What cannot ([`FIXED`]) goes on as it
//! is, and is named, so that nobody believes a file that is not followed. Nothing here applies
//! anything.

use std::{collections::BTreeSet, fmt};

use crate::{
    Config, LoadedConfig, Origins, Registry, Token, Upstream,
    settings::{HIDDEN, Setting, list_every_setting, list_settings},
};

/// Settings, or sections of them, that only a restart changes.
pub const RESTART_ONLY: [&str; 5] = ["registry", "state_dir", "admin.listen", "workers", "log.format"];

/// One setting that is another than before. Displays as `defaults.timeout: 15s → 5s`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingChange {
    /// The setting, dotted; an upstream's begins with its name: `upstreams.orders[v2]@dc2.timeout`.
    pub key: String,
    /// Its value before. Absent: it was not set, or there was no such upstream.
    pub old: Option<String>,
    /// Its value now. Absent: as `old`.
    pub new: Option<String>,
}

impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "(not set)".to_owned());
        write!(f, "{}: {} → {}", self.key, text(&self.old), text(&self.new))
    }
}

/// What a reload comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct ReloadPlan {
    /// What runs next: as it was read, but for what needs a restart.
    pub next: LoadedConfig,
    /// What that changes.
    pub changed: Vec<SettingChange>,
    /// What was read and is not followed before a restart.
    pub needs_restart: Vec<SettingChange>,
}

/// Compares what runs with what was read.
pub fn plan_reload(running: &LoadedConfig, read: LoadedConfig) -> ReloadPlan {
    let (needs_restart, changed) =
        list_changes(running, &read).into_iter().partition(|change| is_restart_only(&change.key));
    ReloadPlan { next: keep_restart_only(running, read), changed, needs_restart }
}

/// A number that is the same for the same settings, wherever they come from, 48 bits long so that it
/// is exact as a floating-point number. Secrets are not part of it.
pub fn fingerprint(config: &Config) -> u64 {
    // FNV-1a: stable over versions of the compiler, which the standard library's hash is not.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for setting in list_every_setting(config) {
        for byte in format!("{}={}\n", setting.key, setting.value).bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash >> 16
}

fn is_restart_only(key: &str) -> bool {
    RESTART_ONLY
        .iter()
        .any(|fixed| key.strip_prefix(fixed).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

fn keep_restart_only(running: &LoadedConfig, read: LoadedConfig) -> LoadedConfig {
    let (old, mut next) = (&running.config, read);
    next.config.registry.clone_from(&old.registry);
    next.config.state_dir.clone_from(&old.state_dir);
    next.config.admin.listen.clone_from(&old.admin.listen);
    next.config.workers = old.workers;
    next.config.log.format = old.log.format;
    let mut origins = Origins::default();
    let kept = running.origins.iter().filter(|(key, _)| is_restart_only(key));
    let said = next.origins.iter().filter(|(key, _)| !is_restart_only(key));
    for (key, origin) in kept.chain(said) {
        origins.set(key.to_owned(), origin.clone());
    }
    next.origins = origins;
    next
}

/// In the order of a file: what is another or new, then what is gone.
fn list_changes(old: &LoadedConfig, new: &LoadedConfig) -> Vec<SettingChange> {
    let (before, after) = (settings_by_upstream(old), settings_by_upstream(new));
    let find = |all: &[Setting], key: &str| {
        all.iter().find(|setting| setting.key == key).map(|setting| setting.value.to_string())
    };
    let keys: BTreeSet<&str> = after.iter().map(|setting| &*setting.key).collect();
    let gone = before.iter().filter(|setting| !keys.contains(&*setting.key));
    let mut changes: Vec<SettingChange> = after
        .iter()
        .chain(gone)
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
    changes
}

fn literal_token(config: &Config) -> Option<&str> {
    let Registry::Consul(consul) = &config.registry else { return None };
    match &consul.token {
        Some(Token::Value(secret)) => Some(secret.reveal()),
        Some(Token::File(_)) | None => None,
    }
}

/// Every setting; an upstream's under its name, so that one more above it does not change it.
fn settings_by_upstream(loaded: &LoadedConfig) -> Vec<Setting> {
    let mut all = list_settings(&loaded.config, &loaded.origins);
    for setting in &mut all {
        let Some((n, key)) = setting.key.strip_prefix("upstreams[").and_then(|rest| rest.split_once(']'))
        else {
            continue;
        };
        let upstream = n.parse().ok().and_then(|n: usize| loaded.config.upstreams.get(n));
        if let Some(upstream) = upstream {
            setting.key = format!("upstreams.{}{key}", upstream_label(upstream));
        }
    }
    all
}

/// As in metrics and logs: `orders`, `orders[v2]`, `orders@dc2`.
fn upstream_label(upstream: &Upstream) -> String {
    let mut tags = upstream.tags.clone();
    tags.sort();
    let tags = if tags.is_empty() { String::new() } else { format!("[{}]", tags.join(",")) };
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
    fn what_changed_is_told_by_key_old_and_new() {
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
    fn what_needs_a_restart_is_named_and_goes_on_as_it_is() {
        let old = loaded("workers: 1\nlog: {level: warn}");
        let new = "workers: 2\nlog: {level: debug, format: json}\nstate_dir: /tmp/x\nadmin: {listen: 127.0.0.1:1}\n\
                   registry: {consul: {address: http://10.0.0.1:8500}}";
        let first = plan_reload(&old, loaded(new));
        assert_eq!(lines(&first.changed), ["log.level: warn → debug"]);
        assert_eq!(
            lines(&first.needs_restart),
            [
                "registry.consul.address: http://127.0.0.1:8500 → http://10.0.0.1:8500",
                "state_dir: off → /tmp/x",
                "admin.listen: localhost:7079 → 127.0.0.1:1",
                "workers: 1 → 2",
                "log.format: auto → json",
            ]
        );
        assert_eq!(first.next.config.workers, crate::WorkerThreads::Count(1));
        let again = plan_reload(&first.next, loaded(new));
        assert_eq!((again.changed, again.needs_restart), (Vec::new(), first.needs_restart));
        let back = plan_reload(&first.next, loaded("workers: 1\nlog: {level: debug}"));
        assert_eq!((back.changed, back.needs_restart), (Vec::new(), Vec::new()));
    }

    #[test]
    fn another_secret_is_a_change_and_is_not_shown() {
        let with = |name| loaded(&format!("registry: {{consul: {{token: \"${{{name}}}\"}}}}"));
        let reload = plan_reload(&with("ONE"), with("OTHER"));
        assert_eq!(lines(&reload.needs_restart), ["registry.consul.token: (hidden) → (hidden)"]);
    }

    #[test]
    fn every_fixed_setting_is_a_key_or_a_section() {
        for fixed in RESTART_ONLY {
            assert!(
                keys().iter().any(|key| key == fixed || key.starts_with(&format!("{fixed}."))),
                "{fixed}"
            );
        }
    }

    #[test]
    fn the_fingerprint_follows_what_holds_and_not_who_said_it() {
        let plain = loaded("{}");
        assert_eq!(fingerprint(&plain.config), fingerprint(&loaded("defaults: {timeout: 15s}").config));
        let other = loaded("defaults: {timeout: 14s}");
        assert_ne!(fingerprint(&plain.config), fingerprint(&other.config));
        // An upstream takes the defaults' value or says the same itself.
        let inherits = loaded("defaults: {timeout: 14s}\nupstreams: [{service: orders}]");
        let says = loaded("defaults: {timeout: 14s}\nupstreams: [{service: orders, timeout: 14s}]");
        assert_eq!(fingerprint(&inherits.config), fingerprint(&says.config));
        assert!(fingerprint(&says.config) < 1 << 48);
    }
}
