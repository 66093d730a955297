//! The probe by HTTP. As Consul's own check: redirects are followed, 2xx is passing, 429 warning, everything else critical.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header, response, uri::Authority};
use http_body_util::Full;
use outrigger_config::Health;
use outrigger_net::{Fault, has_address, is_caused_by_own_shortage};

use super::result::{ProbeResult, ReasonKind, critical, no_news, passing, warning};
use crate::{app_address::NoConnection, http_client};

/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// Longest part of a `Location` that a text shows, characters.
const MAX_SHOWN: usize = 128;

/// Where the next request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    addr: SocketAddr,
    host: String,
    /// Path and query.
    target: String,
}

/// Asks the app at `addr`, and where its redirects lead on the same host.
pub(super) async fn probe(
    settings: &Health,
    path: &str,
    addr: SocketAddr,
    host: String,
) -> Result<ProbeResult, NoConnection> {
    let first = Place { addr, host, target: path.to_owned() };
    let mut place = first.clone();
    let mut method = Method::from_bytes(settings.method.as_bytes()).unwrap_or(Method::GET);
    let mut followed = 0;
    loop {
        let what = format!("{method} http://{}{}", place.addr, shown_url(&place.target));
        let ill = |kind, why: String| Ok(critical(kind, &format!("{what} {why}")));
        let request = match build_request(settings, &method, &place) {
            Ok(request) => request,
            Err(error) => return ill(ReasonKind::Broken, format!("cannot be sent: {error}")),
        };
        let answer = match http_client::exchange_for_status(place.addr, request, settings.timeout).await {
            Ok(answer) => answer,
            Err(http_client::Error::Connect { addr, fault, source }) if followed == 0 => {
                return Err(NoConnection::new(addr, fault, &source));
            }
            // The app was connected to, so its other addresses are not asked.
            Err(http_client::Error::Connect { addr, fault, source }) => {
                let detail = format!("connect to {addr}, to which it redirects: {source}");
                return Ok(match fault {
                    Fault::Peer => critical(ReasonKind::Redirect, &detail),
                    Fault::OwnShortage | Fault::UnreachableFromHere => no_news(&detail),
                });
            }
            Err(error) => {
                let detail = outrigger_config::error_chain(&error);
                let kind = match error {
                    http_client::Error::Timeout { .. } => ReasonKind::Silent,
                    _ => ReasonKind::Broken,
                };
                return Ok(if is_caused_by_own_shortage(&error) {
                    no_news(&detail)
                } else {
                    critical(kind, &detail)
                });
            }
        };
        let status = answer.status;
        if is_expected(settings, status) {
            return Ok(passing(&format!("{what} answered {status}")));
        }
        if let Some(location) = redirect_of(&answer) {
            let shown = shown_url(&String::from_utf8_lossy(location));
            if followed == MAX_REDIRECTS {
                return ill(
                    ReasonKind::Redirect,
                    format!("redirects again, to {shown:?}, after {MAX_REDIRECTS} redirects"),
                );
            }
            followed += 1;
            place = match follow(&first, &place, location) {
                Ok(next) => next,
                Err(why) => return ill(ReasonKind::Redirect, format!("redirects to {shown:?}, {why}")),
            };
            // As Go's client, and browsers: only 307 and 308 keep the method.
            if !matches!(status.as_u16(), 307 | 308) && method != Method::HEAD {
                method = Method::GET;
            }
            continue;
        }
        let (kind, detail) = (ReasonKind::Status(status.as_u16()), format!("{what} answered {status}"));
        return Ok(match status {
            StatusCode::TOO_MANY_REQUESTS => warning(kind, &detail),
            _ => critical(kind, &detail),
        });
    }
}

/// `url`, or the path of one, as a text shows it, of at most [`MAX_SHOWN`] characters: without its query and the name and password of a
/// user, which may be secrets, and every reader of the registry reads the reason.
fn shown_url(url: &str) -> String {
    let (before, rest) = url.split_once("//").map_or(("", url), |(scheme, rest)| {
        let is_absolute = scheme.is_empty() || scheme.ends_with(':');
        if is_absolute { (&url[..scheme.len() + 2], rest) } else { ("", url) }
    });
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let authority = if before.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let user = authority.rfind('@').map_or(0, |at| at + 1);
    let shown: String = format!("{before}{}", &rest[user..]).chars().take(MAX_SHOWN).collect();
    let query = if url.contains('?') { "?…" } else { "" };
    format!("{shown}{query}")
}

