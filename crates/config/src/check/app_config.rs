//! The app's configuration from the registry's KV: `api.config`.

use super::{quote::quote, reader::Reader, registry::read_path, section::Section, service::read_required};
use crate::{
    AppConfigSettings, AppSignal, Config, ConfigContext, ConfigFile, ConfigFormat, KvLayout, LoopbackUrl,
    OnChange, Origin, PropertySource, Registry, SpringSource, address,
    error::InvalidValue,
    names, prefix_covers,
    units::{HOUR, MINUTE, SECOND, duration_in, integer, on_or_off, one_of, switch},
};

/// Most prefixes: each has a question of its own that waits at the registry.
const MAX_PREFIXES: usize = 32;
/// Read and write for the owner, nothing for others.
const DEFAULT_MODE: u32 = 0o600;

/// What the rest of the settings says.
#[derive(Clone, Copy)]
struct Surroundings<'a> {
    /// The name of the app for Spring, where `spring` gives no other.
    app: Option<&'a str>,
    /// `dynamic_config.prefix`: the app does not get the settings of its sidecar.
    own_prefix: Option<&'a str>,
}

/// `config` has its services, its registry and `dynamic_config` already.
pub(super) fn read_app_config(r: &mut Reader<'_>, s: &Section<'_>, config: &Config) -> AppConfigSettings {
    let around = Surroundings {
        app: config.services.first().map(|service| service.name.as_str()),
        own_prefix: config.dynamic_config.prefix.as_deref(),
    };
    let mut out = AppConfigSettings::default();
    let mut allow = Vec::new();
    r.set_list(s, "allow", &mut allow, names::kv_key_prefix);
    out.allow = r.origins.is_set(&s.key("allow")).then_some(allow);
    for prefix in out.allow.iter().flatten() {
        around.check_prefix(r, &r.origins.get(&s.key("allow")).clone(), &s.key("allow"), prefix);
    }
    r.set(s, "cache", &mut out.cache, on_or_off);
    for source in r.sections(s, "sources") {
        out.sources.extend(read_source(r, &source, around));
    }
    let mut required = None;
    for file in r.sections(s, "files") {
        let read = read_file(r, &file, !out.sources.is_empty(), around);
        if read.as_ref().is_some_and(|read| read.required) {
            let key = file.key("required");
            required = required.or_else(|| Some((key.clone(), r.origins.get(&key).clone())));
        }
        if let Some(first) =
            out.files.iter().find(|known| read.as_ref().is_some_and(|read| read.path == known.path))
        {
            let what = format!("{} is written by another item too", first.path.display());
            r.report_set(&file.key("path"), what, "remove one of them, or give it another path");
        }
        out.files.extend(read);
    }
    let count = out.prefixes().len();
    if count > MAX_PREFIXES {
        let what = format!("makes the sidecar follow {count} prefixes, each with a question of its own");
        let hint = format!("at most {MAX_PREFIXES}: name a prefix above several of them");
        r.report(&r.origin_of(s), &s.path, InvalidValue::new(what, hint));
    }
    if count > 0 && matches!(config.registry, Registry::File(_)) {
        match required {
            // Every start would fail, after the wait for it.
            Some((key, origin)) => {
                let what = "the file is never written: registry.file has no keys, and files need Consul";
                let hint = "use registry.consul, or remove the file or its required: true";
                r.report(&origin, &key, InvalidValue::new(what, hint));
            }
            None => {
                let what = "is not used: registry.file has no keys";
                r.warn(r.origin_of(s), &s.path, what, "use registry.consul");
            }
        }
    }
    out
}

impl Surroundings<'_> {
    fn check_prefix(self, r: &mut Reader<'_>, at: &Origin, key: &str, prefix: &str) {
        let bare = prefix.trim_end_matches('/');
        let Some(own) = self.own_prefix.filter(|own| prefix_covers(own, bare) || prefix_covers(bare, own))
        else {
            return;
        };
        let what = format!("{} overlaps with dynamic_config.prefix ({own})", quote(prefix));
        let hint = "the app does not get the settings of its sidecar: keep the two prefixes apart";
        r.report(at, key, InvalidValue::new(what, hint));
    }
}

