//! Finds the service of a request, and the target and Host that the instance gets.
//!
//! The service is named by the Host, by `/svc/NAME/` when the Host is the sidecar's own address, by the target
//! of a request in absolute form, or by the listener. A request for an address or for a name outside the
//! registry is refused; such a name is never looked up.

use std::{net::IpAddr, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Uri,
    header::HOST,
    uri::{PathAndQuery, Scheme},
};

use crate::{
    headers,
    host::{self, ParsedHost, ServiceName},
    reason::{Reason, Refusal},
    session::Session,
    upstream::cluster::Cluster,
};

/// The service of a request, and the changes to its head.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) cluster: Arc<Cluster>,
    /// The target for the instance, where it differs from the app's.
    pub(crate) uri: Option<Uri>,
    /// The Host for the instance, where it differs from the app's.
    pub(crate) host: Option<HeaderValue>,
}

/// The path prefix before a service's name, when the Host is the sidecar's own address.
const PATH_PREFIX: &str = "/svc/";

/// Finds the service. Waits, within a limit, only for the registry's first answer for it.
///
/// # Errors
/// When the request names no service that it may reach; the refusal says what to do instead.
pub(crate) async fn find(session: &Session, uri: &Uri, headers: &HeaderMap) -> Result<Route, Refusal> {
    if headers::from_browser(headers) {
        // Another port of this machine is another origin.
        let own = |authority: &str| {
            is_own_authority(session, authority) && authority_port(authority) == session.local.port()
        };
        headers::judge_origin(headers, &session.listener.settings.load().outbound.allow_origins, own)?;
    }
    if uri.scheme().is_some() {
        return route_absolute_form(session, uri).await;
    }
    let host = match headers.get(HOST).map(HeaderValue::to_str) {
        None => "",
        Some(Ok(host)) => host,
        Some(Err(_)) => return Err(invalid_host("not text")),
    };
    if let Some(cluster) = session.listener.kind.cluster() {
        return route_by_listener(cluster, headers, host);
    }
    if host.is_empty() {
        return route_by_path(session, uri).await;
    }
    match host::parse(host) {
        ParsedHost::Service(name) => {
            let cluster = session.shared.clusters.find_or_open(&name).await?;
            Ok(Route { cluster, uri: None, host: None })
        }
        ParsedHost::Local => route_by_path(session, uri).await,
        ParsedHost::Outside if is_own_authority(session, host) => route_by_path(session, uri).await,
        // A declared service's name may have dots.
        ParsedHost::Outside => match find_dotted_service(session, host) {
            Some(cluster) => Ok(Route { cluster, uri: None, host: None }),
            None => Err(outside_host(host)),
        },
        ParsedHost::Invalid => Err(invalid_host(host)),
    }
}

/// The listener names the service, so the Host is left as it is.
fn route_by_listener(cluster: &Arc<Cluster>, headers: &HeaderMap, host: &str) -> Result<Route, Refusal> {
    match host::parse(host) {
        // A page from a name that resolves to this machine (DNS rebinding) must not reach a service.
        ParsedHost::Outside if headers::from_browser(headers) => Err(Refusal::new(
            Reason::ForbiddenOrigin,
            format!("a browser's request for {host:?} may not reach a service"),
        )),
        ParsedHost::Invalid if !host.is_empty() => Err(invalid_host(host)),
        _ => Ok(Route { cluster: cluster.clone(), uri: None, host: None }),
    }
}

/// `/svc/NAME/rest`: the prefix is removed, the rest is left as it is.
async fn route_by_path(session: &Session, uri: &Uri) -> Result<Route, Refusal> {
    let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let Some(rest) = target.strip_prefix(PATH_PREFIX) else {
        return Err(Refusal::new(
            Reason::NoRoute,
            "name the service in the Host field (`Host: orders`) or in the path (`/svc/orders/...`)",
        ));
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (service, rest) = rest.split_at(end);
    if !host::is_service_name(service) {
        return Err(Refusal::new(Reason::NoRoute, format!("{service:?} cannot be a service's name")));
    }
    let name = ServiceName { service: host::lowercase(service), tag: None, datacenter: None };
    let cluster = session.shared.clusters.find_or_open(&name).await?;
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    let path = PathAndQuery::try_from(rest).map_err(|error| {
        Refusal::new(Reason::BadRequest, format!("the target without its prefix: {error}"))
    })?;
    let host = HeaderValue::from_str(service)
        .map_err(|_| Refusal::new(Reason::NoRoute, format!("{service:?} cannot be a Host")))?;
    Ok(Route { cluster, uri: Some(Uri::from(path)), host: Some(host) })
}

/// The target is in absolute form, names the host, and replaces the Host field (RFC 9112 §3.2.2).
async fn route_absolute_form(session: &Session, uri: &Uri) -> Result<Route, Refusal> {
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    if uri.scheme() != Some(&Scheme::HTTP) {
        return Err(Refusal::new(Reason::OutsideHost, format!("only http:// is carried, not {uri}")));
    }
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let origin = Uri::from(path);
    if session.listener.kind.cluster().is_none() && is_own_authority(session, authority) {
        return route_by_path(session, &origin).await;
    }
    let cluster = match (session.listener.kind.cluster(), host::parse(authority)) {
        (Some(cluster), ParsedHost::Service(_) | ParsedHost::Local) => cluster.clone(),
        (None, ParsedHost::Service(name)) => session.shared.clusters.find_or_open(&name).await?,
        (None, ParsedHost::Outside) => {
            find_dotted_service(session, authority).ok_or_else(|| outside_host(authority))?
        }
        (_, ParsedHost::Invalid) => return Err(invalid_host(authority)),
        (_, ParsedHost::Outside | ParsedHost::Local) => return Err(outside_host(authority)),
    };
    let host = HeaderValue::from_str(authority).map_err(|_| invalid_host(authority))?;
    Ok(Route { cluster, uri: Some(origin), host: Some(host) })
}

/// A declared service with dots in its name, which in a Host looks like a name outside the registry.
fn find_dotted_service(session: &Session, authority: &str) -> Option<Arc<Cluster>> {
    let service = host::lowercase(host::host_of(authority)?);
    let name = ServiceName { service, tag: None, datacenter: None };
    session.shared.clusters.find(&name).filter(|cluster| cluster.is_declared())
}

/// Whether the host of an authority is a loopback address or the local address of this connection.
fn is_own_authority(session: &Session, authority: &str) -> bool {
    host::is_loopback(authority)
        || host::host_of(authority)
            .map(|host| host.trim_matches(['[', ']']))
            .and_then(|host| host.parse::<IpAddr>().ok())
            .is_some_and(|ip| ip.to_canonical() == session.local.ip().to_canonical())
}

/// The port of an authority; 80 where it has none.
fn authority_port(authority: &str) -> u16 {
    let after = authority.rfind(']').map_or(0, |end| end + 1);
    authority[after..].rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(80)
}

fn outside_host(host: &str) -> Refusal {
    Refusal::new(
        Reason::OutsideHost,
        format!(
            "{host:?} is no service of the registry, and this is no open proxy; use the name of a service"
        ),
    )
}

fn invalid_host(host: &str) -> Refusal {
    Refusal::new(Reason::BadRequest, format!("Host {host:?} is invalid (RFC 9112 §3.2)"))
}
