//! What a protocol needs, and which keys have no meaning with it.

use std::time::Duration;

use super::{reader::Reader, section::Section};
use crate::{
    Protocol, ProxyProtocol, TcpSettings, Upstream,
    units::{DAY, SECOND, duration_in, integer, one_of},
};

/// Keys about requests, which a connection of bytes does not have.
const ABOUT_REQUESTS: [&str; 20] = [
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
    "retry.grpc_methods",
    "retry.max_retry_after",
    "retry.stalled",
    "retry.max_body",
    "hedge",
    "pool.idle_timeout",
    "pool.non_idempotent_max_idle",
    "pool.max_idle",
];

/// Reads the connections of `protocol: tcp`.
pub(super) fn read_tcp(r: &mut Reader<'_>, upstream: &Section<'_>, out: &mut TcpSettings) {
    let s = r.section(upstream, "tcp");
    r.set(&s, "idle", &mut out.idle, duration_in(SECOND..=7 * DAY));
    r.set_or_off(&s, "max_connections", &mut out.max_connections, integer(1..=1_000_000));
    r.set_or_off(&s, "grace", &mut out.grace, duration_in(Duration::ZERO..=DAY));
    r.set(&s, "proxy_protocol", &mut out.proxy_protocol, one_of(&ProxyProtocol::ALL, ProxyProtocol::as_str));
}

/// Checks `upstream` beside its protocol. Its policy and its rules were read.
pub(super) fn check(r: &mut Reader<'_>, s: &Section<'_>, upstream: &Upstream) {
    if upstream.protocol != Protocol::Tcp {
        let names = ["tcp.idle", "tcp.max_connections", "tcp.grace", "tcp.proxy_protocol"];
        if let Some(key) = r.first_set_of(s, &names) {
            let at = r.origins.get(&key).clone();
            r.warn(at, &key, "is not used: protocol is not tcp", "set protocol: tcp, or remove it");
        }
        return;
    }
    if upstream.listen.is_none() {
        let what = "tcp needs a listener of its own, because the bytes of a connection name no service";
        r.report_set(&s.key("protocol"), what, "set listen too, as listen: 127.0.0.1:5432");
    }
    if upstream.tls.is_some() && upstream.tcp.proxy_protocol != ProxyProtocol::Off {
        let what =
            "is beside tls, and the header would be within the encryption, where no server looks for it";
        r.report_set(&s.key("tcp.proxy_protocol"), what, "remove one of them");
    }
    for name in ABOUT_REQUESTS {
        let key = s.key(name);
        if r.origins.is_set(&key) {
            let what = "is about HTTP requests, and protocol is tcp";
            r.report_set(&key, what, "remove it, or set protocol: http");
        }
    }
}