fn read_source(r: &mut Reader<'_>, s: &Section<'_>, around: Surroundings<'_>) -> Option<PropertySource> {
    let layouts = one_of(KvLayout::ALL, KvLayout::as_str);
    if s.node("spring").is_none() {
        let prefix = read_required(r, s, "prefix", names::kv_key_prefix);
        let mut layout = KvLayout::Keys;
        r.set(s, "as", &mut layout, layouts);
        let prefix = prefix?;
        let key = s.key("prefix");
        around.check_prefix(r, &r.origins.get(&key).clone(), &key, &prefix);
        return Some(PropertySource::Context(ConfigContext { prefix, layout }));
    }
    for name in ["prefix", "as"] {
        if let Some(node) = s.node(name) {
            let (at, key) = (r.origin_at(node.at), s.key(name));
            let hint = "remove it; spring.root and spring.format are for that";
            r.report(&at, &key, InvalidValue::new("contradicts spring", hint));
        }
    }
    let spring = r.section_or_value(s, "spring", "app");
    let source = read_spring(r, &spring, around.app)?;
    for context in source.contexts() {
        around.check_prefix(r, &r.origin_of(&spring), &spring.path, &context.prefix);
    }
    Some(PropertySource::Spring(source))
}

fn read_spring(r: &mut Reader<'_>, s: &Section<'_>, app: Option<&str>) -> Option<SpringSource> {
    let mut root = "config".to_owned();
    r.set(s, "root", &mut root, |text| {
        names::kv_key_prefix(text).map(|prefix| prefix.trim_end_matches('/').to_owned())
    });
    let app = match (s.node("app"), app) {
        (None, Some(app)) => Some(app.to_owned()),
        (None, None) => {
            let hint = "add it: the app's spring.application.name; without it, service.name is used";
            r.report(&r.origin_of(s), &s.key("app"), InvalidValue::new("is missing", hint));
            None
        }
        (Some(_), _) => r.get(s, "app", names::kv_word),
    };
    let mut profiles = Vec::new();
    r.set_list(s, "profiles", &mut profiles, names::kv_word);
    let mut default_context = "application".to_owned();
    r.set(s, "default_context", &mut default_context, names::kv_word);
    let mut format = KvLayout::Keys;
    r.set(s, "format", &mut format, one_of(KvLayout::ALL, KvLayout::as_str));
    let mut profile_separator = if format == KvLayout::Files { "-" } else { "," }.to_owned();
    r.set(s, "profile_separator", &mut profile_separator, names::kv_word);
    let mut data_key = "data".to_owned();
    r.set(s, "data_key", &mut data_key, names::kv_word);
    if matches!(format, KvLayout::Keys | KvLayout::Files)
        && let Some(key) = r.first_set_of(s, &["data_key"])
    {
        let what = format!("is not used with format {}", format.as_str());
        r.warn(r.origins.get(&key).clone(), &key, what, "remove it, or set format: yaml");
    }
    Some(SpringSource { root, app: app?, profiles, default_context, profile_separator, format, data_key })
}

fn read_file(
    r: &mut Reader<'_>,
    s: &Section<'_>,
    has_sources: bool,
    around: Surroundings<'_>,
) -> Option<ConfigFile> {
    let prefix = r.get(s, "prefix", names::kv_key_prefix);
    let given_path = read_required(r, s, "path", names::non_empty).is_some();
    let path = if given_path { read_path(r, s, "path") } else { None };
    let format = match s.node("format") {
        Some(_) => r.get(s, "format", one_of(ConfigFormat::ALL, ConfigFormat::as_str)),
        None => {
            let by_ending = path.as_ref().and_then(|path| ConfigFormat::of_path(path));
            if by_ending.is_none() && path.is_some() {
                let hint = "add format: json, env, yaml, properties, or value for the bytes of one key";
                let what = "has no ending that says what the file is";
                r.report_set(&s.key("path"), what, hint);
            }
            by_ending
        }
    };
    let mut mode = DEFAULT_MODE;
    r.set(s, "mode", &mut mode, file_mode);
    let mut wait = 30 * SECOND;
    r.set(s, "wait", &mut wait, duration_in(std::time::Duration::ZERO..=10 * MINUTE));
    let mut required = false;
    r.set(s, "required", &mut required, switch);
    let change = r.section(s, "on_change");
    let on_change = read_on_change(r, &change, s.node("on_change").is_some());
    if let Some(prefix) = &prefix {
        let key = s.key("prefix");
        around.check_prefix(r, &r.origins.get(&key).clone(), &key, prefix);
    }
    let is_prefix_wrong = s.node("prefix").is_some() && prefix.is_none();
    match (&prefix, format) {
        _ if is_prefix_wrong => {}
        (Some(prefix), Some(ConfigFormat::Value)) if prefix.ends_with('/') => {
            let hint = format!("name one key, without the slash at its end, as {}tls.pem", prefix);
            r.report_set(
                &s.key("prefix"),
                format!("{} is no key, whose value could be written", quote(prefix)),
                hint,
            );
        }
        (None, Some(ConfigFormat::Value)) => {
            let what = "format value needs the key in prefix";
            r.report(&r.origin_of(s), &s.key("prefix"), InvalidValue::new(what, "add prefix: KEY"));
        }
        (None, _) if !has_sources => {
            let what = "is missing: without api.config.sources there is no merged configuration to write";
            r.report(&r.origin_of(s), &s.key("prefix"), InvalidValue::new(what, "add prefix: config/NAME/"));
        }
        _ => {}
    }
    Some(ConfigFile { prefix, path: path?, format: format?, mode, wait, required, on_change })
}

