//! Refuses requests of foreign web pages. A page in a browser can reach localhost, and by DNS rebinding even
//! read from it. So `Host` and `Origin` must be addresses of this listener or names of `outbound.names`, a browser may not say that the request
//! comes from another site (`Sec-Fetch-Site`), not even by a link, and a change needs a header that a page cannot
//! send without permission (CORS).
//!
//! The listener for metrics and health does not check this: it serves the network, and changes nothing.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use outrigger_config::ListenHost;

use super::host_field::{HostField, RequestHost};

/// The header that every change needs, and its value.
pub(crate) const CHANGE_HEADER: (&str, &str) = ("x-outrigger-admin", "1");

/// Reads `outbound.names`, which a reload changes.
pub(crate) type OwnNames = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// The hosts that count as this listener's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AllowedHosts {
    /// The address of the listener.
    pub(crate) listen: ListenHost,
    /// The names of `outbound.names`: names and IP addresses in lower case, without brackets.
    pub(crate) names: Vec<String>,
}

impl AllowedHosts {
    /// The only names are `localhost` and those of the settings, because DNS can make any other name point here.
    pub(crate) fn allows(&self, host: &RequestHost) -> bool {
        let is_named = |is: &dyn Fn(&str) -> bool| self.names.iter().any(|name| is(name));
        match (host, &self.listen) {
            (RequestHost::Ip(ip), _) if ip.is_loopback() || is_named(&|name| name.parse() == Ok(*ip)) => true,
            (RequestHost::Ip(ip), ListenHost::Ip(own)) => own == ip || own.is_unspecified(),
            (RequestHost::Ip(ip), ListenHost::LinkLocal { ip: own, .. }) => ip == own,
            (RequestHost::Ip(_), ListenHost::Localhost) => false,
            (RequestHost::Name(name), _) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                name.eq_ignore_ascii_case("localhost") || is_named(&|own| name.eq_ignore_ascii_case(own))
            }
        }
    }

    /// The host of a request, where it is an allowed one. A target that names a host, as for a proxy, must name an allowed one, too.
    pub(crate) fn host_of(&self, uri: &Uri, headers: &HeaderMap) -> Option<HostField> {
        let host = HostField::of(headers).filter(|field| self.allows(&field.host))?;
        let is_own = |text: &str| HostField::parse(text).is_some_and(|field| self.allows(&field.host));
        uri.authority().is_none_or(|authority| is_own(authority.as_str())).then_some(host)
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AdminRefusal {
    #[error(
        "the Host header must be localhost, the address of admin.listen or a name of outbound.names; metrics and health \
         alone are served on admin.metrics_listen"
    )]
    ForeignHost,
    #[error(
        "requests from pages of other origins and links from other sites are refused here, and no setting allows them; \
         enter the address in the browser"
    )]
    ForeignOrigin,
    #[error(
        "a change needs the header 'x-outrigger-admin: 1', as in: curl -X POST -H 'x-outrigger-admin: 1'"
    )]
    MissingHeader,
}

/// The middleware.
pub(crate) async fn check_request(
    State((listen, own_names)): State<(ListenHost, OwnNames)>,
    request: Request,
    next: Next,
) -> Response {
    let allowed = AllowedHosts { listen, names: own_names() };
    match validate_request(&allowed, request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => (StatusCode::FORBIDDEN, format!("{refusal}\n")).into_response(),
    }
}

