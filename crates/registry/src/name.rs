//! Names of services in hosts and in questions of DNS, by the grammar of Consul's DNS. Pure.
//!
//! ```text
//! NAME                                       one label; in a host alone
//! [TAG.]NAME.service[.DC.dc][.DOMAIN]        in a question with the domain
//! [TAG.]NAME.service.DC.DOMAIN               the form before Consul 1.14
//! _NAME._TAG.service…                        in a question alone (RFC 2782); the tag tcp means any
//! HEX.addr…                                  in a question alone: an IP address in hexadecimal digits
//! ```
//!
//! As in Consul, the last of its words (`service`, `node`, …) divides a host, and all labels before NAME are one tag (`v1.2`).
//! Consul's DNS finds no service with dots in its name; here a declared service is found by its whole name, alone and in place
//! of NAME. Hosts of Consul's other forms are told apart, so that an error can name the form.
//!
//! Source: Consul's `agent/dns.go` and its page "Static DNS lookups" (1.22).

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A service as a host names it. All in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceName<'a> {
    /// Its name.
    pub service: Cow<'a, str>,
    /// The tag that its instances must have.
    pub tag: Option<Cow<'a, str>>,
    /// The datacenter; `None`: the registry's default.
    pub datacenter: Option<Cow<'a, str>>,
}

impl<'a> ServiceName<'a> {
    /// The service of this name, in any case of its letters.
    pub fn plain(service: &'a str) -> Self {
        Self { service: lowercase(service), tag: None, datacenter: None }
    }

    /// Whether it means the service as a whole, with all instances in the default datacenter.
    pub fn is_plain(&self) -> bool {
        self.tag.is_none() && self.datacenter.is_none()
    }
}

/// What a host is.
#[derive(Debug, PartialEq, Eq)]
pub enum HostForm<'a> {
    /// A service.
    Service(ServiceName<'a>),
    /// A form of Consul's DNS that is not offered.
    NotOffered(ConsulForm),
    /// No name of this grammar.
    Other,
}

/// What a name of DNS below the domain is.
#[derive(Debug, PartialEq, Eq)]
pub enum DnsForm<'a> {
    /// A service. `is_srv`: in the form of RFC 2782, `_NAME._tcp`.
    Service {
        /// The service.
        name: ServiceName<'a>,
        /// Whether it is in the form of RFC 2782.
        is_srv: bool,
    },
    /// An address, as an SRV record names that of an instance.
    Address(IpAddr),
    /// A form of Consul's DNS that is not offered.
    NotOffered(ConsulForm),
    /// Names below it may exist, and it has no record itself: `service`, `service.dc2`.
    Parent,
    /// No name of this grammar.
    Other,
}

/// A form of Consul's DNS that names no service that could be called by it here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsulForm {
    /// How it is written: `.virtual.`.
    pub text: &'static str,
    /// What it stands for in Consul.
    pub meaning: &'static str,
}

/// The forms with a word in place of `service`.
const KINDS: [(&str, ConsulForm); 6] = [
    ("virtual", ConsulForm { text: ".virtual.", meaning: "the virtual address of a service in the mesh" }),
    ("query", ConsulForm { text: ".query.", meaning: "a prepared query" }),
    ("connect", ConsulForm { text: ".connect.", meaning: "the proxies of a service in the mesh" }),
    ("ingress", ConsulForm { text: ".ingress.", meaning: "the ingress gateways of a service" }),
    ("node", ConsulForm { text: ".node.", meaning: "a node" }),
    (ADDR, ConsulForm { text: ".addr.", meaning: "an address in hexadecimal digits" }),
];

/// The forms that narrow the service by a pair of labels, as `default.ns`.
const SUFFIXES: [(&str, ConsulForm); 4] = [
    ("ns", ConsulForm { text: ".ns.", meaning: "a namespace of Consul Enterprise" }),
    ("ap", ConsulForm { text: ".ap.", meaning: "an admin partition of Consul Enterprise" }),
    ("peer", ConsulForm { text: ".peer.", meaning: "a cluster peering" }),
    ("sg", ConsulForm { text: ".sg.", meaning: "a sameness group" }),
];

