//! Finds the service of a request, and the target and Host that the instance gets.
//!
//! The service is named by the Host, by `/svc/NAME/` when the Host is the sidecar's own address, by the target
//! of a request in absolute form, or by the listener. A request for an address or for a name outside the
//! registry is refused; such a name is never looked up.

use std::sync::Arc;

use outrigger_http1::{Head, Name};

use crate::{
    context::{ConnectionInfo, DownstreamSettings},
    host::{self, ParsedHost, ServiceName},
    reason::{Reason, Refusal},
    request::{
        browser::{self, is_own_authority},
        fields::RequestFacts,
        path_form::{PATH_PREFIX, PathForm, path_start, with_slash},
    },
    upstream::cluster::Cluster,
};

/// Where a request goes.
#[derive(Debug)]
pub(crate) enum Destination<'h> {
    /// A cluster that is open.
    Cluster(Arc<Cluster>),
    /// A service, of which the cluster may have to be opened ([`ClusterManager::find_or_open`]).
    ///
    /// [`ClusterManager::find_or_open`]: crate::upstream::manager::ClusterManager::find_or_open
    Service(ServiceName<'h>),
}

/// Finds the service, and notes in `facts` where the instance gets another target or Host than the app wrote.
///
/// # Errors
/// When the request names no service that it may reach; the refusal says what to do instead.
pub(crate) fn find<'h>(
    info: &ConnectionInfo,
    settings: &DownstreamSettings,
    head: &'h Head,
    facts: &mut RequestFacts,
) -> Result<Destination<'h>, Refusal> {
    let host_bytes = head.first(Name::Host);
    if facts.is_from_browser {
        let target = head.target();
        let authority =
            absolute_parts(target).map_or(host_bytes.unwrap_or_default(), |(_, authority, _)| authority);
        // What is no text is refused for that below.
        if let Ok(authority) = std::str::from_utf8(authority) {
            browser::check_page(info, settings, head, authority, !target_is_path(target))?;
        }
    }
    if target_is_path(head.target())
        && info.listener.kind.cluster().is_none()
        && let Some(cluster) = host_bytes.and_then(|host| info.clusters().find_by_host(host))
    {
        return Ok(Destination::Cluster(cluster));
    }
    let host = match host_bytes.map(std::str::from_utf8) {
        None => "",
        Some(Ok(host)) => host,
        Some(Err(_)) => return Err(invalid_host("not text")),
    };
    let target = head.target();
    if !target_is_path(target) {
        return route_absolute_form(info, settings, head, host, facts);
    }
    if let Some(cluster) = info.listener.kind.cluster() {
        return route_by_listener(cluster, facts, host).map(Destination::Cluster);
    }
    if host.is_empty() {
        return route_by_path(target, host, settings, head, facts);
    }
    match host::parse(host) {
        ParsedHost::Service(name) => Ok(Destination::Service(name)),
        ParsedHost::Local => route_by_path(target, host, settings, head, facts),
        ParsedHost::Outside if is_own_authority(info, host) => {
            route_by_path(target, host, settings, head, facts)
        }
        // A declared service's name may have dots.
        ParsedHost::Outside => {
            let cluster = find_dotted_service(info, host).ok_or_else(|| outside_host(host))?;
            Ok(Destination::Cluster(cluster))
        }
        ParsedHost::Invalid => Err(invalid_host(host)),
    }
}

/// Scheme, authority and the rest of a target in absolute form; `None`: it is in another form.
fn absolute_parts(target: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    if target_is_path(target) {
        return None;
    }
    let separator = target.windows(3).position(|part| part == b"://")?;
    let (scheme, rest) = target.split_at(separator);
    let rest = rest.get(3..).unwrap_or_default();
    let (authority, path) = rest.split_at(path_start(rest));
    Some((scheme, authority, path))
}

/// Whether a target is in origin form or in asterisk form, and not in absolute form.
fn target_is_path(target: &[u8]) -> bool {
    target.first() == Some(&b'/') || target == b"*"
}

/// The listener names the service, so the Host is left as it is; HTTP/1.0 may leave it out, and HTTP/1.1, which the instance
/// gets, may not.
fn route_by_listener(
    cluster: &Arc<Cluster>,
    facts: &mut RequestFacts,
    host: &str,
) -> Result<Arc<Cluster>, Refusal> {
    if !host.is_empty() && host::parse(host) == ParsedHost::Invalid {
        return Err(invalid_host(host));
    }
    if !facts.has_host {
        facts.changes.host = Some(cluster.key.service.as_bytes().into());
    }
    Ok(cluster.clone())
}

