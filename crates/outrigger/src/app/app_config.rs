//! What follows the app's configuration in the registry's KV.

use std::sync::Arc;

use outrigger_app_config::{AllowedKeys, KvReader, PrefixStore, PrefixWatches};
use outrigger_config::{Config, Registry};
use outrigger_discovery::unix_time;

use crate::registry::{self, OpenedRegistry};

/// The parts; settings change what they follow.
#[derive(Debug)]
pub(super) struct AppConfigParts {
    pub(super) watches: Arc<PrefixWatches>,
    pub(super) reader: Arc<KvReader>,
}

impl AppConfigParts {
    /// Follows nothing yet. `None`: the registry has no keys.
    pub(super) fn open(registry: &OpenedRegistry, config: &Config) -> Option<Self> {
        let kv = registry.kv()?;
        let source = registry.registry.clone();
        let watches = PrefixWatches::new(kv.clone(), move || source.longest_wait(), open_store(config));
        let watches = Arc::new(watches);
        Some(Self { reader: Arc::new(KvReader::new(kv, watches.clone())), watches })
    }

    /// Follows what these settings name. Without the API and without files nothing reads it.
    pub(super) fn apply_settings(&self, config: &Config) {
        let settings = &config.api.config;
        let is_read = config.api.listen.is_some() || !settings.files.is_empty();
        let prefixes = if is_read { settings.prefixes() } else { Vec::new() };
        self.watches.follow(&prefixes, settings.cache);
        self.reader.allow(AllowedKeys::of(config));
    }
}

/// The files of the last good answers. Each sidecar of a machine has its own, as for the learned instances.
fn open_store(config: &Config) -> PrefixStore {
    let Registry::Consul(consul) = &config.registry else { return PrefixStore::none() };
    match config.state_dir.as_deref().zip(registry::run_name(config)) {
        Some((folder, name)) => PrefixStore::at(folder, &name, &registry::source(consul), unix_time),
        None => PrefixStore::none(),
    }
}
