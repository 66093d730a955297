//! Refuses what a page of another site makes a browser send.
//!
//! Every page can make a browser send requests to this machine, so a request that comes from this machine is not trusted for
//! that. A browser marks such a request: `Origin` names the page's origin, and `Sec-Fetch-Site` says that it is another one (W3C
//! Fetch Metadata). No page can change the two.
//!
//! A gateway in front of the app passes the same marks on, of its own visitors, and those are for the app to judge. The two are
//! told apart by what a browser cannot avoid: aimed at this listener it writes the listener's port into `Host` (none for 80),
//! and by a proxy setting an absolute target. So the marks count when the host is an address of this machine, when it bears the
//! listener's own port, and when the target is in absolute form.
//!
//! A name that resolves to this machine only since its page was loaded (DNS rebinding) makes that page one of the same origin,
//! without a mark. The listener of one service, which accepts any host, so refuses a browser's request for a host outside the
//! registry on its own port, unless the setting `hosts` names the host.
//!
//! Where the DNS listener turns the names of services to this machine, every page reaches them by a plain name, and a GET of a page
//! of plain http bears neither mark. So such a name refuses whatever any browser sends, unless a setting allows it: there `Sec-Fetch-…`,
//! `Upgrade-Insecure-Requests` and a User-Agent of `Mozilla/…` are marks, too.

use outrigger_config::AllowedOrigin;
use outrigger_http1::{Head, Name};

use crate::{
    context::{ConnectionInfo, DownstreamSettings},
    host::{self, HostNames, ParsedHost},
    reason::{Reason, Refusal},
};

/// Names that only matter here; they are searched for only where a request would be refused.
const SEC_FETCH_MODE: &[u8] = b"sec-fetch-mode";
const SEC_FETCH_DEST: &[u8] = b"sec-fetch-dest";
/// Names that matter for the name of a service alone.
const SEC_FETCH: &[u8] = b"sec-fetch-";
const UPGRADE_INSECURE_REQUESTS: &[u8] = b"upgrade-insecure-requests";

/// Checks a request that a browser may have sent. `authority`: its Host, or that of its target; `is_absolute`: the target is in
/// absolute form; `is_marked`: it has a mark that only browsers set.
///
/// # Errors
/// [`Reason::ForbiddenOrigin`] or [`Reason::BrowserRefused`]; the refusal names the setting that allows the request.
pub(crate) fn check_page(
    info: &ConnectionInfo,
    settings: &DownstreamSettings,
    head: &Head,
    authority: &str,
    is_absolute: bool,
    is_marked: bool,
) -> Result<(), Refusal> {
    // HTTP/1.0 may have no Host, and then the path names the service.
    let names = &settings.names;
    let is_own_host = authority.is_empty() || is_own_authority(info, names, authority);
    let has_own_port = authority_port(authority) == info.local.port();
    if !is_own_host && !has_own_port && !is_absolute {
        return Ok(());
    }
    let parsed = names.parse(authority);
    let mut is_known = !matches!(parsed, ParsedHost::Outside | ParsedHost::NotOffered(_));
    if let Some(cluster) = info.listener.kind.cluster()
        && !is_own_host
    {
        let is_listed = settings.hosts_of(&cluster.key).iter().any(|listed| is_host(authority, listed));
        if is_listed && !is_absolute {
            return Ok(());
        }
        if !is_listed && !is_known && is_marked {
            return Err(rebinding_refusal(&cluster.label, authority));
        }
        is_known |= is_listed;
    }
    if settings.guards_browsers && has_own_port && !is_own_host && matches!(parsed, ParsedHost::Service(_)) {
        check_service_name(head, &settings.outbound.allow_origins, authority)?;
    }
    // Another port of this machine is another origin. A page that has the request's own authority is one of the service
    // itself, unless the name can have been turned to this machine.
    let is_own = |origin: &str| {
        is_own_authority(info, names, origin) && authority_port(origin) == info.local.port()
            || is_known && is_same_authority(origin, authority)
    };
    check_marks(head, &settings.outbound.allow_origins, is_own)
}

