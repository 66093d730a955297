//! Opens connections to the agent.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use outrigger_config::{ConsulAddress, ConsulSettings};
use outrigger_net::{
    Lookups, Stream, connect, first_connected, parse_ip,
    tls::{ClientTls, TlsConnectError, TlsError, TlsFault, TlsSessions},
};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::Error;

/// Longest wait for a connection to one address, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for the addresses of the agent's name. Then those of before are used.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// The agent's address and the TLS settings for it.
pub(super) struct Dialer {
    pub(super) address: ConsulAddress,
    tls: Option<Arc<(ClientTls, TlsSessions)>>,
    /// Look-ups of the agent's name alone: those of instances, which may hang, never come before them.
    lookups: Lookups,
    // Locked for a read or a replacement, never over an await.
    known: Mutex<KnownAddresses>,
}

/// What was found of the agent's name.
#[derive(Debug, Default)]
struct KnownAddresses {
    /// By the last look-up that succeeded.
    found: Arc<[IpAddr]>,
    /// The address of the last connection. It is tried first.
    last: Option<IpAddr>,
}

impl Dialer {
    /// Checks that the TLS files can be used now.
    pub(super) fn new(config: &ConsulSettings) -> Result<Self, Error> {
        Self::with_lookups(config, Lookups::new(1))
    }

    /// As [`Dialer::new`], with this resolver.
    pub(super) fn with_lookups(config: &ConsulSettings, lookups: Lookups) -> Result<Self, Error> {
        let tls = config.address.tls.then(|| ClientTls::new(config.tls.clone(), Vec::new()).checked_always());
        if let Some(tls) = &tls {
            tls.check_blocking(&config.address.host).map_err(file_error)?;
        }
        let tls = tls.map(|tls| Arc::new((tls, TlsSessions::default())));
        Ok(Self { address: config.address.clone(), tls, lookups, known: Mutex::default() })
    }

    /// A new connection, to the first address of the agent's name that accepts one. Each has its own time.
    pub(super) async fn connect(&self) -> Result<Stream, Error> {
        let (first, others) = self.addresses().await?;
        let host: Arc<str> = self.address.host.as_str().into();
        let open = |addr: SocketAddr| {
            let (tls, host) = (self.tls.clone(), host.clone());
            async move {
                let deadline = Instant::now() + CONNECT_TIMEOUT;
                let stream =
                    connect(addr, CONNECT_TIMEOUT).await.map_err(|error| Failure::Io(error.source))?;
                let Some(tls) = tls else { return Ok((addr, Stream::from(stream))) };
                let (tls, sessions) = &*tls;
                match timeout_at(deadline, tls.connect(stream, sessions, &host, None)).await {
                    Ok(Ok(connection)) => Ok((addr, connection.stream)),
                    Ok(Err(TlsConnectError::Files(error))) => Err(Failure::Files(error)),
                    Ok(Err(TlsConnectError::Handshake { source, .. })) => Err(Failure::Io(with_hint(source))),
                    Err(_) => Err(Failure::Io(with_hint(silent_handshake()))),
                }
            }
        };
        let connected = first_connected(first, &others, open).await;
        let (addr, stream) = connected.map_err(|failure| match failure {
            Failure::Io(error) => self.connect_error(error),
            Failure::Files(error) => file_error(error),
        })?;
        self.known.lock().last = Some(addr.ip());
        Ok(stream)
    }

    /// Whether an address of the agent accepts a connection, which is closed again. TLS is not tried.
    pub(super) async fn reach(&self) -> Result<(), Error> {
        let (first, others) = self.addresses().await?;
        let open = async |addr| connect(addr, CONNECT_TIMEOUT).await.map_err(|error| error.source);
        first_connected(first, &others, open).await.map(drop).map_err(|error| self.connect_error(error))
    }

    /// The addresses of the agent, that of the last connection first; those of an earlier look-up where the name cannot be
    /// looked up now.
    async fn addresses(&self) -> Result<(SocketAddr, Vec<SocketAddr>), Error> {
        let ConsulAddress { host, port, .. } = &self.address;
        if let Some(listed) = parse_ip(host, *port) {
            let addr = listed.map_err(|error| self.connect_error(io::Error::other(error)))?;
            return Ok((addr, Vec::new()));
        }
        let has_earlier = !self.known.lock().found.is_empty();
        let found = self.lookups.look_up_within(host, LOOKUP_TIMEOUT, has_earlier).await;
        let mut known = self.known.lock();
        let fault = match found {
            Some(Ok(found)) => {
                known.found = found;
                "the name has no address".into()
            }
            Some(Err(reason)) => reason,
            None => "the resolver did not answer in time".into(),
        };
        let mut addrs: Vec<_> = known.found.iter().map(|ip| SocketAddr::new(*ip, *port)).collect();
        // A stable sort: the others keep the resolver's order.
        addrs.sort_by_key(|addr| Some(addr.ip()) != known.last);
        let mut addrs = addrs.into_iter();
        match addrs.next() {
            Some(first) => Ok((first, addrs.collect())),
            None => Err(self.connect_error(io::Error::other(format!("look up {host:?}: {fault}")))),
        }
    }

    /// The error of a connection to this agent.
    pub(super) fn connect_error(&self, source: io::Error) -> Error {
        Error::Connect { address: self.address.to_string(), source }
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

/// Why there is no connection.
enum Failure {
    Io(io::Error),
    Files(TlsError),
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
macro_rules! write_http {
    () => {
        concat!(
            "if the agent speaks plain HTTP on this port, write http:// in ",
            address_settings!(),
            ", or the port of its TLS listener"
        )
    };
}

/// For an agent that closes the connection within the handshake.
const CLOSED_IN_HANDSHAKE: &str = concat!(
    write_http!(),
    "; if it does not, it may hold as many connections of this address as \
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
pub(super) fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// The setting that mends a fault.
fn tls_hint(fault: TlsFault) -> &'static str {
    match fault {
        TlsFault::UnknownIssuer => {
            "name the authority of the agent's certificate: CONSUL_CACERT or registry.consul.tls.ca_file"
        }
        TlsFault::WrongName | TlsFault::NotAllowed => {
            "name a host of the agent's certificate: CONSUL_TLS_SERVER_NAME or registry.consul.tls.server_name"
        }
        TlsFault::OutOfTime => "renew the agent's certificate, or set the clock of this machine",
        TlsFault::UnfitCertificate => {
            "give the agent a certificate for a server, signed by an authority that CONSUL_CACERT or \
             registry.consul.tls.ca_file names, as `consul tls cert create -server` makes it"
        }
        TlsFault::NotTls => write_http!(),
        TlsFault::NothingInCommon => {
            "let the agent speak TLS 1.2 or 1.3 (tls.defaults.tls_min_version of Consul)"
        }
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
