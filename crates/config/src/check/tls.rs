//! TLS to the instances of a service.

use std::net::IpAddr;

use super::{
    reader::Reader,
    registry::{check_pair, read_path},
    section::Section,
};
use crate::{Tls, TlsVerify, error::InvalidValue, names, units::one_of};

/// What stands for the name of the service.
const SERVICE: &str = "{service}";

/// Reads `tls` of the upstream of `service`; `domain` is that of the registry. `None`: instances are called without TLS.
pub(super) fn read_tls(
    r: &mut Reader<'_>,
    upstream: &Section<'_>,
    service: &str,
    domain: &str,
) -> Option<Tls> {
    let is_on = r.read_switch(upstream, "tls");
    if is_on == Some(false) || is_on.is_none() && upstream.node("tls").is_none() {
        return None;
    }
    // `tls: on` is a section without keys.
    let s = match is_on {
        Some(_) => r.open_section(upstream.key("tls"), upstream.subkeys("tls"), None),
        None => r.section(upstream, "tls"),
    };
    if is_on.is_none() {
        r.origins.set(s.path.clone(), s.origin.clone());
    }
    let service = service.to_ascii_lowercase();
    let mut out = Tls {
        ca_file: read_path(r, &s, "ca_file"),
        cert_file: read_path(r, &s, "cert_file"),
        key_file: read_path(r, &s, "key_file"),
        ..Tls::default()
    };
    check_pair(r, &s, &out);
    out.server_name = r.get(&s, "server_name", |text| names::host(&text.replace(SERVICE, &service)));
    r.set_list(&s, "sans", &mut out.sans, |text| alternative_name(&text.replace(SERVICE, &service)));
    r.set(&s, "verify", &mut out.verify, one_of(&TlsVerify::ALL, TlsVerify::as_str));
    if out.server_name.is_none() && !service.is_empty() {
        let name = format!("{service}.service.{domain}");
        if names::host(&name).is_err() && !r.has_problem_below(&s.path) {
            let what = format!("{name:?} cannot be the name in a certificate");
            r.report(&s.origin, &s.key("server_name"), InvalidValue::new(what, "set server_name"));
        }
        out.server_name = Some(name);
    }
    if out.verify == TlsVerify::None {
        let key = s.key("verify");
        let at = r.origins.get(&key).clone();
        let what =
            "none: the certificates of the instances are not checked, so anyone may be at the other end";
        r.warn(at, &key, what, "name the authority in ca_file, and remove it");
        for unused in ["ca_file", "sans"] {
            if r.origins.is_set(&s.key(unused)) {
                r.report_set(&s.key(unused), "is not used with verify: none", "remove one of them");
            }
        }
    }
    Some(out)
}

/// A host name, an address or a URI, as a certificate has it.
fn alternative_name(text: &str) -> Result<String, InvalidValue> {
    if text.contains("://") {
        let is_valid = text.bytes().all(|b| b.is_ascii_graphic());
        let wrong = || InvalidValue::new("is no URI", "write spiffe://example.org/svc/orders");
        return is_valid.then(|| text.to_owned()).ok_or_else(wrong);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.to_string());
    }
    // A certificate may have a wildcard, and is allowed by the name that it has.
    names::host(text.strip_prefix("*.").unwrap_or(text)).map(|_| text.to_ascii_lowercase()).map_err(|_| {
        let hint = "write orders.example, 10.0.0.7 or spiffe://example.org/svc/orders";
        InvalidValue::new("is no name of a certificate", hint)
    })
}
