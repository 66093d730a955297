//! Where requests go: subsets, other services, shares.

use std::sync::Arc;

use super::rule_names::RuleNames;
use crate::{
    Split, SplitEntry, SplitTarget, Sticky,
    check::{
        reader::{Reader, Source},
        section::Section,
        service::read_required,
    },
    error::InvalidValue,
    http_words,
    keys::{self, KeySpec},
};

const MAX_ENTRIES: usize = 64;
/// Highest weight of an entry.
const MAX_WEIGHT: u32 = 10_000;

/// The one of `names` that the section has. Reports none and several, at the section.
pub(super) fn one_of_keys(
    r: &mut Reader<'_>,
    s: &Section<'_>,
    names: &[&'static str],
) -> Option<&'static str> {
    let given: Vec<_> = names.iter().copied().filter(|name| s.node(name).is_some()).collect();
    match given.as_slice() {
        [one] => return Some(one),
        // A key in its place is unknown.
        [] if r.has_problem_below(&s.path) => {}
        [] => {
            let wrong = InvalidValue::new("says nothing", format!("write one of: {}", names.join(", ")));
            r.report(&r.origin_of(s), &s.path, wrong);
        }
        [first, second, ..] => {
            let what = format!("has {first} and {second}, and only one counts");
            r.report(&r.origin_of(s), &s.path, InvalidValue::new(what, "remove one of them"));
        }
    }
    None
}

pub(super) fn read_subset(r: &mut Reader<'_>, s: &Section<'_>, names: &RuleNames<'_>) -> Option<Arc<str>> {
    r.get(s, "subset", |text| names.subset(text))
}

/// Another service. A document may name those of `dynamic_config.allow_services`.
pub(super) fn read_service(r: &mut Reader<'_>, s: &Section<'_>, names: &RuleNames<'_>) -> Option<Arc<str>> {
    let is_document = matches!(r.source, Source::Document { .. });
    let allowed = r.allow_services.clone();
    r.get(s, "service", |text| {
        let service = names.other_service(text)?;
        if is_document && !allowed.iter().any(|name| name.eq_ignore_ascii_case(&service)) {
            let what = "is another service, which dynamic_config.allow_services does not have";
            return Err(InvalidValue::new(what, "add the service in the settings file"));
        }
        Ok(service)
    })
}

/// `subset` or `service`.
pub(super) fn read_target(r: &mut Reader<'_>, s: &Section<'_>, names: &RuleNames<'_>) -> Option<SplitTarget> {
    match one_of_keys(r, s, &["subset", "service"])? {
        "subset" => read_subset(r, s, names).map(SplitTarget::Subset),
        _ => read_service(r, s, names).map(SplitTarget::Service),
    }
}

/// The entries of the key `split`, if it is there.
pub(super) fn read_split(
    r: &mut Reader<'_>,
    s: &Section<'_>,
    names: &RuleNames<'_>,
) -> Option<Vec<SplitEntry>> {
    let node = s.node("split")?;
    let path = s.key("split");
    r.origins.set(path.clone(), r.origin_at(node.at));
    let problems = r.problems.len();
    let sections = r.list_sections(&path, node, keys::SPLIT_ENTRY);
    let mut out: Vec<SplitEntry> = Vec::with_capacity(sections.len());
    for section in &sections {
        let to = read_target(r, section, names);
        let weight = read_required(r, section, "weight", weight);
        let (Some(to), Some(weight)) = (to, weight) else { continue };
        if out.iter().any(|entry| entry.to == to) {
            let wrong =
                InvalidValue::new("is the target of an entry before", "add up the weights of the two");
            r.report(&r.origin_of(section), &section.path, wrong);
        }
        out.push(SplitEntry { to, weight });
    }
    if sections.is_empty() && r.problems.len() == problems {
        r.report_set(&path, "has no target", "write a list: split: [{subset: v1, weight: 95}, …]");
    } else if out.len() > MAX_ENTRIES {
        let what = format!("has {} entries, more than {MAX_ENTRIES}", out.len());
        r.report_set(&path, what, "remove some");
    } else if out.len() == sections.len() && out.iter().all(|entry| entry.weight == 0) {
        r.report_set(&path, "has no weight above 0", "give a target a weight");
    }
    Some(out)
}

/// The key `sticky`, if it is there.
pub(super) fn read_sticky(r: &mut Reader<'_>, s: &Section<'_>, keys: &'static [KeySpec]) -> Option<Sticky> {
    let node = s.node("sticky")?;
    let section = r.open_section(s.key("sticky"), keys, Some(node));
    match one_of_keys(r, &section, &["header", "cookie"])? {
        "header" => r.get(&section, "header", http_words::field_name).map(Sticky::Header),
        _ => r.get(&section, "cookie", http_words::cookie_name).map(Sticky::Cookie),
    }
}

/// `95` or `2.5`, in hundredths.
fn weight(text: &str) -> Result<u32, InvalidValue> {
    let hint = || format!("write 0 to {MAX_WEIGHT}, with at most two decimals");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 2 {
        return Err(InvalidValue::new("is not a weight", hint()));
    }
    let part = part.parse::<u32>().unwrap_or_default() * if part.len() == 1 { 10 } else { 1 };
    let hundredths = whole.parse::<u32>().ok().and_then(|whole| whole.checked_mul(100)?.checked_add(part));
    hundredths
        .filter(|hundredths| *hundredths <= MAX_WEIGHT * 100)
        .ok_or_else(|| InvalidValue::new("is out of range", hint()))
}

/// The services that a split names.
pub(super) fn services(split: Option<&Split>) -> Vec<Arc<str>> {
    let entries = split.map_or(&[][..], |split| &split.entries);
    let of = |entry: &SplitEntry| match &entry.to {
        SplitTarget::Service(service) => Some(Arc::clone(service)),
        SplitTarget::Subset(_) | SplitTarget::Exact(_) => None,
    };
    entries.iter().filter_map(of).collect()
}
