//! The app's configuration from the registry's KV.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// Which keys of the registry's KV the app gets, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppConfigSettings {
    /// What `/v1/kv/` serves; [`prefix_covers`] says which keys an entry names. Absent, the default: what `sources` and `files` name.
    /// Empty: nothing.
    pub allow: Option<Vec<String>>,
    /// Keep the last good answers in `state_dir`, so that they are there while the registry is away, also after a restart. Default on.
    pub cache: bool,
    /// What the merged configuration consists of, most specific first. Default none.
    pub sources: Vec<PropertySource>,
    /// Files that are written for the app. Default none.
    pub files: Vec<ConfigFile>,
}

impl Default for AppConfigSettings {
    fn default() -> Self {
        Self { allow: None, cache: true, sources: Vec::new(), files: Vec::new() }
    }
}

impl AppConfigSettings {
    /// The parts of the merged configuration, most specific first. A value of an earlier part hides those of later ones.
    pub fn contexts(&self) -> Vec<ConfigContext> {
        self.sources.iter().flat_map(PropertySource::contexts).collect()
    }

    /// The prefixes that `sources` and `files` read, each once, in that order.
    pub fn read_prefixes(&self) -> Vec<String> {
        let sources = self.contexts().into_iter().map(|context| context.prefix);
        unique(sources.chain(self.files.iter().filter_map(|file| file.prefix.clone())))
    }

    /// What `/v1/kv/` serves.
    pub fn allowed(&self) -> Vec<String> {
        self.allow.clone().map_or_else(|| self.read_prefixes(), |allow| unique(allow.into_iter()))
    }

    /// Every prefix that the sidecar reads, each once.
    pub fn prefixes(&self) -> Vec<String> {
        unique(self.read_prefixes().into_iter().chain(self.allowed()))
    }
}

fn unique(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for one in all {
        if !out.contains(&one) {
            out.push(one);
        }
    }
    out
}

/// Whether a prefix of `api.config` names this key. `config/orders/` names the keys below it. `config/orders` names that key and the
/// keys below it, but not `config/orders-secret`: unlike a prefix of Consul's ACL, it ends where a word of the key ends.
pub fn prefix_covers(prefix: &str, key: &str) -> bool {
    key.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

/// One item of `api.config.sources`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PropertySource {
    /// One part of the configuration.
    Context(ConfigContext),
    /// The parts that Spring Cloud Consul Config reads.
    Spring(SpringSource),
}

impl PropertySource {
    /// Its parts, most specific first.
    pub fn contexts(&self) -> Vec<ConfigContext> {
        match self {
            Self::Context(context) => vec![context.clone()],
            Self::Spring(spring) => spring.contexts(),
        }
    }
}

/// One part of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigContext {
    /// Its keys. For [`KvLayout::Keys`] and [`KvLayout::Files`]: the keys below it. For a blob: that key; with a slash at its end the key
    /// `data` below it.
    pub prefix: String,
    /// How the keys make properties. Default `keys`.
    pub layout: KvLayout,
}

impl ConfigContext {
    /// The key of a blob. `None`: the part has many keys.
    pub fn blob_key(&self) -> Option<String> {
        match self.layout {
            KvLayout::Keys | KvLayout::Files => None,
            KvLayout::Yaml | KvLayout::Properties | KvLayout::Json => {
                let data = if self.prefix.ends_with('/') { "data" } else { "" };
                Some(format!("{}{data}", self.prefix))
            }
        }
    }
}

/// How keys of the KV make properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvLayout {
    /// A key for each property: `config/orders/db/url` is `db.url` of prefix `config/orders/`.
    Keys,
    /// One key with a YAML document.
    Yaml,
    /// One key with lines of Java properties.
    Properties,
    /// One key with a JSON document.
    Json,
    /// A key for each file, as git2consul writes them; the ending says what the file is.
    Files,
}

/// The parts that Spring Cloud Consul Config reads for one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpringSource {
    /// `spring.cloud.consul.config.prefix`, without a slash at its end. Default `config`.
    pub root: String,
    /// `spring.application.name`. Default `service.name`.
    pub app: String,
    /// The active profiles: a later one hides the values of an earlier one, as in Spring. Default none.
    pub profiles: Vec<String>,
    /// `spring.cloud.consul.config.default-context`: the part that all apps share. Default `application`.
    pub default_context: String,
    /// `spring.cloud.consul.config.profile-separator`. Default `,`; with `files`, `-`.
    pub profile_separator: String,
    /// `spring.cloud.consul.config.format`. Default `keys`.
    pub format: KvLayout,
    /// `spring.cloud.consul.config.data-key`, for a format with one key. Default `data`.
    pub data_key: String,
}

