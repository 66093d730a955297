//! Which instances a subset has.

use outrigger_config::Subset;

use crate::{HealthStatus, Instance};
use fact::Fact;

mod fact;

/// Whether the instance is in the subset. Its health does not matter, except to `only_passing` and to a filter over its checks. A
/// filter that the registry evaluates ([`SubsetFilter::is_evaluated_here`]) is passed over.
///
/// [`SubsetFilter::is_evaluated_here`]: outrigger_config::SubsetFilter::is_evaluated_here
pub fn matches(subset: &Subset, instance: &Instance) -> bool {
    let has = |key: &String| instance.meta.get(key);
    !(subset.only_passing && instance.status == HealthStatus::Warning)
        && instance.has_tags(&subset.tags)
        && subset.meta.iter().all(|(key, glob)| has(key).is_some_and(|value| glob.matches(value)))
        && subset.filter.as_ref().is_none_or(|filter| {
            !filter.is_evaluated_here() || filter.filter().keeps(Fact::Instance(instance))
        })
}

#[cfg(test)]
mod tests;
