//! A connection, plain or encrypted, that counts its bytes on request.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    task::coop::unconstrained,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

#[cfg(feature = "testing")]
use crate::memory::MemoryStream;
use crate::virtual_stream::VirtualStream;

/// Bytes that a stream has carried, readable while another owner drives the stream. Of an encrypted
/// stream these are the bytes within the encryption.
#[derive(Debug, Default)]
pub struct ByteCounts {
    read: AtomicU64,
    written: AtomicU64,
}

impl ByteCounts {
    /// Bytes read from the peer so far.
    pub fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Bytes that the system has accepted for the peer so far.
    pub fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }
}

/// A connection to a peer: TCP, TLS over TCP, or what stands for one ([`VirtualStream`]).
#[derive(Debug)]
pub struct Stream {
    transport: Transport,
    /// `None`: bytes are not counted, because [`Stream::counts`] was not called.
    counts: Option<Arc<ByteCounts>>,
}

#[derive(Debug)]
enum Transport {
    Tcp(TcpStream),
    // Boxed: the state of a TLS session is much larger than a socket.
    Tls(Box<TlsStream<CountedSocket>>),
    Virtual(Box<dyn VirtualStream>),
}

/// The socket below a TLS session, with the number of encrypted bytes that the system has accepted.
#[derive(Debug)]
struct CountedSocket {
    socket: TcpStream,
    written: u64,
}

