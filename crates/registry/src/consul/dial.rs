//! Opens connections to the agent.

use std::{io, sync::Arc, time::Duration};

use outrigger_config::{ConsulAddress, ConsulSettings, Tls};
use outrigger_net::{
    Stream, connect_host,
    tls::{self, TlsError, TlsFiles},
};
use tokio::time::timeout;

use crate::Error;

/// Longest wait for a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The agent's address and the TLS settings for it.
pub(super) struct Dialer {
    pub(super) address: ConsulAddress,
    tls: Option<Tls>,
}

impl Dialer {
    /// Checks that the TLS files can be used now.
    pub(super) fn new(config: &ConsulSettings) -> Result<Self, Error> {
        let tls = config.address.tls.then(|| config.tls.clone());
        if let Some(tls) = &tls {
            let files = TlsFiles::read_blocking(tls).map_err(file_error)?;
            tls::client_config(tls, &files).map_err(file_error)?;
            tls::server_name(tls, &config.address.host).map_err(file_error)?;
        }
        Ok(Self { address: config.address.clone(), tls })
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<Stream, Error> {
        timeout(CONNECT_TIMEOUT, self.open_stream()).await.unwrap_or_else(|_| {
            let source = io::Error::new(io::ErrorKind::TimedOut, format!("not within {CONNECT_TIMEOUT:?}"));
            Err(self.connect_error(source))
        })
    }

    /// The error of a connection to this agent.
    pub(super) fn connect_error(&self, source: io::Error) -> Error {
        Error::Connect { address: self.address.to_string(), source }
    }

    async fn open_stream(&self) -> Result<Stream, Error> {
        let ConsulAddress { host, port, .. } = &self.address;
        let stream = connect_host(host, *port, CONNECT_TIMEOUT)
            .await
            .map_err(|error| self.connect_error(error.source))?;
        let Some(tls) = &self.tls else { return Ok(stream.into()) };
        // The files are read for every connection, so that rotated certificates need no restart.
        let files = TlsFiles::read(tls).await.map_err(file_error)?;
        let config = tls::client_config(tls, &files).map_err(file_error)?;
        let name = tls::server_name(tls, host).map_err(file_error)?;
        Stream::connect_tls(stream, Arc::new(config), name).await.map_err(|error| self.connect_error(error))
    }
}

fn file_error(error: TlsError) -> Error {
    let path = error.path.map_or_else(|| "registry.consul.tls".into(), |path| path.display().to_string());
    Error::File { path, reason: error.reason }
}
