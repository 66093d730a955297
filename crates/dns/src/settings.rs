//! The settings of the DNS listener that a question is answered by.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use hickory_proto::rr::Name;
use outrigger_config::{AddressKind, Config, DiscoverySettings, DnsAnswer};
use outrigger_registry::{Query, name::ServiceName};

/// What a question is answered by.
#[derive(Debug)]
pub(crate) struct DnsSettings {
    pub(crate) answer: DnsAnswer,
    /// The domain of Consul's names (`registry.consul.domain`), in lower case.
    pub(crate) domain: Box<str>,
    /// The same.
    pub(crate) zone: Name,
    /// The declared services with dots in their names, in lower case.
    dotted: Box<[Box<str>]>,
    pub(crate) outbound: OutboundPlace,
    /// `dns.forward`
    pub(crate) forward: Arc<[SocketAddr]>,
    /// `dns.consul`
    pub(crate) consul: Option<SocketAddr>,
    pub(crate) discovery: DiscoverySettings,
    addresses: ServiceAddresses,
}

/// At which of their addresses services are called.
#[derive(Debug, Default)]
struct ServiceAddresses {
    defaults: AddressKind,
    /// The declared forms of services, and then services of documents alone; empty where all are called as the defaults say.
    services: Vec<ServiceAddress>,
}

#[derive(Debug)]
struct ServiceAddress {
    /// Lower case, as the tags.
    service: String,
    datacenter: Option<String>,
    tags: Vec<String>,
    kind: AddressKind,
}

impl ServiceAddresses {
    fn new(config: &Config) -> Self {
        let defaults = config.defaults.address;
        let declared = config.upstreams.iter().map(|upstream| ServiceAddress {
            service: upstream.service.to_ascii_lowercase(),
            datacenter: upstream.datacenter.as_deref().map(str::to_ascii_lowercase),
            tags: upstream.tags.iter().map(|tag| tag.to_ascii_lowercase()).collect(),
            kind: upstream.policy.address,
        });
        let tuned = config.tuned.iter().map(|tuned| ServiceAddress {
            service: tuned.service.to_ascii_lowercase(),
            datacenter: None,
            tags: Vec::new(),
            kind: tuned.policy.address,
        });
        let mut services: Vec<_> = declared.chain(tuned).collect();
        if services.iter().all(|one| one.kind == defaults) {
            services.clear();
        }
        Self { defaults, services }
    }

    /// As requests to the name: what declares this form of the service, else what declares the service.
    fn of(&self, name: &ServiceName<'_>) -> AddressKind {
        let same = || self.services.iter().filter(|one| one.service == *name.service);
        let is_form = |one: &&ServiceAddress| {
            one.datacenter.as_deref() == name.datacenter.as_deref()
                && one.tags.iter().map(String::as_str).eq(name.tag.as_deref())
        };
        same().find(is_form).or_else(|| same().next()).map_or(self.defaults, |one| one.kind)
    }
}

/// Where an app on this machine reaches the outbound listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OutboundPlace {
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) port: u16,
}

impl OutboundPlace {
    /// `addrs`: what it listens at.
    fn of(addrs: &[SocketAddr]) -> Self {
        let port = addrs.first().map_or(0, SocketAddr::port);
        let mut ips = Vec::new();
        for addr in addrs {
            match addr.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => ips.push(Ipv4Addr::LOCALHOST.into()),
                // `[::]` takes connections of IPv4 too.
                IpAddr::V6(ip) if ip.is_unspecified() => {
                    ips.extend([IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()]);
                }
                // No record of DNS can name its zone.
                IpAddr::V6(ip) if ip.is_unicast_link_local() => {}
                ip => ips.push(ip),
            }
        }
        Self { ips, port }
    }
}

impl DnsSettings {
    /// `outbound`: what the outbound listener listens at.
    pub(crate) fn new(config: &Config, outbound: &[SocketAddr]) -> Self {
        let domain = config.registry.domain().to_ascii_lowercase();
        let labels = domain.split('.').map(str::as_bytes);
        let declared = config.upstreams.iter().map(|upstream| upstream.service.to_ascii_lowercase());
        Self {
            answer: config.dns.answer,
            // The settings were checked: each label fits.
            zone: Name::from_labels(labels).unwrap_or_default(),
            domain: domain.into(),
            dotted: declared.filter(|name| name.contains('.')).map(Into::into).collect(),
            outbound: OutboundPlace::of(outbound),
            forward: config.dns.forward.as_slice().into(),
            consul: config.dns.consul,
            discovery: config.discovery,
            addresses: ServiceAddresses::new(config),
        }
    }

    /// What the registry is asked for a name.
    pub(crate) fn query_of(&self, name: &ServiceName<'_>) -> Query {
        let query = Query::new(name.service.as_ref(), name.datacenter.as_deref().map(Into::into));
        Query { address: self.addresses.of(name), ..query }
    }

    /// Whether a declared service with dots has this name.
    pub(crate) fn is_declared(&self, name: &str) -> bool {
        self.dotted.iter().any(|one| **one == *name)
    }

    /// The labels of a name before the domain, without the dot between them; empty for the domain itself. `None`: the name is of
    /// another domain.
    pub(crate) fn below_domain<'a>(&self, host: &'a str) -> Option<&'a str> {
        let inner = host.strip_suffix(&*self.domain)?;
        if inner.is_empty() { Some(inner) } else { inner.strip_suffix('.') }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_reaches_the_outbound_listener_at_its_own_addresses() {
        for (addrs, expected) in [
            (&["127.0.0.1:7070", "[::1]:7070"][..], &["127.0.0.1", "::1"][..]),
            (&["127.0.0.5:7070"], &["127.0.0.5"]),
            (&["0.0.0.0:7070"], &["127.0.0.1"]),
            (&["[::]:7070"], &["127.0.0.1", "::1"]),
            (&["[fe80::1%3]:7070"], &[]),
            (&["10.0.0.5:7070"], &["10.0.0.5"]),
        ] {
            let addrs: Vec<_> = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
            let place = OutboundPlace::of(&addrs);
            let ips: Vec<_> = place.ips.iter().map(ToString::to_string).collect();
            assert_eq!(ips, expected);
            assert_eq!(place.port, 7070);
        }
    }

    #[test]
    fn a_name_is_of_the_domain_by_whole_labels() {
        let settings = DnsSettings::new(&Config::default(), &[]);
        for (host, expected) in [
            ("orders.service.consul", Some("orders.service")),
            ("consul", Some("")),
            ("xconsul", None),
            ("consul.example", None),
            ("", None),
        ] {
            assert_eq!(settings.below_domain(host), expected, "{host}");
        }
        assert_eq!(settings.zone.to_ascii(), "consul.");
    }
}
