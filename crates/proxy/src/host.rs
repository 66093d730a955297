//! Reads the authority of a request: a service, the sidecar itself, or neither.
//!
//! The grammar of a service's name is in [`outrigger_registry::name`]. An IP address is never a service, and any name that is
//! no service's is outside the registry.

use std::net::IpAddr;

use outrigger_config as config;
pub(crate) use outrigger_registry::name::ServiceName;
use outrigger_registry::name::{ConsulForm, HostForm, parse_host};

/// What an authority names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParsedHost<'a> {
    /// A service of the registry.
    Service(ServiceName<'a>),
    /// A loopback address, `localhost`, or a name of `outbound.names`: possibly the address of this listener.
    Local,
    /// A form of Consul's names that is not offered.
    NotOffered(ConsulForm),
    /// A name outside the registry, or any other IP address.
    Outside,
    /// No host at all.
    Invalid,
}

/// The names that settings give a meaning. All in lower case.
#[derive(Debug)]
pub(crate) struct HostNames {
    /// The domain of Consul's names (`registry.consul.domain`).
    pub(crate) domain: Box<str>,
    /// The declared services with dots in their names.
    dotted: Box<[Box<str>]>,
    /// The sidecar's own further names (`outbound.names`).
    own: Box<[Box<str>]>,
}

impl HostNames {
    pub(crate) fn new(config: &config::Config) -> Self {
        let declared = config.upstreams.iter().map(|upstream| upstream.service.to_ascii_lowercase());
        Self {
            domain: config.registry.domain().into(),
            dotted: declared.filter(|name| name.contains('.')).map(Into::into).collect(),
            own: config.outbound.names.iter().map(|name| name.as_str().into()).collect(),
        }
    }

    /// Reads an authority (`host` or `host:port`).
    pub(crate) fn parse<'a>(&self, authority: &'a str) -> ParsedHost<'a> {
        let Some(host) = host_of(authority) else { return ParsedHost::Invalid };
        let host = host.strip_suffix('.').unwrap_or(host);
        let local = |is_local| if is_local { ParsedHost::Local } else { ParsedHost::Outside };
        if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return local(inner.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| self.is_local_ip(ip.into())));
        }
        // Without brackets, only a text that begins with a digit can be an address.
        let numeric = host.starts_with(|first: char| first.is_ascii_digit());
        if numeric && let Ok(ip) = host.parse::<IpAddr>() {
            return local(self.is_local_ip(ip));
        }
        if host.eq_ignore_ascii_case("localhost") || self.is_own_name(host) {
            return ParsedHost::Local;
        }
        if host.is_empty() || host.len() > 253 || !host.bytes().all(is_name_byte) {
            return ParsedHost::Invalid;
        }
        match parse_host(host, &self.domain, |name| self.dotted.iter().any(|one| **one == *name)) {
            HostForm::Service(name) => ParsedHost::Service(name),
            HostForm::NotOffered(form) => ParsedHost::NotOffered(form),
            HostForm::Other => ParsedHost::Outside,
        }
    }

    /// Whether an authority means `service` as a whole, which need not be declared.
    pub(crate) fn is_whole_service(&self, authority: &str, service: &str) -> bool {
        let host = host_of(authority).unwrap_or_default();
        let host = host.strip_suffix('.').unwrap_or(host);
        let form = parse_host(host, &self.domain, |name| name.eq_ignore_ascii_case(service));
        matches!(form, HostForm::Service(name) if name.is_plain() && name.service.eq_ignore_ascii_case(service))
            && !matches!(self.parse(authority), ParsedHost::Local | ParsedHost::Invalid)
    }

    /// Whether `name` is one of the sidecar's own further names.
    pub(crate) fn is_own_name(&self, name: &str) -> bool {
        self.own.iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    fn is_local_ip(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || self.own.iter().any(|own| own.parse() == Ok(ip))
    }
}

/// Whether a path segment can be the name of a service: what Consul's DNS and URLs accept, dots included.
pub(crate) fn is_service_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text != "." && text != ".." && text.bytes().all(is_name_byte)
}

/// The host of an authority, without its port, an IPv6 address with its brackets; `None`: the text is no authority. Of the host
/// itself nothing is checked.
pub fn host_of(authority: &str) -> Option<&str> {
    if authority.starts_with('[') {
        let end = authority.find(']')?;
        let (host, rest) = authority.split_at(end + 1);
        return (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)).then_some(host);
    }
    match authority.split_once(':') {
        None => Some(authority),
        Some((host, port)) => is_port(port).then_some(host),
    }
}

