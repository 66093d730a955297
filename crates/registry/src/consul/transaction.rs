//! Consul's transactions: several operations of the KV that are made together, or not at all.

use ::http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::{
    AGENT_CALL_TIMEOUT, Consul, api_client::ApiRequest, connection::ApiResponse, expect_ok, malformed,
    refusal, wire::RawKvEntry,
};
use crate::{Error, KvEntry};

/// The end of a transaction.
#[derive(Debug)]
pub(super) enum Transaction {
    /// Every operation was made; the entry of each that has one.
    Done(Vec<KvEntry>),
    /// None was made.
    Refused(TransactionRefusal),
}

/// Why a transaction changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransactionRefusal {
    Held,
    Delayed,
    NotHeld,
    SessionLost,
    /// The key is not what was read, or Consul's text is not known: it is to be read again.
    Changed,
}

impl Consul {
    /// Makes all operations or none, in one round trip. `operation` is the label in metrics.
    pub(super) async fn transact(
        &self,
        operation: &'static str,
        operations: &[Value],
    ) -> Result<Transaction, Error> {
        let body = Value::from(operations).to_string();
        let target = "/v1/txn".into();
        let ask = ApiRequest::call(operation, Method::PUT, target, body.into(), AGENT_CALL_TIMEOUT);
        let request = ask.method_and_path();
        self.send_to_agent(ask, |reply| parse_transaction(&reply, &request)).await
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawTransaction {
    results: Option<Vec<RawResult>>,
    errors: Option<Vec<RawRefusal>>,
}

#[derive(Deserialize)]
struct RawResult {
    #[serde(rename = "KV")]
    kv: Option<RawKvEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawRefusal {
    what: String,
}

fn parse_transaction(reply: &ApiResponse, request: &str) -> Result<Transaction, Error> {
    let refused = reply.status == StatusCode::CONFLICT;
    if !refused {
        expect_ok(reply, request)?;
    }
    let raw: RawTransaction =
        serde_json::from_slice(&reply.body).map_err(|error| malformed(request, &error))?;
    if !refused {
        let entries = raw.results.unwrap_or_default().into_iter().filter_map(|result| result.kv);
        let entries: Result<Vec<_>, _> = entries.map(RawKvEntry::decode).collect();
        let unreadable = |error: base64::DecodeError| Error::Malformed {
            request: request.into(),
            reason: error.to_string(),
        };
        return entries.map(Transaction::Done).map_err(unreadable);
    }
    let what = raw.errors.unwrap_or_default().into_iter().next().map(|first| first.what).unwrap_or_default();
    if what.contains("Permission denied") || what.contains("ACL not found") {
        return Err(refusal::refused_error(request.to_owned(), 403, what.as_bytes()));
    }
    Ok(Transaction::Refused(judge_refusal(&what)))
}

/// The meaning of Consul's text (1.8.7: `agent/consul/txn_endpoint.go`, `state/txn.go`, `state/kvs.go`).
fn judge_refusal(what: &str) -> TransactionRefusal {
    const TEXTS: [(&str, TransactionRefusal); 5] = [
        ("due to lock delay", TransactionRefusal::Delayed),
        ("lock is already held", TransactionRefusal::Held),
        ("lock isn't held", TransactionRefusal::NotHeld),
        ("invalid session", TransactionRefusal::SessionLost),
        ("failed session lookup", TransactionRefusal::SessionLost),
    ];
    TEXTS
        .iter()
        .find(|(text, _)| what.contains(text))
        .map_or(TransactionRefusal::Changed, |(_, refusal)| *refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_a_refused_transaction_are_told_apart() {
        for (what, meaning) in [
            (r#"failed to lock key "locks/a/.lock", lock is already held"#, TransactionRefusal::Held),
            (r#"failed to lock key "locks/a/.lock" due to lock delay"#, TransactionRefusal::Delayed),
            (
                r#"failed to unlock key "a", lock isn't held, or is held by another session"#,
                TransactionRefusal::NotHeld,
            ),
            (r#"invalid session "11111111-1111-1111-1111-111111111111""#, TransactionRefusal::SessionLost),
            (r#"failed index check for key "a", current modify index 406 != 1"#, TransactionRefusal::Changed),
            ("a text of a newer version", TransactionRefusal::Changed),
        ] {
            assert_eq!(judge_refusal(what), meaning, "{what}");
        }
    }
}
