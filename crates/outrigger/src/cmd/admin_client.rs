//! Asks the admin side of a sidecar on this machine: what `wait`, `drain`, `maintenance`, `reload` and `events` share.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::Full;
use outrigger_config::{ADMIN_LISTEN_VARIABLE, Environment};
use outrigger_registration::http_client::{self, StreamedAnswer};
use serde_json::Value;
use tokio::time::timeout;

use super::report::CommandError;
use crate::{admin::CHANGE_HEADER, telemetry::error_chain};

/// Where a sidecar without settings has its admin side.
const DEFAULT_ADMIN: &str = "localhost:7079";

/// Longest wait for a name to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The admin side of one sidecar.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct AdminClient {
    /// Address of the sidecar's admin side, also as http://HOST:PORT. Default: OUTRIGGER_ADMIN_LISTEN, else
    /// localhost:7079.
    #[arg(long = "admin", value_name = "HOST:PORT")]
    admin: Option<String>,
}

/// Why the admin side gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    /// Another attempt cannot help.
    #[error("{origin}: {text:?} {reason}; write {DEFAULT_ADMIN} or http://{DEFAULT_ADMIN}")]
    Address { origin: &'static str, text: String, reason: &'static str },
    /// As [`AdminError::Address`], of the variable; the default would be another sidecar.
    #[error("{ADMIN_LISTEN_VARIABLE}: is not UTF-8; write {DEFAULT_ADMIN} or http://{DEFAULT_ADMIN}")]
    NotUtf8,
    #[error(
        "no sidecar answers at {admin}: {reason}; is it running, and is that its admin.listen? --admin or \
         {ADMIN_LISTEN_VARIABLE} names another address"
    )]
    NoAnswer {
        admin: String,
        reason: String,
        /// No address accepts a connection: no sidecar listens there.
        refused: bool,
    },
}

impl From<AdminError> for CommandError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Address { .. } | AdminError::NotUtf8 => Self::Settings(format!("outrigger: {error}")),
            AdminError::NoAnswer { .. } => Self::running(error.to_string()),
        }
    }
}

/// The address of an admin side. Displays as `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AdminAddress {
    /// A name, or an IP address without brackets.
    host: String,
    port: u16,
}

impl AdminAddress {
    /// `HOST:PORT` or `http://HOST:PORT`, else the reason why it is neither.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let authority = match text.split_once("://") {
            None => text,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
                rest.strip_suffix('/').unwrap_or(rest)
            }
            Some(_) => return Err("is no http:// address, and a sidecar has no TLS there"),
        };
        if authority.contains(['/', '?', '#', '@']) {
            return Err("has more than a host and a port");
        }
        let (host, port) = authority.rsplit_once(':').ok_or("has no port")?;
        let port = port.parse().map_err(|_| "has no port")?;
        if port == 0 {
            return Err("has port 0, for which the sidecar chose a port when it started");
        }
        if authority.parse::<Ipv6Addr>().is_ok() || host.parse::<Ipv6Addr>().is_ok() {
            return Err("is an IPv6 address without brackets, as in [::1]:7079");
        }
        let bare = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').filter(|inner| inner.parse::<Ipv6Addr>().is_ok()),
            None => Some(host).filter(|host| !host.is_empty() && !host.contains([':', ']', ' '])),
        };
        Ok(Self { host: bare.ok_or("has no host")?.to_owned(), port })
    }

    /// The socket addresses to try, in turn. A listener on all addresses is reached by the loopback ones.
    pub(super) async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let at = |ip: IpAddr| SocketAddr::new(ip, self.port);
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) if ip.is_unspecified() => Ok(vec![at(Ipv4Addr::LOCALHOST.into())]),
            Ok(IpAddr::V6(ip)) if ip.is_unspecified() => {
                Ok(vec![at(Ipv6Addr::LOCALHOST.into()), at(Ipv4Addr::LOCALHOST.into())])
            }
            Ok(ip) => Ok(vec![at(ip)]),
            Err(_) => {
                let found = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((&*self.host, self.port))).await;
                Ok(found
                    .unwrap_or_else(|_| Err(io::Error::other("the name is not resolved in time")))?
                    .collect())
            }
        }
    }
}

impl std::fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl AdminClient {
    /// The flag, else the variable of `admin.listen`, else the default.
    fn address(&self, environment: &Environment) -> Result<AdminAddress, AdminError> {
        let (origin, text) = match (&self.admin, environment.non_empty(ADMIN_LISTEN_VARIABLE)) {
            (Some(text), _) => ("--admin", text.as_str()),
            (None, Some(text)) => (ADMIN_LISTEN_VARIABLE, text),
            (None, None) if environment.is_not_utf8(ADMIN_LISTEN_VARIABLE) => {
                return Err(AdminError::NotUtf8);
            }
            (None, None) => ("default", DEFAULT_ADMIN),
        };
        AdminAddress::parse(text).map_err(|reason| AdminError::Address {
            origin,
            text: text.to_owned(),
            reason,
        })
    }

    /// The answer of the first address of the admin side that gives one, each within `limit`.
    pub(super) async fn request(
        &self,
        method: &Method,
        path: &str,
        limit: Duration,
    ) -> Result<Response<Bytes>, AdminError> {
        let request = Request::builder().method(method).uri(path).header(CHANGE_HEADER.0, CHANGE_HEADER.1);
        self.ask(request, |addr, request| http_client::exchange(addr, request, limit)).await
    }