const RFC_2782: ConsulForm = ConsulForm { text: "_NAME._tcp.", meaning: "an SRV record (RFC 2782)" };
const PORT: ConsulForm = ConsulForm { text: ".port.", meaning: "a named port of a service" };

/// The word behind an address.
const ADDR: &str = "addr";

/// The word that divides the name of a service from the rest.
const SERVICE: &str = "service";

/// Longest label (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// Reads a host, without a dot at its end. `domain`: the last labels of Consul's names, in lower case. `is_declared`: whether a
/// declared service with dots has this name, which is in lower case.
pub fn parse_host<'a>(host: &'a str, domain: &str, is_declared: impl Fn(&str) -> bool) -> HostForm<'a> {
    if !host.contains('.') {
        let is_label = !host.is_empty() && host.len() <= MAX_LABEL;
        return if is_label { HostForm::Service(ServiceName::plain(host)) } else { HostForm::Other };
    }
    if is_declared(&lowercase(host)) {
        return HostForm::Service(ServiceName::plain(host));
    }
    let inner = without_domain(host, domain);
    let has_domain = inner.is_some();
    let Some(labels) = Labels::of(inner.unwrap_or(host)) else { return HostForm::Other };
    let Some(at) = labels.last_kind() else {
        let is_srv = labels.len() == 2 && labels.ends_as_srv(2);
        return if is_srv { HostForm::NotOffered(RFC_2782) } else { HostForm::Other };
    };
    let kind = KINDS.iter().find(|(word, _)| is(labels.get(at), word));
    match (labels.locality(at + 1, has_domain), kind) {
        (None, _) => HostForm::Other,
        (Some(_), _) if at == 0 => HostForm::Other,
        (Some(_), Some((_, form))) => HostForm::NotOffered(*form),
        (Some(Err(form)), None) => HostForm::NotOffered(form),
        (Some(Ok(datacenter)), None) => labels.service_before(at, datacenter, is_declared),
    }
}

/// Reads a name of DNS below the domain: `inner` are the labels before the domain, without a dot at the end. `is_declared` as for
/// [`parse_host`].
pub fn parse_dns_name<'a>(inner: &'a str, is_declared: impl Fn(&str) -> bool) -> DnsForm<'a> {
    let Some(labels) = Labels::of(inner) else { return DnsForm::Other };
    let Some(at) = labels.last_kind() else {
        return if labels.len() == 2 && is(labels.get(1), "dc") || is(inner, "dc") {
            DnsForm::Parent
        } else {
            DnsForm::Other
        };
    };
    let Some(place) = labels.locality(at + 1, true) else { return DnsForm::Other };
    let kind = KINDS.iter().find(|(word, _)| is(labels.get(at), word));
    match (place, kind) {
        _ if at == 0 => DnsForm::Parent,
        (_, Some((ADDR, _))) => match address_of(labels.range(0, at)) {
            Some(ip) => DnsForm::Address(ip),
            None => DnsForm::Other,
        },
        (_, Some((_, form))) => DnsForm::NotOffered(*form),
        (Err(form), None) => DnsForm::NotOffered(form),
        (Ok(datacenter), None) if at == 2 && labels.ends_as_srv(2) => labels.srv_service(datacenter),
        (Ok(datacenter), None) => match labels.service_before(at, datacenter, is_declared) {
            HostForm::Service(name) => DnsForm::Service { name, is_srv: false },
            HostForm::NotOffered(form) if form != RFC_2782 => DnsForm::NotOffered(form),
            HostForm::NotOffered(_) | HostForm::Other => DnsForm::Other,
        },
    }
}

