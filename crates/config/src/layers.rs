//! Flags and environment variables, and the key that each of them sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt,
    sync::Arc,
};

use crate::Origin;

/// Values of the command line; they win over environment and file. The texts are parsed like the values of a
/// file, so that the problems have the same form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--service NAME`: `service.name`.
    pub service: Option<String>,
    /// `--port PORT`: `service.port`.
    pub port: Option<String>,
    /// `--address HOST`: `service.address`.
    pub address: Option<String>,
    /// `--id ID`: `service.id`.
    pub id: Option<String>,
    /// `--tag TAG`, any number of times: `service.tags`. Each is one tag, with its commas. Empty: not given.
    pub tags: Vec<String>,
    /// `--health-http PATH`: `service.health.http`.
    pub health_http: Option<String>,
    /// `--consul URL`: `registry.consul.address`.
    pub consul: Option<String>,
    /// `--datacenter NAME`: `registry.consul.datacenter`.
    pub datacenter: Option<String>,
    /// `--token-file PATH`: `registry.consul.token_file`.
    pub token_file: Option<String>,
    /// `--registry-file PATH`: `registry.file`.
    pub registry_file: Option<String>,
    /// `--listen ADDR`: `outbound.listen`.
    pub listen: Option<String>,
    /// `--admin-listen ADDR`: `admin.listen`.
    pub admin_listen: Option<String>,
    /// `--metrics-listen ADDR`: `admin.metrics_listen`.
    pub metrics_listen: Option<String>,
    /// `--api-listen ADDR`: `api.listen`.
    pub api_listen: Option<String>,
    /// `--dns-listen ADDR`: `dns.listen`.
    pub dns_listen: Option<String>,
    /// `--workers N|auto`: `workers`.
    pub workers: Option<String>,
    /// `--drain DURATION`: `drain.timeout`.
    pub drain: Option<String>,
    /// `--on-app-exit exit|restart`: `on_app_exit`.
    pub on_app_exit: Option<String>,
    /// `--log FILTER`: `log.level`.
    pub log: Option<String>,
    /// `--log-format auto|text|json`: `log.format`.
    pub log_format: Option<String>,
    /// `--access-log`: `log.access`.
    pub access_log: Option<bool>,
}

/// A list as the text of one variable: each item ends with a comma; `\,` is a comma of an item, `\\` a backslash.
fn join_items(items: &[String]) -> String {
    items.iter().map(|item| item.replace('\\', r"\\").replace(',', r"\,") + ",").collect()
}

/// The items of a list in the text of one variable, without the white space around them. The last comma may be left out. `\,`
/// is a comma of an item and `\\` a backslash; any other backslash stands for itself. An item may be empty.
pub(crate) fn split_items(text: &str) -> Vec<String> {
    let (mut items, mut item) = (Vec::new(), String::new());
    let mut rest = text.chars().peekable();
    while let Some(one) = rest.next() {
        let escaped = rest.next_if(|next| one == '\\' && matches!(next, ',' | '\\'));
        match (one, escaped) {
            (_, Some(escaped)) => item.push(escaped),
            (',', None) => items.push(std::mem::take(&mut item)),
            (one, None) => item.push(one),
        }
    }
    if items.is_empty() || !item.trim().is_empty() {
        items.push(item);
    }
    items.iter().map(|item| item.trim().to_owned()).collect()
}