impl SpringSource {
    /// Its parts as Spring's `ConsulPropertySources` lists them, most specific first. With [`KvLayout::Files`] the ending counts before the
    /// profile: every `.properties` of a profile hides the YAML files of all profiles.
    pub fn contexts(&self) -> Vec<ConfigContext> {
        let mut out = Vec::new();
        for name in [&self.app, &self.default_context] {
            let profiles = self.profiles.iter().rev();
            let with_profile: Vec<_> =
                profiles.map(|profile| format!("{name}{}{profile}", self.profile_separator)).collect();
            for names in [with_profile.as_slice(), std::slice::from_ref(name)] {
                for (ending, layout) in self.endings() {
                    out.extend(names.iter().map(|name| ConfigContext {
                        prefix: format!("{}/{name}{ending}", self.root),
                        layout,
                    }));
                }
            }
        }
        out
    }

    /// What follows the names of the parts, most specific first.
    fn endings(&self) -> Vec<(String, KvLayout)> {
        match self.format {
            KvLayout::Keys => vec![("/".to_owned(), KvLayout::Keys)],
            KvLayout::Files => vec![
                (".properties".to_owned(), KvLayout::Properties),
                (".yaml".to_owned(), KvLayout::Yaml),
                (".yml".to_owned(), KvLayout::Yaml),
            ],
            blob => vec![(format!("/{}", self.data_key), blob)],
        }
    }
}

/// One item of `api.config.files`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// What is written: the keys below it, or with [`ConfigFormat::Value`] the value of this key. Absent: the merged configuration of
    /// `sources`.
    pub prefix: Option<String>,
    /// The file. Required. Its folder must exist.
    pub path: PathBuf,
    /// What the file looks like. Default: by the ending of its name.
    pub format: ConfigFormat,
    /// Its permissions. Default 0600; range 0400–0777, and always readable and writable for its owner.
    pub mode: u32,
    /// How long the start of the app waits for the content, when it is not known from an earlier run. Default 30s, range 0s–10m.
    pub wait: Duration,
    /// Without content after `wait` the app is not started. Default false.
    pub required: bool,
    /// What happens when the content changes. Absent: nothing, the app looks at the file itself.
    pub on_change: Option<OnChange>,
}

/// What a configuration is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigFormat {
    /// A JSON document of nested objects.
    Json,
    /// Lines `NAME=value`, the names in upper case with `_` between words.
    Env,
    /// A YAML document of nested mappings.
    Yaml,
    /// Java properties.
    Properties,
    /// The bytes of one value.
    Value,
}

impl ConfigFormat {
    /// The format that the ending of a file's name stands for: `.json`, `.yaml`, `.yml`, `.properties`, `.env`.
    pub fn of_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let ending = name.rsplit_once('.')?.1;
        match ending {
            "json" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            "properties" => Some(Self::Properties),
            "env" => Some(Self::Env),
            _ => None,
        }
    }
}

/// What happens when the content of a file changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnChange {
    /// The app that the sidecar started gets a signal.
    Signal(AppSignal),
    /// The sidecar sends `POST` to the app.
    Http(LoopbackUrl),
    /// The app is started again, as in a rolling deploy.
    Restart {
        /// Most instances of the service that are not in service at once because of it. Default 1, range 1–1000.
        at_once: usize,
        /// Shortest time between two restarts of one instance. Default 10s, range 0s–1h.
        min_interval: Duration,
    },
}

/// A signal that does not end an app which handles it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppSignal {
    /// `SIGHUP`
    Hup,
    /// `SIGUSR1`
    Usr1,
    /// `SIGUSR2`
    Usr2,
    /// `SIGWINCH`
    Winch,
    /// `SIGQUIT`
    Quit,
}

/// A URL of this machine's loopback: `http://localhost:8080/actuator/refresh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopbackUrl {
    /// The address. Absent: `localhost`, which is 127.0.0.1 and ::1.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// The path, with the query.
    pub path: String,
}

