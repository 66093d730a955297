//! The path form, `/svc/NAME/…`: the instance does not know the prefix, so what it says of its own paths gets the prefix back.
//!
//! It is the one form in which a response is not passed on as it is. `Location`, `Content-Location` and `Refresh` are changed
//! where they point at the service: by a path, by the name of the service, or by the address of the instance. `Path` of a
//! cookie is changed where it is a path. What has the prefix already is left, because the instance is told the prefix
//! (`X-Forwarded-Prefix`), and some frameworks use it. Bodies are left.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use outrigger_http1::{Head, Name, head::list_members};

use crate::{
    context::DownstreamSettings,
    host::{self, HostNames},
};

/// The path prefix before a service's name, when the Host is the sidecar's own address.
pub(crate) const PATH_PREFIX: &[u8] = b"/svc/";

/// The prefix of a request in path form.
#[derive(Debug)]
pub(crate) struct PathForm {
    /// `/svc/orders`, as the app wrote it.
    prefix: Vec<u8>,
    /// The prefixes of all hops, ours at the end.
    whole_prefix: Vec<u8>,
    /// The app's path behind the prefix, without its query. Empty, it is bare: what is relative for the app is not so for the
    /// instance, which got `/`.
    path: Vec<u8>,
    /// Authorities under which the instance knows the app's side: `X-Forwarded-Host`.
    forwarded_hosts: Vec<Vec<u8>>,
    /// The app's side is https (`X-Forwarded-Proto`).
    is_https: bool,
    /// Whether `Path` of cookies is changed.
    rewrites_cookies: bool,
    /// What hosts may name.
    names: Arc<HostNames>,
}

impl PathForm {
    /// Of a request for `service`, as the path has it. `rest`: the app's path behind the name.
    pub(crate) fn new(head: &Head, service: &[u8], rest: &[u8], settings: &DownstreamSettings) -> Self {
        // Whether the Host goes to the instance as X-Forwarded-Host, unless there is one.
        let adds_host = settings.outbound.x_forwarded;
        let prefix = [PATH_PREFIX, service].concat();
        let before = head.values(Name::XForwardedPrefix).flat_map(list_members);
        let mut whole_prefix: Vec<u8> = before.flat_map(trim_slashes).copied().collect();
        whole_prefix.extend_from_slice(&prefix);
        let host =
            if adds_host && !head.has(Name::XForwardedHost) { Name::Host } else { Name::XForwardedHost };
        let hosts = head.values(host).flat_map(list_members);
        Self {
            prefix,
            whole_prefix,
            path: rest[..path_end(rest)].to_vec(),
            forwarded_hosts: hosts.map(<[u8]>::to_vec).collect(),
            is_https: head.has_token(Name::XForwardedProto, b"https"),
            rewrites_cookies: settings.outbound.rewrite_cookie_path,
            names: settings.names.clone(),
        }
    }

    /// Writes the field line that tells the instance the prefix, behind those of earlier hops.
    pub(crate) fn write_field(&self, head: &Head, lines: &mut Vec<u8>) {
        lines.extend_from_slice(b"X-Forwarded-Prefix: ");
        for earlier in head.values(Name::XForwardedPrefix) {
            lines.extend_from_slice(earlier);
            lines.extend_from_slice(b", ");
        }
        lines.extend_from_slice(&self.prefix);
        lines.extend_from_slice(b"\r\n");
    }

    /// Gives the prefix back in a response of the instance at `instance`.
    pub(crate) fn restore_prefix(&self, head: &mut Head, instance: SocketAddr) {
        for index in 0..head.fields().len() {
            let Some(field) = head.fields().get(index) else { return };
            let (name, value) = (head.name(field), head.value(field));
            let changed =
                if name.eq_ignore_ascii_case(b"location") || name.eq_ignore_ascii_case(b"content-location") {
                    self.restore_reference(value, instance)
                } else if name.eq_ignore_ascii_case(b"refresh") {
                    self.restore_refresh(value, instance)
                } else if field.known == Name::SetCookie && self.rewrites_cookies {
                    self.restore_cookie(value)
                } else {
                    None
                };
            if let Some(value) = changed {
                head.replace_value(index, &value);
            }
        }
    }

