//! The instances of the services.

use std::{net::Ipv4Addr, sync::Arc};

use outrigger_config::Weights;
use outrigger_registry::{HealthStatus, Instance, InstanceId};

use super::plan::{INSTANCES, UpdateKind};

/// The service that changes.
pub(super) const LARGE: &str = "large";

/// The name of the `n`-th of the other services.
pub(super) fn other(n: u32) -> String {
    format!("other-{n}")
}

/// The instances of any other service.
pub(super) fn small() -> Vec<Instance> {
    (0..3).map(|n| instance(n, "small", HealthStatus::Passing)).collect()
}

/// The instances of the large service after `round` changes of this kind; each round differs from the last.
pub(super) fn large(change: UpdateKind, round: u32) -> Vec<Instance> {
    let odd = round % 2 == 1;
    let flipped = if odd { HealthStatus::Warning } else { HealthStatus::Passing };
    (0..INSTANCES)
        .map(|n| match change {
            UpdateKind::One if n == INSTANCES / 2 => instance(n, "large", flipped),
            UpdateKind::One => instance(n, "large", HealthStatus::Passing),
            UpdateKind::Health => instance(n, "large", flipped),
            UpdateKind::Others => instance(n, if odd { "blue" } else { "green" }, HealthStatus::Passing),
        })
        .collect()
}

fn instance(n: u32, name: &str, status: HealthStatus) -> Instance {
    let [_, a, b, c] = n.to_be_bytes();
    Instance {
        id: InstanceId {
            datacenter: "dc1".into(),
            node: format!("node-{n:05}").into(),
            id: format!("{name}-{n:05}").into(),
        },
        addr: Ok((Ipv4Addr::new(10, a, b, c), 8080).into()),
        named: None,
        facts: Arc::default(),
        tags: Arc::from(["v2".into()]),
        meta: Arc::default(),
        weights: Weights::default(),
        status,
        node_lost: false,
        draining: false,
        create_index: 7,
    }
}
