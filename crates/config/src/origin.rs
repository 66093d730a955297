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
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File { file, line, .. } => write!(f, "{file}:{line}"),
        }
    }
}

/// The origin of every setting that is not a default, by dotted key (`upstreams[0].timeout`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where the setting's value comes from; [`Origin::Default`] when it is not set.
    pub fn get(&self, key: &str) -> &Origin {
        self.0.get(key).unwrap_or(&Origin::Default)
    }

    /// Whether this key is set.
    pub fn is_set(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Every setting that is not a default, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Origin)> {
        self.0.iter().map(|(key, origin)| (key.as_str(), origin))
    }

    pub(crate) fn set(&mut self, key: String, origin: Origin) {
        self.0.insert(key, origin);
    }
}
