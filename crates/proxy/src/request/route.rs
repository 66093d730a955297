//! Finds the service of a request, and the target and Host that the instance gets.
//!
//! The service is named by the Host, by `/svc/NAME/` when the Host is the sidecar's own address, by the target
//! of a request in absolute form, or by the listener. A request for an address or for a name outside the
//! registry is refused; such a name is never looked up.

use std::sync::Arc;

use outrigger_http1::{Head, Name};
use outrigger_registry::name::ConsulForm;

use crate::{
    context::{ConnectionInfo, DownstreamSettings},
    host::{self, HostNames, ParsedHost, ServiceName},
    reason::{Reason, Refusal},
    request::{
        browser::{self, is_own_authority},
        fields::RequestFacts,
        path_form::{PATH_PREFIX, PathForm, path_start, with_slash},
    },
    upstream::cluster::{Cluster, ClusterKey},
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
    if facts.browser.is_due() {
        let target = head.target();
        let authority =
            absolute_parts(target).map_or(host_bytes.unwrap_or_default(), |(_, authority, _)| authority);
        // What is no text is refused for that below.
        if let Ok(authority) = std::str::from_utf8(authority) {
            let is_marked = facts.browser.is_marked();
            browser::check_page(info, settings, head, authority, !target_is_path(target), is_marked)?;
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
        return route_by_listener(cluster, settings, facts, host).map(Destination::Cluster);
    }
    if host.is_empty() {
        return route_by_path(target, host, settings, head, facts);
    }
    match settings.names.parse(host) {
        ParsedHost::Service(name) => Ok(Destination::Service(name)),
        ParsedHost::Local => route_by_path(target, host, settings, head, facts),
        ParsedHost::Outside if is_own_authority(info, &settings.names, host) => {
            route_by_path(target, host, settings, head, facts)
        }
        ParsedHost::Outside => Err(outside_host(&settings.names, host)),
        ParsedHost::NotOffered(form) => Err(form_not_offered(&settings.names, host, form)),
        ParsedHost::Invalid => Err(invalid_host(host)),
    }
}

/// The service of a CONNECT, which is named by its target alone: `orders:80`. The port says nothing, because an instance has its own.
///
/// # Errors
/// When it is no name of a service, or CONNECT is not offered here.
pub(crate) fn find_connect<'h>(
    info: &ConnectionInfo,
    settings: &DownstreamSettings,
    head: &'h Head,
) -> Result<ServiceName<'h>, Refusal> {
    let refuse = |reason, detail: &str| Err(Refusal::new(reason, detail));
    if !settings.outbound.connect {
        return refuse(
            Reason::MethodNotAllowed,
            "CONNECT is off (outbound.connect): send the request itself",
        );
    }
    if info.listener.kind.cluster().is_some() {
        let detail = "CONNECT names a service, and this listener has one: send the request itself";
        return refuse(Reason::MethodNotAllowed, detail);
    }
    if head.has(Name::ContentLength) || head.has(Name::TransferEncoding) {
        return refuse(Reason::BadRequest, "CONNECT has no body (RFC 9110 §9.3.6)");
    }
    let Ok(authority) = std::str::from_utf8(head.target()) else { return Err(invalid_host("not text")) };
    let has_port = host::host_of(authority).is_some_and(|bare| bare.len() < authority.len());
    if !has_port {
        return refuse(
            Reason::BadRequest,
            "the target of CONNECT is a name and a port: orders:80 (RFC 9112 §3.2.3)",
        );
    }
    match settings.names.parse(authority) {
        ParsedHost::Service(name) => Ok(name),
        ParsedHost::NotOffered(form) => Err(form_not_offered(&settings.names, authority, form)),
        ParsedHost::Outside | ParsedHost::Local => Err(outside_host(&settings.names, authority)),
        ParsedHost::Invalid => Err(invalid_host(authority)),
    }
}

/// Refuses a request to a service that speaks another protocol: its answer would be taken for a fault of the instance.
///
/// # Errors
/// When the settings say `protocol: tcp` of the service.
#[inline]
pub(crate) fn check_protocol(settings: &DownstreamSettings, cluster: &ClusterKey) -> Result<(), Refusal> {
    match settings.tcp_of(cluster) {
        None => Ok(()),
        Some(_) => Err(refuse_http(cluster)),
    }
}