impl LoopbackUrl {
    /// The value of `Host`.
    pub fn authority(&self) -> String {
        match self.ip {
            None => format!("localhost:{}", self.port),
            Some(ip) => SocketAddr::new(ip, self.port).to_string(),
        }
    }
}

impl fmt::Display for LoopbackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spring(format: KvLayout, separator: &str) -> SpringSource {
        SpringSource {
            root: "config".into(),
            app: "orders".into(),
            profiles: vec!["cloud".into(), "prod".into()],
            default_context: "application".into(),
            profile_separator: separator.into(),
            format,
            data_key: "data".into(),
        }
    }

    fn prefixes(source: &SpringSource) -> Vec<String> {
        source.contexts().into_iter().map(|context| context.prefix).collect()
    }

    #[test]
    fn the_contexts_of_spring_are_those_of_its_documentation_most_specific_first() {
        let keys = [
            "config/orders,prod/",
            "config/orders,cloud/",
            "config/orders/",
            "config/application,prod/",
            "config/application,cloud/",
            "config/application/",
        ];
        assert_eq!(prefixes(&spring(KvLayout::Keys, ",")), keys);
        let blobs: Vec<_> = keys.iter().map(|key| format!("{key}data")).collect();
        assert_eq!(prefixes(&spring(KvLayout::Yaml, ",")), blobs);
        // With files the ending is the outer loop, the profile the inner one.
        let files = spring(KvLayout::Files, "-");
        assert_eq!(
            prefixes(&files),
            [
                "config/orders-prod.properties",
                "config/orders-cloud.properties",
                "config/orders-prod.yaml",
                "config/orders-cloud.yaml",
                "config/orders-prod.yml",
                "config/orders-cloud.yml",
                "config/orders.properties",
                "config/orders.yaml",
                "config/orders.yml",
                "config/application-prod.properties",
                "config/application-cloud.properties",
                "config/application-prod.yaml",
                "config/application-cloud.yaml",
                "config/application-prod.yml",
                "config/application-cloud.yml",
                "config/application.properties",
                "config/application.yaml",
                "config/application.yml",
            ]
        );
        for ConfigContext { prefix, layout } in files.contexts() {
            let is_properties = prefix.ends_with(".properties");
            let expected = if is_properties { KvLayout::Properties } else { KvLayout::Yaml };
            assert_eq!(layout, expected, "{prefix}");
        }
    }

    #[test]
    fn a_prefix_ends_where_a_word_of_the_key_ends() {
        for (prefix, key, expected) in [
            ("config/orders/", "config/orders/db/url", true),
            ("config/orders/", "config/orders/", true),
            ("config/orders/", "config/orders", false),
            ("config/orders", "config/orders", true),
            ("config/orders", "config/orders/db", true),
            ("config/orders", "config/orders-secret", false),
            ("config/orders", "config/orders-secret/a", false),
            ("config/orders/", "config/orders//a", true),
            ("config/orders/", "Config/orders/a", false),
            ("config/orders/", "config/order", false),
            ("config/orders/", "", false),
        ] {
            assert_eq!(prefix_covers(prefix, key), expected, "{prefix} {key}");
        }
    }

    #[test]
    fn the_prefixes_are_those_of_sources_files_and_allow_each_once() {
        let mut settings = AppConfigSettings {
            sources: vec![PropertySource::Spring(SpringSource {
                profiles: Vec::new(),
                ..spring(KvLayout::Keys, ",")
            })],
            files: ["certs/orders", "config/orders/"]
                .map(|prefix| ConfigFile {
                    prefix: Some(prefix.to_owned()),
                    path: "/tmp/a.json".into(),
                    format: ConfigFormat::Json,
                    mode: 0o600,
                    wait: Duration::ZERO,
                    required: false,
                    on_change: None,
                })
                .into(),
            ..AppConfigSettings::default()
        };
        let own = ["config/orders/", "config/application/", "certs/orders"];
        assert_eq!(
            (settings.allowed(), settings.prefixes()),
            (own.map(str::to_owned).into(), own.map(str::to_owned).into())
        );
        settings.allow = Some(vec!["shared/".into()]);
        assert_eq!(settings.allowed(), ["shared/"]);
        assert_eq!(settings.prefixes(), ["config/orders/", "config/application/", "certs/orders", "shared/"]);
    }
}
