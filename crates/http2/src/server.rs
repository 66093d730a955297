//! A connection of the app.
//!
//! **Limits against abuse.** Enforced by the crate `h2`, each ends the connection with ENHANCE_YOUR_CALM: streams that the app resets
//! before they are accepted (20), resets caused by malformed frames (1,024), CONTINUATION frames without end, DATA frames that are
//! empty or tiny. The header list of a request is bounded by the limit of HTTP/1.1 heads; streams at once by [`Limits::streams`]; what is
//! in flight by the windows; frames that wait for a slow app by the window of the app. Time-outs are those of the walk.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use crate::{
    AppStream,
    fault::io_error,
    reader::{CONNECTION_WINDOW, STREAM_WINDOW},
};

/// Most bytes that wait in one stream for the socket of the app.
const SEND_BUFFER: usize = 256 * 1024;

/// Bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most streams at once.
    pub streams: u32,
    /// Most bytes of the fields of a request.
    pub head: u32,
}

/// A connection of the app, over `T`.
pub struct AppConnection<T>(h2::server::Connection<T, Bytes>);

impl<T> std::fmt::Debug for AppConnection<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppConnection").finish_non_exhaustive()
    }
}

/// How a connection ended that the sidecar ended.
#[derive(Debug)]
pub struct Ended {
    /// For logs.
    pub detail: String,
    /// The app kept to the rules of the protocol, and took too much.
    pub is_abuse: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> AppConnection<T> {
    /// Begins HTTP/2 over `stream`, of which the first bytes are the preface. The caller bounds the time that this takes.
    ///
    /// # Errors
    /// The preface is not complete, or the stream breaks.
    pub async fn begin(stream: T, limits: Limits) -> io::Result<Self> {
        let connection = h2::server::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(limits.head)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_connect_protocol()
            .handshake(stream)
            .await;
        connection.map(Self).map_err(io_error)
    }

    /// Moves the connection and its streams, and waits for the next request. `None`: the connection has ended in order. Requests
    /// that are malformed are reset and not given.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Box<AppStream>, Ended>>> {
        loop {
            match ready!(self.0.poll_accept(cx)) {
                Some(Ok((request, respond))) => match AppStream::new(request, respond) {
                    Ok(stream) => return Poll::Ready(Some(Ok(Box::new(stream)))),
                    Err((malformed, mut respond)) => {
                        debug!(%malformed, "a request of HTTP/2 is malformed");
                        respond.send_reset(Reason::PROTOCOL_ERROR);
                    }
                },
                Some(Err(error)) => {
                    let is_abuse = !error.is_remote() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
                    return Poll::Ready(Some(Err(Ended { detail: error.to_string(), is_abuse })));
                }
                None => return Poll::Ready(None),
            }
        }
    }

    /// Says GOAWAY: the app sends no new request on the connection, and those under way finish.
    pub fn begin_shutdown(&mut self) {
        self.0.graceful_shutdown();
    }
}