    /// A URI reference (RFC 3986 §4.1) as the app is to see it; `None`: as it is.
    fn restore_reference(&self, reference: &[u8], instance: SocketAddr) -> Option<Vec<u8>> {
        if let Some(rest) = reference.strip_prefix(b"//") {
            return self.restore_authority(b"", rest, instance);
        }
        if reference.first() == Some(&b'/') {
            return self.restore_path(reference);
        }
        let scheme_end = reference.iter().position(|byte| matches!(byte, b':' | b'/' | b'?' | b'#'));
        if let Some(end) = scheme_end.filter(|at| reference[*at] == b':') {
            let (scheme, rest) = reference.split_at(end);
            let is_ours = scheme.eq_ignore_ascii_case(b"http")
                || scheme.eq_ignore_ascii_case(b"https") && self.is_https;
            let rest = rest.strip_prefix(b"://").filter(|_| is_ours)?;
            return self.restore_authority(scheme, rest, instance);
        }
        self.restore_relative(reference)
    }

    /// `rest` begins with an authority.
    fn restore_authority(&self, scheme: &[u8], rest: &[u8], instance: SocketAddr) -> Option<Vec<u8>> {
        let end = path_start(rest);
        let (authority, path) = rest.split_at(end);
        let authority_text = std::str::from_utf8(authority).ok()?;
        if self.is_service(authority_text, instance) {
            // The app knows the listener under a name that need not be known here.
            let path = with_slash(path);
            return Some(self.restore_path(&path).unwrap_or(path));
        }
        let is_app_side = self.forwarded_hosts.iter().any(|host| host.eq_ignore_ascii_case(authority));
        if !is_app_side || self.has_prefix(path) {
            return None;
        }
        let path = with_slash(path);
        let separator: &[u8] = if scheme.is_empty() { b"//" } else { b"://" };
        Some([scheme, separator, authority, &self.restore_path(&path).unwrap_or(path)].concat())
    }

    /// `path` begins with a slash.
    fn restore_path(&self, path: &[u8]) -> Option<Vec<u8>> {
        if self.has_prefix(path) {
            return None;
        }
        let (path, rest) = path.split_at(path_end(path));
        let path = resolve_climb(b"/", path).unwrap_or_else(|| path.to_vec());
        Some([&self.prefix, path.as_slice(), rest].concat())
    }

    /// A relative path is right as it is, unless it leads out of the service, where the instance knows only its root.
    fn restore_relative(&self, reference: &[u8]) -> Option<Vec<u8>> {
        let (path, rest) = reference.split_at(path_end(reference));
        if path.is_empty() {
            return None;
        }
        if self.path.is_empty() {
            let path = [b"/", path].concat();
            let path = resolve_climb(b"/", &path[1..]).unwrap_or(path);
            return Some([&self.prefix, path.as_slice(), rest].concat());
        }
        let path = resolve_climb(&self.path, path)?;
        Some([&self.prefix, path.as_slice(), rest].concat())
    }

    /// `5; url=/x` (HTML, "shared declarative refresh steps").
    fn restore_refresh(&self, value: &[u8], instance: SocketAddr) -> Option<Vec<u8>> {
        let skip =
            |at: usize, is: fn(&u8) -> bool| at + value[at..].iter().take_while(|byte| is(byte)).count();
        let after_time =
            skip(skip(0, u8::is_ascii_whitespace), |byte| byte.is_ascii_digit() || *byte == b'.');
        let mut at = skip(after_time, u8::is_ascii_whitespace);
        if matches!(value.get(at), Some(b';' | b',')) {
            at = skip(at + 1, u8::is_ascii_whitespace);
        }
        if at == after_time {
            return None;
        }
        if value.get(at..at + 3).is_some_and(|word| word.eq_ignore_ascii_case(b"url")) {
            let equals = skip(at + 3, u8::is_ascii_whitespace);
            if value.get(equals) == Some(&b'=') {
                at = skip(equals + 1, u8::is_ascii_whitespace);
            }
        }
        let mut end = value.len();
        if let Some(quote @ (b'"' | b'\'')) = value.get(at) {
            at += 1;
            end = value[at..].iter().position(|byte| byte == quote).map_or(end, |len| at + len);
        }
        let url = self.restore_reference(&value[at..end], instance)?;
        Some([&value[..at], &url, &value[end..]].concat())
    }

