//! Removes what earlier runs left: registrations of the same service at the same address and port, under
//! another id. They appear where the id changed (a new host name of a container) and the run before was
//! killed; callers would count this instance twice until the check of the orphan runs out.
//!
//! Only what carries our mark, [`MARK`] in its metadata: everybody else's registration is theirs. And
//! only once, when the app is first registered: two that live, on machines which an agent takes for
//! one, would otherwise remove each other for ever.

use std::{collections::BTreeMap, time::Duration};

use outrigger_registry::{Held, Registrar, Registration};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::telemetry::{VERSION, causes};

/// The key of the metadata that says who registered it; its value is our version.
const MARK: &str = "outrigger";

/// Consul's limit of pairs in metadata.
const MOST_PAIRS: usize = 64;

/// Longest wait for one call; the registry's own time-out comes first (Consul: 15 s).
const CALL: Duration = Duration::from_secs(20);

/// Puts the mark on a registration, unless the settings say that key or leave no room: then it is
/// registered without, and its orphans stay until their check runs out.
pub(super) fn mark(meta: &mut BTreeMap<String, String>) {
    if meta.len() < MOST_PAIRS {
        meta.entry(MARK.to_owned()).or_insert_with(|| VERSION.to_owned());
    }
}

/// Removes them. False: the registry did not say; to be tried again.
pub(super) async fn remove(registrar: &dyn Registrar, ours: &Registration) -> bool {
    let held = match timeout(CALL, registrar.all_held()).await {
        Ok(Ok(held)) => held,
        Ok(Err(error)) => return failed(ours, &causes(&error)),
        Err(_) => return failed(ours, &format!("no answer within {CALL:?}")),
    };
    for orphan in held.iter().filter(|held| is_orphan(held, ours)) {
        match timeout(CALL, registrar.deregister(&orphan.id)).await {
            Ok(Ok(())) => info!(id = orphan.id, service = ours.name, "removed what an earlier run had left"),
            Ok(Err(error)) => return failed(ours, &causes(&error)),
            Err(_) => return failed(ours, &format!("no answer within {CALL:?}")),
        }
    }
    true
}

fn failed(ours: &Registration, error: &str) -> bool {
    warn!(id = ours.id, error, "could not remove what earlier runs had left, trying on");
    false
}

fn is_orphan(held: &Held, ours: &Registration) -> bool {
    let address = |address: &Option<String>| address.clone().unwrap_or_default();
    held.id != ours.id
        && held.name == ours.name
        && held.port == i64::from(ours.port)
        && address(&held.address) == address(&ours.address)
        && held.meta.contains_key(MARK)
        // Where the settings give the key another sense, the mark means nothing.
        && ours.meta.get(MARK).is_some_and(|version| version == VERSION)
}

#[cfg(test)]
mod tests {
    use outrigger_config::Weights;

    use super::*;

    fn ours() -> Registration {
        let mut meta = BTreeMap::new();
        mark(&mut meta);
        Registration {
            id: "orders-new-8080".into(),
            name: "orders".into(),
            address: Some("10.0.0.5".into()),
            port: 8080,
            tags: Vec::new(),
            meta,
            weights: Weights::default(),
            ttl: Duration::from_secs(30),
            deregister_after: Duration::from_secs(60),
        }
    }

    fn left() -> Held {
        Held {
            id: "orders-old-8080".into(),
            name: "orders".into(),
            address: Some("10.0.0.5".into()),
            port: 8080,
            tags: vec!["old".into()],
            meta: [(MARK.to_owned(), "0.0.1".to_owned())].into(),
            weights: Weights::default(),
            hash: String::new(),
        }
    }

    #[test]
    fn an_orphan_is_another_id_of_ours_at_the_same_place() {
        type Change = fn(&mut Held);
        let cases: [(&str, Change, bool); 8] = [
            ("left by an earlier version", |_| {}, true),
            ("our own", |held| held.id = "orders-new-8080".into(), false),
            ("another service", |held| held.name = "payments".into(), false),
            ("another port", |held| held.port = 8081, false),
            ("another address", |held| held.address = Some("10.0.0.6".into()), false),
            ("the agent's address", |held| held.address = None, false),
            ("somebody else's", |held| held.meta.clear(), false),
            ("somebody else's with metadata", |held| held.meta = [("a".into(), "b".into())].into(), false),
        ];
        for (what, change, expected) in cases {
            let mut held = left();
            change(&mut held);
            assert_eq!(is_orphan(&held, &ours()), expected, "{what}");
        }
    }

    #[test]
    fn no_address_and_an_empty_one_are_the_same() {
        let (mut held, mut ours) = (left(), ours());
        (held.address, ours.address) = (Some(String::new()), None);
        assert!(is_orphan(&held, &ours));
    }

    #[test]
    fn the_settings_may_take_the_key_or_all_the_room() {
        let mut taken: BTreeMap<_, _> = [(MARK.to_owned(), "mine".to_owned())].into();
        mark(&mut taken);
        assert_eq!(taken[MARK], "mine");
        assert!(!is_orphan(&left(), &Registration { meta: taken, ..ours() }));

        let mut full: BTreeMap<_, _> = (0..MOST_PAIRS).map(|n| (format!("k{n}"), String::new())).collect();
        mark(&mut full);
        assert_eq!(full.len(), MOST_PAIRS);
        assert!(!is_orphan(&left(), &Registration { meta: full, ..ours() }));
    }
}
