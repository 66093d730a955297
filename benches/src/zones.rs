//! What stays in a zone, and how evenly the instances are used. A simulation: each caller sends as many requests, by the shares that a
//! sidecar works out, in the order of its balancer. No clock, no network.

use outrigger_config::Balance;
use outrigger_policy::{Cursor, LoadBalancer, zone::zone_shares};

use crate::{
    Effort, Error,
    report::{Finding, Section, Table},
};

/// Requests of each caller.
const REQUESTS: usize = 10_000;

/// Instances of the service and callers, by zone.
struct Layout {
    what: &'static str,
    service: &'static [usize],
    callers: &'static [usize],
}

const LAYOUTS: [Layout; 6] = [
    Layout { what: "even", service: &[4, 4, 4], callers: &[3, 3, 3] },
    Layout { what: "one zone has fewer instances", service: &[2, 5, 5], callers: &[3, 3, 3] },
    Layout { what: "one zone has more callers", service: &[4, 4, 4], callers: &[7, 1, 1] },
    Layout { what: "a zone without the service", service: &[0, 6, 6], callers: &[3, 3, 3] },
    Layout { what: "a zone without callers", service: &[4, 4, 4], callers: &[4, 4, 0] },
    Layout { what: "half of a zone is ejected", service: &[2, 4, 4], callers: &[4, 4, 4] },
];

/// What was sent.
struct Sent {
    /// The share of requests that stayed in the caller's zone.
    stayed: f64,
    /// Requests of the busiest instance, as a multiple of the mean.
    busiest: f64,
}

/// Sends by these shares of a caller in each zone.
fn send(layout: &Layout, shares: impl Fn(usize) -> Vec<u32>) -> Sent {
    let mut by_zone = vec![0_usize; layout.service.len()];
    let mut stayed = 0;
    for (own, count) in layout.callers.iter().enumerate() {
        let balancer = LoadBalancer::new(Balance::Weighted, &shares(own));
        for caller in 0..*count {
            let cursor = Cursor::new(caller as u64 * 7919);
            for zone in (0..REQUESTS).filter_map(|_| balancer.pick_first(&cursor, 0, |_| true)) {
                by_zone[zone] += 1;
                stayed += usize::from(zone == own);
            }
        }
    }
    let (all, instances): (usize, usize) = (by_zone.iter().sum(), layout.service.iter().sum());
    let mean = all as f64 / instances as f64;
    let busy = by_zone.iter().zip(layout.service).filter(|(_, count)| **count > 0);
    let busiest = busy.map(|(sent, count)| *sent as f64 / *count as f64 / mean).fold(0.0, f64::max);
    Sent { stayed: stayed as f64 / all as f64, busiest }
}

/// Simulates every layout, with the shares of zones and without.
///
/// # Errors
/// None; the signature is that of every part.
pub fn run(_: Effort) -> Result<Section, Error> {
    let mut table = Table::new(
        "Requests that stay in the caller's zone, and those of the busiest instance as a multiple of the mean",
        ["layout", "instances", "callers", "stay", "busiest", "stay without zones", "busiest if all stayed"],
    );
    let mut worst: f64 = 0.0;
    for layout in &LAYOUTS {
        let counts = |all: &[usize]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let parts = |all: &[usize]| all.iter().map(|count| u32::try_from(*count).unwrap_or(0)).collect();
        let zones = send(layout, |own| zone_shares(layout.service, layout.callers, own));
        let without = send(layout, |_| parts(layout.service));
        // A zone without the service has to send elsewhere.
        let all_stay = send(layout, |own| match layout.service[own] {
            0 => parts(layout.service),
            _ => (0..layout.service.len()).map(|zone| u32::from(zone == own)).collect(),
        });
        worst = worst.max(zones.busiest);
        table.row([
            layout.what.to_owned(),
            counts(layout.service),
            counts(layout.callers),
            format!("{:.1} %", zones.stayed * 100.0),
            format!("{:.2}", zones.busiest),
            format!("{:.1} %", without.stayed * 100.0),
            format!("{:.2}", all_stay.busiest),
        ]);
    }
    let finding =
        Finding::below("the busiest instance with zones, as a multiple of the mean", worst, "", 1.01);
    let remark = format!("{REQUESTS} requests of each caller; the same in each run.");
    Ok(Section::new("Zones").finding(finding).table(table).remark(remark))
}
