//! What an exchange brings: heads of the response, or why none came or why its body ended early.

use outrigger_http1::Framing;
use outrigger_http2::StreamFault;

use crate::transport::upload::BrokenUpload;

/// A head from the instance, which [`Exchange::take_response`](super::exchange::Exchange::take_response) gives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ResponseHead {
    /// 1xx, except 101.
    Interim,
    /// The response, and how its body ends.
    Final(Framing),
}

/// Why no head came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ExchangeError {
    /// The connection ended.
    Closed(String),
    /// This process is out of memory or buffers.
    OwnShortage(String),
    /// The response is no valid HTTP.
    Invalid(String),
    /// The instance refused the TLS session for want of a certificate that it accepts, in place of an answer (RFC 8446 §4.4.2.4). It
    /// has read nothing of the request.
    TlsRefused(String),
    /// The stream of HTTP/2 ended in a way that says more.
    Stream(StreamFault),
    /// The app's body broke.
    Upload(BrokenUpload),
}

/// Why a body that was being passed on was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DownloadError {
    /// The instance ended it early, or broke its framing.
    Cut(String),
    /// This process is out of memory or buffers.
    OwnShortage(String),
    /// The app takes no more bytes.
    AppGone,
}
