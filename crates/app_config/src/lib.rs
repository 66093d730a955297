//! The app's configuration from a registry's KV: what `api.config` of the settings describes.
//!
//! Each prefix of the settings is followed by one question that waits at the registry ([`PrefixWatches`]), however many clients and
//! files read it. What is known of a prefix is a [`PrefixView`]; the last good one stays on disk ([`PrefixStore`]), so that it is there
//! while the registry is away, also after a restart. [`ConfigWatch`] merges the prefixes of `api.config.sources` into one configuration.
//!
//! | module | what it does |
//! |---|---|
//! | `view` | what is known of a prefix, and how old it is |
//! | `watch` | follows one prefix |
//! | `watches` | follows those of the settings |
//! | `store` | the last good entries, on disk |
//! | `allowed` | which keys the app may read; pure |
//! | `reader` | answers reads of keys as Consul does, also those that wait |
//! | `handed_index` | the index that the clients of a text have; pure |
//! | `silence` | whether the registry leaves questions without an answer |
//! | `config_watch` | merges the parts again when one changes, and keeps the last good version of each document |
//! | `config_state` | what is known of the merged configuration, and how old it is |
//! | `merged` | keys and documents → the merged configuration → JSON, YAML, environment, properties; pure |
//!
//! The crate serves nothing: crate `outrigger` has the API.

mod allowed;
mod config_state;
mod config_watch;
mod handed_index;
mod merged;
mod reader;
mod silence;
mod store;
mod view;
mod watch;
mod watches;

pub use allowed::{AllowedKeys, ReadScope};
pub use config_state::{ConfigPart, ConfigState, KnownConfig, content_version};
pub use config_watch::{ConfigWatch, FollowedPart};
pub use merged::{
    BlobFormat, ConfigView, EnvQuoting, HiddenProperty, LastGoodDocuments, MergedProperty, ProblemReason,
    PropertyLayer, PropertyOrigin, PropertyValue, RenderedConfig, SourceProperties, ViewProblem,
};
pub use reader::{KvRead, KvReadError, KvReader, KvReading};
pub use store::PrefixStore;
pub use view::{KvEntries, PrefixView};
pub use watches::PrefixWatches;