fn read_on_change(r: &mut Reader<'_>, s: &Section<'_>, is_given: bool) -> Option<OnChange> {
    let signal = r.get(s, "signal", |text| {
        let name = text.strip_prefix("SIG").unwrap_or(text);
        one_of(AppSignal::ALL, AppSignal::as_str)(name)
    });
    let http = r.get(s, "http", loopback_url);
    let restart = r.get(s, "restart", switch);
    let (mut at_once, mut min_interval) = (1, 10 * SECOND);
    r.set(s, "at_once", &mut at_once, integer(1..=1000));
    r.set(s, "min_interval", &mut min_interval, duration_in(std::time::Duration::ZERO..=HOUR));
    let given: Vec<_> =
        ["signal", "http", "restart"].into_iter().filter(|name| s.node(name).is_some()).collect();
    if let [_, second, ..] = given[..] {
        let what = format!("contradicts {}", given[0]);
        r.report(
            &r.origin_of(s),
            &s.key(second),
            InvalidValue::new(what, "keep one of signal, http and restart"),
        );
    }
    if given.is_empty() && is_given {
        let hint = "write {signal: HUP}, {http: URL} or {restart: true}";
        r.report(&r.origin_of(s), &s.path, InvalidValue::new("says nothing to do", hint));
    }
    if !given.contains(&"restart")
        && let Some(key) = r.first_set_of(s, &["at_once", "min_interval"])
    {
        r.report_set(&key, "is for restart alone", "set restart: true, or remove the key");
    }
    match (signal, http, restart) {
        (Some(signal), ..) => Some(OnChange::Signal(signal)),
        (_, Some(url), _) => Some(OnChange::Http(url)),
        (.., Some(true)) => Some(OnChange::Restart { at_once, min_interval }),
        _ => None,
    }
}

/// `0640`, an octal number.
fn file_mode(text: &str) -> Result<u32, InvalidValue> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let hint = "write it as chmod takes it, as 0600 or 0640";
    if digits.is_empty() || digits.len() > 4 || !digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
        return Err(InvalidValue::new("is not a mode of a file", hint));
    }
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode & 0o600 == 0o600 && mode <= 0o777 => Ok(mode),
        _ => Err(InvalidValue::new("is no mode with which the sidecar can read and write the file", hint)),
    }
}

/// `http://localhost:8080/path`: a request to another machine is none of a sidecar's.
fn loopback_url(text: &str) -> Result<LoopbackUrl, InvalidValue> {
    let hint = "write http://localhost:8080/actuator/refresh: localhost, 127.0.0.1 or [::1], and a port";
    let wrong = |what: &str| InvalidValue::new(what, hint);
    let rest = text.strip_prefix("http://").ok_or_else(|| wrong("is not a URL with http://"))?;
    let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
    let (ip, port) = address::loopback_authority(authority)
        .ok_or_else(|| wrong("does not name this machine's loopback and a port"))?;
    let path = match path {
        "" => "/".to_owned(),
        path => names::path(path).map_err(|_| wrong("has no path that can be sent"))?,
    };
    Ok(LoopbackUrl { ip, port, path })
}
