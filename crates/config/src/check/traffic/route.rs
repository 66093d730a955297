//! One route: what it takes, and what happens to it.

use super::{edits, matching, rule_names::RuleNames, target};
use crate::{
    OnEmpty, PathMatch, Route, RouteMatch, RouteTarget, Split,
    check::{reader::Reader, section::Section},
    error::InvalidValue,
    keys,
    raw::{KeyNode, Node, NodeValue},
};

const MAX_ROUTES: usize = 256;

/// The sections of the key `routes`, if it is there.
pub(super) fn sections<'n>(r: &mut Reader<'_>, s: &Section<'n>) -> Option<Vec<Section<'n>>> {
    let node = s.node("routes")?;
    let path = s.key("routes");
    let mut sections = r.list_sections(&path, node, keys::ROUTE);
    if sections.len() > MAX_ROUTES {
        let what = format!("has {} routes, more than {MAX_ROUTES}", sections.len());
        r.report_set(&path, what, "remove some");
        sections.truncate(MAX_ROUTES);
    }
    Some(sections)
}

pub(super) fn read(r: &mut Reader<'_>, s: &Section<'_>, names: &RuleNames<'_>) -> Route {
    let matcher = matching::read(r, s);
    let to = read_to(r, s, names);
    let on_empty = read_on_empty(r, s, names, &to);
    let rewrite_prefix = edits::read_rewrite(r, s, &matcher);
    let headers = edits::read_headers(r, s);
    Route { matcher, to, on_empty, policy: None, rewrite_prefix, headers, tuning: None, number: None }
}

fn read_to(r: &mut Reader<'_>, route: &Section<'_>, names: &RuleNames<'_>) -> RouteTarget {
    if route.node("to").is_none() {
        return RouteTarget::Own;
    }
    let s = r.section(route, "to");
    let kind = target::one_of_keys(r, &s, &["subset", "service", "split"]);
    let sticky = target::read_sticky(r, &s, keys::STICKY);
    if s.node("sticky").is_some() && s.node("split").is_none() {
        let key = s.key("sticky");
        r.warn(r.origin_of(&s), &key, "is not used: there is no split", "remove it");
    }
    let read = match kind {
        Some("subset") => target::read_subset(r, &s, names).map(RouteTarget::Subset),
        Some("service") => target::read_service(r, &s, names).map(RouteTarget::Service),
        Some(_) => {
            target::read_split(r, &s, names).map(|entries| RouteTarget::Split(Split { entries, sticky }))
        }
        None => None,
    };
    read.unwrap_or_default()
}

/// `fail`, `any`, or `{subset: NAME}`.
fn read_on_empty(
    r: &mut Reader<'_>,
    route: &Section<'_>,
    names: &RuleNames<'_>,
    to: &RouteTarget,
) -> OnEmpty {
    let Some(node) = route.node("on_empty") else { return OnEmpty::Fail };
    let read = match &node.value {
        NodeValue::Map(_) => {
            let s = r.open_section(route.key("on_empty"), keys::ON_EMPTY, Some(node));
            let _ = target::one_of_keys(r, &s, &["subset"]);
            target::read_subset(r, &s, names).map(OnEmpty::Subset)
        }
        _ => r.get(route, "on_empty", |text| match text {
            "fail" => Ok(OnEmpty::Fail),
            "any" => Ok(OnEmpty::Any),
            _ => Err(InvalidValue::new("is not valid here", "write fail, any or {subset: NAME}")),
        }),
    };
    let (origin, key) = (r.origin_at(node.at), route.key("on_empty"));
    match (to, &read) {
        (RouteTarget::Subset(to), Some(OnEmpty::Subset(other))) if to == other => {
            let wrong = InvalidValue::new("is the subset of the route itself", "name another one, or any");
            r.report(&origin, &key, wrong);
        }
        (RouteTarget::Subset(_), _) => {}
        _ => r.warn(origin, &key, "is not used: the route is to no subset", "remove it"),
    }
    read.unwrap_or_default()
}

/// Whether no request passes this.
pub(super) fn takes_everything(matcher: &RouteMatch) -> bool {
    let RouteMatch { path, headers, query, methods } = matcher;
    let every_path = path.as_ref().is_none_or(|path| matches!(path, PathMatch::Prefix(text) if text == "/"));
    every_path && headers.is_empty() && query.is_empty() && methods.is_empty()
}

/// What the route sets of a policy, if anything.
pub(super) fn policy_keys(s: &Section<'_>) -> Option<Node> {
    let is_policy = |name: &str| keys::ROUTE_POLICY.iter().any(|key| key.name == name);
    let given = s.entries.iter().filter(|(name, ..)| is_policy(name));
    let entries: Vec<_> = given
        .map(|(name, at, node)| (KeyNode { at: *at, name: (*name).to_owned() }, (*node).clone()))
        .collect();
    let at = entries.first()?.0.at;
    Some(Node { at, value: NodeValue::Map(entries) })
}
