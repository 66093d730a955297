//! The app's configuration from a registry's KV.
//!
//! | module | what it does |
//! |---|---|
//! | `merged` | keys and documents → the merged configuration → JSON, YAML, environment, properties; pure |

mod merged;

pub use merged::{
    BlobFormat, ConfigView, EnvQuoting, GoodBlob, HiddenProperty, LastGoodBlobs, MergedProperty,
    ProblemReason, PropertyLayer, PropertyOrigin, PropertyValue, RenderedEnv, SourceProperties, ViewProblem,
};