fn validate_request(
    allowed: &AllowedHosts,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), AdminRefusal> {
    let host = allowed.host_of(uri, headers).ok_or(AdminRefusal::ForeignHost)?;
    if headers.get_all(header::ORIGIN).iter().any(|origin| !same_origin(origin.as_bytes(), &host)) {
        return Err(AdminRefusal::ForeignOrigin);
    }
    let is_same_site = |site: &HeaderValue| matches!(site.as_bytes(), b"none" | b"same-origin");
    if !headers.get_all("sec-fetch-site").iter().all(is_same_site) {
        return Err(AdminRefusal::ForeignOrigin);
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let has_header = headers.get(CHANGE_HEADER.0).is_some_and(|value| value == CHANGE_HEADER.1);
    if reads || has_header { Ok(()) } else { Err(AdminRefusal::MissingHeader) }
}

fn same_origin(origin: &[u8], host: &HostField) -> bool {
    origin.strip_prefix(b"http://").is_some_and(|rest| rest.eq_ignore_ascii_case(host.text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &AllowedHosts = &AllowedHosts { listen: ListenHost::Localhost, names: Vec::new() };

    fn validate(allowed: &AllowedHosts, method: &str, headers: &[(&str, &str)]) -> Result<(), AdminRefusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        validate_request(allowed, &method.parse().unwrap(), &Uri::from_static("/services"), &map)
    }

    #[test]
    fn only_own_hosts_are_allowed() {
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST:7079", true),
            ("localhost.:7079", true),
            ("127.0.0.1:7079", true),
            ("127.9.9.9", true),
            ("[::1]:7079", true),
            ("10.0.0.5:7079", false),
            ("rebound.example:7079", false),
            ("localhost.example", false),
            ("127.0.0.1.example", false),
            ("user@localhost", false),
            ("[::1].evil.example", false),
            ("[::1]evil.example:7079", false),
            ("[[::1]]", false),
            ("", false),
        ] {
            let expected = if expected { Ok(()) } else { Err(AdminRefusal::ForeignHost) };
            assert_eq!(validate(LOCAL, "GET", &[("host", host)]), expected, "{host:?}");
        }
        assert_eq!(validate(LOCAL, "GET", &[]), Err(AdminRefusal::ForeignHost));
        for (target, expected) in [
            ("http://localhost:7079/services", true),
            ("http://evil.example/services", false),
            ("http://user@localhost/services", false),
        ] {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("localhost"))]);
            let result = validate_request(LOCAL, &Method::GET, &Uri::from_static(target), &headers);
            assert_eq!(result.is_ok(), expected, "{target}");
        }
        let two = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(validate(LOCAL, "GET", &two), Err(AdminRefusal::ForeignHost));
    }

    #[test]
    fn a_listener_on_one_address_allows_it_and_one_on_all_addresses_allows_any() {
        let at = |ip: &str| AllowedHosts { listen: ListenHost::Ip(ip.parse().unwrap()), names: Vec::new() };
        let link_local = ListenHost::LinkLocal { ip: "fe80::1".parse().unwrap(), zone: "eth0".to_owned() };
        for (own, host, expected) in [
            (at("10.0.0.5"), "10.0.0.5:7079", true),
            (at("10.0.0.5"), "10.0.0.6:7079", false),
            (at("0.0.0.0"), "10.0.0.6:7079", true),
            (at("::"), "[2001:db8::1]:7079", true),
            (at("0.0.0.0"), "rebound.example", false),
            // Clients leave out the zone, which is theirs (RFC 6874 §4).
            (AllowedHosts { listen: link_local.clone(), names: Vec::new() }, "[fe80::1]:7079", true),
            (AllowedHosts { listen: link_local, names: Vec::new() }, "[fe80::2]:7079", false),
        ] {
            assert_eq!(validate(&own, "GET", &[("host", host)]).is_ok(), expected, "{host}");
        }
    }

    #[test]
    fn the_further_names_of_the_sidecar_are_allowed() {
        let names = ["host.docker.internal", "sidecar", "10.0.0.5", "fd00::5"].map(str::to_owned).into();
        let own = AllowedHosts { listen: ListenHost::Localhost, names };
        for (host, expected) in [
            ("host.docker.internal:7079", true),
            ("Host.Docker.Internal.", true),
            ("sidecar", true),
            ("10.0.0.5:7079", true),
            ("[fd00:0::5]:7079", true),
            ("localhost:7079", true),
            ("docker.internal", false),
            ("x.sidecar", false),
            ("sidecar..", false),
            ("10.0.0.6", false),
        ] {
            assert_eq!(validate(&own, "GET", &[("host", host)]).is_ok(), expected, "{host}");
            assert_eq!(validate(LOCAL, "GET", &[("host", host)]).is_ok(), host == "localhost:7079", "{host}");
            let origin = format!("http://{host}");
            let page = [("host", host), ("origin", &*origin), ("x-outrigger-admin", "1")];
            assert_eq!(validate(&own, "POST", &page).is_ok(), expected, "{host}");
        }
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        for (origin, expected) in [
            ("http://localhost:7079", true),
            ("http://localhost:3000", false),
            ("https://localhost:7079", false),
            ("https://evil.example", false),
            ("null", false),
        ] {
            let result = validate(LOCAL, "GET", &[("host", "localhost:7079"), ("origin", origin)]);
            assert_eq!(result.is_ok(), expected, "{origin}");
        }
    }

    #[test]
    fn links_from_other_sites_are_refused_too() {
        for (site, expected) in
            [("none", true), ("same-origin", true), ("same-site", false), ("cross-site", false), ("", false)]
        {
            let link = [
                ("host", "localhost:7079"),
                ("sec-fetch-site", site),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ];
            let expected = if expected { Ok(()) } else { Err(AdminRefusal::ForeignOrigin) };
            assert_eq!(validate(LOCAL, "GET", &link), expected, "{site:?}");
        }
    }

    #[test]
    fn a_change_needs_its_header() {
        let host = ("host", "localhost:7079");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            assert_eq!(validate(LOCAL, method, &[host]), Err(AdminRefusal::MissingHeader), "{method}");
            assert_eq!(
                validate(LOCAL, method, &[host, ("x-outrigger-admin", "0")]),
                Err(AdminRefusal::MissingHeader)
            );
            assert_eq!(validate(LOCAL, method, &[host, ("x-outrigger-admin", "1")]), Ok(()), "{method}");
        }
        let foreign = [("host", "evil.example"), ("x-outrigger-admin", "1")];
        assert_eq!(validate(LOCAL, "POST", &foreign), Err(AdminRefusal::ForeignHost));
    }
}
