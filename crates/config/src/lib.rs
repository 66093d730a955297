//! Turns a file, the environment and flags into a [`Config`] that cannot be wrong, or into a list of
//! all problems, each with its place.
//!
//! Entry points: [`load()`] is pure (the file's text, the environment and the flags are arguments);
//! [`load_path`] reads the file, then calls it. Flags win over the environment, which wins over the file,
//! which wins over the default. [`LoadedConfig::with_documents`] puts documents of the registry's KV over the result.
//!
//! | module | what it does |
//! |---|---|
//! | `raw` | YAML text → a tree of nodes with line and column; the only file that names the YAML crate |
//! | `expand` | `${NAME}` and `${NAME:-default}` in values |
//! | `keys` | every key, in one table |
//! | `renamed` | settings that have a new name: the old one works, with a warning |
//! | `layers` | flags and environment variables, and the key that each one sets |
//! | `check` | tree and overrides → [`Config`]; collects all problems instead of stopping at the first |
//! | `units`, `address`, `names` | parsers of single values: durations, sizes, listen addresses, service names |
//! | `text` | parts of texts that users read: numbers of things, labels, escaped text of others |
//! | `settings` | [`Config`] → flat list of keys and values, for `render`, `summary` and `diff` |
//! | `explained` | the settings of one service with their origins, and rules as text, for the explanation of a request |
//! | `policy_source` | what the file says of services, kept so that documents can be put between its layers |
//! | `documents` | documents of the registry's KV, which set how services are called, over the settings of the file |
//! | `data` | the values of a YAML document of another program |
//! | `small_file` | reads the small files of other crates too: regular files only, within a limit |
//! | `file_version` | detects a changed file without reading it, for other crates too |
//! | `stable_hash` | a hash by which every sidecar decides alike |
//! | `state_folder` | the folder of this program's own files, and a lock in it, for other crates |
//! | `diff` | running and new settings → what runs next, and what changes |
//!
//! The crate does not open the files that settings point at (certificates, token files, instance files),
//! resolve names or bind addresses: such an error appears later, where the value is used.

mod address;
mod check;
mod data;
mod diff;
mod documents;
mod error;
mod expand;
mod explained;
mod file_version;
mod http_words;
mod keys;
mod layers;
mod load;
mod model;
mod names;
mod origin;
mod policy_source;
mod raw;
mod renamed;
mod render;
mod settings;
mod small_file;
mod stable_hash;
mod state_folder;
mod summary;
mod text;
mod traffic_text;
mod units;

pub use data::{DataError, DataNode};
pub use diff::{RESTART_ONLY, ReloadPlan, SettingChange, fingerprint, plan_reload};
pub use documents::{
    AppliedDocuments, DocumentResult, DocumentState, DocumentVersions, MAX_DOCUMENT_BYTES,
    MAX_DOCUMENTS_BYTES, SettingsDocument, check_document, document_app, is_document, settings_prefix,
};
pub use error::{Problem, Problems, error_chain};
pub use explained::{
    CHAIN_KEY, PolicySetting, describe_header_match, describe_match, describe_origin, describe_path_match,
    describe_value_match, list_policy_settings,
};
pub use file_version::FileVersion;
pub use keys::{is_key_of_routes, keys};
pub use layers::{ADMIN_LISTEN_VARIABLE, CONFIG_VARIABLE, Environment, Overrides, VARIABLES};
pub use load::{LoadedConfig, MAX_FILE_BYTES, load, load_path};
pub use model::*;
pub use origin::{Layer, Origin, Origins};
pub use raw::parse_yaml;
pub use render::render;
pub use small_file::{SmallFile, check_own_folder};
pub use stable_hash::stable_hash;
pub use state_folder::{
    LockError, create_own_folder, file_name_part, lock_file, read_own_file, replace_own_file,
};
pub use summary::summarize;
pub use text::{breaks_line, count, escape_control, tag_list};
pub use units::{format_coarse_duration, format_duration, format_size, parse_duration, parse_go_duration};
