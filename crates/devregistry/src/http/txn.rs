//! `/v1/txn`: several operations at once.

use http::StatusCode;

use super::{context::HttpContext, read, reply::Reply, request::ApiRequest};
use crate::{
    store::TxnOp,
    wire::kv::{self, KvJson, TxnJson, TxnReadJson, TxnResultJson},
};

/// `txn`
pub(super) fn transact(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    read::reject_large_body(call, "txn_max_req_len")?;
    let ops = kv::parse_txn(&call.body)?;
    let is_read = !ops.iter().any(TxnOp::is_write);
    if is_read {
        read::parse_read_params(call)?;
    }
    read::reject_other_datacenter(context, call)?;
    let result = context.store.write(|store, now| store.transact(ops, now));
    let status = if result.is_ok() { StatusCode::OK } else { StatusCode::CONFLICT };
    let shown = TxnJson {
        results: result.as_ref().ok().map(|records| {
            records.iter().map(|(key, entry)| TxnResultJson { kv: KvJson::new(key, entry) }).collect()
        }),
        errors: result.as_ref().err().map(|errors| errors.iter().map(Into::into).collect()),
        read: is_read.then_some(TxnReadJson::LEADER),
    };
    let reply = Reply::json(&shown, call).with_status(status);
    Ok(if is_read { read::with_leader(reply) } else { reply })
}