impl AsyncRead for CountedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for CountedSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.count(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.count(polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl CountedSocket {
    fn count(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = &polled {
            self.written += *n as u64;
        }
        polled
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self { transport: Transport::Tcp(stream), counts: None }
    }
}

impl Stream {
    /// Makes a TLS session over `socket`, as its client. The caller bounds the time that this takes. `alpn`: the one protocol that is
    /// offered; `None`: those of `config`.
    ///
    /// # Errors
    /// When the peer's certificate is not valid for `name`, or the handshake fails otherwise.
    pub(crate) async fn connect_tls(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        alpn: Option<&[u8]>,
    ) -> io::Result<Self> {
        let socket = CountedSocket { socket, written: 0 };
        let connector = TlsConnector::from(config);
        let tls = match alpn {
            Some(one) => connector.with_alpn(vec![one.to_vec()]).connect(name, socket).await?,
            None => connector.connect(name, socket).await?,
        };
        Ok(Self { transport: Transport::Tls(Box::new(tls)), counts: None })
    }

    /// A stream without a socket of its own.
    pub fn of_virtual(stream: Box<dyn VirtualStream>) -> Self {
        Self { transport: Transport::Virtual(stream), counts: None }
    }

    /// Two ends of one connection in memory, for tests. `capacity`: the bytes of one direction that may be unread, at least 1.
    #[cfg(feature = "testing")]
    pub fn in_memory(capacity: usize) -> (Self, Self) {
        let (near, far) = MemoryStream::pair(capacity);
        (Self::of_virtual(Box::new(near)), Self::of_virtual(Box::new(far)))
    }

    /// The counts of this stream, from the first call on; they stay readable after the stream is closed.
    pub fn counts(&mut self) -> Arc<ByteCounts> {
        self.counts.get_or_insert_default().clone()
    }

    /// The TLS session. `None`: the stream is not encrypted.
    pub(crate) fn tls_session(&self) -> Option<&ClientConnection> {
        match &self.transport {
            Transport::Tls(stream) => Some(stream.get_ref().1),
            Transport::Tcp(_) => None,
            Transport::Virtual(_) => None,
        }
    }

    /// The protocol that both sides of a TLS session chose (ALPN), as `h2`. `None`: none, or the stream is not encrypted.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls_session()?.alpn_protocol()
    }

    /// How many encrypted bytes the system has accepted for the peer, the handshake included. What was written to a TLS session
    /// may still wait in this process; and a write that fails may have passed on a part before. `None`: the stream is not encrypted.
    #[inline]
    pub fn encrypted_written(&self) -> Option<u64> {
        match &self.transport {
            Transport::Tls(stream) => Some(stream.get_ref().0.written),
            Transport::Tcp(_) => None,
            Transport::Virtual(_) => None,
        }
    }

    /// The address of this side.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.transport {
            Transport::Tcp(stream) => stream.local_addr(),
            Transport::Tls(stream) => stream.get_ref().0.socket.local_addr(),
            Transport::Virtual(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether an idle stream cannot carry another request: the peer has closed it, or has sent bytes
    /// that were not asked for. Of a plain stream, tokio's readiness is asked; it is a cache that can prove
    /// a stream stale and never fresh, so `ask_kernel` asks the kernel too, by one system call. A
    /// TLS stream is read until nothing is left, because a session ticket is data on the socket and no
    /// sign of an end.
    pub fn is_stale(&mut self, ask_kernel: bool) -> bool {
        // Unconstrained: tokio's budget would answer Pending without looking at the socket.
        match &mut self.transport {
            Transport::Tcp(stream) => {
                let ready = pin!(unconstrained(poll_fn(|cx| stream.poll_read_ready(cx).map(drop))));
                if ready.poll(&mut Context::from_waker(Waker::noop())).is_pending() && !ask_kernel {
                    return false;
                }
                let mut byte = [MaybeUninit::uninit()];
                match SockRef::from(&*stream).peek(&mut byte) {
                    Ok(_) => true,
                    Err(error) => error.kind() != io::ErrorKind::WouldBlock,
                }
            }
            Transport::Tls(stream) => {
                let read = unconstrained(poll_fn(|cx| Pin::new(&mut **stream).poll_fill_buf(cx).map(drop)));
                pin!(read).poll(&mut Context::from_waker(Waker::noop())).is_ready()
            }
            Transport::Virtual(stream) => stream.is_readable(),
        }
    }

    /// Writes some of `data` without asking the reactor, which reports room only when a third of the system's buffer is free: with a
    /// large buffer and a slow peer that may take minutes. Through TLS, or without a socket, nothing is written so.
    ///
    /// # Errors
    /// `WouldBlock` when the buffer is full; else those of send(2).
    pub fn write_past_reactor(&self, data: &[u8]) -> io::Result<usize> {
        match &self.transport {
            Transport::Tcp(stream) => SockRef::from(stream).send(data),
            Transport::Tls(_) | Transport::Virtual(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Whether the peer has ended its side or broken the connection, as far as the reactor knows; whether there are bytes to read
    /// does not matter.
    pub fn is_read_closed(&mut self) -> bool {
        if let Transport::Virtual(stream) = &mut self.transport {
            return stream.is_read_closed();
        }
        pin!(self.read_closed()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Waits until the peer has ended its side or broken the connection. Reads nothing.
    pub async fn read_closed(&mut self) {
        let socket = match &mut self.transport {
            Transport::Tcp(stream) => &*stream,
            Transport::Tls(stream) => &stream.get_ref().0.socket,
            Transport::Virtual(stream) => return poll_fn(|cx| stream.poll_read_closed(cx)).await,
        };
        // The interest in priority data stands for "read closed, and not readable", which has no interest of its own.
        #[cfg(target_os = "linux")]
        let interest = Interest::PRIORITY | Interest::ERROR;
        #[cfg(not(target_os = "linux"))]
        let interest = Interest::ERROR;
        while let Ok(ready) = socket.ready(interest).await
            && !ready.is_read_closed()
            && !ready.is_error()
        {
            let cleared = socket.try_io(interest, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            debug_assert!(cleared.is_err());
        }
    }

    /// Closing the stream resets the connection instead of ending it in order, also where the end of the process closes it.
    pub fn reset_on_close(&mut self) {
        self.set_reset_on_close(true);
    }

    /// Takes [`Stream::reset_on_close`] back.
    pub fn end_on_close(&mut self) {
        self.set_reset_on_close(false);
    }

    fn set_reset_on_close(&mut self, resets: bool) {
        let socket = match &mut self.transport {
            Transport::Tcp(stream) => &*stream,
            Transport::Tls(stream) => &stream.get_ref().0.socket,
            Transport::Virtual(stream) => return stream.set_reset_on_close(resets),
        };
        // An error means that the connection is gone already.
        let _ = SockRef::from(socket).set_linger(resets.then_some(Duration::ZERO));
    }

    /// Waits until there are bytes to read, or the stream has ended. A TLS stream is read until it has decrypted some: what is on its
    /// socket may be none of them, and some may be decrypted already.
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(stream) => stream.poll_read_ready(cx),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_fill_buf(cx).map_ok(drop),
            Transport::Virtual(stream) => stream.poll_readable(cx).map(Ok),
        }
    }

    fn count_written(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Poll::Ready(Ok(n)), Some(counts)) = (&polled, &self.counts) {
            add(&counts.written, *n);
        }
        polled
    }
}

/// Adds to a count. Only the owner of the stream writes it, so no atomic addition is needed.
fn add(count: &AtomicU64, n: usize) {
    count.store(count.load(Relaxed) + n as u64, Relaxed);
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Virtual(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        };
        if let (true, Some(counts)) = (polled.is_ready(), &self.counts) {
            add(&counts.read, buf.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Virtual(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        };
        self.count_written(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Virtual(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        };
        self.count_written(polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Virtual(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Virtual(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
