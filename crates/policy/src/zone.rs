//! Shares of zones: requests stay in the caller's zone as far as every instance of the service still gets its share.
//!
//! Envoy's rule of residual capacity. The callers' zones send requests in proportion to their instances, and the service's zones
//! can take them in proportion to theirs. Where the own zone of the service has at least the share that it has of the callers, all
//! requests stay. Else as many stay as make it even, and the others go to the zones that have more of the service than of the callers,
//! in proportion to that surplus.

/// What the shares are parts of.
pub const WHOLE: u32 = 10_000;

/// The share of each zone in the requests of a caller in zone `own`, in parts of [`WHOLE`]. `service` are the usable instances of the
/// service by zone, and `callers` those of the calling service; zones are known by their index, and neither is empty of all.
pub fn zone_shares(service: &[usize], callers: &[usize], own: usize) -> Vec<u32> {
    let part_of = |all: &[usize]| {
        let total: usize = all.iter().sum();
        move |count: usize| if total == 0 { 0.0 } else { count as f64 / total as f64 }
    };
    let (of_service, of_callers) = (part_of(service), part_of(callers));
    let parts: Vec<(f64, f64)> = service
        .iter()
        .enumerate()
        .map(|(zone, count)| (of_service(*count), of_callers(callers.get(zone).copied().unwrap_or_default())))
        .collect();
    let mut shares = vec![0.0; service.len()];
    let Some((own_service, own_callers)) = parts.get(own).copied().filter(|(service, _)| *service > 0.0)
    else {
        // The zone has none of the service: every zone has a surplus, or none has.
        return residual(&parts, own, 1.0, shares);
    };
    if own_service >= own_callers {
        shares[own] = 1.0;
        return in_parts(&shares);
    }
    let local = own_service / own_callers;
    shares[own] = local;
    residual(&parts, own, 1.0 - local, shares)
}

/// Adds `rest`, in proportion to what each other zone has more of the service than of the callers.
fn residual(parts: &[(f64, f64)], own: usize, rest: f64, mut shares: Vec<f64>) -> Vec<u32> {
    let surplus = |zone: usize, (service, callers): (f64, f64)| {
        if zone == own { 0.0 } else { (service - callers).max(0.0) }
    };
    let total: f64 = parts.iter().enumerate().map(|(zone, part)| surplus(zone, *part)).sum();
    for (zone, part) in parts.iter().enumerate() {
        shares[zone] += match total > 0.0 {
            true => rest * surplus(zone, *part) / total,
            // No zone has more than its share: by what each has.
            false => rest * part.0,
        };
    }
    in_parts(&shares)
}

fn in_parts(shares: &[f64]) -> Vec<u32> {
    // At most WHOLE, and never negative.
    shares.iter().map(|share| (share * f64::from(WHOLE)).round() as u32).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_are_those_of_envoys_rule() {
        for (service, callers, own, expected) in [
            // As many of the service as of the callers: all stay.
            (&[2, 2, 2][..], &[1, 1, 1][..], 0, &[10_000, 0, 0][..]),
            // More: all stay.
            (&[4, 1, 1], &[1, 1, 1], 0, &[10_000, 0, 0]),
            // A quarter of the service for a half of the callers: a half stays, and the rest goes where there is a surplus.
            (&[1, 3], &[1, 1], 0, &[5_000, 5_000]),
            (&[1, 2, 1], &[2, 1, 1], 0, &[5_000, 5_000, 0]),
            // The surplus of two zones: a quarter and an eighth.
            (&[1, 4, 3], &[2, 1, 1], 0, &[2_500, 5_000, 2_500]),
            // None of the service.
            (&[0, 2, 2], &[1, 1, 1], 0, &[0, 5_000, 5_000]),
            // None of the callers is known here: all stay.
            (&[2, 2], &[0, 3], 0, &[10_000, 0]),
        ] {
            assert_eq!(zone_shares(service, callers, own), expected, "{service:?} {callers:?} {own}");
        }
    }

    proptest! {
        /// With every caller by its own shares, each zone of the service gets what it has instances for.
        #[test]
        fn every_instance_gets_its_share(
            zones in prop::collection::vec((1..20_usize, 1..20_usize), 1..6),
        ) {
            let service: Vec<_> = zones.iter().map(|one| one.0).collect();
            let callers: Vec<_> = zones.iter().map(|one| one.1).collect();
            let total: usize = callers.iter().sum();
            let mut load = vec![0.0; zones.len()];
            for (own, count) in callers.iter().enumerate() {
                let shares = zone_shares(&service, &callers, own);
                let sum: u32 = shares.iter().sum();
                prop_assert!(sum.abs_diff(WHOLE) <= zones.len() as u32, "{shares:?}");
                for (load, share) in load.iter_mut().zip(&shares) {
                    *load += f64::from(*share) / f64::from(WHOLE) * *count as f64 / total as f64;
                }
            }
            let instances: usize = service.iter().sum();
            for (load, count) in load.iter().zip(&service) {
                let due = *count as f64 / instances as f64;
                prop_assert!((load - due).abs() < 0.01, "{load:?} of {due}, {zones:?}");
            }
        }
    }
}
