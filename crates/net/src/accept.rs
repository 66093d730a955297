//! Accepting connections that belong to no reactor yet.
//!
//! tokio's listener registers each connection in the reactor of the task that accepts. A connection that another worker serves would
//! be registered, taken out and registered again: three system calls more for each connection.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
};

use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::{
    Interest,
    unix::{AsyncFd, AsyncFdReadyGuard},
};

/// A listening socket of which the connections are taken as they come from the kernel.
#[derive(Debug)]
pub struct Acceptor(AsyncFd<Arc<TcpListener>>);

impl Acceptor {
    /// Registers `socket`, which must be non-blocking, in the reactor of the current task. One acceptor at a time.
    ///
    /// # Errors
    /// When the reactor cannot take it, as for want of memory (epoll_ctl(2)); the socket still listens.
    #[expect(
        deprecated,
        reason = "its successor is unsafe; the socket is owned, and open as long as its registration"
    )]
    pub fn new(socket: Arc<TcpListener>) -> io::Result<Self> {
        AsyncFd::with_interest(socket, Interest::READABLE).map(Self)
    }

    /// Waits until connections are queued. Cancel safe.
    ///
    /// # Errors
    /// When the reactor has ended.
    pub async fn queue(&self) -> io::Result<Queue<'_>> {
        self.0.readable().await.map(Queue)
    }
}

/// The connections that the kernel has queued.
#[derive(Debug)]
pub struct Queue<'a>(AsyncFdReadyGuard<'a, Arc<TcpListener>>);

impl Queue<'_> {
    /// The next connection, non-blocking, and its peer. `None`: the queue is empty, and [`Acceptor::queue`] waits again.
    ///
    /// # Errors
    /// Those of accept(2).
    pub fn accept(&mut self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        self.0.try_io(|socket| accept_queued(socket.get_ref())).ok()
    }
}

/// A connection that the kernel has queued on `socket`, without waiting.
///
/// # Errors
/// Those of accept(2); `WouldBlock` when the queue is empty.
pub fn accept_queued(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (accepted, peer) = acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let stream = TcpStream::from(accepted);
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let peer = peer.map_or_else(|| stream.peer_addr(), Ok)?;
    Ok((stream, peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_is_non_blocking_and_sends_without_delay() {
        let bound = crate::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let socket = Arc::new(bound.socket);
        let acceptor = Acceptor::new(socket.clone()).unwrap();
        assert_eq!(accept_queued(&socket).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let (first, second) =
            (TcpStream::connect(bound.addr).unwrap(), TcpStream::connect(bound.addr).unwrap());
        let mut queue = acceptor.queue().await.unwrap();
        let (accepted, peer) = queue.accept().unwrap().unwrap();
        assert_eq!(peer, first.local_addr().unwrap());
        assert!(accepted.nodelay().unwrap());
        let read = io::Read::read(&mut &accepted, &mut [0; 1]);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(queue.accept().unwrap().unwrap().1, second.local_addr().unwrap());
        assert!(queue.accept().is_none());
        let third = TcpStream::connect(bound.addr).unwrap();
        let (_, peer) = acceptor.queue().await.unwrap().accept().unwrap().unwrap();
        assert_eq!(peer, third.local_addr().unwrap());
    }
}
