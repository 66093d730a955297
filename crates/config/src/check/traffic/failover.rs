//! Where requests go while a service has no usable instance.

use std::time::Duration;

use super::{rule_names::RuleNames, target::read_service};
use crate::{
    FailoverTarget,
    check::{reader::Reader, section::Section},
    error::InvalidValue,
    keys, names,
    units::{HOUR, duration_in},
};

/// Most targets: each is watched from the start.
const MAX_TARGETS: usize = 8;

/// The targets of the key `failover`, if it is there.
pub(super) fn read_targets(
    r: &mut Reader<'_>,
    s: &Section<'_>,
    names: &RuleNames<'_>,
) -> Option<Vec<FailoverTarget>> {
    let node = s.node("failover")?;
    let path = s.key("failover");
    r.origins.set(path.clone(), r.origin_at(node.at));
    let sections = r.list_sections(&path, node, keys::FAILOVER_TARGET);
    let mut out: Vec<FailoverTarget> = Vec::with_capacity(sections.len());
    for section in &sections {
        let problems = r.problems.len();
        let target = FailoverTarget {
            service: read_service(r, section, names),
            datacenter: r.get(section, "datacenter", names::datacenter),
        };
        if r.problems.len() > problems || r.has_problem_below(&section.path) {
            continue;
        }
        let wrong = if target.service.is_none() && target.datacenter.is_none() {
            InvalidValue::new("says nothing", "write datacenter, service or both")
        } else if out.contains(&target) {
            InvalidValue::new("is the target of an entry before", "remove it")
        } else {
            out.push(target);
            continue;
        };
        r.report(&r.origin_of(section), &section.path, wrong);
    }
    if sections.len() > MAX_TARGETS {
        let what = format!("has {} targets, more than {MAX_TARGETS}", sections.len());
        r.report_set(&path, what, "remove some");
    }
    Some(out)
}

/// The key `return_after`, if it is there.
pub(super) fn read_return_after(r: &mut Reader<'_>, s: &Section<'_>) -> Option<Duration> {
    r.get(s, "return_after", duration_in(Duration::ZERO..=HOUR))
}