/// `/svc/NAME/rest`: the prefix is removed, the rest is left as it is, and the instance is told the prefix.
fn route_by_path<'h>(
    target: &'h [u8],
    host: &str,
    settings: &DownstreamSettings,
    head: &Head,
    facts: &mut RequestFacts,
) -> Result<Destination<'h>, Refusal> {
    let Some(rest) = target.strip_prefix(PATH_PREFIX) else {
        return Err(no_route(host, &format!("the path {} names no service", shown(target))));
    };
    let (service, rest) = rest.split_at(path_start(rest));
    let Some(service) = std::str::from_utf8(service).ok().filter(|name| host::is_service_name(name)) else {
        return Err(no_route(host, &format!("{} cannot be a service's name", shown(service))));
    };
    let name = ServiceName { service: host::lowercase(service), tag: None, datacenter: None };
    let changes = &mut facts.changes;
    changes.target = Some(with_slash(rest).into());
    changes.host = Some(service.as_bytes().into());
    let outbound = &settings.outbound;
    let (adds_host, rewrites_cookies) = (outbound.x_forwarded, outbound.rewrite_cookie_path);
    let form = PathForm::new(head, service.as_bytes(), rest, adds_host, rewrites_cookies);
    form.write_field(head, &mut changes.add);
    changes.drop = changes.drop.with(Name::XForwardedPrefix);
    changes.path_form = Some(Box::new(form));
    Ok(Destination::Service(name))
}

/// The target is in absolute form, names the host, and replaces the Host field (RFC 9112 §3.2.2).
fn route_absolute_form<'h>(
    info: &ConnectionInfo,
    settings: &DownstreamSettings,
    head: &'h Head,
    host: &str,
    facts: &mut RequestFacts,
) -> Result<Destination<'h>, Refusal> {
    let target = head.target();
    let (scheme, authority, path) = absolute_parts(target).unwrap_or_default();
    // Some clients write the scheme of their WebSocket to the proxy (RFC 6455 §4.1 asks for http).
    let is_websocket = scheme.eq_ignore_ascii_case(b"ws") && facts.changes.upgrades;
    if !scheme.eq_ignore_ascii_case(b"http") && !is_websocket {
        let detail = format!("only http:// is carried, not {}", target.escape_ascii());
        return Err(Refusal::new(Reason::OutsideHost, detail));
    }
    if facts.has_host && !host.is_empty() && host::parse(host) == ParsedHost::Invalid {
        return Err(invalid_host(host));
    }
    let Ok(authority) = std::str::from_utf8(authority) else { return Err(invalid_host("not text")) };
    let by_listener = info.listener.kind.cluster();
    if by_listener.is_none() && is_own_authority(info, authority) {
        return route_by_path(path, authority, settings, head, facts);
    }
    let destination = match (by_listener, host::parse(authority)) {
        (_, ParsedHost::Invalid) => return Err(invalid_host(authority)),
        (Some(cluster), _) => Destination::Cluster(route_by_listener(cluster, facts, authority)?),
        (None, ParsedHost::Service(name)) => Destination::Service(name),
        (None, ParsedHost::Outside) => {
            Destination::Cluster(find_dotted_service(info, authority).ok_or_else(|| outside_host(authority))?)
        }
        (None, ParsedHost::Local) => return Err(outside_host(authority)),
    };
    // OPTIONS of an empty path is for the server as a whole (RFC 9112 §3.2.4).
    let is_server = path.is_empty() && head.method() == b"OPTIONS";
    facts.changes.target = Some(if is_server { Box::from(*b"*") } else { with_slash(path).into() });
    facts.changes.host = Some(authority.as_bytes().into());
    Ok(destination)
}

/// A declared service with dots in its name, which in a Host looks like a name outside the registry.
fn find_dotted_service(info: &ConnectionInfo, authority: &str) -> Option<Arc<Cluster>> {
    let service = host::lowercase(host::host_of(authority)?);
    let name = ServiceName { service, tag: None, datacenter: None };
    info.clusters().find(&name).filter(|cluster| cluster.is_declared())
}

/// Most bytes of a path or a Host that a problem body shows.
const MAX_SHOWN: usize = 100;

/// Text of a request for a problem body, quoted, without bytes that are not printable ASCII.
fn shown(bytes: &[u8]) -> String {
    let (start, rest) = bytes.split_at(bytes.len().min(MAX_SHOWN));
    let dots = if rest.is_empty() { "" } else { "…" };
    format!("`{}{dots}`", start.escape_ascii())
}

/// Of a request for `host` that names no service. `what` is wrong with its path.
fn no_route(host: &str, what: &str) -> Refusal {
    let host = match host {
        "" => "there is no Host, or an empty one".to_owned(),
        host => format!("the Host {} is this sidecar's own address", shown(host.as_bytes())),
    };
    let detail = format!(
        "{host}, and {what}; name the service in the Host (`Host: orders`), in the path (`/svc/orders/...`), or by a \
         proxy setting (`http_proxy`, which sends `GET http://orders/`)"
    );
    Refusal::new(Reason::NoRoute, detail)
}

fn outside_host(host: &str) -> Refusal {
    let detail = format!(
        "{host:?} is no service of the registry, and this is no open proxy; use the name of a service (`Host: orders`); one \
         with dots in its name is named by the path (`/svc/a.b/...`), or by the Host once it is declared \
         (upstreams[].service); or give the service a listener of its own (upstreams[].listen), which takes any Host"
    );
    Refusal::new(Reason::OutsideHost, detail)
}

fn invalid_host(host: &str) -> Refusal {
    Refusal::new(Reason::BadRequest, format!("Host {host:?} is invalid (RFC 9112 §3.2)"))
}
