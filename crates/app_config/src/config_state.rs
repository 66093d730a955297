//! What is known of the merged configuration, and how old it is.

use std::{sync::Arc, time::Duration};

use outrigger_config::ConfigContext;
use tokio::time::Instant;

use crate::{ConfigView, PrefixView};

/// What is known of the merged configuration.
#[derive(Debug, Clone, Default)]
pub struct ConfigState {
    /// `None`: there is no part, or a part is not known: neither from the registry nor from an earlier run. A configuration without
    /// one of its parts would be a wrong one.
    pub known: Option<KnownConfig>,
    /// The parts of the settings, most specific first. Empty: the settings name none.
    pub parts: Vec<ConfigPart>,
}

/// The merged configuration.
#[derive(Debug, Clone)]
pub struct KnownConfig {
    /// Its properties.
    pub view: Arc<ConfigView>,
    /// It as JSON in one line.
    pub json: Arc<str>,
    /// [`content_version`] of `json`.
    pub version: Arc<str>,
}

/// A part of the configuration.
#[derive(Debug, Clone)]
pub struct ConfigPart {
    /// The item of the settings.
    pub context: ConfigContext,
    /// What is known of its prefix.
    pub prefix: Arc<PrefixView>,
}

impl KnownConfig {
    pub(crate) fn new(view: ConfigView) -> Self {
        let json = view.to_json_line();
        let version = content_version(&json);
        Self { view: Arc::new(view), json: json.into(), version: version.into() }
    }
}

impl ConfigState {
    /// How long ago the registry confirmed the part that it confirmed first. `None`: some part was never confirmed, or there is none.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let ages: Option<Vec<_>> = self.parts.iter().map(|part| part.prefix.age(now)).collect();
        ages?.into_iter().max()
    }

    /// Some part is what the registry answered last, and it does not answer now.
    pub fn is_stale(&self) -> bool {
        self.parts.iter().any(|part| part.prefix.is_stale())
    }

    /// The parts of which nothing is known.
    pub fn unknown(&self) -> impl Iterator<Item = &ConfigPart> {
        self.parts.iter().filter(|part| part.prefix.entries.is_none())
    }
}

/// A text of 32 digits that is another one for another content: for `ETag`.
pub fn content_version(content: &str) -> String {
    // FNV-1a of 128 bits: unlike the standard library's hash, it is the same with every version of the compiler.
    let hash = content.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    format!("{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_published_hash() {
        assert_eq!(content_version(""), "6c62272e07bb014262b821756295c58d");
        assert_eq!(content_version("a"), "d228cb696f1a8caf78912b704e4a8964");
    }
}
