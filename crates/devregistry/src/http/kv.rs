//! `/v1/kv/*`: keys, read and written.

use http::{HeaderName, Method, StatusCode, header};
use outrigger_filter::golang::parse_uint;

use super::{
    context::HttpContext,
    read::{self, ReadHeaders},
    reply::Reply,
    request::ApiRequest,
};
use crate::{
    store::{KvOp, KvVerb, Store, Topic},
    wire::kv::KvJson,
};

const NO_SNIFF: HeaderName = header::X_CONTENT_TYPE_OPTIONS;

/// `kv/KEY`
pub(super) async fn endpoint(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    match call.method {
        Method::PUT => put(context, call),
        Method::DELETE => delete(context, call),
        _ if call.query.has("keys") => list_keys(context, call).await,
        _ if call.query.has("recurse") => list(context, call).await,
        _ => get(context, call).await,
    }
}

async fn get(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    read::parse_read_params(call)?;
    let key = read::require_name(call, "Missing key name")?;
    let show = |store: &Store| match store.kv_entry(key) {
        None => not_found(),
        Some(entry) if call.query.has("raw") => Reply::plain_value(entry.value.clone())
            .with_header(header::CONTENT_SECURITY_POLICY, "sandbox")
            .with_header(NO_SNIFF, "nosniff"),
        Some(entry) => Reply::json(&[KvJson::new(key, entry)], call),
    };
    read::blocking_read_with(context, call, Topic::Key(key.to_owned()), ReadHeaders::Kv, show).await
}

async fn list(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let prefix = &call.path_rest;
    let show = |store: &Store| {
        let entries: Vec<_> = store.kv_list(prefix).map(|(key, entry)| KvJson::new(key, entry)).collect();
        if entries.is_empty() { not_found() } else { Reply::json(&entries, call) }
    };
    read::blocking_read_with(context, call, Topic::Keys(prefix.clone()), ReadHeaders::Kv, show).await
}

/// The names of keys; with a separator, those that continue after it are one name.
async fn list_keys(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let prefix = &call.path_rest;
    // Consul once misspelt the name, and takes both spellings since.
    let separator = call.query.first("separator").or_else(|| call.query.first("seperator"));
    let separator = separator.filter(|separator| !separator.is_empty());
    let show = |store: &Store| {
        let mut names: Vec<&str> = store
            .kv_list(prefix)
            .map(|(key, _)| {
                let at = separator
                    .and_then(|separator| Some(key[prefix.len()..].find(separator)? + separator.len()));
                at.map_or(key.as_str(), |at| &key[..prefix.len() + at])
            })
            .collect();
        names.dedup();
        // Only the root is answered with an empty list.
        if names.is_empty() && !prefix.is_empty() { not_found() } else { Reply::json(&names, call) }
    };
    read::blocking_read_with(context, call, Topic::Keys(prefix.clone()), ReadHeaders::Kv, show).await
}

fn not_found() -> Reply {
    Reply::empty().with_status(StatusCode::NOT_FOUND)
}

fn put(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    read::parse_read_params(call)?;
    let key = read::require_name(call, "Missing key name")?;
    reject_conflicts(call, &["cas", "acquire", "release"])?;
    let flags = parse_number(call, "flags")?.unwrap_or(0);
    let cas = parse_number(call, "cas")?;
    let (acquire, release) = (call.query.first("acquire"), call.query.first("release"));
    let verb = match (cas, acquire, release) {
        (_, _, Some(_)) => KvVerb::Unlock,
        (_, Some(_), None) => KvVerb::Lock,
        (Some(_), None, None) => KvVerb::Cas,
        (None, None, None) => KvVerb::Set,
    };
    read::reject_large_body(call, "kv_max_value_size")?;
    let op = KvOp {
        verb,
        key: key.to_owned(),
        value: call.body.clone(),
        flags,
        session: release.or(acquire).unwrap_or_default().to_owned(),
        index: cas.unwrap_or(0),
    };
    write(context, call, op)
}

fn delete(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    read::parse_read_params(call)?;
    reject_conflicts(call, &["recurse", "cas"])?;
    let whole_tree = call.query.has("recurse");
    if !whole_tree {
        read::require_name(call, "Missing key name")?;
    }
    let cas = parse_number(call, "cas")?;
    let verb = match cas {
        Some(_) => KvVerb::DeleteCas,
        None if whole_tree => KvVerb::DeleteTree,
        None => KvVerb::Delete,
    };
    let op = KvOp {
        verb,
        key: call.path_rest.clone(),
        value: Default::default(),
        flags: 0,
        session: String::new(),
        index: cas.unwrap_or(0),
    };
    write(context, call, op)
}

fn write(context: &HttpContext, call: &ApiRequest, op: KvOp) -> Result<Reply, Reply> {
    read::reject_other_datacenter(context, call)?;
    let done = context.store.write(|store, now| store.kv_write(op, now));
    done.map(|done| Reply::json(&done, call)).map_err(Reply::internal_error)
}

/// Refuses parameters of which only one may be given.
fn reject_conflicts(call: &ApiRequest, names: &[&str]) -> Result<(), Reply> {
    if names.iter().filter(|name| call.query.has(name)).count() < 2 {
        return Ok(());
    }
    let text = format!("Conflicting flags: {}", call.query.encode());
    Err(Reply::text(StatusCode::BAD_REQUEST, &text))
}

/// A number of 64 bits, if the parameter is present. The error text is Go's.
fn parse_number(call: &ApiRequest, name: &str) -> Result<Option<u64>, Reply> {
    call.query.first(name).map(parse_uint).transpose().map_err(Reply::internal_error)
}