    /// `Path` of a cookie (RFC 6265 §5.2.4).
    fn restore_cookie(&self, cookie: &[u8]) -> Option<Vec<u8>> {
        // Its Path must be `/`, or browsers refuse it.
        let name = cookie.trim_ascii_start();
        if name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"__host-")) {
            return None;
        }
        let mut parts = cookie.split(|byte| *byte == b';');
        let mut changed = parts.next()?.to_vec();
        let mut is_changed = false;
        for part in parts {
            changed.push(b';');
            let path = attribute(part, b"path").filter(|path| {
                path.first() == Some(&b'/') && !path.starts_with(b"//") && !self.has_prefix(path)
            });
            match path {
                Some(path) => {
                    // The value is the end of the part, but for white space.
                    let before = part.trim_ascii_end().len() - path.len();
                    changed.extend_from_slice(&part[..before]);
                    changed.extend_from_slice(&self.prefix);
                    changed.extend_from_slice(&part[before..]);
                    is_changed = true;
                }
                None => changed.extend_from_slice(part),
            }
        }
        is_changed.then_some(changed)
    }

    /// Whether a path has the prefix already: ours alone, or those of all hops.
    fn has_prefix(&self, path: &[u8]) -> bool {
        [&self.prefix, &self.whole_prefix].into_iter().any(|prefix| {
            let rest = path.strip_prefix(prefix.as_slice());
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/' | b'?' | b'#')))
        })
    }

    /// Whether an authority means the service as a whole, on any port, as in a Host; or the instance itself.
    fn is_service(&self, authority: &str, instance: SocketAddr) -> bool {
        let service = self.prefix.get(PATH_PREFIX.len()..).unwrap_or_default();
        let is_same = |ip: IpAddr| ip.to_canonical() == instance.ip().to_canonical();
        let is_instance = match authority.parse::<SocketAddr>() {
            Ok(addr) => addr.port() == instance.port() && is_same(addr.ip()),
            Err(_) => instance.port() == 80 && host::ip_of(authority).is_some_and(is_same),
        };
        let is_name =
            std::str::from_utf8(service).is_ok_and(|service| self.names.is_whole_service(authority, service));
        is_instance || is_name
    }
}

/// A path behind an authority or a prefix: it begins with a slash.
pub(super) fn with_slash(rest: &[u8]) -> Vec<u8> {
    if rest.first() == Some(&b'/') { rest.to_vec() } else { [b"/", rest].concat() }
}

/// Where the path ends: at the query, the fragment, or the end.
pub(super) fn path_end(reference: &[u8]) -> usize {
    reference.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(reference.len())
}

/// Where an authority, or the first segment of a path, ends.
pub(super) fn path_start(reference: &[u8]) -> usize {
    reference.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(reference.len())
}

/// A prefix without the slashes at its end.
fn trim_slashes(prefix: &[u8]) -> &[u8] {
    let end = prefix.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    &prefix[..end]
}

/// The value of an attribute of a cookie, without white space around it.
fn attribute<'a>(part: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let equals = part.iter().position(|byte| *byte == b'=')?;
    let (of, value) = part.split_at(equals);
    of.trim_ascii().eq_ignore_ascii_case(name).then(|| value[1..].trim_ascii())
}

/// Resolves `path` against `base`, both without query, where its dot segments climb above the root: a client would leave the
/// prefix by them (RFC 3986 §5.2.4). `None`: they do not. `base` begins with a slash; a `path` that does replaces it.
fn resolve_climb(base: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let folder = match path.first() {
        Some(b'/') => &b""[..],
        _ => &base[..base.iter().rposition(|byte| *byte == b'/').unwrap_or(0)],
    };
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut climbs = false;
    let folder_segments = folder.split(|byte| *byte == b'/').skip(1);
    let path_segments = path.split(|byte| *byte == b'/');
    let mut ends_in_folder = false;
    for (is_own, segment) in
        folder_segments.map(|segment| (false, segment)).chain(path_segments.map(|segment| (true, segment)))
    {
        ends_in_folder = true;
        match dots(segment) {
            1 => {}
            2 => climbs |= kept.pop().is_none() && is_own,
            _ => {
                kept.push(segment);
                ends_in_folder = false;
            }
        }
    }
    climbs.then(|| {
        let mut resolved: Vec<u8> = kept.iter().flat_map(|segment| [b"/", *segment].concat()).collect();
        if ends_in_folder {
            resolved.push(b'/');
        }
        resolved
    })
}