/// The address of 8 or 32 hexadecimal digits.
fn address_of(digits: &str) -> Option<IpAddr> {
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    match digits.len() {
        8 => u32::from_str_radix(digits, 16).ok().map(|bits| Ipv4Addr::from_bits(bits).into()),
        32 => u128::from_str_radix(digits, 16).ok().map(|bits| Ipv6Addr::from_bits(bits).into()),
        _ => None,
    }
}

/// The name of an address, which [`parse_dns_name`] reads back: `7f000001.addr.dc1.consul`.
pub fn address_name(ip: IpAddr, datacenter: &str, domain: &str) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{:08x}.{ADDR}.{datacenter}.{domain}", ip.to_bits()),
        IpAddr::V6(ip) => format!("{:032x}.{ADDR}.{datacenter}.{domain}", ip.to_bits()),
    }
}

/// The part of a host before its domain.
fn without_domain<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let (inner, end) = host.split_at_checked(host.len().checked_sub(domain.len())?)?;
    inner.strip_suffix('.').filter(|_| is(end, domain))
}

fn is(label: &str, word: &str) -> bool {
    label.eq_ignore_ascii_case(word)
}

/// The text in lower case; copied only where it has an upper-case letter.
pub fn lowercase(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// The labels of a host.
struct Labels<'a> {
    host: &'a str,
    /// Where each label ends.
    ends: Vec<usize>,
}

