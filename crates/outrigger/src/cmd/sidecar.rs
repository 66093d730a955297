//! Asks the admin side of a sidecar on this machine: what `wait`, `maintenance` and `reload` share.

use std::{io, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response};
use http_body_util::Full;
use serde_json::Value;
use tokio::time::timeout;

use super::CommandError;
use crate::{admin::CHANGE_HEADER, http_client, telemetry::error_chain};

/// Longest wait for a name to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where it is.
#[derive(Debug, Clone, Args)]
pub(super) struct AdminClient {
    /// Where the sidecar's admin side listens.
    #[arg(long = "admin", value_name = "HOST:PORT", default_value = "localhost:7079")]
    admin: String,
}

impl AdminClient {
    /// The answer of the first of its addresses that gives one, each within `limit`.
    ///
    /// # Errors
    /// A sentence: why there is none.
    pub(super) async fn request(
        &self,
        method: &Method,
        path: &str,
        limit: Duration,
    ) -> Result<Response<Bytes>, String> {
        let admin = &self.admin;
        let found = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(admin)).await;
        let found = found.unwrap_or_else(|_| Err(io::Error::other("the name is not resolved in time")));
        let addrs = found.map_err(|error| {
            format!("{admin} is no address of an admin side: {error}; write --admin localhost:7079")
        })?;
        let mut refused = "it has no address".to_owned();
        for addr in addrs {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", admin)
                .header(CHANGE_HEADER.0, CHANGE_HEADER.1)
                .body(Full::default())
                .map_err(|_| format!("{admin} is no address; write --admin localhost:7079"))?;
            match http_client::exchange(addr, request, limit).await {
                Ok(answer) => return Ok(answer),
                Err(error) => refused = error_chain(&error),
            }
        }
        Err(format!(
            "no sidecar answers at {admin}: {refused}; is it running, and is its admin.listen the address after \
             --admin?"
        ))
    }

    /// An answer as JSON, whatever its status.
    pub(super) fn parse_json(&self, answer: &Response<Bytes>) -> Result<Value, CommandError> {
        serde_json::from_slice(answer.body()).map_err(|_| {
            let text = String::from_utf8_lossy(answer.body());
            CommandError::running(format!(
                "{} answered {}: {:.200}; is it the admin side of a sidecar?",
                self.admin,
                answer.status(),
                text.trim()
            ))
        })
    }

    #[cfg(test)]
    pub(super) fn at(addr: std::net::SocketAddr) -> Self {
        Self { admin: addr.to_string() }
    }
}
