//! Opens connections to the agent.

use std::{io, sync::Arc, time::Duration};

use outrigger_config::{ConsulAddress, ConsulSettings, Tls};
use outrigger_net::{
    Stream, connect_host,
    tls::{self, TlsError, TlsFault, TlsFiles},
};
use tokio::time::{Instant, timeout_at};

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
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        timeout_at(deadline, self.open_stream(deadline)).await.unwrap_or_else(|_| {
            let source = io::Error::new(io::ErrorKind::TimedOut, format!("not within {CONNECT_TIMEOUT:?}"));
            Err(self.connect_error(source))
        })
    }

    /// The error of a connection to this agent.
    pub(super) fn connect_error(&self, source: io::Error) -> Error {
        Error::Connect { address: self.address.to_string(), source }
    }

    async fn open_stream(&self, deadline: Instant) -> Result<Stream, Error> {
        let ConsulAddress { host, port, .. } = &self.address;
        let stream = connect_host(host, *port, CONNECT_TIMEOUT)
            .await
            .map_err(|error| self.connect_error(error.source))?;
        let Some(tls) = &self.tls else { return Ok(stream.into()) };
        // The files are read for every connection, so that rotated certificates need no restart.
        let files = TlsFiles::read(tls).await.map_err(file_error)?;
        let config = tls::client_config(tls, &files).map_err(file_error)?;
        let name = tls::server_name(tls, host).map_err(file_error)?;
        let handshake = timeout_at(deadline, Stream::connect_tls(stream, Arc::new(config), name)).await;
        handshake
            .unwrap_or_else(|_| Err(silent_handshake()))
            .map_err(|error| self.connect_error(with_hint(error)))
    }

    /// What to do when the first connection ended before a byte of the answer, beside what else it may mean.
    pub(super) fn unanswered_hint(&self) -> Option<&'static str> {
        self.tls.is_none().then_some(WRITE_HTTPS)
    }

    /// What to do about an error of an exchange that an error of TLS caused. `is_not_http`: what came is no HTTP.
    pub(super) fn exchange_hint(
        &self,
        error: &(dyn std::error::Error + 'static),
        is_not_http: bool,
    ) -> Option<&'static str> {
        TlsFault::of(error)
            .map(tls_hint)
            .or_else(|| (is_not_http && self.tls.is_none()).then_some(WRITE_HTTPS))
    }
}

/// The settings of the agent's address.
macro_rules! address_settings {
    () => {
        "the address (--consul, OUTRIGGER_CONSUL, CONSUL_HTTP_ADDR or registry.consul.address)"
    };
}

/// For an agent that speaks TLS where it was asked in plain HTTP.
pub(super) const WRITE_HTTPS: &str = concat!(
    "if the agent speaks TLS on this port, write https:// in ",
    address_settings!(),
    ", and name its authority: CONSUL_CACERT or registry.consul.tls.ca_file"
);

/// For an agent that speaks plain HTTP where it was asked with TLS.
const WRITE_HTTP: &str = concat!(
    "if the agent speaks plain HTTP on this port, write http:// in ",
    address_settings!(),
    ", or the port of its TLS listener"
);

/// For an agent that closes the connection within the handshake.
const CLOSED_IN_HANDSHAKE: &str = concat!(
    "if the agent speaks plain HTTP on this port, write http:// in ",
    address_settings!(),
    ", or the port of its TLS listener; if it does not, it may hold as many connections of this address as \
     limits.http_max_conns_per_client allows"
);

/// The error of a handshake, with what to do about it.
fn with_hint(error: io::Error) -> io::Error {
    let hint = match TlsFault::of(&error) {
        Some(fault) => tls_hint(fault),
        // A server of plain HTTP may wait for the end of a head, or close the connection without a word; an agent that takes no
        // more connections closes it, too.
        None if error.kind() == io::ErrorKind::TimedOut => tls_hint(TlsFault::NotTls),
        None if is_end(&error) => CLOSED_IN_HANDSHAKE,
        None => return error,
    };
    io::Error::new(error.kind(), format!("{error}; {hint}"))
}

/// A handshake that takes longer than a connection may. The peer accepted the connection.
fn silent_handshake() -> io::Error {
    let text = format!("accepted, but no TLS handshake within {CONNECT_TIMEOUT:?}");
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// Whether the peer ended the connection.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// The setting that mends a fault.
fn tls_hint(fault: TlsFault) -> &'static str {
    match fault {
        TlsFault::UnknownIssuer => {
            "name the authority of the agent's certificate: CONSUL_CACERT or registry.consul.tls.ca_file"
        }
        TlsFault::WrongName => {
            "name a host of the agent's certificate: CONSUL_TLS_SERVER_NAME or registry.consul.tls.server_name"
        }
        TlsFault::OutOfTime => "renew the agent's certificate, or set the clock of this machine",
        TlsFault::UnfitCertificate => {
            "give the agent a certificate for a server, signed by an authority that CONSUL_CACERT or \
             registry.consul.tls.ca_file names, as `consul tls cert create -server` makes it"
        }
        TlsFault::NotTls => WRITE_HTTP,
        TlsFault::ClientCertificate => {
            "the agent wants a client certificate that it trusts: CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY, or \
             registry.consul.tls.cert_file and key_file"
        }
    }
}

fn file_error(error: TlsError) -> Error {
    let path = error.path.map_or_else(|| "registry.consul.tls".into(), |path| path.display().to_string());
    Error::File { path, reason: error.reason }
}
