//! The named parts of a service's instances.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Glob, Subset, SubsetFilter,
    check::{
        quote::quote,
        reader::{Reader, Source},
        section::Section,
    },
    error::InvalidValue,
    format_size, keys, names,
    raw::NodeValue,
    units::KIB,
};

const MAX_SUBSETS: usize = 64;
const MAX_FILTER_BYTES: usize = KIB;
/// Most memory of the regular expressions of a filter.
const MAX_REGEXP_BYTES: usize = 64 * KIB;
/// Longest pattern of a metadata value: as long as the longest value.
const MAX_GLOB_BYTES: usize = 512;

/// Puts the subsets of the section over `out`.
pub(super) fn read(r: &mut Reader<'_>, s: &Section<'_>, out: &mut Vec<Subset>) {
    let Some(node) = s.node("subsets") else { return };
    let path = s.key("subsets");
    let is_document = matches!(r.source, Source::Document { .. });
    for (name, section) in r.named_sections(&path, node, keys::SUBSET, None) {
        // It drops the subset of the layers below.
        if is_document && is_null(node, &name.name) {
            continue;
        }
        if let Err(wrong) = names::subset(&name.name) {
            let what = format!("{} {}", quote(&name.name), wrong.what);
            r.report(&r.origin_at(name.at), &path, InvalidValue { what, hint: wrong.hint });
        }
        let known = out.iter().position(|subset| *subset.name == *name.name);
        let mut subset =
            known.and_then(|n| out.get(n).cloned()).unwrap_or_else(|| Subset::of_all(name.name.as_str()));
        r.origins.set(section.path.clone(), r.origin_at(name.at));
        read_subset(r, &section, &mut subset);
        let is_empty = subset.tags.is_empty() && subset.meta.is_empty() && subset.filter.is_none();
        if is_empty && !r.has_problem_below(&section.path) {
            let wrong = InvalidValue::new("has every instance", "give it tags, meta or a filter");
            r.report(&r.origin_at(name.at), &section.path, wrong);
        }
        match known.and_then(|n| out.get_mut(n)) {
            Some(known) => *known = subset,
            None => out.push(subset),
        }
    }
    if out.len() > MAX_SUBSETS {
        let what = format!("has {} subsets, more than {MAX_SUBSETS}", out.len());
        r.report_set(&path, what, "remove some");
    }
}

fn is_null(node: &crate::raw::Node, name: &str) -> bool {
    let NodeValue::Map(entries) = &node.value else { return false };
    entries.iter().any(|(key, inside)| key.name == name && inside.value == NodeValue::Null)
}

fn read_subset(r: &mut Reader<'_>, s: &Section<'_>, out: &mut Subset) {
    r.set_list(s, "tags", &mut out.tags, |text| names::tag(text).map(Arc::from));
    let mut meta = BTreeMap::new();
    r.set_map(s, "meta", &mut meta, names::meta_key, glob);
    for (key, value) in meta {
        out.meta.retain(|(known, _)| *known != key);
        out.meta.push((key, Glob(value.into())));
    }
    out.meta.sort_by(|(a, _), (b, _)| a.cmp(b));
    if let Some(filter) = r.get(s, "filter", filter) {
        out.filter = Some(filter);
    }
}

fn glob(text: &str) -> Result<String, InvalidValue> {
    if text.len() > MAX_GLOB_BYTES {
        let what = format!("has {} bytes, more than {MAX_GLOB_BYTES}", text.len());
        return Err(InvalidValue::new(what, "no value of metadata is longer"));
    }
    Ok(text.to_owned())
}

fn filter(text: &str) -> Result<SubsetFilter, InvalidValue> {
    if text.len() > MAX_FILTER_BYTES {
        let what = format!("has {} bytes, more than {}", text.len(), format_size(MAX_FILTER_BYTES));
        return Err(InvalidValue::new(what, "make several subsets of it"));
    }
    let filter = SubsetFilter::parse(text).map_err(|error| {
        let what = format!("is no filter, at column {}: {}", error.column(), error.reason());
        let hint = match error.reason().starts_with("Selector ") {
            true => {
                "a subset selects what Consul lists of an instance: Service.{ID,Service,Tags,Meta,Address,Port,Weights}, Node.{Node,Address,Datacenter,Meta}, Checks, …"
            }
            false => "write it as Consul does: Service.Meta.version == \"2\" and \"v2\" in Service.Tags",
        };
        InvalidValue::new(what, hint)
    })?;
    if filter.filter().regexp_size() > MAX_REGEXP_BYTES {
        let what = format!("has regular expressions of more than {}", format_size(MAX_REGEXP_BYTES));
        return Err(InvalidValue::new(what, "repeat less in them, or compare with ==, in and contains"));
    }
    Ok(filter)
}