/// 1 for the segment `.`, 2 for `..`, 0 for every other one. Browsers read `%2e` as a dot.
fn dots(segment: &[u8]) -> usize {
    let (mut rest, mut count) = (segment, 0);
    while !rest.is_empty() {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] if count < 2 => rest,
            _ => return 0,
        };
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use outrigger_http1::{HeadKind, HeadLimits, HeadParser, Inbox};

    use super::*;

    const INSTANCE: &str = "10.0.0.5:8080";

    fn head(kind: HeadKind, text: &str) -> Head {
        let limits = HeadLimits { bytes: 65_536, fields: 100, target: 65_536 };
        let mut inbox = Inbox::from(text.replace('\n', "\r\n").as_bytes());
        HeadParser::new(kind, limits, Vec::new()).parse(&mut inbox, Vec::new).unwrap().unwrap()
    }

    /// Of a request with `fields` for `rest` behind `/svc/Orders`.
    fn form(rest: &str, fields: &str) -> PathForm {
        let text = format!("GET / HTTP/1.1\nHost: localhost:7070\n{fields}\n");
        let settings = DownstreamSettings::new(&outrigger_config::Config::default());
        PathForm::new(&head(HeadKind::Request, &text), b"Orders", rest.as_bytes(), &settings)
    }

    fn restored(form: &PathForm, field: &str) -> String {
        let mut head = head(HeadKind::Response, &format!("HTTP/1.1 302 Found\n{field}\n\n"));
        form.restore_prefix(&mut head, INSTANCE.parse().unwrap());
        let field = &head.fields()[0];
        format!(
            "{}: {}",
            String::from_utf8_lossy(head.name(field)),
            String::from_utf8_lossy(head.value(field))
        )
    }

    #[track_caller]
    fn assert_restored(form: &PathForm, name: &str, value: &str, expected: &str) {
        assert_eq!(restored(form, &format!("{name}: {value}")), format!("{name}: {expected}"), "{value}");
    }

    #[test]
    fn a_reference_to_the_service_gets_the_prefix_back() {
        let form = form("/a/b?q", "");
        for name in ["Location", "content-location"] {
            for (value, expected) in [
                ("/", "/svc/Orders/"),
                ("/x?y#z", "/svc/Orders/x?y#z"),
                ("/x/../y", "/svc/Orders/x/../y"),
                ("/svc/payments/x", "/svc/Orders/svc/payments/x"),
                ("/svc/OrdersX", "/svc/Orders/svc/OrdersX"),
                ("http://orders/x", "/svc/Orders/x"),
                ("HTTP://Orders:80/x", "/svc/Orders/x"),
                ("http://orders:8080/dir/", "/svc/Orders/dir/"),
                ("http://orders", "/svc/Orders/"),
                ("http://orders?q", "/svc/Orders/?q"),
                ("http://orders#f", "/svc/Orders/#f"),
                ("http://orders.service.consul/x", "/svc/Orders/x"),
                ("http://10.0.0.5:8080/x", "/svc/Orders/x"),
                ("//orders/x", "/svc/Orders/x"),
                // They lead out of the service.
                ("/../x", "/svc/Orders/x"),
                ("/a/../../x?y", "/svc/Orders/x?y"),
                ("/%2e%2E/x", "/svc/Orders/x"),
                ("../../x", "/svc/Orders/x"),
                ("../../..", "/svc/Orders/"),
            ] {
                assert_restored(&form, name, value, expected);
            }
        }
    }

    #[test]
    fn any_other_reference_is_left() {
        let form = form("/a/b?q", "");
        for value in [
            "",
            "x",
            "./x",
            "../x",
            "x/../../y",
            "?q",
            "#f",
            "/svc/Orders",
            "/svc/Orders/x",
            "/svc/Orders?q",
            "https://orders/x",
            "http://payments/x",
            "http://v2.orders.service.consul/x",
            "http://orders.example/x",
            "http://10.0.0.5/x",
            "http://10.0.0.6:8080/x",
            "http://localhost:7070/x",
            "http://me@orders/x",
            "//evil.example/x",
            "mailto:a@orders",
            "http:/x",
            "http:x",
        ] {
            assert_restored(&form, "Location", value, value);
        }
        assert_restored(&form, "Link", "</x>; rel=preload", "</x>; rel=preload");
    }

    #[test]
    fn without_a_slash_behind_the_name_a_relative_path_is_made_absolute() {
        for rest in ["", "?q=/a/b"] {
            let form = form(rest, "");
            for (value, expected) in [
                ("x", "/svc/Orders/x"),
                ("x/y?z", "/svc/Orders/x/y?z"),
                ("../x", "/svc/Orders/x"),
                ("?q", "?q"),
                ("#f", "#f"),
                ("/x", "/svc/Orders/x"),
            ] {
                assert_restored(&form, "Location", value, expected);
            }
        }
    }

    #[test]
    fn the_side_of_the_app_is_known_by_what_was_forwarded() {
        let fields =
            "X-Forwarded-Host: shop.example:8443\nX-Forwarded-Proto: https\nX-Forwarded-Prefix: /shop/\n";
        let form = form("/", fields);
        for (value, expected) in [
            ("https://shop.example:8443/x", "https://shop.example:8443/svc/Orders/x"),
            ("https://shop.example:8443", "https://shop.example:8443/svc/Orders/"),
            ("//shop.example:8443/x", "//shop.example:8443/svc/Orders/x"),
            ("https://shop.example:8443/svc/Orders/x", "https://shop.example:8443/svc/Orders/x"),
            ("https://shop.example/x", "https://shop.example/x"),
            ("https://orders/x", "/svc/Orders/x"),
            // From an instance that uses the prefixes that it was told.
            ("/shop/svc/Orders/x", "/shop/svc/Orders/x"),
            ("https://shop.example:8443/shop/svc/Orders/x", "https://shop.example:8443/shop/svc/Orders/x"),
            ("/shop/x", "/svc/Orders/shop/x"),
        ] {
            assert_restored(&form, "Location", value, expected);
        }
        let text = format!("GET / HTTP/1.1\nHost: h\n{fields}\n");
        let mut lines = Vec::new();
        form.write_field(&head(HeadKind::Request, &text), &mut lines);
        assert_eq!(String::from_utf8(lines).unwrap(), "X-Forwarded-Prefix: /shop/, /svc/Orders\r\n");
    }

    #[test]
    fn a_refresh_gets_the_prefix_back_in_its_url() {
        let form = form("/", "");
        for (value, expected) in [
            ("5; url=/x", "5; url=/svc/Orders/x"),
            ("0;URL='/x?y'", "0;URL='/svc/Orders/x?y'"),
            ("0; url = \"http://orders/x\" z", "0; url = \"/svc/Orders/x\" z"),
            ("1.5, /x", "1.5, /svc/Orders/x"),
            ("1 /x", "1 /svc/Orders/x"),
            ("5", "5"),
            ("5;", "5;"),
            ("5; url=https://evil.example/", "5; url=https://evil.example/"),
            ("5/x", "5/x"),
            ("5; url=x", "5; url=x"),
            ("5; urlx", "5; urlx"),
            ("", ""),
        ] {
            assert_restored(&form, "Refresh", value, expected);
        }
    }

    #[test]
    fn a_rooted_path_of_a_cookie_gets_the_prefix_back() {
        let form = form("/", "");
        for (value, expected) in [
            ("a=b; Path=/", "a=b; Path=/svc/Orders/"),
            ("a=b;path=/x;Secure", "a=b;path=/svc/Orders/x;Secure"),
            ("a=/x; HttpOnly; PATH = /x ; Max-Age=5", "a=/x; HttpOnly; PATH = /svc/Orders/x ; Max-Age=5"),
            ("__Secure-a=b; Path=/; Secure", "__Secure-a=b; Path=/svc/Orders/; Secure"),
            ("a=b; Path=/svc/OrdersX", "a=b; Path=/svc/Orders/svc/OrdersX"),
        ] {
            assert_restored(&form, "Set-Cookie", value, expected);
        }
        for value in [
            "a=b",
            "a=b; Path",
            "a=b; Path=",
            "a=b; Path=x",
            "a=b; Path=//x",
            "a=b; Path=/svc/Orders",
            "a=b; Path=/svc/Orders/x",
            "a=b; Path=\"/\"",
            "a=b; Domain=/x; Other=path=/x",
            "__Host-a=b; Secure; Path=/",
            "__host-a=b; Secure; Path=/",
            "Path=/x",
        ] {
            assert_restored(&form, "Set-Cookie", value, value);
        }
        let off = PathForm { rewrites_cookies: false, ..form };
        assert_restored(&off, "Set-Cookie", "a=b; Path=/", "a=b; Path=/");
        assert_restored(&off, "Location", "/x", "/svc/Orders/x");
    }

    proptest::proptest! {
        #[test]
        fn no_value_makes_it_panic(value in "[ -~]{0,40}", rest in "(/[a-c.%2e]{0,3}){0,3}") {
            let form = form(&rest, "");
            for value in [value.clone().into_bytes(), format!("5; url={value}").into_bytes(), format!("a; path={value}").into_bytes()] {
                let instance = INSTANCE.parse().unwrap();
                let _ = form.restore_reference(&value, instance);
                let _ = form.restore_refresh(&value, instance);
                let _ = form.restore_cookie(&value);
            }
        }
    }
}