impl Overrides {
    fn set_values(&self) -> Vec<(&'static str, &'static str, String)> {
        let tags = (!self.tags.is_empty()).then(|| join_items(&self.tags));
        let access = self.access_log.map(|on| on.to_string());
        [
            ("service.name", "--service", &self.service),
            ("service.port", "--port", &self.port),
            ("service.address", "--address", &self.address),
            ("service.id", "--id", &self.id),
            ("service.tags", "--tag", &tags),
            ("service.health.http", "--health-http", &self.health_http),
            ("registry.consul.address", "--consul", &self.consul),
            ("registry.consul.datacenter", "--datacenter", &self.datacenter),
            ("registry.consul.token_file", "--token-file", &self.token_file),
            ("registry.file", "--registry-file", &self.registry_file),
            ("outbound.listen", "--listen", &self.listen),
            ("admin.listen", "--admin-listen", &self.admin_listen),
            ("admin.metrics_listen", "--metrics-listen", &self.metrics_listen),
            ("api.listen", "--api-listen", &self.api_listen),
            ("dns.listen", "--dns-listen", &self.dns_listen),
            ("workers", "--workers", &self.workers),
            ("drain.timeout", "--drain", &self.drain),
            ("on_app_exit", "--on-app-exit", &self.on_app_exit),
            ("log.level", "--log", &self.log),
            ("log.format", "--log-format", &self.log_format),
            ("log.access", "--access-log", &access),
        ]
        .into_iter()
        .filter_map(|(key, flag, text)| text.clone().map(|text| (key, flag, text)))
        .collect()
    }
}

/// Every environment variable that sets a key, with the key. `CONSUL_*` as in Consul's own tools (which have
/// none for the datacenter); the others are Outrigger's, one for each flag. An empty variable counts as unset.
/// Of two variables of one key the first of this list wins: Outrigger's own before Consul's.
pub const VARIABLES: &[(&str, &str)] = &[
    (CONSUL_VARIABLE, "registry.consul.address"),
    ("OUTRIGGER_TOKEN_FILE", "registry.consul.token_file"),
    ("CONSUL_HTTP_ADDR", "registry.consul.address"),
    ("CONSUL_HTTP_TOKEN", "registry.consul.token"),
    ("CONSUL_HTTP_TOKEN_FILE", "registry.consul.token_file"),
    ("CONSUL_CACERT", "registry.consul.tls.ca_file"),
    ("CONSUL_CLIENT_CERT", "registry.consul.tls.cert_file"),
    ("CONSUL_CLIENT_KEY", "registry.consul.tls.key_file"),
    ("CONSUL_TLS_SERVER_NAME", "registry.consul.tls.server_name"),
    ("OUTRIGGER_SERVICE", "service.name"),
    ("OUTRIGGER_PORT", "service.port"),
    ("OUTRIGGER_ADDRESS", "service.address"),
    ("OUTRIGGER_ID", "service.id"),
    ("OUTRIGGER_TAGS", "service.tags"),
    ("OUTRIGGER_TAG", "service.tags"),
    ("OUTRIGGER_HEALTH_HTTP", "service.health.http"),
    ("OUTRIGGER_DATACENTER", "registry.consul.datacenter"),
    (REGISTRY_FILE_VARIABLE, "registry.file"),
    ("OUTRIGGER_STATE_DIR", "state_dir"),
    ("OUTRIGGER_LISTEN", "outbound.listen"),
    (ADMIN_LISTEN_VARIABLE, "admin.listen"),
    ("OUTRIGGER_METRICS_LISTEN", "admin.metrics_listen"),
    ("OUTRIGGER_API_LISTEN", "api.listen"),
    ("OUTRIGGER_API_TOKEN_FILE", "api.token_file"),
    ("OUTRIGGER_DNS_LISTEN", "dns.listen"),
    ("OUTRIGGER_WORKERS", "workers"),
    ("OUTRIGGER_DRAIN", "drain.timeout"),
    ("OUTRIGGER_AWAIT_APP", "drain.await_app"),
    ("OUTRIGGER_APP_CONSUL_TOKEN", "app.consul_token"),
    ("OUTRIGGER_APP_PROCESS_GROUP", "app.process_group"),
    ("OUTRIGGER_ON_APP_EXIT", "on_app_exit"),
    ("OUTRIGGER_LOG", "log.level"),
    ("OUTRIGGER_LOG_FORMAT", "log.format"),
    ("OUTRIGGER_ACCESS_LOG", "log.access"),
];

/// The variable of the settings file: it sets no key, and the command line reads it itself.
pub const CONFIG_VARIABLE: &str = "OUTRIGGER_CONFIG";

/// The variable of `admin.listen`. The commands that ask a running sidecar find its admin side by it.
pub const ADMIN_LISTEN_VARIABLE: &str = "OUTRIGGER_ADMIN_LISTEN";

