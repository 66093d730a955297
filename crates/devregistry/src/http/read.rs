//! The common part of all catalog and health reads: parameters, blocking, headers.

use http::{HeaderName, StatusCode};
use outrigger_filter::{FieldType, FilterError, FilterExpression, golang::parse_uint};
use tokio::sync::SemaphorePermit;

use super::{
    context::HttpContext,
    reply::Reply,
    request::{ApiRequest, BODY_MAX},
};
use crate::{
    blocking,
    row_filter::RowFilter,
    store::{Node, Store, Topic},
    wire::duration::{self, GoDuration},
};

const CONSISTENCY: HeaderName = HeaderName::from_static("x-consul-effective-consistency");
const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");

/// Blocks as the request asks, then answers with `show`.
pub(super) async fn blocking_read<F>(
    context: &HttpContext,
    call: &ApiRequest,
    topic: Topic,
    show: F,
) -> Result<Reply, Reply>
where
    F: Fn(&Store) -> Reply,
{
    blocking_read_with(context, call, topic, ReadHeaders::Catalog, show).await
}

/// As [`blocking_read`], for a list of rows with these fields, of which `show` leaves out what the filter drops.
pub(super) async fn filtered_read<F>(
    context: &HttpContext,
    call: &ApiRequest,
    topic: Topic,
    row: &'static FieldType,
    show: F,
) -> Result<Reply, Reply>
where
    F: Fn(&Store, &RowFilter) -> Reply,
{
    let params = parse_local_read(context, call, ReadHeaders::Catalog)?;
    let filter = parse_filter(call, row).map_err(Reply::failed_read)?;
    block_and_show(context, params, topic, ReadHeaders::Catalog, |store| show(store, &filter)).await
}

/// Which headers the answers to a read have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadHeaders {
    /// The consistency of the answer, and its index.
    Catalog,
    /// Its index.
    Session,
    /// Its index; none at all if the read failed.
    Kv,
}

/// [`blocking_read`], with other headers.
pub(super) async fn blocking_read_with<F>(
    context: &HttpContext,
    call: &ApiRequest,
    topic: Topic,
    headers: ReadHeaders,
    show: F,
) -> Result<Reply, Reply>
where
    F: Fn(&Store) -> Reply,
{
    let params = parse_local_read(context, call, headers)?;
    block_and_show(context, params, topic, headers, show).await
}

/// The parameters of a read that is for this datacenter.
fn parse_local_read(
    context: &HttpContext,
    call: &ApiRequest,
    headers: ReadHeaders,
) -> Result<ReadParams, Reply> {
    let params = parse_read_params(call)?;
    reject_other_datacenter(context, call).map_err(|refusal| match headers {
        ReadHeaders::Catalog | ReadHeaders::Session => refusal.of_failed_read(),
        ReadHeaders::Kv => refusal,
    })?;
    Ok(params)
}

async fn block_and_show<F>(
    context: &HttpContext,
    ReadParams { consistency, index, wait }: ReadParams,
    topic: Topic,
    headers: ReadHeaders,
    show: F,
) -> Result<Reply, Reply>
where
    F: Fn(&Store) -> Reply,
{
    let _slot = match index {
        0 => None,
        _ => Some(acquire_blocking_slot(context)?),
    };
    let longest = blocking::block_time(wait);
    let (reply, at) = blocking::wait_past_index(&context.store, &topic, index, longest, show).await;
    let reply = with_index(with_leader(reply), at.index.max(1));
    Ok(match headers {
        ReadHeaders::Catalog => reply.with_header(CONSISTENCY, consistency),
        ReadHeaders::Session | ReadHeaders::Kv => reply,
    })
}

/// The headers of an answer that a leader gave.
pub(super) fn with_leader(reply: Reply) -> Reply {
    reply.with_header(KNOWN_LEADER, "true").with_header(LAST_CONTACT, "0")
}

impl Reply {
    /// A read failed within the servers.
    pub(super) fn failed_read(why: String) -> Self {
        Self::internal_error(why).of_failed_read()
    }

    /// With the headers of a failed read. Clients must not keep its index.
    pub(super) fn of_failed_read(self) -> Self {
        with_index(self, 1).with_header(KNOWN_LEADER, "false").with_header(LAST_CONTACT, "0")
    }
}

/// The header of the index.
pub(super) fn with_index(reply: Reply, index: u64) -> Reply {
    reply.with_header(INDEX, &index.to_string())
}

/// Takes a permit for a blocking query.
pub(super) fn acquire_blocking_slot(context: &HttpContext) -> Result<SemaphorePermit<'_>, Reply> {
    context.blocking_slots.try_acquire().map_err(|_| {
        let text = "The dev registry holds no more blocking queries at a time";
        Reply::text(StatusCode::SERVICE_UNAVAILABLE, text)
    })
}

