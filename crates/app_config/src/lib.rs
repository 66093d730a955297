//! The app's configuration from a registry's KV.
//!
//! | module | what it does |
//! |---|---|
//! | `view` | keys and documents → the merged configuration → JSON, YAML, environment, properties; pure |

mod view;

pub use view::{
    BlobFormat, ConfigView, EnvQuoting, GoodBlob, HiddenProperty, LastGoodBlobs, MergedProperty,
    ProblemReason, PropertyLayer, PropertyOrigin, PropertyValue, RenderedEnv, SourceProperties, ViewProblem,
};