/// The variables that choose the registry, as `--consul` and `--registry-file` do. `CONSUL_HTTP_ADDR` chooses
/// none, because it may be there for other tools.
pub(crate) const CONSUL_VARIABLE: &str = "OUTRIGGER_CONSUL";
pub(crate) const REGISTRY_FILE_VARIABLE: &str = "OUTRIGGER_REGISTRY_FILE";

/// Variables of Consul's own tools that are not supported, and what to do instead.
pub(crate) const UNSUPPORTED_VARIABLES: &[(&str, &str)] = &[
    ("CONSUL_HTTP_AUTH", "use an ACL token: CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE"),
    ("CONSUL_CAPATH", "name one file: CONSUL_CACERT"),
    ("CONSUL_NAMESPACE", "the default namespace is used"),
    ("CONSUL_PARTITION", "the default partition is used"),
];

/// A variable that Kubernetes sets in every pod of a namespace that has a Service called `outrigger` or
/// `outrigger-…`: `…_SERVICE_HOST`, `…_SERVICE_PORT[_NAME]`, `…_PORT` (a URL) and `…_PORT_80_TCP[_PROTO | _PORT |
/// _ADDR]`. It is not a setting.
pub(crate) fn is_kubernetes_service_link(name: &str, text: &str) -> bool {
    let Some(rest) = name.strip_prefix("OUTRIGGER").filter(|rest| rest.starts_with('_')) else {
        return false;
    };
    let is_url = || ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme));
    rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_")
        || (rest.ends_with("_PORT") && is_url())
        || rest.match_indices("_PORT_").any(|(at, port)| is_port_link(&rest[at + port.len()..]))
}

/// `80_TCP`, `80_TCP_PROTO`, `80_TCP_PORT` or `80_TCP_ADDR`.
fn is_port_link(text: &str) -> bool {
    let mut parts = text.split('_');
    let number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
    let protocol = parts.next().is_some_and(|part| ["TCP", "UDP", "SCTP"].contains(&part));
    let rest = parts.next().is_none_or(|part| ["PROTO", "PORT", "ADDR"].contains(&part));
    number && protocol && rest && parts.next().is_none()
}

/// The variables of a process, as a value: nothing else in this crate reads the process environment.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    values: BTreeMap<String, String>,
    /// The variables with a value that is not UTF-8: they have no value, and are not taken for unset.
    not_utf8: BTreeSet<String>,
}

impl Environment {
    /// The environment of this process.
    pub fn from_process() -> Self {
        Self::from_os(std::env::vars_os())
    }

    /// The environment with these variables. One with a name that is not UTF-8 is no setting, and is left out.
    pub fn from_os(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let mut environment = Self::default();
        for (name, value) in variables {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => _ = environment.values.insert(name, value),
                Err(_) => _ = environment.not_utf8.insert(name),
            }
        }
        environment
    }

    /// The variable's value; it may be empty. `None`: it is unset, or not UTF-8 ([`Environment::is_not_utf8`]).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether the variable is set to a value that is not UTF-8, and so cannot be used.
    pub fn is_not_utf8(&self, name: &str) -> bool {
        self.not_utf8.contains(name)
    }

    /// Why a variable that was asked for has no value, as the end of a sentence.
    pub(crate) fn why_absent(&self, name: &str) -> &'static str {
        if self.is_not_utf8(name) { "is not UTF-8" } else { "is not set" }
    }

    /// The value of a variable that is set and not empty: an empty variable counts as unset.
    pub fn non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// The names of the variables that are not UTF-8.
    pub(crate) fn not_utf8(&self) -> impl Iterator<Item = &str> {
        self.not_utf8.iter().map(String::as_str)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let values = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { values, not_utf8: BTreeSet::new() }
    }
}

impl fmt::Debug for Environment {
    // A value may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys().chain(&self.not_utf8)).finish()
    }
}