/// Judges a request for the name of a service, which resolves to this machine.
fn check_service_name(head: &Head, allowed: &[AllowedOrigin], authority: &str) -> Result<(), Refusal> {
    if allowed.contains(&AllowedOrigin::Any) {
        return Ok(());
    }
    if head.has(Name::Origin) {
        let is_allowed = |origin: &[u8]| {
            std::str::from_utf8(origin).is_ok_and(|origin| allowed.iter().any(|one| one.allows(origin)))
        };
        let is_own = |origin: &[u8]| {
            let authority_of_page = origin.strip_prefix(b"http://").map(std::str::from_utf8);
            matches!(authority_of_page, Some(Ok(page)) if is_same_authority(page, authority))
        };
        if head.values(Name::Origin).all(is_allowed) {
            return Ok(());
        }
        if let Some(foreign) = head.values(Name::Origin).find(|origin| !is_allowed(origin) && !is_own(origin))
        {
            let mark = format!("Origin: {}", String::from_utf8_lossy(foreign));
            return Err(name_refusal(&mark, authority));
        }
    }
    let mark = head.fields().iter().find_map(|field| {
        let (name, value) = (head.name(field), head.value(field));
        let is_mark = name.get(..SEC_FETCH.len()).is_some_and(|start| start.eq_ignore_ascii_case(SEC_FETCH))
            || name.eq_ignore_ascii_case(UPGRADE_INSECURE_REQUESTS);
        match field.known {
            Name::UserAgent if value.starts_with(b"Mozilla/") => Some("User-Agent: Mozilla/…".to_owned()),
            _ if is_mark => Some(String::from_utf8_lossy(name).into_owned()),
            _ => None,
        }
    });
    mark.map_or(Ok(()), |mark| Err(name_refusal(&mark, authority)))
}

fn name_refusal(mark: &str, authority: &str) -> Refusal {
    let detail = format!(
        "a browser sent this request ({mark}) to {authority:?}, a name that DNS turns to this sidecar (dns.answer: loopback); \
         dns.browsers: allow carries such requests, outbound.allow_origins those of the pages that it names"
    );
    Refusal::new(Reason::BrowserRefused, detail)
}

/// Judges the marks. `is_own` tells whether an authority is this listener's own.
fn check_marks(head: &Head, allowed: &[AllowedOrigin], is_own: impl Fn(&str) -> bool) -> Result<(), Refusal> {
    let is_fine = |origin: &[u8]| {
        std::str::from_utf8(origin).is_ok_and(|origin| {
            allowed.iter().any(|one| one.allows(origin))
                || origin.strip_prefix("http://").is_some_and(&is_own)
        })
    };
    let refusal = if head.has(Name::Origin) {
        match head.values(Name::Origin).find(|origin| !is_fine(origin)) {
            None => return Ok(()),
            Some(origin) => origin_refusal(&String::from_utf8_lossy(origin)),
        }
    } else {
        let is_mark = |site: &&[u8]| !matches!(*site, b"none" | b"same-origin");
        match head.values(Name::SecFetchSite).find(is_mark) {
            None => return Ok(()),
            Some(_) if allowed.contains(&AllowedOrigin::Any) => return Ok(()),
            Some(site) => site_refusal(&String::from_utf8_lossy(site)),
        }
    };
    if is_navigation(head) { Ok(()) } else { Err(refusal) }
}

/// Whether the user followed a link or entered an address: the page with the link cannot read the response.
fn is_navigation(head: &Head) -> bool {
    let says = |name: &[u8], value: &[u8]| {
        let mut fields = head.fields().iter().filter(|field| head.name(field).eq_ignore_ascii_case(name));
        fields.next().is_some_and(|field| head.value(field) == value) && fields.next().is_none()
    };
    matches!(head.method(), b"GET" | b"HEAD")
        && says(SEC_FETCH_MODE, b"navigate")
        && says(SEC_FETCH_DEST, b"document")
}

fn origin_refusal(origin: &str) -> Refusal {
    let cure = match origin.split_once("://") {
        Some(("http" | "https", _)) => "add it there to allow its pages".to_owned(),
        _ if origin == "null" => {
            "add \"null\" there to allow pages without an origin, which any page can be".to_owned()
        }
        _ => "only \"*\" there allows it".to_owned(),
    };
    let detail = format!("the page's origin {origin:?} is not in outbound.allow_origins; {cure}");
    Refusal::new(Reason::ForbiddenOrigin, detail)
}

fn site_refusal(site: &str) -> Refusal {
    let detail = format!(
        "a page of another site sent this request (Sec-Fetch-Site: {site}) without an Origin, so that of \
         outbound.allow_origins only \"*\" allows it; fetch() sends an Origin, and a link is followed with GET"
    );
    Refusal::new(Reason::ForbiddenOrigin, detail)
}

