//! What stands for a connection where there is no socket of its own: a stream of HTTP/2, or the memory of a test.

use std::{
    fmt::Debug,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection without a socket of its own. It behaves as a TCP connection does: bytes in order, an end of each direction, a reset.
pub trait VirtualStream: AsyncRead + AsyncWrite + Debug + Send + Unpin + 'static {
    /// Whether there are bytes to read, or the peer has ended its side or broken the connection. Wakes no task later.
    fn is_readable(&mut self) -> bool;

    /// Waits for what [`VirtualStream::is_readable`] tells.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether the peer has ended its side or broken the connection; whether there are bytes to read does not matter. Wakes no task
    /// later.
    fn is_read_closed(&mut self) -> bool;

    /// Waits for what [`VirtualStream::is_read_closed`] tells.
    fn poll_read_closed(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Dropping the stream resets the connection (`true`), or ends it in order.
    fn set_reset_on_close(&mut self, resets: bool);
}
