//! Why listeners cannot be opened, at the start and at a reload: all of them at once, each with its flag and its key.

use std::{io, net::SocketAddr, path::PathBuf};

use outrigger_config::error_chain;
use outrigger_dns::DNS_LISTEN;
use outrigger_net::BindError;
use outrigger_proxy::ListenErrors;

/// The key of the listener of the admin side.
pub(super) const ADMIN_LISTEN: &str = "admin.listen";
/// The key of the listener for the network.
pub(super) const METRICS_LISTEN: &str = "admin.metrics_listen";

/// The key of the listener of the API.
pub(super) const API_LISTEN: &str = "api.listen";

/// Why the API cannot be listened for.
#[derive(Debug)]
pub(super) enum ApiBindError {
    Tcp(Vec<BindError>),
    Unix { path: PathBuf, source: io::Error },
}

/// A line for each address that cannot be listened on.
#[derive(Debug)]
pub(super) struct ListenFailures<'a> {
    /// Where this sidecar listens already.
    own: &'a [SocketAddr],
    pub(super) lines: Vec<String>,
}

impl<'a> ListenFailures<'a> {
    pub(super) fn new(own: &'a [SocketAddr]) -> Self {
        Self { own, lines: Vec::new() }
    }

    /// What was opened for `key`. `None`: it could not be, and is noted.
    pub(super) fn note<T>(&mut self, key: &str, opened: Result<T, Vec<BindError>>) -> Option<T> {
        opened.map_err(|errors| errors.iter().for_each(|error| self.add(key, error))).ok()
    }

    /// The same for the API, which may be a Unix socket.
    pub(super) fn note_api<T>(&mut self, opened: Result<T, ApiBindError>) -> Option<T> {
        match opened {
            Ok(opened) => Some(opened),
            Err(ApiBindError::Tcp(errors)) => self.note(API_LISTEN, Err(errors)),
            Err(ApiBindError::Unix { path, source }) => {
                let path = path.display();
                self.lines.push(format!("--api-listen ({API_LISTEN}): listen on unix:{path}: {source}"));
                None
            }
        }
    }

    pub(super) fn note_proxy(&mut self, refused: &ListenErrors) {
        refused.0.iter().for_each(|one| self.add(&one.key, &one.source));
    }

    /// A wider or narrower form of an address that this sidecar listens on (`0.0.0.0` and `127.0.0.1`) cannot be bound beside it:
    /// the line then names that address.
    fn add(&mut self, key: &str, error: &BindError) {
        let mut line = describe(key, error);
        if let Some(addr) = self.own.iter().find(|addr| addr.port() == error.addr.port()) {
            line += &format!("; this sidecar listens on {addr}: choose another port, or restart it");
        }
        self.lines.push(line);
    }
}

fn describe(key: &str, error: &BindError) -> String {
    let name = listen_flag(key).map_or_else(|| key.to_owned(), |flag| format!("{flag} ({key})"));
    format!("{name}: {}", error_chain(error))
}

/// The flag that sets the address of a listener; a service's own listener has none.
fn listen_flag(key: &str) -> Option<&'static str> {
    match key {
        "outbound.listen" => Some("--listen"),
        ADMIN_LISTEN => Some("--admin-listen"),
        METRICS_LISTEN => Some("--metrics-listen"),
        API_LISTEN => Some("--api-listen"),
        DNS_LISTEN => Some("--dns-listen"),
        _ => None,
    }
}
