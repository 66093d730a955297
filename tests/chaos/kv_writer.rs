//! Writes documents of settings into the KV of a cluster, through whatever server answers.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use ::http::{Method, StatusCode};
use outrigger_tests::consul::http;
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// What the cluster's KV is written by.
#[derive(Debug, Clone)]
pub(crate) struct KvWriter {
    servers: Vec<SocketAddr>,
    /// Below which the documents are, with a slash at its end.
    prefix: String,
}

/// Pause after all servers have refused.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest time until one of the servers takes a write: an outage, and an election.
const WRITE_TIMEOUT: Duration = Duration::from_secs(300);

impl KvWriter {
    /// `prefix` is `dynamic_config.prefix` of the sidecars.
    pub(crate) fn new(servers: impl IntoIterator<Item = SocketAddr>, prefix: &str) -> Self {
        Self { servers: servers.into_iter().collect(), prefix: format!("{prefix}/settings/") }
    }

    /// The whole key of a document.
    pub(crate) fn key(&self, document: &str) -> String {
        format!("{}{document}", self.prefix)
    }

    /// Writes a document. Tries until a server has confirmed it, so that this text is what stands there afterwards.
    ///
    /// # Errors
    /// No server did within five minutes.
    pub(crate) async fn put(&self, document: &str, text: &str) -> Result<(), String> {
        self.change(Method::PUT, &self.key(document), text).await
    }

    /// Deletes a document, in the same way.
    ///
    /// # Errors
    /// No server did within five minutes.
    pub(crate) async fn delete(&self, document: &str) -> Result<(), String> {
        self.change(Method::DELETE, &self.key(document), "").await
    }

    /// Deletes all documents, in the same way.
    ///
    /// # Errors
    /// No server did within five minutes.
    pub(crate) async fn delete_all(&self) -> Result<(), String> {
        self.change(Method::DELETE, &format!("{}?recurse", self.prefix), "").await
    }

    async fn change(&self, method: Method, key: &str, text: &str) -> Result<(), String> {
        let (end, path) = (Instant::now() + WRITE_TIMEOUT, format!("/v1/kv/{key}"));
        while Instant::now() < end {
            let first = fastrand::usize(..self.servers.len());
            for at in 0..self.servers.len() {
                let server = self.servers[(first + at) % self.servers.len()];
                let answer = http::call(server, method.clone(), &path, text).await;
                if answer.is_ok_and(|answer| {
                    answer.status() == StatusCode::OK && answer.body().starts_with(b"true")
                }) {
                    return Ok(());
                }
            }
            sleep(PAUSE).await;
        }
        Err(format!("{method} {key} was not taken within {} s", WRITE_TIMEOUT.as_secs()))
    }

    /// The index of each document that is there now, by its name.
    ///
    /// # Errors
    /// No server answers.
    pub(crate) async fn indexes(&self) -> Result<BTreeMap<String, u64>, String> {
        let path = format!("/v1/kv/{}?recurse&consistent", self.prefix);
        let mut error = "there is no server".to_owned();
        for server in &self.servers {
            match http::get(*server, &path).await {
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND => return Ok(BTreeMap::new()),
                Ok(answer) if answer.status() == StatusCode::OK => {
                    let entries: Value =
                        serde_json::from_slice(answer.body()).map_err(|error| error.to_string())?;
                    let index = |entry: &Value| {
                        let name = entry["Key"].as_str()?.strip_prefix(&self.prefix)?;
                        Some((name.to_owned(), entry["ModifyIndex"].as_u64()?))
                    };
                    return Ok(entries.as_array().into_iter().flatten().filter_map(index).collect());
                }
                Ok(answer) => error = format!("{server}: {}", answer.status()),
                Err(failed) => error = format!("{server}: {failed}"),
            }
        }
        Err(error)
    }
}
