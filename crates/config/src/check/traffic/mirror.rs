//! Copies of requests.

use super::{rule_names::RuleNames, target::read_target};
use crate::{
    Mirror,
    check::{reader::Reader, section::Section},
    error::InvalidValue,
    http_words, keys,
    units::{HOUR, MS, duration_in, integer, one_of, ratio_in},
};

/// Puts the keys of `mirror` over those of `out`.
pub(super) fn read(r: &mut Reader<'_>, s: &Section<'_>, names: &RuleNames<'_>, out: &mut Option<Mirror>) {
    let Some(node) = s.node("mirror") else { return };
    let s = r.open_section(s.key("mirror"), keys::MIRROR, Some(node));
    let target = match s.node("to") {
        Some(_) => {
            let to = r.section(&s, "to");
            read_target(r, &to, names)
        }
        None => out.as_ref().map(|mirror| mirror.to.clone()),
    };
    if s.node("to").is_none() && target.is_none() {
        let hint = "add to: {subset: NAME} or to: {service: NAME}";
        r.report(&r.origin_of(&s), &s.key("to"), InvalidValue::new("is missing", hint));
    }
    let to = target.unwrap_or(crate::SplitTarget::Subset("".into()));
    let mut mirror = out.take().unwrap_or_else(|| Mirror::to(to.clone()));
    mirror.to = to;
    r.set(&s, "share", &mut mirror.share, ratio_in(0.0..=1.0));
    r.set_list(&s, "methods", &mut mirror.methods, mirrored_method);
    if s.is_empty_list("methods") {
        r.report_set(&s.key("methods"), "has no method", "name one, or remove the key");
    }
    r.set(&s, "credentials", &mut mirror.keep_credentials, |text| {
        one_of(&[false, true], |keep| if keep { "keep" } else { "drop" })(text)
    });
    r.set(&s, "max_in_flight", &mut mirror.max_in_flight, integer(1..=10_000));
    r.set(&s, "timeout", &mut mirror.timeout, duration_in(MS..=HOUR));
    *out = Some(mirror);
}

fn mirrored_method(text: &str) -> Result<String, InvalidValue> {
    match http_words::method(text)?.as_str() {
        "CONNECT" => Err(InvalidValue::new("has no copy: it makes a tunnel", "remove it")),
        method => Ok(method.to_owned()),
    }
}
