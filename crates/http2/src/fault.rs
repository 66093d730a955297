//! Why a stream ended that stands for a connection.

use std::io;

/// Why a stream to an instance brings no response, beyond what an [`io::Error`] says. It is inside the error
/// ([`StreamFault::of`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// The instance has not processed the request: it refused the stream, or said with GOAWAY that it takes no more of them
    /// (RFC 9113 §8.7).
    #[error("{0}")]
    Unprocessed(String),
    /// The instance answered the preface of HTTP/2 with HTTP/1. It has processed nothing.
    #[error("the instance answered the preface of HTTP/2 with HTTP/1")]
    Http1Instance,
    /// The request is one of HTTP/1.1 that HTTP/2 has no form for. Nothing was sent.
    #[error("{0}")]
    NotExpressible(String),
}

impl StreamFault {
    /// The fault inside an error.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<StreamFault> for io::Error {
    fn from(fault: StreamFault) -> Self {
        Self::other(fault)
    }
}

/// An error of the crate `h2`, where nothing more is known.
pub(crate) fn io_error(error: h2::Error) -> io::Error {
    let detail = error.to_string();
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::Error::new(io::ErrorKind::ConnectionReset, detail));
    }
    let kind = if error.is_reset() || error.is_go_away() {
        io::ErrorKind::ConnectionReset
    } else {
        io::ErrorKind::InvalidData
    };
    io::Error::new(kind, detail)
}
