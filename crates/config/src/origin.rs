//! Where a value comes from.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// Where one value comes from; also the place of a problem.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Not set.
    Default,
    /// A flag of the command line, as `--port`.
    Flag(&'static str),
    /// A variable of the environment.
    Environment(Arc<str>),
    /// A place in the configuration file.
    File {
        /// The file's name, as it was given.
        file: Arc<str>,
        /// Line, from 1; 0 stands for the whole file.
        line: u32,
        /// Column in characters, from 1.
        col: u32,
    },
    /// A place in a document of the registry's KV.
    Kv {
        /// The whole key.
        key: Arc<str>,
        /// The index of the write that made this version of the document.
        index: u64,
        /// Line, from 1; 0 stands for the whole document.
        line: u32,
        /// Column in characters, from 1.
        col: u32,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File { file, line, .. } => write!(f, "{file}:{line}"),
            Self::Kv { key, index, .. } => write!(f, "kv:{key}@{index}"),
        }
    }
}

/// The origins of every setting that is not a default, by dotted key (`upstreams[0].timeout`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Vec<Origin>>);

impl Origins {
    /// Where the setting's value comes from; [`Origin::Default`] when it is not set.
    pub fn get(&self, key: &str) -> &Origin {
        self.layers(key).first().unwrap_or(&Origin::Default)
    }

    /// Every place that sets this key: first the one that is in effect, then those that it overrides. Of flags,
    /// variables and the file only the one that wins is listed. Empty: the key is not set.
    pub fn layers(&self, key: &str) -> &[Origin] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether this key is set.
    pub fn is_set(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Every setting that is not a default, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Origin)> {
        self.0.iter().filter_map(|(key, origins)| Some((key.as_str(), origins.first()?)))
    }

    /// A layer above those that have set this key before.
    pub(crate) fn set(&mut self, key: String, origin: Origin) {
        let layers = self.0.entry(key).or_default();
        layers.retain(|known| *known != origin);
        layers.insert(0, origin);
    }

    /// `to` is set where `from` is set last.
    pub(crate) fn copy(&mut self, from: &str, to: String) {
        if let Some(origin) = self.layers(from).first().cloned() {
            self.set(to, origin);
        }
    }

    /// Keeps the keys that `wanted` picks.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.0.retain(|key, _| wanted(key));
    }
}
