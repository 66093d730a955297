//! What a protocol needs, and which keys have no meaning with it.

use super::{reader::Reader, section::Section};
use crate::{Protocol, Upstream};

/// Keys about requests, which a connection of bytes does not have.
const ABOUT_REQUESTS: [&str; 19] = [
    "hosts",
    "sticky",
    "routes",
    "mirror",
    "per_try_timeout",
    "deadline",
    "body_idle",
    "max_in_flight",
    "max_pending",
    "pending_timeout",
    "retry.statuses",
    "retry.non_idempotent",
    "retry.max_retry_after",
    "retry.stalled",
    "retry.max_body",
    "hedge",
    "pool.idle_timeout",
    "pool.non_idempotent_max_idle",
    "pool.max_idle",
];

/// Checks `upstream` beside its protocol. Its policy and its rules were read.
pub(super) fn check(r: &mut Reader<'_>, s: &Section<'_>, upstream: &Upstream) {
    if upstream.protocol != Protocol::Tcp {
        return;
    }
    if upstream.listen.is_none() {
        let what = "tcp needs a listener of its own, because the bytes of a connection name no service";
        r.report_set(&s.key("protocol"), what, "set listen too, as listen: 127.0.0.1:5432");
    }
    for name in ABOUT_REQUESTS {
        let key = s.key(name);
        if r.origins.is_set(&key) {
            let what = "is about HTTP requests, and protocol is tcp";
            r.report_set(&key, what, "remove it, or set protocol: http");
        }
    }
}