/// The IP address that a host is, with brackets or without.
pub(crate) fn ip_of(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.parse::<u16>().is_ok() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(settings: &str) -> HostNames {
        let (environment, flags) = (config::Environment::default(), config::Overrides::default());
        HostNames::new(&config::load(Some(("test.yaml", settings)), &environment, &flags).unwrap().config)
    }

    #[test]
    fn a_host_with_or_without_a_port_or_a_dot_at_its_end_names_its_service() {
        let names = names("upstreams: [{service: Billing.V2}]");
        let tagged = ServiceName { service: "orders".into(), tag: Some("v2".into()), datacenter: None };
        for (text, expected) in [
            ("orders", ServiceName::plain("orders")),
            ("Orders:7070", ServiceName::plain("orders")),
            ("orders.", ServiceName::plain("orders")),
            ("orders.service.consul.:80", ServiceName::plain("orders")),
            ("billing.v2:80", ServiceName::plain("billing.v2")),
            ("Billing.V2.service.consul", ServiceName::plain("billing.v2")),
            ("v2.orders.service:7070", tagged),
        ] {
            assert_eq!(names.parse(text), ParsedHost::Service(expected), "{text}");
        }
    }

    #[test]
    fn addresses_and_outside_names_name_no_service() {
        let names = names("");
        for text in
            ["10.0.0.5", "10.0.0.5:80", "[2001:db8::1]:80", "example.com", "orders.example.com", "a.b"]
        {
            assert_eq!(names.parse(text), ParsedHost::Outside, "{text}");
        }
        for text in
            ["localhost", "LOCALHOST:7070", "127.0.0.1:7070", "127.9.9.9", "[::1]:7070", "[::ffff:127.0.0.1]"]
        {
            assert_eq!(names.parse(text), ParsedHost::Local, "{text}");
        }
        let form = names.parse("orders.virtual.consul:80");
        assert!(matches!(form, ParsedHost::NotOffered(ConsulForm { text: ".virtual.", .. })), "{form:?}");
    }

    #[test]
    fn further_names_of_the_sidecar_are_its_own() {
        let names = names("outbound: {names: [Sidecar, host.docker.internal, 10.0.0.5, '[fd00::5]']}");
        for text in [
            "sidecar",
            "SIDECAR:7070",
            "sidecar.",
            "Host.Docker.Internal:80",
            "10.0.0.5:7070",
            "[fd00::5]:7070",
            "[FD00:0::5]",
            "[::ffff:10.0.0.5]",
            "localhost",
        ] {
            assert_eq!(names.parse(text), ParsedHost::Local, "{text}");
        }
        for text in ["docker.internal", "x.sidecar", "10.0.0.6", "[fd00::6]"] {
            assert_eq!(names.parse(text), ParsedHost::Outside, "{text}");
        }
    }

    #[test]
    fn a_whole_service_is_its_name_and_its_long_form() {
        let names = names("registry: {consul: {domain: corp.example}}");
        for (authority, service, expected) in [
            ("orders", "orders", true),
            ("Orders:80", "orders", true),
            ("orders.service.corp.example", "Orders", true),
            ("orders.service", "orders", true),
            ("orders.service.consul", "orders", false),
            ("a.b", "a.b", true),
            ("A.b.service.corp.example:80", "a.B", true),
            ("b.service", "a.b", false),
            ("v2.orders.service", "orders", false),
            ("orders.service.dc2.dc", "orders", false),
            ("other", "orders", false),
            ("localhost", "localhost", false),
            ("127.0.0.1", "127.0.0.1", false),
            ("or ders", "or ders", false),
        ] {
            assert_eq!(names.is_whole_service(authority, service), expected, "{authority} and {service}");
        }
    }

    #[test]
    fn a_text_that_is_no_authority_is_invalid() {
        let names = names("");
        for text in
            ["", ":80", "a b", "orders:x", "orders:99999", "[::1", "o/rders", "user@orders", "ord\u{e9}rs"]
        {
            assert_eq!(names.parse(text), ParsedHost::Invalid, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
            let _ = names("").parse(&text);
        }
    }
}