/// The parameters of a read.
pub(super) struct ReadParams {
    consistency: &'static str,
    index: u64,
    wait: Option<GoDuration>,
}

/// The validated parameters of a read.
pub(super) fn parse_read_params(call: &ApiRequest) -> Result<ReadParams, Reply> {
    let bad = |text: &str| Reply::text(StatusCode::BAD_REQUEST, text);
    let query = &call.query;
    let consistency = match (query.has("stale"), query.has("consistent")) {
        (true, true) => {
            return Err(bad("Cannot specify ?stale with ?consistent, conflicting semantics."));
        }
        (true, false) => "stale",
        (false, true) => "consistent",
        (false, false) => "leader",
    };
    if query.has("cached") && query.has("consistent") {
        return Err(bad("Cannot specify ?cached with ?consistent, conflicting semantics."));
    }
    if let Some(max) = query.first("max_stale").filter(|max| !max.is_empty())
        && duration::parse(max).is_err()
    {
        return Err(bad(&format!("Invalid max_stale value {max:?}")));
    }
    let wait = parse_wait(call)?;
    let index = parse_index(call)?;
    Ok(ReadParams { consistency, index, wait })
}

/// The `index` parameter.
pub(super) fn parse_index(call: &ApiRequest) -> Result<u64, Reply> {
    match call.query.first("index") {
        None | Some("") => Ok(0),
        Some(index) => parse_uint(index).map_err(|_| Reply::text(StatusCode::BAD_REQUEST, "Invalid index")),
    }
}

/// Refuses the name of another datacenter: this one is the only one.
pub(super) fn reject_other_datacenter(context: &HttpContext, call: &ApiRequest) -> Result<(), Reply> {
    match call.query.first("dc") {
        Some(dc) if !dc.is_empty() && dc != context.options.datacenter => {
            Err(Reply::internal_error("No path to datacenter"))
        }
        _ => Ok(()),
    }
}

/// The `wait` parameter.
pub(super) fn parse_wait(call: &ApiRequest) -> Result<Option<GoDuration>, Reply> {
    match call.query.first("wait").filter(|wait| !wait.is_empty()) {
        None => Ok(None),
        Some(wait) => duration::parse(wait)
            .map(Some)
            .map_err(|_| Reply::text(StatusCode::BAD_REQUEST, "Invalid wait time")),
    }
}

/// The filter of rows with these fields; without one, that of every row.
///
/// # Errors
/// Consul's text.
pub(super) fn parse_filter(call: &ApiRequest, row: &'static FieldType) -> Result<RowFilter, String> {
    match filter_param(call) {
        None => Ok(RowFilter::default()),
        Some(text) => {
            let filter = FilterExpression::parse(text).and_then(|expression| expression.bind(row));
            filter.map(RowFilter::from).map_err(|error| bad_filter(&error))
        }
    }
}

/// The filter expression, whatever the fields of the rows are.
///
/// # Errors
/// Consul's text.
pub(super) fn parse_filter_expression(call: &ApiRequest) -> Result<Option<FilterExpression>, String> {
    filter_param(call).map(FilterExpression::parse).transpose().map_err(|error| bad_filter(&error))
}

fn filter_param(call: &ApiRequest) -> Option<&str> {
    call.query.first("filter").filter(|filter| !filter.is_empty())
}

fn bad_filter(why: &FilterError) -> String {
    format!("Failed to create boolean expression evaluator: {why}")
}

/// Whether a node has what `node-meta` parameters ask for.
pub(super) fn matches_node_meta(call: &ApiRequest, node: &Node) -> bool {
    call.query.all("node-meta").all(|wanted| {
        let (key, value) = wanted.split_once(':').unwrap_or((wanted, ""));
        node.info.meta.get(key).is_some_and(|found| found == value)
    })
}

/// The name at the end of the path.
pub(super) fn require_name<'a>(call: &'a ApiRequest, missing: &str) -> Result<&'a str, Reply> {
    match call.path_rest.as_str() {
        "" => Err(Reply::text(StatusCode::BAD_REQUEST, missing)),
        name => Ok(name),
    }
}

/// Refuses a body that is declared longer than Consul's `option` allows by default.
pub(super) fn reject_large_body(call: &ApiRequest, option: &str) -> Result<(), Reply> {
    let Some(length) = call.declared_length.filter(|length| *length > BODY_MAX as u64) else { return Ok(()) };
    let text = format!(
        "Request body({length} bytes) too large, max size: {BODY_MAX} bytes. See \
         https://www.consul.io/docs/agent/options.html#{option}."
    );
    Err(Reply::text(StatusCode::PAYLOAD_TOO_LARGE, &text))
}