impl<'a> Labels<'a> {
    /// `None`: a label is empty or too long.
    fn of(host: &'a str) -> Option<Self> {
        let dots = host.match_indices('.').map(|(at, _)| at);
        let labels = Self { host, ends: dots.chain([host.len()]).collect() };
        (0..labels.len()).all(|at| (1..=MAX_LABEL).contains(&labels.get(at).len())).then_some(labels)
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, at: usize) -> &'a str {
        self.range(at, at + 1)
    }

    /// The labels from `from` to before `to`, with the dots between them. Empty where there are none.
    fn range(&self, from: usize, to: usize) -> &'a str {
        let start =
            if from == 0 { 0 } else { self.ends.get(from - 1).map_or(self.host.len(), |end| end + 1) };
        let end = if to == 0 { 0 } else { self.ends.get(to - 1).copied().unwrap_or(self.host.len()) };
        self.host.get(start..end).unwrap_or_default()
    }

    /// The last of the words that divide a name.
    fn last_kind(&self) -> Option<usize> {
        let is_kind = |label: &str| is(label, SERVICE) || KINDS.iter().any(|(word, _)| is(label, word));
        (0..self.len()).rev().find(|at| is_kind(self.get(*at)))
    }

    /// The service of the two labels `_NAME._TAG`. The tag `tcp` means any instance.
    fn srv_service(&self, datacenter: Option<&'a str>) -> DnsForm<'a> {
        let bare = |at| self.get(at).strip_prefix('_').filter(|rest| !rest.is_empty());
        let (Some(service), Some(tag)) = (bare(0), bare(1)) else { return DnsForm::Other };
        let name = ServiceName {
            service: lowercase(service),
            tag: (!is(tag, "tcp")).then(|| lowercase(tag)),
            datacenter: datacenter.map(lowercase),
        };
        DnsForm::Service { name, is_srv: true }
    }

    /// Whether the two labels before `end` are those of an SRV record: `_NAME._PROTOCOL`.
    fn ends_as_srv(&self, end: usize) -> bool {
        end >= 2 && self.get(end - 2).starts_with('_') && self.get(end - 1).starts_with('_')
    }

    /// Where the labels from `from` on place the service: a datacenter or none, or a form that is not offered. `None`: they are
    /// no part of such a name.
    fn locality(&self, from: usize, has_domain: bool) -> Option<Result<Option<&'a str>, ConsulForm>> {
        let count = self.len() - from;
        match count {
            0 => return Some(Ok(None)),
            1 => return has_domain.then(|| Ok(Some(self.get(from)))),
            _ if !count.is_multiple_of(2) => return None,
            _ => {}
        }
        let mut datacenter = None;
        for at in (from..self.len()).step_by(2) {
            let marker = self.get(at + 1);
            if let Some((_, form)) = SUFFIXES.iter().find(|(word, _)| is(marker, word)) {
                return Some(Err(*form));
            }
            if !is(marker, "dc") || datacenter.is_some() {
                return None;
            }
            datacenter = Some(self.get(at));
        }
        Some(Ok(datacenter))
    }

    /// The service that the labels before `end` name; there is one at least.
    fn service_before(
        &self,
        end: usize,
        datacenter: Option<&'a str>,
        is_declared: impl Fn(&str) -> bool,
    ) -> HostForm<'a> {
        // A declared name with dots, the longest first; else one label.
        let from =
            (0..end - 1).find(|from| is_declared(&lowercase(self.range(*from, end)))).unwrap_or(end - 1);
        if from == end - 1 && self.ends_as_srv(end) {
            return HostForm::NotOffered(RFC_2782);
        }
        if from >= 2 && is(self.get(from - 1), "port") {
            return HostForm::NotOffered(PORT);
        }
        HostForm::Service(ServiceName {
            service: lowercase(self.range(from, end)),
            tag: (from > 0).then(|| lowercase(self.range(0, from))),
            datacenter: datacenter.map(lowercase),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(host: &str) -> HostForm<'_> {
        parse_host(host, "consul", |name| ["billing.v2", "a.b.c", "com.acme.service"].contains(&name))
    }

    #[track_caller]
    fn assert_service(host: &str, service: &str, tag: Option<&str>, datacenter: Option<&str>) {
        let expected = ServiceName {
            service: service.into(),
            tag: tag.map(Into::into),
            datacenter: datacenter.map(Into::into),
        };
        assert_eq!(parse(host), HostForm::Service(expected), "{host}");
    }

    #[test]
    fn every_form_of_a_service_names_it() {
        for (host, service, tag, datacenter) in [
            ("orders", "orders", None, None),
            ("Orders", "orders", None, None),
            ("orders.service", "orders", None, None),
            ("orders.service.consul", "orders", None, None),
            ("ORDERS.SERVICE.CONSUL", "orders", None, None),
            ("orders.service.dc2.consul", "orders", None, Some("dc2")),
            ("orders.service.dc2.dc", "orders", None, Some("dc2")),
            ("orders.service.DC2.dc.consul", "orders", None, Some("dc2")),
            ("v2.orders.service", "orders", Some("v2"), None),
            ("V2.orders.service.consul", "orders", Some("v2"), None),
            ("v2.orders.service.dc2.consul", "orders", Some("v2"), Some("dc2")),
            ("v2.orders.service.dc2.dc", "orders", Some("v2"), Some("dc2")),
            ("v2.orders.service.dc2.dc.consul", "orders", Some("v2"), Some("dc2")),
            // Consul reads every label before the name as one tag.
            ("v1.2.orders.service.consul", "orders", Some("v1.2"), None),
            // A service, a tag or a datacenter may be called by one of the words.
            ("service.service.consul", "service", None, None),
            ("node.orders.service.consul", "orders", Some("node"), None),
            ("dc.service.dc.dc", "dc", None, Some("dc")),
            ("orders.service.dc.consul", "orders", None, Some("dc")),
            ("orders.service.ns.consul", "orders", None, Some("ns")),
            ("consul.service.consul", "consul", None, None),
            ("consul.service.consul.consul", "consul", None, Some("consul")),
            ("_orders.service.consul", "_orders", None, None),
        ] {
            assert_service(host, service, tag, datacenter);
        }
    }

    #[test]
    fn a_declared_name_with_dots_stands_alone_and_in_place_of_a_label() {
        for (host, service, tag, datacenter) in [
            ("billing.v2", "billing.v2", None, None),
            ("Billing.V2", "billing.v2", None, None),
            ("billing.v2.service.consul", "billing.v2", None, None),
            ("blue.billing.v2.service.dc2.dc", "billing.v2", Some("blue"), Some("dc2")),
            ("x.a.b.c.service.consul", "a.b.c", Some("x"), None),
            ("com.acme.service", "com.acme.service", None, None),
            ("com.acme.service.service.consul", "com.acme.service", None, None),
            // Not declared: the last label is the name.
            ("b.c.service.consul", "c", Some("b"), None),
        ] {
            assert_service(host, service, tag, datacenter);
        }
    }

    #[test]
    fn a_form_of_consul_that_is_not_offered_is_named() {
        for (host, text) in [
            ("orders.virtual.consul", ".virtual."),
            ("Orders.Virtual", ".virtual."),
            ("orders.virtual.default.ns.consul", ".virtual."),
            ("near.query.consul", ".query."),
            ("my.prepared.query.dc2.consul", ".query."),
            ("orders.connect.consul", ".connect."),
            ("orders.ingress.consul", ".ingress."),
            ("host-1.node.dc2.dc.consul", ".node."),
            ("7f000001.addr.dc1.consul", ".addr."),
            ("_orders._tcp.service.consul", "_NAME._tcp."),
            ("_orders._v2.service.dc2.consul", "_NAME._tcp."),
            ("_orders._tcp.consul", "_NAME._tcp."),
            ("_orders._tcp", "_NAME._tcp."),
            ("orders.service.default.ns.consul", ".ns."),
            ("orders.service.default.ns.part1.ap.dc2.dc.consul", ".ns."),
            ("orders.service.part1.ap", ".ap."),
            ("v2.orders.service.dc2.dc.part1.ap.consul", ".ap."),
            ("orders.service.cluster-02.peer.consul", ".peer."),
            ("orders.service.group.sg.consul", ".sg."),
            ("http.port.orders.service.consul", ".port."),
        ] {
            let HostForm::NotOffered(form) = parse(host) else { panic!("{host}: {:?}", parse(host)) };
            assert_eq!(form.text, text, "{host}");
        }
    }

    #[test]
    fn a_name_of_dns_is_a_service_an_address_a_parent_or_another_form() {
        let read = |inner| parse_dns_name(inner, |name| name == "billing.v2");
        let service = |service: &'static str, tag: Option<&'static str>, datacenter: Option<&'static str>| {
            ServiceName {
                service: service.into(),
                tag: tag.map(Into::into),
                datacenter: datacenter.map(Into::into),
            }
        };
        for (inner, name, is_srv) in [
            ("orders.service", service("orders", None, None), false),
            ("ORDERS.Service.DC2", service("orders", None, Some("dc2")), false),
            ("v1.2.orders.service.dc2.dc", service("orders", Some("v1.2"), Some("dc2")), false),
            ("blue.billing.v2.service", service("billing.v2", Some("blue"), None), false),
            ("_orders._tcp.service", service("orders", None, None), true),
            ("_Orders._TCP.service.dc2", service("orders", None, Some("dc2")), true),
            ("_orders._v2.service.dc2.dc", service("orders", Some("v2"), Some("dc2")), true),
            // Consul has no word for UDP: a tag.
            ("_orders._udp.service", service("orders", Some("udp"), None), true),
            ("_orders.service", service("_orders", None, None), false),
        ] {
            assert_eq!(read(inner), DnsForm::Service { name, is_srv }, "{inner}");
        }
        for parent in ["service", "Service.dc2", "service.dc2.dc", "dc2.dc", "dc", "addr", "node.dc1"] {
            assert_eq!(read(parent), DnsForm::Parent, "{parent}");
        }
        for other in [
            "",
            "orders",
            "dc2",
            "orders..service",
            "x._orders._tcp.service",
            "_._tcp.service",
            "_orders._tcp",
            "orders.service.a.b.c",
            "7f00000.addr",
            "+f000001.addr.dc1",
            "a.7f000001.addr",
        ] {
            assert_eq!(read(other), DnsForm::Other, "{other}");
        }
        for (inner, text) in [
            ("host-1.node", ".node."),
            ("my.prepared.query.dc2", ".query."),
            ("orders.connect", ".connect."),
            ("orders.service.default.ns", ".ns."),
            ("http.port.orders.service", ".port."),
        ] {
            assert!(matches!(read(inner), DnsForm::NotOffered(form) if form.text == text), "{inner}");
        }
    }

    #[test]
    fn the_name_of_an_address_is_read_back() {
        for ip in ["127.0.0.21", "0.0.0.1", "2001:db8::15", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let name = address_name(ip, "dc1", "consul");
            let inner = name.strip_suffix(".consul").unwrap();
            assert_eq!(parse_dns_name(inner, |_| false), DnsForm::Address(ip), "{name}");
        }
        assert_eq!(address_name([127, 0, 0, 21].into(), "dc1", "consul"), "7f000015.addr.dc1.consul");
    }

    #[test]
    fn any_other_host_names_no_service() {
        let long = "a".repeat(64);
        for host in [
            "",
            ".",
            "a.b",
            "example.com",
            "orders.consul",
            "service.consul",
            "service",
            "virtual.consul",
            "orders..service.consul",
            ".orders.service.consul",
            "orders.service.dc2",
            "orders.service.a.b.consul",
            "orders.service.a.b.c.consul",
            "orders.service.dc1.dc.dc2.dc.consul",
            "orders.service.example.com",
            "orders.virtual.example.com.au",
            "orders.xconsul",
            "ordersconsul.",
            &long,
            &format!("{long}.service.consul"),
        ] {
            if host == "service" {
                assert_service(host, "service", None, None);
                continue;
            }
            assert_eq!(parse(host), HostForm::Other, "{host}");
        }
    }

    #[test]
    fn another_domain_takes_the_place_of_consul() {
        let none = |_: &str| false;
        let orders = || HostForm::Service(ServiceName::plain("orders"));
        for host in ["orders.service.corp.example", "orders.service", "orders.service.Corp.Example"] {
            assert_eq!(parse_host(host, "corp.example", none), orders(), "{host}");
        }
        for host in ["orders.service.consul", "orders.service.example"] {
            assert_eq!(parse_host(host, "corp.example", none), HostForm::Other, "{host}");
        }
        assert_eq!(parse_host("orders.service.service", "service", none), orders());
    }

    proptest! {
        #[test]
        fn no_host_panics(host in "\\PC{0,40}", domain in "[a-z.]{0,12}") {
            let _ = parse_host(&host, &domain, |name| name.len().is_multiple_of(2));
            let _ = parse_dns_name(&host, |name| name.len().is_multiple_of(2));
        }

        #[test]
        fn a_long_form_is_read_back(
            tag in proptest::option::of("[a-z0-9]{1,8}(\\.[a-z0-9]{1,4})?"),
            service in "[a-z][a-z0-9]{0,8}",
            datacenter in proptest::option::of("[a-z]{2}[0-9]"),
            is_marked: bool,
        ) {
            prop_assume!(tag.as_deref().is_none_or(|tag| !tag.ends_with(".port")));
            let before = tag.as_ref().map(|tag| format!("{tag}.")).unwrap_or_default();
            let marker = if is_marked { ".dc" } else { "" };
            let after = datacenter.as_ref().map(|name| format!(".{name}{marker}")).unwrap_or_default();
            let host = format!("{before}{service}.service{after}.consul");
            let expected = ServiceName {
                service: service.as_str().into(),
                tag: tag.as_deref().map(Into::into),
                datacenter: datacenter.as_deref().map(Into::into),
            };
            prop_assert_eq!(parse_host(&host, "consul", |_| false), HostForm::Service(expected), "{}", host);
        }
    }
}
