//! YAML of other programs: the app's configuration in the registry's KV. JSON is YAML.
//!
//! Unlike a settings file, a value keeps its type, because no key says which one it has.

/// A value of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataNode {
    /// `null`, `~`, or nothing.
    Null,
    /// `true` or `false`. Other words that YAML 1.1 reads as booleans, as `off`, are text.
    Bool(bool),
    /// A finite number without quotes.
    Number {
        /// As it is written: `0x1F`, `1.50`.
        written: String,
        /// What it means, in decimal: `31`, `1.5`.
        value: String,
    },
    /// Everything else.
    Text(String),
    /// A sequence.
    List(Vec<DataNode>),
    /// A mapping, in the order of the text.
    Map(Vec<(String, DataNode)>),
}

/// A text that is not YAML, or that is above the limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct DataError {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
}