fn rebinding_refusal(service: &str, authority: &str) -> Refusal {
    let host = host::host_of(authority).unwrap_or(authority);
    let detail = format!(
        "a browser's request for {authority:?}, a name outside the registry, on the port of {service}; add {host:?} to \
         upstreams.{service}.hosts to carry it"
    );
    Refusal::new(Reason::ForbiddenOrigin, detail)
}

/// Whether the host of an authority is a loopback address, the local address of this connection, or a name of `outbound.names`.
pub(crate) fn is_own_authority(info: &ConnectionInfo, names: &HostNames, authority: &str) -> bool {
    names.parse(authority) == ParsedHost::Local
        || host::host_of(authority)
            .and_then(host::ip_of)
            .is_some_and(|ip| ip.to_canonical() == info.local.ip().to_canonical())
}

/// Whether the host of an authority is `listed`, an entry of `hosts`.
fn is_host(authority: &str, listed: &str) -> bool {
    let Some(host) = host::host_of(authority) else { return false };
    host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case(listed)
        || host::ip_of(host).is_some_and(|ip| listed.parse() == Ok(ip))
}

/// Whether the authority of an origin, which is in lower case and has no port 80, is that of a request.
fn is_same_authority(origin: &str, authority: &str) -> bool {
    let (of_page, of_request) = (host::host_of(origin), host::host_of(authority));
    of_page.is_some_and(|host| {
        !host.is_empty() && of_request.is_some_and(|other| host.eq_ignore_ascii_case(other))
    }) && authority_port(origin) == authority_port(authority)
}

/// The port of an authority; 80 where it has none.
fn authority_port(authority: &str) -> u16 {
    let after = authority.rfind(']').map_or(0, |end| end + 1);
    authority[after..].rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(80)
}

#[cfg(test)]
mod tests {
    use outrigger_http1::{HeadKind, HeadLimits, HeadParser, Inbox};

    use super::*;

    fn request(method: &str, fields: &str) -> Head {
        let text = format!("{method} / HTTP/1.1\nHost: o\n{fields}\n\n").replace("\n\n\n", "\n\n");
        let limits = HeadLimits { bytes: 65_536, fields: 100, target: 65_536 };
        let mut inbox = Inbox::from(text.replace('\n', "\r\n").as_bytes());
        HeadParser::new(HeadKind::Request, limits, Vec::new()).parse(&mut inbox, Vec::new).unwrap().unwrap()
    }

    fn check(method: &str, allowed: &[AllowedOrigin], fields: &str) -> Result<(), String> {
        let is_own = |authority: &str| authority == "localhost:7070";
        check_marks(&request(method, fields), allowed, is_own).map_err(|refusal| refusal.detail)
    }

    #[test]
    fn a_page_of_another_origin_is_refused_unless_the_origin_is_allowed() {
        let app = AllowedOrigin::Exact("https://app.example".to_owned());
        for (fields, is_fine) in [
            ("", true),
            ("Origin: http://localhost:7070", true),
            ("Origin: https://localhost:7070", false),
            ("Origin: https://app.example\nSec-Fetch-Site: cross-site", true),
            ("Origin: https://app.example\nOrigin: https://evil.example", false),
            ("Origin: https://evil.example", false),
            ("Origin: null", false),
            ("Origin: \u{e9}", false),
            ("Sec-Fetch-Site: cross-site", false),
            ("Sec-Fetch-Site: same-site", false),
            ("Sec-Fetch-Site: none\nSec-Fetch-Site: cross-site", false),
            ("Sec-Fetch-Site: none", true),
        ] {
            assert_eq!(check("GET", std::slice::from_ref(&app), fields).is_ok(), is_fine, "{fields}");
        }
        for fields in ["Origin: null", "Origin: https://evil.example", "Sec-Fetch-Site: cross-site"] {
            assert_eq!(check("GET", &[AllowedOrigin::Any], fields), Ok(()), "{fields}");
        }
        assert_eq!(check("GET", &[AllowedOrigin::Null], "Origin: null"), Ok(()));
        assert!(check("GET", &[AllowedOrigin::Null], "Sec-Fetch-Site: cross-site").is_err());
    }

