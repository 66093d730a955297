//! The error that stops the guard.

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why nothing could be measured. `Display` is one level; `source()` is the next.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct Error {
    doing: String,
    #[source]
    source: Option<Source>,
}

impl Error {
    /// An error without a deeper cause.
    pub fn new(what: impl Into<String>) -> Self {
        Self { doing: what.into(), source: None }
    }

    /// What was being done when `source` occurred.
    pub fn at(doing: impl Into<String>, source: impl Into<Source>) -> Self {
        Self { doing: doing.into(), source: Some(source.into()) }
    }
}

/// For `map_err`: what was being done.
pub(crate) fn doing<E: Into<Source>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
    move |source| Error::at(what, source)
}
