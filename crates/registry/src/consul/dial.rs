//! Opens connections to the agent.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use outrigger_config::{ConsulAddress, ConsulSettings, Tls};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{conn::Conn, tls};
use crate::Error;

/// Longest wait for a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(2);

/// Whom to connect to, and how.
pub(super) struct Dialer {
    address: ConsulAddress,
    tls: Option<Tls>,
}

impl Dialer {
    /// Checks that the TLS files can be used now.
    pub(super) fn new(config: &ConsulSettings) -> Result<Self, Error> {
        let tls = config.address.tls.then(|| config.tls.clone());
        if let Some(tls) = &tls {
            tls::client(tls, &tls::Files::read_now(tls)?)?;
            tls::server_name(tls, &config.address.host)?;
        }
        Ok(Self { address: config.address.clone(), tls })
    }

    /// The agent's address, for people.
    pub(super) fn address(&self) -> &ConsulAddress {
        &self.address
    }

    /// A fresh connection.
    pub(super) async fn connect(&self) -> Result<Conn, Error> {
        let heard = Arc::new(AtomicBool::new(false));
        let io = timeout(CONNECT, self.open()).await.unwrap_or_else(|_| {
            Err(self.failed(io::Error::new(io::ErrorKind::TimedOut, "no connection in time")))
        })?;
        Conn::new(Heard { io, heard: heard.clone() }, heard)
            .await
            .map_err(|error| self.failed(io::Error::other(error)))
    }

    async fn open(&self) -> Result<Box<dyn Io>, Error> {
        let (host, port) = (self.address.host.as_str(), self.address.port);
        let stream = TcpStream::connect((host, port)).await.map_err(|error| self.failed(error))?;
        // Requests are small and wait for their answer; Nagle would only delay them.
        stream.set_nodelay(true).map_err(|error| self.failed(error))?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let client = tls::client(tls, &tls::Files::read(tls).await?)?;
        let name = tls::server_name(tls, host)?;
        let stream = TlsConnector::from(Arc::new(client))
            .connect(name, stream)
            .await
            .map_err(|error| self.failed(error))?;
        Ok(Box::new(stream))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Connect { address: self.address.to_string(), source }
    }
}

/// A byte stream, encrypted or not.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A stream that notes when a byte arrives: an idle connection that breaks before one may be replaced.
pub(super) struct Heard {
    io: Box<dyn Io>,
    heard: Arc<AtomicBool>,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