    #[test]
    fn the_name_of_a_service_refuses_whatever_a_browser_sends() {
        let app = AllowedOrigin::Exact("https://app.example".to_owned());
        let check = |allowed: &[AllowedOrigin], fields: &str| {
            check_service_name(&request("GET", fields), allowed, "orders.service.consul:7070")
        };
        for (fields, is_fine) in [
            ("", true),
            ("User-Agent: curl/8.0", true),
            ("User-Agent: Mozilla/5.0 (X11; Linux)", false),
            ("Upgrade-Insecure-Requests: 1", false),
            ("Sec-Fetch-Site: none", false),
            ("sec-fetch-user: ?1", false),
            ("Sec-Fetch: 1", true),
            ("Origin: https://evil.example", false),
            ("Origin: null", false),
            ("Origin: \u{e9}", false),
            // A page of the service itself, as far as it is none of a browser.
            ("Origin: http://orders.service.consul:7070", true),
            ("Origin: http://orders.service.consul:7070\nUser-Agent: Mozilla/5.0", false),
            ("Origin: https://app.example\nSec-Fetch-Site: cross-site\nUser-Agent: Mozilla/5.0", true),
            ("Origin: https://app.example\nOrigin: https://evil.example", false),
        ] {
            let checked = check(std::slice::from_ref(&app), fields);
            assert_eq!(checked.is_ok(), is_fine, "{fields}: {checked:?}");
            if let Err(refusal) = checked {
                assert_eq!(refusal.reason, Reason::BrowserRefused);
                assert!(refusal.detail.contains("dns.browsers: allow"), "{}", refusal.detail);
            }
            assert!(check(&[AllowedOrigin::Any], fields).is_ok(), "{fields}");
        }
    }

    #[test]
    fn only_a_navigation_of_a_whole_page_passes() {
        let mode = "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\n";
        for (method, fields, is_fine) in [
            ("GET", "Sec-Fetch-Dest: document", true),
            ("HEAD", "sec-fetch-dest: document", true),
            ("POST", "Sec-Fetch-Dest: document", false),
            ("GET", "Sec-Fetch-Dest: iframe", false),
            ("GET", "Sec-Fetch-Dest: document\nSec-Fetch-Dest: iframe", false),
            ("GET", "", false),
        ] {
            assert_eq!(check(method, &[], &format!("{mode}{fields}")).is_ok(), is_fine, "{method} {fields}");
        }
        let cors = "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: cors\nSec-Fetch-Dest: document";
        assert!(check("GET", &[], cors).is_err());
    }

    #[test]
    fn every_refusal_names_the_setting_that_allows_the_request() {
        for (fields, expected) in [
            ("Origin: https://evil.example", "add it there"),
            ("Origin: null", "add \"null\" there"),
            ("Origin: chrome-extension://abc", "only \"*\" there allows it"),
            ("Sec-Fetch-Site: cross-site", "only \"*\" allows it"),
        ] {
            let detail = check("POST", &[], fields).unwrap_err();
            assert!(detail.contains("outbound.allow_origins") && detail.contains(expected), "{detail}");
        }
        let detail = rebinding_refusal("orders", "evil.example:9201").detail;
        assert!(detail.contains("add \"evil.example\" to upstreams.orders.hosts"), "{detail}");
    }

    #[test]
    fn a_listed_host_is_found_whatever_its_case_and_port() {
        for (authority, listed, expected) in [
            ("App.Example:9201", "app.example", true),
            ("app.example.", "app.example", true),
            ("x.app.example", "app.example", false),
            ("[2001:DB8::1]:9201", "2001:db8:0::1", true),
            ("10.0.0.5", "10.0.0.5", true),
            ("10.0.0.6", "10.0.0.5", false),
        ] {
            assert_eq!(is_host(authority, listed), expected, "{authority} {listed}");
        }
    }

    #[test]
    fn a_page_of_the_service_itself_has_the_authority_of_the_request() {
        for (origin, authority, expected) in [
            ("orders:7070", "orders:7070", true),
            ("orders", "Orders:80", true),
            ("[2001:db8::1]:7070", "[2001:DB8::1]:7070", true),
            ("orders", "orders:7070", false),
            ("orders:7071", "orders:7070", false),
            ("payments:7070", "orders:7070", false),
            ("x@orders:7070", "orders:7070", false),
            ("orders:7070/", "orders:7070", false),
            ("", "", false),
        ] {
            assert_eq!(is_same_authority(origin, authority), expected, "{origin} {authority}");
        }
    }

    #[test]
    fn the_port_of_an_authority_is_80_without_one() {
        for (authority, port) in
            [("orders", 80), ("orders:7070", 7070), ("[::1]", 80), ("[::1]:7070", 7070), ("orders:", 80)]
        {
            assert_eq!(authority_port(authority), port, "{authority}");
        }
    }
}
