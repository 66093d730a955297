//! Two listeners cannot share an address, and no listener may use the app's port. An admin side that the network
//! reaches causes a warning.

use super::reader::Reader;
use crate::{ApiListen, Config, Listen, ListenHost, Origin, address};

pub(super) fn check(r: &mut Reader<'_>, config: &Config) {
    warn_open_admin(r, &config.admin.listen);
    let listeners = list_listeners(config);
    for (n, (key, listen)) in listeners.iter().enumerate() {
        if let Some((other, taken)) =
            listeners[..n].iter().find(|(_, other)| address::overlaps(other, listen))
        {
            report_overlap(r, (key, listen), (other, taken));
        } else if let Some(n) = config.services.iter().position(|service| service.port == listen.port)
            && address::covers_loopback(listen)
        {
            // The health probe would ask the sidecar, and one of the two could not bind.
            let port = format!("{}.port", config.service_key(n));
            let reported = if *r.origins.get(key) == Origin::Default { &port } else { key };
            let what = format!("{} is the port of both the app and {key}", listen.port);
            r.report_set(reported, what, "choose another port");
        }
    }
}

/// Reports the later of the two, unless that one is a default.
fn report_overlap(r: &mut Reader<'_>, later: (&str, &Listen), earlier: (&str, &Listen)) {
    let (reported, other) =
        if *r.origins.get(later.0) == Origin::Default { (earlier, later) } else { (later, earlier) };
    let what = format!("{} overlaps with {} ({})", reported.1, other.0, other.1);
    r.report_set(reported.0, what, "choose another port");
}

fn list_listeners(config: &Config) -> Vec<(String, &Listen)> {
    let mut all = vec![
        ("outbound.listen".to_owned(), &config.outbound.listen),
        ("admin.listen".to_owned(), &config.admin.listen),
    ];
    all.extend(config.admin.metrics_listen.iter().map(|listen| ("admin.metrics_listen".to_owned(), listen)));
    let api = config.api.listen.as_ref().and_then(ApiListen::tcp);
    all.extend(api.map(|listen| ("api.listen".to_owned(), listen)));
    all.extend(config.dns.listen.iter().map(|listen| ("dns.listen".to_owned(), listen)));
    let own = config.upstreams.iter().enumerate();
    all.extend(own.filter_map(|(n, up)| up.listen.as_ref().map(|l| (format!("upstreams[{n}].listen"), l))));
    all
}

/// The admin side changes things and has no password: whatever reaches its address may drain this sidecar.
fn warn_open_admin(r: &mut Reader<'_>, listen: &Listen) {
    let what = match &listen.host {
        ListenHost::Ip(ip) if ip.to_canonical().is_unspecified() => "listens on all addresses",
        ListenHost::Ip(ip) if !ip.to_canonical().is_loopback() => "listens beyond this machine",
        ListenHost::LinkLocal { .. } => "listens beyond this machine",
        ListenHost::Ip(_) | ListenHost::Localhost => return,
    };
    let what = format!("{listen} {what}: whatever reaches it may drain or reload this sidecar");
    let hint = "keep it on localhost; admin.metrics_listen opens metrics and health alone";
    r.warn(r.origins.get("admin.listen").clone(), "admin.listen", what, hint);
}
