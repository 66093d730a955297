//! Services that send each other's requests around, by their splits or by their failover.

use std::{collections::BTreeMap, sync::Arc};

/// The services that one service names.
#[derive(Debug, Clone, Default)]
pub(crate) struct NamedServices {
    pub(crate) split: Vec<Arc<str>>,
    pub(crate) failover: Vec<Arc<str>>,
}

/// The services that each service names, by the service in lower case.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceLinks {
    split: Links,
    failover: Links,
}

type Links = BTreeMap<String, Vec<Arc<str>>>;

/// A way from a service back to itself.
#[derive(Debug, Clone)]
pub(crate) struct ServiceCycle {
    /// The key by which it goes.
    pub(crate) key: &'static str,
    /// `[orders, reports, orders]`.
    pub(crate) way: Vec<String>,
}

impl ServiceLinks {
    /// Puts what the service names in place of what it named before.
    pub(crate) fn insert(&mut self, service: String, named: NamedServices) {
        self.split.insert(service.clone(), named.split);
        self.failover.insert(service, named.failover);
    }

    /// The ways from a service back to itself.
    pub(crate) fn find_cycles(&self, service: &str) -> impl Iterator<Item = ServiceCycle> {
        let of = |key, links: &Links| find_cycle(links, service).map(|way| ServiceCycle { key, way });
        [of("split", &self.split), of("failover", &self.failover)].into_iter().flatten()
    }
}

impl ServiceCycle {
    /// What is wrong, and what to do.
    pub(crate) fn describe(&self) -> (String, String) {
        let hint = format!("leave one of these services out of the other's {}", self.key);
        (format!("requests would go around: {}", self.way.join(" → ")), hint)
    }
}

fn find_cycle(splits: &Links, service: &str) -> Option<Vec<String>> {
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
        let mut splits = Links::new();
        for (from, to) in edges {
            splits.entry(from.to_owned()).or_default().push(to.into());
        }
        let cycle = |service| find_cycle(&splits, service).map(|way| way.join(" "));
        assert_eq!(cycle("b").as_deref(), Some("b c b"));
        assert_eq!(cycle("c").as_deref(), Some("c b c"));
        assert_eq!((cycle("a"), cycle("d"), cycle("e"), cycle("x")), (None, None, None, None));
    }
}
