//! What follows the app's configuration in the registry's KV.

use std::{sync::Arc, time::Duration};

use outrigger_app_config::{AllowedKeys, ConfigWatch, KvReader, PrefixStore, PrefixWatches};
use outrigger_config::{AppConfigSettings, Config, ConfigContext};
use outrigger_discovery::unix_time;
use outrigger_events::Events;
use parking_lot::Mutex;
use tokio::time::timeout;
use tracing::warn;

use crate::registry::{self, OpenedRegistry};

/// The parts; settings change what they follow.
#[derive(Debug)]
pub(super) struct AppConfigParts {
    pub(super) watches: Arc<PrefixWatches>,
    pub(super) reader: Arc<KvReader>,
    /// The merged configuration of `api.config.sources`.
    pub(super) merged: Arc<ConfigWatch>,
    /// The settings that are followed.
    applied: Mutex<Option<AppConfigSettings>>,
}

impl AppConfigParts {
    /// Follows nothing yet. `None`: the registry has no keys.
    pub(super) fn open(
        registry: &OpenedRegistry,
        config: &Config,
        events: Events,
        metrics: &prometheus::Registry,
    ) -> Result<Option<Self>, prometheus::Error> {
        let Some(kv) = registry.kv() else { return Ok(None) };
        let source = registry.registry.clone();
        let watches = PrefixWatches::new(kv.clone(), move || source.longest_wait(), open_store(config, ""));
        let watches = Arc::new(watches);
        let merged = ConfigWatch::new(open_store(config, "-good"), events, metrics)?;
        let reader = Arc::new(KvReader::new(kv, watches.clone()));
        Ok(Some(Self { watches, reader, merged: Arc::new(merged), applied: Mutex::default() }))
    }

    /// Follows what these settings name. Without the API and without files nothing reads it.
    pub(super) fn apply_settings(&self, config: &Config) {
        let settings = &config.api.config;
        let is_read = config.api.listen.is_some() || !settings.files.is_empty();
        self.reader.allow(AllowedKeys::of(config));
        let next = is_read.then(|| settings.clone());
        let mut applied = self.applied.lock();
        // Every change of other settings comes here too, and to begin anew merges everything again.
        if next.is_some() && *applied == next {
            return;
        }
        applied.clone_from(&next);
        let prefixes = if is_read { settings.prefixes() } else { Vec::new() };
        self.watches.follow(&prefixes, settings.cache);
        let contexts = if is_read { settings.contexts() } else { Vec::new() };
        let part = |context: ConfigContext| self.watches.view(&context.prefix).map(|view| (context, view));
        self.merged.follow(contexts.into_iter().filter_map(part).collect(), settings.cache);
    }

    /// Follows nothing any more. Returns when the last good answers are on disk, after 5 s at most.
    pub(super) async fn stop(&self) {
        let stopped = async { tokio::join!(self.watches.stop(), self.merged.stop()) };
        if timeout(STOP_WITHIN, stopped).await.is_err() {
            warn!("the last good answers of the KV are still being saved, stopping all the same");
        }
    }
}

/// Longest wait at the end for the last good answers to be on disk.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The files of the last good answers. `suffix`: of their names.
fn open_store(config: &Config, suffix: &str) -> PrefixStore {
    registry::answers_place(config).map_or_else(PrefixStore::none, |place| {
        PrefixStore::at(place.folder, &format!("{}{suffix}", place.name), &place.source, unix_time)
    })
}
