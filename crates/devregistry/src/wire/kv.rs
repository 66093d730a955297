//! Keys and transactions: the entries that clients get, and the operations that they send.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use super::{
    base64,
    decode::{DecodeError, JsonFields},
    request::Refusal,
};
use crate::store::{KvEntry, KvOp, KvVerb, TxnError, TxnOp};

/// Most operations of a transaction.
const TXN_OPS_MAX: usize = 64;

/// An entry of `kv`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct KvJson<'a> {
    lock_index: u64,
    key: &'a str,
    flags: u64,
    /// Base64; `None` for an empty value.
    value: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    session: &'a str,
    create_index: u64,
    modify_index: u64,
}

impl<'a> KvJson<'a> {
    pub(crate) fn new(key: &'a str, entry: &'a KvEntry) -> Self {
        Self {
            lock_index: entry.lock_index,
            key,
            flags: entry.flags,
            value: (!entry.value.is_empty()).then(|| base64::encode(&entry.value)),
            session: &entry.session,
            create_index: entry.create_index,
            modify_index: entry.modify_index,
        }
    }
}

/// `txn`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TxnJson<'a> {
    pub(crate) results: Option<Vec<TxnResultJson<'a>>>,
    pub(crate) errors: Option<Vec<TxnErrorJson<'a>>>,
    /// Only in the answer to a transaction that writes nothing.
    #[serde(flatten)]
    pub(crate) read: Option<TxnReadJson>,
}

/// What an operation shows.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TxnResultJson<'a> {
    #[serde(rename = "KV")]
    pub(crate) kv: KvJson<'a>,
}

/// Why an operation failed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TxnErrorJson<'a> {
    op_index: usize,
    what: &'a str,
}

impl<'a> From<&'a TxnError> for TxnErrorJson<'a> {
    fn from(error: &'a TxnError) -> Self {
        Self { op_index: error.op_index, what: &error.what }
    }
}

/// The facts of a read, always the same.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TxnReadJson {
    index: u64,
    last_contact: u64,
    known_leader: bool,
    consistency_level: &'static str,
}

impl TxnReadJson {
    pub(crate) const LEADER: Self =
        Self { index: 0, last_contact: 0, known_leader: true, consistency_level: "" };
}

/// The body of `txn`. An operation on something else than a key is refused, because to leave it out would be wrong.
pub(crate) fn parse_txn(body: &[u8]) -> Result<Vec<TxnOp>, Refusal> {
    let ops =
        decode_txn(body).map_err(|DecodeError(why)| Refusal::bad(format!("Failed to parse body: {why}")))?;
    let count = ops.len();
    if count > TXN_OPS_MAX {
        let text = format!("Transaction contains too many operations ({count} > {TXN_OPS_MAX})");
        return Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    if ops.iter().any(|op| op.kv.is_none() && op.elsewhere) {
        return Err(Refusal::unsupported("has no transactions on nodes, services and checks, only on keys"));
    }
    Ok(ops.into_iter().filter_map(|op| op.kv).collect())
}

/// An operation as the body gives it.
struct RawOp {
    kv: Option<TxnOp>,
    /// Whether it names a node, a service or a check.
    elsewhere: bool,
}

fn decode_txn(body: &[u8]) -> Result<Vec<RawOp>, DecodeError> {
    JsonFields::parse_list(body, "api.TxnOps", "api.TxnOp")?
        .into_iter()
        .map(|op| {
            let mut op = op.at_path("TxnOp");
            let kv = op.object_as("KV", "api.KVTxnOp")?.map(decode_kv_op).transpose()?;
            let elsewhere = op.has("Node") | op.has("Service") | op.has("Check");
            op.finish()?;
            Ok(RawOp { kv, elsewhere })
        })
        .collect()
}

fn decode_kv_op(fields: JsonFields) -> Result<TxnOp, DecodeError> {
    let mut fields = fields.at_path("KVTxnOp.KV");
    let verb = fields.string_as("Verb", "api.KVOp")?;
    let key = fields.string("Key")?;
    let value = fields.string_as("Value", "[]uint8")?;
    let value = base64::decode(&value)
        .map_err(|at| DecodeError(format!("illegal base64 data at input byte {at}")))?;
    let flags = fields.unsigned("Flags")?;
    let index = fields.unsigned("Index")?;
    let session = fields.string("Session")?;
    // A feature of Consul Enterprise, without effect here.
    fields.string("Namespace")?;
    fields.finish()?;
    Ok(match KvVerb::parse(&verb) {
        Some(verb) => TxnOp::Kv(KvOp { verb, key, value: Bytes::from(value), flags, session, index }),
        None => TxnOp::UnknownVerb { verb, key },
    })
}
