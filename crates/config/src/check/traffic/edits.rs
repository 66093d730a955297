//! What a route changes in the head of a request.

use std::collections::BTreeMap;

use crate::{
    HeaderEdits, PathMatch, RouteMatch,
    check::{quote::quote, reader::Reader, section::Section},
    error::InvalidValue,
    http_words,
    names::header_value,
};

/// `headers: {set, add, remove}`
pub(super) fn read_headers(r: &mut Reader<'_>, route: &Section<'_>) -> HeaderEdits {
    let s = r.section(route, "headers");
    let mut out = HeaderEdits::default();
    for (name, fields) in [("set", &mut out.set), ("add", &mut out.add)] {
        let mut read = BTreeMap::new();
        r.set_secret_map(&s, name, &mut read, http_words::edited_field, header_value);
        for (field, value) in read {
            let field = field.to_ascii_lowercase();
            if fields.iter().any(|(known, _)| *known == field) {
                let what = format!("{} is there twice, and names of fields have no case", quote(&field));
                r.report_set(&s.key(name), what, "remove one of them");
            }
            fields.push((field, value));
        }
    }
    r.set_list(&s, "remove", &mut out.remove, |text| {
        http_words::edited_field(text).map(|name| name.to_ascii_lowercase())
    });
    let contradicts = |name: &String| out.set.iter().chain(&out.add).any(|(field, _)| field == name);
    if let Some(name) = out.remove.iter().find(|name| contradicts(name)) {
        let what = format!("{} is also set or added", quote(name));
        r.report_set(&s.key("remove"), what, "set replaces a field; remove it from one of the lists");
    }
    out
}

/// `rewrite: {prefix: /}`
pub(super) fn read_rewrite(r: &mut Reader<'_>, route: &Section<'_>, matcher: &RouteMatch) -> Option<String> {
    route.node("rewrite")?;
    let s = r.section(route, "rewrite");
    let prefix = r.get(&s, "prefix", path_text);
    let has_prefix = matches!(matcher.path, Some(PathMatch::Exact(_) | PathMatch::Prefix(_)));
    if s.node("prefix").is_none() {
        r.report(&r.origin_of(&s), &s.path, InvalidValue::new("says nothing", "write rewrite: {prefix: /}"));
    } else if !has_prefix {
        let hint = "add match: {path: {prefix: …}} or {path: {exact: …}}";
        r.report(
            &r.origin_of(&s),
            &s.path,
            InvalidValue::new(
                "takes the place of a matched path, and the route matches none by its text",
                hint,
            ),
        );
    }
    prefix
}

/// A path as a request has it, or its beginning.
pub(super) fn path_text(text: &str) -> Result<String, InvalidValue> {
    let hint = "write it as in the request: /reports/, percent-encoded, without ? and #";
    if text.is_empty() {
        return Err(InvalidValue::new("is empty", hint));
    }
    if !text.starts_with('/') {
        return Err(InvalidValue::new("does not begin with /, as every path does", hint));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')) {
        return Err(InvalidValue::new("has a character that no path has", hint));
    }
    Ok(text.to_owned())
}
