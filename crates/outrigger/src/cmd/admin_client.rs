//! Asks the admin side of a sidecar on this machine: what `wait`, `drain`, `maintenance` and `reload` share.

use std::{io, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response};
use http_body_util::Full;
use serde_json::Value;
use tokio::time::timeout;

use super::report::CommandError;
use crate::{admin::CHANGE_HEADER, http_client, telemetry::error_chain};

/// Longest wait for a name to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The admin side of one sidecar.
#[derive(Debug, Clone, Args)]
pub(super) struct AdminClient {
    /// Address of the sidecar's admin side.
    #[arg(long = "admin", value_name = "HOST:PORT", default_value = "localhost:7079")]
    admin: String,
}

/// Why the admin side gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    #[error("{admin} is no address of an admin side: {reason}; write --admin localhost:7079")]
    Address { admin: String, reason: String },
    #[error(
        "no sidecar answers at {admin}: {reason}; is it running, and is its admin.listen the address after --admin?"
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
        Self::running(error.to_string())
    }
}

impl AdminClient {
    /// The answer of the first address of the admin side that gives one, each within `limit`.
    pub(super) async fn request(
        &self,
        method: &Method,
        path: &str,
        limit: Duration,
    ) -> Result<Response<Bytes>, AdminError> {
        let found = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(&self.admin)).await;
        let found = found.unwrap_or_else(|_| Err(io::Error::other("the name is not resolved in time")));
        let addrs = found.map_err(|error| self.address_error(&error))?;
        let mut failures = Vec::new();
        for addr in addrs {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", &self.admin)
                .header(CHANGE_HEADER.0, CHANGE_HEADER.1)
                .body(Full::default())
                .map_err(|error| self.address_error(&error))?;
            match http_client::exchange(addr, request, limit).await {
                Ok(answer) => return Ok(answer),
                Err(error) => failures.push(error),
            }
        }
        Err(AdminError::NoAnswer {
            admin: self.admin.clone(),
            reason: failures.last().map_or("it has no address".to_owned(), |error| error_chain(error)),
            refused: !failures.is_empty()
                && failures.iter().all(|error| matches!(error, http_client::Error::Connect { .. })),
        })
    }

    fn address_error(&self, error: &dyn std::error::Error) -> AdminError {
        AdminError::Address { admin: self.admin.clone(), reason: error_chain(error) }
    }

    /// An answer as JSON, whatever its status.
    pub(super) fn parse_json(&self, answer: &Response<Bytes>) -> Result<Value, CommandError> {
        serde_json::from_slice(answer.body()).map_err(|_| self.unexpected(answer))
    }

    /// The error for an answer that is none of a sidecar's.
    pub(super) fn unexpected(&self, answer: &Response<Bytes>) -> CommandError {
        let text = String::from_utf8_lossy(answer.body());
        CommandError::running(format!(
            "{} answered {}: {:.200}; is it the admin side of a sidecar?",
            self.admin,
            answer.status(),
            text.trim()
        ))
    }

    #[cfg(test)]
    pub(super) fn at(admin: impl ToString) -> Self {
        Self { admin: admin.to_string() }
    }
}