/// The values of flags and environment by key, the one that wins first.
#[derive(Clone, Default)]
pub(crate) struct Overlay(BTreeMap<&'static str, Vec<OverrideValue>>);

/// One value from a flag or a variable.
#[derive(Clone)]
pub(crate) struct OverrideValue {
    pub(crate) origin: Origin,
    pub(crate) text: String,
}

impl Overlay {
    pub(crate) fn new(env: &Environment, overrides: &Overrides) -> Self {
        let mut overlay = Self::default();
        for (key, flag, text) in overrides.set_values() {
            overlay.add(key, Origin::Flag(flag), text);
        }
        for (name, key) in VARIABLES {
            if let Some(text) = env.non_empty(name).filter(|text| !is_kubernetes_service_link(name, text)) {
                overlay.add(key, Origin::Environment(Arc::from(*name)), text.to_owned());
            }
        }
        overlay
    }

    pub(crate) fn add(&mut self, key: &'static str, origin: Origin, text: String) {
        self.0.entry(key).or_default().push(OverrideValue { origin, text });
    }

    pub(crate) fn get(&self, key: &str) -> &[OverrideValue] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// The first value of any key below this section.
    pub(crate) fn first_below(&self, section: &str) -> Option<&OverrideValue> {
        let inside = |key: &str| key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'));
        let values = self.0.iter().filter(|(key, _)| inside(key)).flat_map(|(_, values)| values);
        values.min_by_key(|value| &value.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys;

    #[test]
    fn every_variable_and_flag_sets_a_key_that_exists() {
        let keys = keys::keys();
        let text = || Some("x".to_owned());
        let all = Overrides {
            service: text(),
            port: text(),
            address: text(),
            id: text(),
            tags: vec!["x".to_owned()],
            health_http: text(),
            consul: text(),
            datacenter: text(),
            token_file: text(),
            registry_file: text(),
            listen: text(),
            admin_listen: text(),
            api_listen: text(),
            metrics_listen: text(),
            dns_listen: text(),
            workers: text(),
            drain: text(),
            on_app_exit: text(),
            log: text(),
            log_format: text(),
            access_log: Some(true),
        };
        let flags = all.set_values();
        assert_eq!(flags.len(), 21);
        for key in VARIABLES.iter().map(|(_, key)| key).chain(flags.iter().map(|(key, _, _)| key)) {
            assert!(keys.iter().any(|k| k == key), "{key} is no key");
        }
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_an_empty_variable_counts_as_unset() {
        let env = [("OUTRIGGER_PORT", "1"), ("OUTRIGGER_SERVICE", "")].into_iter().collect();
        let overlay = Overlay::new(&env, &Overrides { port: Some("2".into()), ..Overrides::default() });
        let texts: Vec<_> = overlay.get("service.port").iter().map(|value| value.text.as_str()).collect();
        assert_eq!(texts, ["2", "1"]);
        assert!(overlay.get("service.name").is_empty());
        assert_eq!(overlay.first_below("service").map(|value| value.text.as_str()), Some("2"));
        assert!(overlay.first_below("serv").is_none());
    }

    #[test]
    fn a_comma_separates_items_unless_a_backslash_escapes_it() {
        for (text, expected) in [
            ("a,b", &["a", "b"][..]),
            (" a , b ", &["a", "b"]),
            (r"a\,b,c", &["a,b", "c"]),
            (r"urlprefix-/x proto=http\,https", &["urlprefix-/x proto=http,https"]),
            (r"a\\,b", &[r"a\", "b"]),
            (r"C:\x,\", &[r"C:\x", r"\"]),
            ("a,,b", &["a", "", "b"]),
            ("a, ", &["a"]),
            ("a,,", &["a", ""]),
            (",", &[""]),
            ("", &[""]),
        ] {
            assert_eq!(split_items(text), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn joined_items_are_split_into_the_same_ones(items in proptest::collection::vec("[a,b\\\\ é]{0,6}", 1..5)) {
            let trimmed: Vec<_> = items.iter().map(|item| item.trim().to_owned()).collect();
            proptest::prop_assert_eq!(split_items(&join_items(&items)), trimmed);
        }
    }

    #[test]
    fn debug_shows_names_and_no_values() {
        let env: Environment = [("TOKEN", "hush")].into_iter().collect();
        assert_eq!(format!("{env:?}"), "{\"TOKEN\"}");
    }
}
