//! The DNS listener.

use std::net::{IpAddr, SocketAddr};

use super::{reader::Reader, section::Section};
use crate::{
    Config, Dns, DnsAnswer, DnsBrowsers, Listen, ListenHost, Registry, address, error::InvalidValue,
    units::one_of,
};

/// The port of DNS (RFC 1035 §4.2).
const DNS_PORT: u16 = 53;
/// The port of Consul's DNS.
const CONSUL_DNS_PORT: u16 = 8600;

pub(super) fn read_dns(r: &mut Reader<'_>, root: &Section<'_>) -> Dns {
    let mut out = Dns::default();
    let s = r.section(root, "dns");
    out.listen = r.get(&s, "listen", loopback_listen);
    r.set(&s, "answer", &mut out.answer, one_of(DnsAnswer::ALL, DnsAnswer::as_str));
    r.set_list(&s, "forward", &mut out.forward, server_address(DNS_PORT, "127.0.0.53 or 10.0.0.2:53"));
    out.consul = r.get(&s, "consul", server_address(CONSUL_DNS_PORT, "127.0.0.1:8600"));
    r.set(&s, "browsers", &mut out.browsers, one_of(DnsBrowsers::ALL, DnsBrowsers::as_str));
    let unused = ["answer", "forward", "consul", "browsers"];
    if out.listen.is_none()
        && let Some(key) = r.first_set_of(&s, &unused)
    {
        let what = "is not used: without dns.listen no names are answered";
        r.warn(r.origins.get(&key).clone(), &key, what, "set dns.listen, as 127.0.0.1:8653");
    }
    out
}

/// The answers are for this machine alone, so that the listener is of no use to an attack on others (RFC 5358).
fn loopback_listen(text: &str) -> Result<Listen, InvalidValue> {
    let listen = address::listen_address(text)?;
    match &listen.host {
        ListenHost::Localhost => Ok(listen),
        ListenHost::Ip(ip) if ip.is_loopback() => Ok(listen),
        ListenHost::Ip(_) | ListenHost::LinkLocal { .. } => {
            let hint = "only this machine is answered: write 127.0.0.1:8653, [::1]:8653 or localhost:8653";
            Err(InvalidValue::new("is not a loopback address", hint))
        }
    }
}

/// `10.0.0.2`, `10.0.0.2:53`, `2001:db8::1`, `[2001:db8::1]:53`.
fn server_address(port: u16, example: &'static str) -> impl Fn(&str) -> Result<SocketAddr, InvalidValue> {
    move |text| {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let with_port = text.parse::<SocketAddr>();
        let addr = with_port.or_else(|_| bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port)));
        // ::ffff:127.0.0.1 is 127.0.0.1.
        match addr.map(|addr| SocketAddr::new(addr.ip().to_canonical(), addr.port())) {
            Ok(addr) if addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast() => {
                Ok(addr)
            }
            _ => Err(InvalidValue::new("is no address of a DNS server", format!("write {example}"))),
        }
    }
}

/// A question that is sent to this listener again would never be answered.
pub(super) fn check_peers(r: &mut Reader<'_>, config: &Config) {
    let dns = &config.dns;
    if dns.consul.is_some() && matches!(config.registry, Registry::File(_)) {
        let (key, what) = ("dns.consul", "is not used for a registry that is a file");
        r.warn(r.origins.get(key).clone(), key, what, "use registry.consul, or remove the key");
    }
    let Some(listen) = &dns.listen else { return };
    let peers = dns.forward.iter().map(|addr| ("dns.forward", addr));
    for (key, addr) in peers.chain(dns.consul.iter().map(|addr| ("dns.consul", addr))) {
        if address::overlaps(&Listen::from(*addr), listen) {
            let what = format!("{addr} is dns.listen itself");
            r.report_set(key, what, "name another server, or remove it");
        }
    }
}
