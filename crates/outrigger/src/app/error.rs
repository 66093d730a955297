//! Why settings could not be put in place.

use outrigger_config::error_chain;

use crate::{config_files::FilesError, reload::ReloadError};

/// Why a sidecar could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data plane could not start.
    #[error(transparent)]
    Outbound(outrigger_proxy::StartError),
    /// Its settings cannot be put in place.
    #[error(transparent)]
    Settings(#[from] ApplyError),
    /// The settings of the registry name something that cannot be used.
    #[error("open the registry {place}")]
    Registry {
        /// Its address or file.
        place: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The thread of the admin side could not be started.
    #[error("start the thread of the admin side")]
    Thread(#[source] std::io::Error),
    /// Two metrics have one name: a bug.
    #[error("set up the metrics")]
    Metrics(#[from] prometheus::Error),
}

impl StartError {
    /// Whether a start on another port might succeed.
    pub fn is_bind_error(&self) -> bool {
        matches!(self, Self::Settings(ApplyError::Listen(_)))
    }
}

/// Why valid settings could not be put in place. Then nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Listeners could not be opened: a line for each, with its flag and its key.
    #[error("{}", .0.join("\n"))]
    Listen(Vec<String>),
    /// A file that they name cannot be used.
    #[error("registry.consul.token_file")]
    Token(#[source] outrigger_registry::Error),
    /// The file with the token of the API cannot be used.
    #[error("api.token_file {}", path.display())]
    ApiToken {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The TLS files of an upstream cannot be used.
    #[error("{key}.tls")]
    Tls {
        /// The upstream.
        key: String,
        /// Why.
        #[source]
        source: outrigger_proxy::TlsError,
    },
    /// This sidecar cannot do what files of the app ask for.
    #[error(transparent)]
    Files(#[from] FilesError),
}

impl From<ApplyError> for ReloadError {
    fn from(error: ApplyError) -> Self {
        let text = error_chain(&error);
        match error {
            ApplyError::Listen(_) => Self::Address(text),
            ApplyError::Token(_)
            | ApplyError::ApiToken { .. }
            | ApplyError::Tls { .. }
            | ApplyError::Files(_) => Self::Problems { problems: vec![text], warnings: Vec::new() },
        }
    }
}
