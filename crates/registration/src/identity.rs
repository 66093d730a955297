//! The registration of the local app. Its id is the same after every restart.

use std::{path::Path, time::Duration};

use outrigger_config::{Service, SmallFile};
use outrigger_registry::{Registration, ReportedHealth};

/// The check turns critical after this long without a report: three missed renewals (`report` renews every
/// 10 s).
pub(crate) const TTL: Duration = Duration::from_secs(30);

/// Largest file with a host name, bytes.
const MAX_NAME: usize = 4096;

/// The registration of `service` on the machine called `host`.
pub fn build_registration(service: &Service, host: &str) -> Registration {
    Registration {
        id: service.id.clone().unwrap_or_else(|| build_id(&service.name, host, service.port)),
        name: service.name.clone(),
        address: service.address.clone(),
        port: service.port,
        tags: service.tags.clone(),
        meta: service.meta.clone(),
        weights: service.weights,
        ttl: TTL,
        deregister_after: service.deregister_after,
        initial_health: ReportedHealth::Critical,
    }
}

/// Stable, so that a restart corrects the registration of the earlier run instead of adding a second one.
fn build_id(name: &str, host: &str, port: u16) -> String {
    format!("{name}-{host}-{port}")
}

/// The name of this machine or container; `localhost` where it has none.
pub fn host_name() -> String {
    ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .into_iter()
        .filter_map(|path| SmallFile::read_text(Path::new(path), MAX_NAME).ok())
        .map(|(name, _)| name)
        .chain(std::env::var("HOSTNAME").ok())
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty() && name != "(none)")
        .unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(id: Option<&str>) -> Service {
        Service {
            name: "orders".into(),
            port: 8080,
            address: None,
            id: id.map(Into::into),
            tags: vec!["v2".into()],
            meta: Default::default(),
            weights: Default::default(),
            health: Default::default(),
            deregister_after: Duration::from_secs(60),
        }
    }

    #[test]
    fn the_id_is_made_from_name_host_and_port() {
        assert_eq!(build_registration(&orders(None), "web-7").id, "orders-web-7-8080");
    }

    #[test]
    fn a_configured_id_wins() {
        assert_eq!(build_registration(&orders(Some("orders-1")), "web-7").id, "orders-1");
    }

    #[test]
    fn this_machine_has_a_name_without_white_space() {
        let name = host_name();
        assert!(!name.is_empty() && !name.contains(char::is_whitespace), "{name:?}");
    }
}