    /// The head of the first answer to a GET with these fields, each within `limit`. Its body is read as it comes.
    pub(super) async fn open(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        limit: Duration,
    ) -> Result<StreamedAnswer, AdminError> {
        let request = Request::builder().method(Method::GET).uri(path);
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.ask(request, |addr, request| http_client::open(addr, request, limit)).await
    }

    /// What `ask` gets of the first address that answers.
    async fn ask<T, F>(
        &self,
        request: http::request::Builder,
        ask: impl Fn(SocketAddr, Request<Full<Bytes>>) -> F,
    ) -> Result<T, AdminError>
    where
        F: Future<Output = Result<T, http_client::Error>>,
    {
        let admin = self.address(&Environment::from_process())?;
        let no_answer = |reason, refused| AdminError::NoAnswer { admin: admin.to_string(), reason, refused };
        let addrs = admin.resolve().await.map_err(|error| no_answer(error_chain(&error), false))?;
        let request =
            request.body(Full::<Bytes>::default()).map_err(|error| no_answer(error.to_string(), false))?;
        let mut failures = Vec::new();
        for addr in addrs {
            let mut request = request.clone();
            // An admin side refuses every name but localhost, also one that leads to it.
            let host = HeaderValue::try_from(addr.to_string());
            let host = host.map_err(|error| no_answer(error.to_string(), false))?;
            request.headers_mut().insert(header::HOST, host);
            match ask(addr, request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => failures.push(error),
            }
        }
        let reason = failures.last().map_or("it has no address".to_owned(), |error| error_chain(error));
        let refused = !failures.is_empty()
            && failures.iter().all(|error| matches!(error, http_client::Error::Connect { .. }));
        Err(no_answer(reason, refused))
    }

    /// An answer as JSON, whatever its status.
    pub(super) fn parse_json(&self, answer: &Response<Bytes>) -> Result<Value, CommandError> {
        serde_json::from_slice(answer.body()).map_err(|_| self.unexpected(answer))
    }

    /// The error for an answer that is none of a sidecar's.
    pub(super) fn unexpected(&self, answer: &Response<Bytes>) -> CommandError {
        let text = String::from_utf8_lossy(answer.body());
        let admin = self.address(&Environment::from_process());
        CommandError::running(format!(
            "{} answered {}: {:.200}; is it the admin side of a sidecar?",
            admin.map_or("it".to_owned(), |admin| admin.to_string()),
            answer.status(),
            text.trim()
        ))
    }

    #[cfg(test)]
    pub(super) fn at(admin: impl ToString) -> Self {
        Self { admin: Some(admin.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(flag: Option<&str>, variable: &str) -> Result<String, String> {
        let client = AdminClient { admin: flag.map(str::to_owned) };
        let environment = [(ADMIN_LISTEN_VARIABLE, variable)].into_iter().collect();
        client.address(&environment).map(|address| address.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_variable_that_is_not_utf8_is_no_default() {
        use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

        let variable = (ADMIN_LISTEN_VARIABLE.into(), OsString::from_vec(b"localhost:70\xff".to_vec()));
        let environment = Environment::from_os([variable].into_iter());
        let told = AdminClient { admin: None }.address(&environment).unwrap_err().to_string();
        assert!(told.starts_with("OUTRIGGER_ADMIN_LISTEN: is not UTF-8"), "{told}");
        let flag = AdminClient { admin: Some("localhost:7073".into()) };
        assert_eq!(flag.address(&environment).unwrap().to_string(), "localhost:7073");
    }

    #[test]
    fn the_admin_side_is_named_by_the_flag_else_by_the_variable_else_it_is_the_default() {
        for (flag, variable, expected) in [
            (None, "", "localhost:7079"),
            (None, "127.0.0.1:7072", "127.0.0.1:7072"),
            (None, "[::]:7072", "[::]:7072"),
            (Some("localhost:7073"), "localhost:7072", "localhost:7073"),
            (Some("http://localhost:7073"), "", "localhost:7073"),
            (Some("HTTP://sidecar.example:7073/"), "", "sidecar.example:7073"),
            (Some("http://[::1]:7073/"), "", "[::1]:7073"),
        ] {
            assert_eq!(address(flag, variable), Ok(expected.to_owned()), "{flag:?} {variable:?}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_used_is_an_error_with_its_origin_and_the_two_forms() {
        for text in [
            "",
            "nowhere",
            "localhost",
            "http://localhost",
            "https://localhost:7079",
            "http://localhost:7079/drain",
            "user@localhost:7079",
            ":7079",
            "localhost:70000",
            "localhost:0",
            "::1:7079",
            "[localhost]:7079",
        ] {
            let error = address(Some(text), "localhost:7079").unwrap_err();
            assert!(error.starts_with("--admin: ") && error.ends_with("or http://localhost:7079"), "{error}");
        }
        let error = address(None, "localhost:0").unwrap_err();
        assert!(error.starts_with("OUTRIGGER_ADMIN_LISTEN: \"localhost:0\" has port 0"), "{error}");
    }

    #[tokio::test]
    async fn a_listener_on_all_addresses_is_asked_by_a_loopback_address() {
        for (text, expected) in [
            ("0.0.0.0:7079", &["127.0.0.1:7079"][..]),
            ("[::]:7079", &["[::1]:7079", "127.0.0.1:7079"]),
            ("10.0.0.5:7079", &["10.0.0.5:7079"]),
        ] {
            let found = AdminAddress::parse(text).unwrap().resolve().await.unwrap();
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{text}");
        }
    }
}
