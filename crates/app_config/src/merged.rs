//! The merged configuration: what each source of `api.config.sources` gives, put over one another, and rendered. No I/O.
//!
//! | module | what it does |
//! |---|---|
//! | `context` | the parts that the settings name, and their formats |
//! | `source` | entries of the KV → properties with their origins; keeps the last good version of each document |
//! | `property` | a property and its origin; what is wrong with a key |
//! | `value` | values, and the properties of a YAML or JSON document |
//! | `properties` | Java properties, read and written |
//! | `path` | `db.hosts[0]` → its parts |
//! | `merge` | layers → one configuration; the more specific one wins |
//! | `tree`, `render` | the configuration as nested objects, in JSON and YAML; as Java properties |
//! | `env` | the configuration as lines `NAME=value` |
//!
//! Names and values follow Spring Cloud Consul Config: a property is a dotted name, an item of a list is `name[0]`, and a document
//! is flattened to such names before it is merged.

mod context;
mod env;
mod merge;
mod path;
mod properties;
mod property;
mod render;
mod source;
mod tree;
mod value;

pub use context::RenderedConfig;
pub use env::EnvQuoting;
pub use merge::{ConfigView, HiddenProperty};
pub use property::{MergedProperty, ProblemReason, PropertyOrigin, ViewProblem};
pub use source::{BlobFormat, LastGoodDocuments, PropertyLayer, SourceProperties};
pub use value::PropertyValue;
