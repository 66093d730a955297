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

/// A place that sets a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The place.
    pub origin: Origin,
    /// The value as it is written there, where it is one value and no secret; a variable of a file by its name.
    pub written: Option<String>,
}

impl From<Origin> for Layer {
    fn from(origin: Origin) -> Self {
        Self { origin, written: None }
    }
}

/// The origins of every setting that is not a default, by dotted key (`upstreams[0].timeout`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Vec<Layer>>);

impl Origins {
    /// Where the setting's value comes from; [`Origin::Default`] when it is not set.
    pub fn get(&self, key: &str) -> &Origin {
        self.layers(key).first().map_or(&Origin::Default, |layer| &layer.origin)
    }

    /// Every place that sets this key: first the one that is in effect, then those that it overrides. Empty: the key is not
    /// set.
    pub fn layers(&self, key: &str) -> &[Layer] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether this key is set.
    pub fn is_set(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Every setting that is not a default, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Origin)> {
        self.0.iter().filter_map(|(key, layers)| Some((key.as_str(), &layers.first()?.origin)))
    }

    /// A layer above those that have set this key before.
    pub(crate) fn set(&mut self, key: String, layer: impl Into<Layer>) {
        let layer = layer.into();
        let layers = self.0.entry(key).or_default();
        layers.retain(|known| known.origin != layer.origin);
        layers.insert(0, layer);
    }

    /// Adds the layers of each key of `other` that `wanted` picks.
    pub(crate) fn extend(&mut self, other: &Self, wanted: impl Fn(&str) -> bool) {
        let picked = other.0.iter().filter(|(key, _)| wanted(key));
        self.0.extend(picked.map(|(key, layers)| (key.clone(), layers.clone())));
    }

    /// `to` is set where `from` is set last.
    pub(crate) fn copy(&mut self, from: &str, to: String) {
        if let Some(layer) = self.layers(from).first().cloned() {
            self.set(to, layer);
        }
    }

    /// Keeps the keys that `wanted` picks.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.0.retain(|key, _| wanted(key));
    }
}
