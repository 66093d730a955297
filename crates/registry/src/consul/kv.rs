//! Consul's keys and values: one HTTP exchange for each question and write.

use std::time::Duration;

use ::http::{HeaderMap, Method, StatusCode};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use percent_encoding::{AsciiSet, utf8_percent_encode};
use serde_json::json;
use tokio::sync::watch;

use super::{
    Consul,
    api_client::RESERVED,
    connection::ApiResponse,
    expect_ok, malformed,
    transaction::{Transaction, TransactionRefusal},
    watch::{Freshness, blocking_params, consistency_param},
    wire::RawKvEntry,
};
use crate::{
    AnswerFuture, Consistency, Cursor, Error, HeldPut, Kv, KvAnswer, KvChange, KvEntry, KvScope, SessionId,
};

/// Every character that must be escaped in a key: as in a path segment, but for the slash.
const RESERVED_IN_KEY: &AsciiSet = &RESERVED.remove(b'/');

impl Kv for Consul {
    fn returned(&self) -> Option<watch::Receiver<()>> {
        Some(self.api.contact.returned())
    }

    fn watch_kv<'a>(
        &'a self,
        scope: KvScope<'a>,
        cursor: Cursor,
        consistency: Consistency,
        wait: Duration,
    ) -> AnswerFuture<'a, KvAnswer> {
        Box::pin(async move {
            let target = |from| target(scope, consistency, from);
            self.read_or_watch(cursor, wait, target, |reply, request| {
                parse_answer(reply, cursor, consistency, request)
            })
            .await
        })
    }

    fn put_kv<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        flags: u64,
        at: Option<u64>,
    ) -> AnswerFuture<'a, bool> {
        let target = format!("{}?flags={flags}{}", kv_path(key), condition('&', at));
        Box::pin(self.write_key("kv_put", Method::PUT, target, Bytes::copy_from_slice(value)))
    }

    fn delete_kv<'a>(&'a self, key: &'a str, at: Option<u64>) -> AnswerFuture<'a, bool> {
        let target = format!("{}{}", kv_path(key), condition('?', at));
        Box::pin(self.write_key("kv_delete", Method::DELETE, target, Bytes::new()))
    }

    fn change_kv<'a>(&'a self, changes: &'a [KvChange<'a>]) -> AnswerFuture<'a, Option<u64>> {
        Box::pin(async move {
            let operations: Vec<_> = changes.iter().map(change_operation).collect();
            Ok(match self.transact("kv_change", &operations).await? {
                Transaction::Done(entries) => {
                    Some(entries.iter().map(|entry| entry.modify_index).max().unwrap_or(0))
                }
                Transaction::Refused(_) => None,
            })
        })
    }

    fn put_held_kv<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        session: &'a SessionId,
    ) -> AnswerFuture<'a, HeldPut> {
        Box::pin(async move {
            let lock = json!({"KV": {
                "Verb": "lock", "Key": key, "Value": BASE64.encode(value), "Session": session.as_str(),
            }});
            Ok(match self.transact("kv_hold", &[lock]).await? {
                Transaction::Done(_) => HeldPut::Written,
                Transaction::Refused(TransactionRefusal::SessionLost) => HeldPut::SessionLost,
                Transaction::Refused(_) => HeldPut::HeldByOther,
            })
        })
    }
}

impl Consul {
    async fn write_key(
        &self,
        operation: &'static str,
        method: Method,
        target: String,
        body: Bytes,
    ) -> Result<bool, Error> {
        self.call_agent(operation, method, target, body, |body| serde_json::from_slice(body)).await
    }
}

/// Path and query of a read; `from`: it waits for a change.
pub(super) fn target(
    scope: KvScope<'_>,
    consistency: Consistency,
    from: Option<(Cursor, Duration)>,
) -> String {
    let (key, mut options) = match scope {
        KvScope::Key(key) => (key, Vec::new()),
        KvScope::Prefix(prefix) => (prefix, vec!["recurse".to_owned()]),
    };
    if let Some((cursor, wait)) = from {
        options.extend(blocking_params(cursor, wait));
    }
    options.extend(consistency_param(consistency).map(str::to_owned));
    let path = kv_path(key);
    if options.is_empty() { path } else { format!("{path}?{}", options.join("&")) }
}

fn change_operation(change: &KvChange<'_>) -> serde_json::Value {
    match *change {
        KvChange::Put { key, value, flags, at } => {
            let (verb, index) = at.map_or(("set", 0), |index| ("cas", index));
            let value = BASE64.encode(value);
            json!({"KV": {"Verb": verb, "Key": key, "Value": value, "Flags": flags, "Index": index}})
        }
        KvChange::Delete { key, at: Some(index) } => {
            json!({"KV": {"Verb": "delete-cas", "Key": key, "Index": index}})
        }
        KvChange::Delete { key, at: None } => json!({"KV": {"Verb": "delete", "Key": key}}),
    }
}

fn kv_path(key: &str) -> String {
    format!("/v1/kv/{}", utf8_percent_encode(key, RESERVED_IN_KEY))
}

fn condition(separator: char, at: Option<u64>) -> String {
    at.map(|index| format!("{separator}cas={index}")).unwrap_or_default()
}

/// Reads the answer to a question that was sent with the cursor `sent`.
pub(super) fn parse_answer(
    reply: &ApiResponse,
    sent: Cursor,
    consistency: Consistency,
    request: &str,
) -> Result<KvAnswer, Error> {
    let entries = if is_missing(reply) {
        Vec::new()
    } else {
        expect_ok(reply, request)?;
        parse_entries(&reply.body, request)?
    };
    let Freshness { cursor, index_went_back, age, known_leader } =
        Freshness::read(&reply.headers, sent, consistency);
    Ok(KvAnswer { entries, cursor, index_went_back, age, known_leader })
}

/// Whether the answer says that there is no such key. A proxy in between that answers 404 states no index.
fn is_missing(reply: &ApiResponse) -> bool {
    reply.status == StatusCode::NOT_FOUND && has_index(&reply.headers)
}

fn has_index(headers: &HeaderMap) -> bool {
    headers.contains_key("x-consul-index")
}

fn parse_entries(body: &[u8], request: &str) -> Result<Vec<KvEntry>, Error> {
    let raw: Vec<RawKvEntry> = serde_json::from_slice(body).map_err(|error| malformed(request, &error))?;
    raw.into_iter()
        .map(|entry| {
            let key = entry.key.clone();
            entry.decode().map_err(|error| Error::Malformed {
                request: request.to_owned(),
                reason: format!("the value of key `{}` is not base64: {error}", key.escape_debug()),
            })
        })
        .collect()
}