#[cold]
fn refuse_http(key: &ClusterKey) -> Refusal {
    let detail = format!(
        "{key}: its protocol is tcp (upstreams.{key}.protocol), and this is an HTTP request; connect to its listener \
         (upstreams.{key}.listen) with a client of its protocol"
    );
    Refusal::new(Reason::NotHttp, detail)
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
    settings: &DownstreamSettings,
    facts: &mut RequestFacts,
    host: &str,
) -> Result<Arc<Cluster>, Refusal> {
    if !host.is_empty() && settings.names.parse(host) == ParsedHost::Invalid {
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
    let name = ServiceName::plain(service);
    let changes = &mut facts.changes;
    changes.target = Some(with_slash(rest).into());
    changes.host = Some(service.as_bytes().into());
    let form = PathForm::new(head, service.as_bytes(), rest, settings);
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
    let names = &settings.names;
    if facts.has_host && !host.is_empty() && names.parse(host) == ParsedHost::Invalid {
        return Err(invalid_host(host));
    }
    let Ok(authority) = std::str::from_utf8(authority) else { return Err(invalid_host("not text")) };
    let by_listener = info.listener.kind.cluster();
    if by_listener.is_none() && is_own_authority(info, names, authority) {
        return route_by_path(path, authority, settings, head, facts);
    }
    let destination = match (by_listener, names.parse(authority)) {
        (_, ParsedHost::Invalid) => return Err(invalid_host(authority)),
        (Some(cluster), _) => Destination::Cluster(route_by_listener(cluster, settings, facts, authority)?),
        (None, ParsedHost::Service(name)) => Destination::Service(name),
        (None, ParsedHost::NotOffered(form)) => return Err(form_not_offered(names, authority, form)),
        (None, ParsedHost::Outside | ParsedHost::Local) => return Err(outside_host(names, authority)),
    };
    // OPTIONS of an empty path is for the server as a whole (RFC 9112 §3.2.4).
    let is_server = path.is_empty() && head.method() == b"OPTIONS";
    facts.changes.target = Some(if is_server { Box::from(*b"*") } else { with_slash(path).into() });
    facts.changes.host = Some(authority.as_bytes().into());
    Ok(destination)
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

/// Of a host that is no service of the registry.
fn outside_host(names: &HostNames, host: &str) -> Refusal {
    let (domain, bare) = (&names.domain, host::host_of(host).unwrap_or(host));
    let has_domain = |domain: &str| {
        let end = bare.len().checked_sub(domain.len()).and_then(|start| bare.get(start..));
        end.is_some_and(|end| end.eq_ignore_ascii_case(domain))
    };
    let more = if has_domain(&format!(".{domain}")) {
        format!("; below .{domain} a service is {}", long_form(names))
    } else if has_domain(".consul") {
        format!("; the domain of Consul's names is {domain} here (registry.consul.domain)")
    } else {
        String::new()
    };
    let detail = format!(
        "{host:?} is no service of the registry, and this is no open proxy{more}; use the name of a service (`Host: orders`); \
         one with dots in its name is named by the path (`/svc/a.b/...`), or by the Host once it is declared \
         (upstreams[].service); or give the service a listener of its own (upstreams[].listen), which takes any Host"
    );
    Refusal::new(Reason::OutsideHost, detail)
}

/// Of a host in a form of Consul's DNS that is not offered.
fn form_not_offered(names: &HostNames, host: &str, form: ConsulForm) -> Refusal {
    let ConsulForm { text, meaning } = form;
    let detail = format!(
        "{host:?} has a form of Consul's DNS that is not offered: {text} stands for {meaning}; a service is {}, or by its \
         name alone (`Host: orders`)",
        long_form(names)
    );
    Refusal::new(Reason::OutsideHost, detail)
}

/// The long form of a service's name.
fn long_form(names: &HostNames) -> String {
    format!("[TAG.]NAME.service[.DATACENTER.dc].{}", names.domain)
}

fn invalid_host(host: &str) -> Refusal {
    Refusal::new(Reason::BadRequest, format!("Host {host:?} is invalid (RFC 9112 §3.2)"))
}
