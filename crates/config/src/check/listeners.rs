//! Two listeners cannot share an address, and none may take the app's.

use super::reader::Reader;
use crate::{Config, Listen, Origin, address, error::Wrong};

pub(super) fn check(r: &mut Reader<'_>, config: &Config) {
    let listeners = listeners(config);
    for (n, (key, listen)) in listeners.iter().enumerate() {
        if let Some((other, taken)) = listeners[..n].iter().find(|(_, other)| address::overlap(other, listen))
        {
            clash(r, key, other, &format!("{listen} overlaps with {other} ({taken})"));
        } else if let Some(service) = &config.service
            && service.port == listen.port
            && address::covers_loopback(listen)
        {
            // The health probe would ask the sidecar, and one of the two could not bind.
            clash(r, key, "service.port", &format!("{listen} is the port of the app (service.port)"));
        }
    }
}

/// Points at whichever of the two was set by somebody.
fn clash(r: &mut Reader<'_>, key: &str, other: &str, what: &str) {
    let key = if *r.origins.get(key) == Origin::Default { other } else { key };
    let at = r.origins.get(key).clone();
    r.problem(&at, key, Wrong::new(what, "choose another port"));
}

fn listeners(config: &Config) -> Vec<(String, &Listen)> {
    let mut all = vec![
        ("outbound.listen".to_owned(), &config.outbound.listen),
        ("admin.listen".to_owned(), &config.admin.listen),
    ];
    all.extend(config.admin.metrics_listen.iter().map(|listen| ("admin.metrics_listen".to_owned(), listen)));
    let own = config.upstreams.iter().enumerate();
    all.extend(own.filter_map(|(n, up)| up.listen.as_ref().map(|l| (format!("upstreams[{n}].listen"), l))));
    all
}
