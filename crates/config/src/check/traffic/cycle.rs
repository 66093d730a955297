//! Services that send each other's requests around by their splits.

use std::{collections::BTreeMap, sync::Arc};

/// The services that each service's split names, by the service in lower case.
pub(crate) type ServiceSplits = BTreeMap<String, Vec<Arc<str>>>;

/// The way from a service by splits back to itself: `[orders, reports, orders]`.
pub(crate) fn find_cycle(splits: &ServiceSplits, service: &str) -> Option<Vec<String>> {
    let mut known = vec![service.to_owned()];
    let mut open = vec![vec![service.to_owned()]];
    while let Some(way) = open.pop() {
        for next in way.last().and_then(|last| splits.get(last)).into_iter().flatten() {
            let longer: Vec<_> = way.iter().cloned().chain([next.to_string()]).collect();
            if **next == *service {
                return Some(longer);
            }
            if !known.iter().any(|known| *known == **next) {
                known.push(next.to_string());
                open.push(longer);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_found_from_each_service_in_it_and_from_no_other() {
        let edges = [("a", "b"), ("b", "c"), ("c", "b"), ("d", "e"), ("d", "a")];
        let mut splits = ServiceSplits::new();
        for (from, to) in edges {
            splits.entry(from.to_owned()).or_default().push(to.into());
        }
        let cycle = |service| find_cycle(&splits, service).map(|way| way.join(" "));
        assert_eq!(cycle("b").as_deref(), Some("b c b"));
        assert_eq!(cycle("c").as_deref(), Some("c b c"));
        assert_eq!((cycle("a"), cycle("d"), cycle("e"), cycle("x")), (None, None, None, None));
    }
}