fn build_request(
    settings: &Health,
    method: &Method,
    place: &Place,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut request = Request::builder().method(method).uri(&place.target).header(header::HOST, &place.host);
    let mut given = HeaderMap::new();
    for (name, value) in &settings.headers {
        given.append(
            header::HeaderName::from_bytes(name.as_bytes())?,
            header::HeaderValue::from_bytes(value.reveal().as_bytes())?,
        );
    }
    let user_agent =
        header::HeaderValue::from_static(concat!("outrigger-health/", env!("CARGO_PKG_VERSION")));
    given.entry(header::USER_AGENT).or_insert(user_agent);
    for (name, value) in &given {
        request = request.header(name, value);
    }
    // RFC 9110 §8.6: a method that gives its content a meaning states the length, also 0; without it servers answer 411.
    if matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
        request = request.header(header::CONTENT_LENGTH, 0);
    }
    request.header(header::CONNECTION, "close").body(Full::default())
}

fn is_expected(settings: &Health, status: StatusCode) -> bool {
    match &settings.status {
        Some(expected) => expected.contains(status.as_u16()),
        None => status.is_success(),
    }
}

/// The `Location` of a redirect.
fn redirect_of(answer: &response::Parts) -> Option<&[u8]> {
    let redirects = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    answer.headers.get(header::LOCATION).filter(|_| redirects).map(header::HeaderValue::as_bytes)
}

/// The place to which `location` points from `place`: on the host of `first`, which may have another port. Else why it is not asked.
fn follow(first: &Place, place: &Place, location: &[u8]) -> Result<Place, &'static str> {
    const NO_URL: &str = "which is no URL";
    let location = encoded(location);
    let location = location.split_once('#').map_or(&*location, |(before, _)| before);
    let path = place.target.split_once('?').map_or(&*place.target, |(path, _)| path);
    let absolute = if location.starts_with("//") {
        Some(format!("http:{location}"))
    } else {
        let scheme = location.split_once(':').map(|(scheme, _)| scheme);
        scheme.filter(|scheme| !scheme.contains(['/', '?'])).map(|_| location.to_owned())
    };
    if let Some(absolute) = absolute {
        let uri: Uri = absolute.parse().map_err(|_| NO_URL)?;
        if uri.scheme_str() != Some("http") {
            return Err("and only http is asked");
        }
        let authority = uri.authority().ok_or(NO_URL)?;
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let (addr, host) = same_host(first, place, authority).ok_or("which is another host")?;
        return Ok(Place { addr, host, target });
    }
    let target = match location.bytes().next() {
        None => place.target.clone(),
        Some(b'/') => location.to_owned(),
        Some(b'?') => format!("{path}{location}"),
        Some(_) => {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{location}")
        }
    };
    let target = without_dot_segments(&target);
    let is_target = target.parse::<Uri>().is_ok();
    if is_target { Ok(Place { target, ..place.clone() }) } else { Err(NO_URL) }
}

/// The address and the `Host` of this authority; `None`: it names another host. The `Host` that was sent first is at the address that
/// was asked first, whatever its port. Another address of this machine is the same host.
fn same_host(first: &Place, place: &Place, authority: &Authority) -> Option<(SocketAddr, String)> {
    let bare = authority.as_str().rsplit('@').next().unwrap_or_default();
    if let Some(known) = [place, first].into_iter().find(|known| bare.eq_ignore_ascii_case(&known.host)) {
        return Some((known.addr, known.host.clone()));
    }
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let asked: Authority = first.host.parse().ok()?;
    let (ip, asked_ip) = (name.parse::<IpAddr>().ok().map(|ip| ip.to_canonical()), first.addr.ip());
    let is_loopback = ip.map_or(name.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback());
    let at = if authority.host().eq_ignore_ascii_case(asked.host()) || (is_loopback && asked_ip.is_loopback())
    {
        asked_ip
    } else {
        ip.filter(|ip| *ip == asked_ip || (has_address(*ip) && has_address(asked_ip)))?
    };
    Some((SocketAddr::new(at, authority.port_u16().unwrap_or(80)), bare.to_owned()))
}

