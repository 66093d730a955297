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

use super::{connection::AgentConnection, tls};
use crate::Error;

/// Longest wait for a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

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
            tls::client_config(tls, &tls::TlsFiles::read_blocking(tls)?)?;
            tls::server_name(tls, &config.address.host)?;
        }
        Ok(Self { address: config.address.clone(), tls })
    }

    /// The agent's address, for people.
    pub(super) fn address(&self) -> &ConsulAddress {
        &self.address
    }

    /// A fresh connection.
    pub(super) async fn connect(&self) -> Result<AgentConnection, Error> {
        let heard = Arc::new(AtomicBool::new(false));
        let io = timeout(CONNECT_TIMEOUT, self.open_stream()).await.unwrap_or_else(|_| {
            Err(self.connect_error(io::Error::new(io::ErrorKind::TimedOut, "no connection in time")))
        })?;
        AgentConnection::new(FirstByte { stream: io, arrived: heard.clone() }, heard)
            .await
            .map_err(|error| self.connect_error(io::Error::other(error)))
    }

    async fn open_stream(&self) -> Result<Box<dyn ByteStream>, Error> {
        let (host, port) = (self.address.host.as_str(), self.address.port);
        let stream = TcpStream::connect((host, port)).await.map_err(|error| self.connect_error(error))?;
        // Requests are small and wait for their answer; Nagle would only delay them.
        stream.set_nodelay(true).map_err(|error| self.connect_error(error))?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let client = tls::client_config(tls, &tls::TlsFiles::read(tls).await?)?;
        let name = tls::server_name(tls, host)?;
        let stream = TlsConnector::from(Arc::new(client))
            .connect(name, stream)
            .await
            .map_err(|error| self.connect_error(error))?;
        Ok(Box::new(stream))
    }

    fn connect_error(&self, source: io::Error) -> Error {
        Error::Connect { address: self.address.to_string(), source }
    }
}

/// A byte stream, encrypted or not.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

/// A stream that notes when a byte arrives: an idle connection that breaks before one may be replaced.
pub(super) struct FirstByte {
    stream: Box<dyn ByteStream>,
    arrived: Arc<AtomicBool>,
}

impl AsyncRead for FirstByte {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.arrived.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for FirstByte {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
