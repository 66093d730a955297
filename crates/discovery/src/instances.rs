//! Lists of instances that are sorted by identity and hold each identity once.

use std::sync::Arc;

use outrigger_registry::{Instance, InstanceId};

/// Sorts by identity, because registries list in any order and equal content must compare equal. Of
/// several entries with one identity, which no sound registry sends, the first is kept.
pub(crate) fn sort_and_dedup(mut instances: Vec<Instance>) -> Vec<Instance> {
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    instances.dedup_by(|later, kept| later.id == kept.id);
    instances
}

/// The instance of this identity in a sorted list.
pub(crate) fn find<'a>(sorted: &'a [Instance], id: &InstanceId) -> Option<&'a Instance> {
    sorted.binary_search_by(|one| one.id.cmp(id)).ok().and_then(|at| sorted.get(at))
}

/// `first`, which is sorted, and the instances of `second` that `first` does not hold; sorted.
pub(crate) fn union(first: &[Instance], second: &[Instance]) -> Arc<[Instance]> {
    let more = second.iter().filter(|one| find(first, &one.id).is_none());
    let mut all: Vec<_> = first.iter().chain(more).cloned().collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all.into()
}