/// `location` as ASCII: spaces and what is no ASCII as `%20`, as browsers and Go's client do.
fn encoded(location: &[u8]) -> String {
    location.iter().fold(String::new(), |mut text, one| {
        if one.is_ascii_graphic() {
            text.push(char::from(*one));
        } else {
            let _ = write!(text, "%{one:02X}");
        }
        text
    })
}

/// RFC 3986 §5.2.4, for a target that begins with `/`.
fn without_dot_segments(target: &str) -> String {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    let path = format!("/{}", kept.join("/"));
    query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            addr: ([127, 0, 0, 1], 8080).into(),
            host: "localhost:8080".into(),
            target: "/a/b?c=d".into(),
        }
    }

    #[test]
    fn a_text_shows_no_query_and_no_user_of_a_url() {
        for (url, shown) in [
            ("/up", "/up"),
            ("/up?token=hush#x", "/up?…"),
            ("/up//a@b", "/up//a@b"),
            ("http://user:hush@app.example/a@b?c=hush", "http://app.example/a@b?…"),
            ("//user@app.example", "//app.example"),
            ("http://app.example#hush", "http://app.example"),
            ("?hush//x", "?…"),
            ("", ""),
        ] {
            assert_eq!(shown_url(url), shown, "{url}");
        }
        assert_eq!(shown_url(&"ä".repeat(999)), "ä".repeat(MAX_SHOWN));
    }

    #[test]
    fn a_redirect_is_followed_on_the_same_host_alone() {
        let to = |location: &str| {
            follow(&place(), &place(), location.as_bytes())
                .map(|place| (place.addr.to_string(), place.target))
        };
        for (location, addr, target) in [
            ("/up", "127.0.0.1:8080", "/up"),
            ("/up?x#y", "127.0.0.1:8080", "/up?x"),
            ("up", "127.0.0.1:8080", "/a/up"),
            ("../up", "127.0.0.1:8080", "/up"),
            ("../../../up/.", "127.0.0.1:8080", "/up/"),
            ("?x", "127.0.0.1:8080", "/a/b?x"),
            ("", "127.0.0.1:8080", "/a/b?c=d"),
            ("http://localhost:8080/up", "127.0.0.1:8080", "/up"),
            ("http://LOCALHOST:8080", "127.0.0.1:8080", "/"),
            ("//127.0.0.1:8080/up", "127.0.0.1:8080", "/up"),
            ("http://localhost:8081/up", "127.0.0.1:8081", "/up"),
            ("http://localhost?x", "127.0.0.1:80", "/?x"),
            ("/bereit?für=a b", "127.0.0.1:8080", "/bereit?f%C3%BCr=a%20b"),
            ("http://[::1]:8081/", "127.0.0.1:8081", "/"),
            ("http://[::ffff:127.0.0.1]:8081/", "127.0.0.1:8081", "/"),
        ] {
            assert_eq!(to(location), Ok((addr.to_owned(), target.to_owned())), "{location:?}");
        }
        for location in
            ["http://orders.example/up", "//192.0.2.1:8080/up", "http://localhost@orders.example/"]
        {
            assert_eq!(to(location), Err("which is another host"), "{location:?}");
        }
        assert_eq!(to("https://localhost:8080/up"), Err("and only http is asked"));
        assert_eq!(to("http://local host/"), Err("which is no URL"));
        assert_eq!(to("http://"), Err("which is no URL"));
    }

    #[test]
    fn the_host_that_was_asked_is_at_the_address_that_was_asked() {
        let from = Place { host: "orders.example".into(), ..place() };
        let next = follow(&from, &from, b"http://orders.example/up").unwrap();
        assert_eq!((next.addr, &*next.target, &*next.host), (from.addr, "/up", "orders.example"));
        let next = follow(&from, &from, b"http://orders.example:9090/up").unwrap();
        assert_eq!((next.addr.port(), &*next.host), (9090, "orders.example:9090"));
        let back = follow(&from, &next, b"http://orders.example/up").unwrap();
        assert_eq!((back.addr, &*back.host), (from.addr, "orders.example"));
        let away =
            |from: &Place| follow(from, from, b"http://127.0.0.1:8080/").map(|next| next.addr.to_string());
        let own = Place { addr: ([127, 0, 0, 2], 8080).into(), ..from.clone() };
        assert_eq!(away(&own), Ok("127.0.0.2:8080".into()), "loopback is one host");
        let other = Place { addr: ([192, 0, 2, 1], 8080).into(), ..from };
        assert_eq!(away(&other), Err("which is another host"));
    }
}
