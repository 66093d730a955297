//! What a request has to be like for a route.

use regex::bytes::RegexBuilder;

use super::{edits::path_text, target::one_of_keys};
use crate::{
    PathMatch, Pattern, RouteMatch, ValueMatch, ValueTest,
    check::{quote::quote, reader::Reader, section::Section},
    error::InvalidValue,
    format_size, http_words, keys,
    units::{KIB, switch},
};

const MAX_PATTERN_BYTES: usize = KIB;
/// Most memory of a compiled expression, and of what it remembers while it matches, in each thread.
const MAX_COMPILED_BYTES: usize = 128 * KIB;

/// `match: {path, headers, query, methods}`
pub(super) fn read(r: &mut Reader<'_>, route: &Section<'_>) -> RouteMatch {
    let s = r.section(route, "match");
    let mut out = RouteMatch::default();
    if s.node("path").is_some() {
        let path = r.section(&s, "path");
        out.path = match one_of_keys(r, &path, &["exact", "prefix", "regex"]) {
            Some("exact") => r.get(&path, "exact", path_text).map(PathMatch::Exact),
            Some("prefix") => r.get(&path, "prefix", path_text).map(PathMatch::Prefix),
            Some(_) => r.get(&path, "regex", pattern).map(PathMatch::Regex),
            None => None,
        };
    }
    out.headers = read_values(r, &s, "headers", http_words::field_name);
    out.query = read_values(r, &s, "query", http_words::query_parameter);
    r.set_list(&s, "methods", &mut out.methods, http_words::method);
    if s.is_empty_list("methods") {
        r.report_set(&s.key("methods"), "has no method", "name one, or remove the key for every method");
    }
    out
}

fn read_values(
    r: &mut Reader<'_>,
    s: &Section<'_>,
    name: &str,
    parse_name: impl Fn(&str) -> Result<String, InvalidValue>,
) -> Vec<(String, ValueMatch)> {
    let Some(node) = s.node(name) else { return Vec::new() };
    let path = s.key(name);
    r.origins.set(path.clone(), r.origin_at(node.at));
    let mut out: Vec<(String, ValueMatch)> = Vec::new();
    for (key, section) in r.named_sections(&path, node, keys::VALUE_MATCH, Some("exact")) {
        let field = parse_name(&key.name).map_err(|wrong| {
            let what = format!("{} {}", quote(&key.name), wrong.what);
            r.report(&r.origin_at(key.at), &path, InvalidValue { what, hint: wrong.hint });
        });
        if let Ok(field) = &field
            && out.iter().any(|(known, _)| known == field)
        {
            let what = format!("{} is there twice, and names of fields have no case", quote(field));
            r.report(&r.origin_at(key.at), &path, InvalidValue::new(what, "remove one of them"));
        }
        let test = read_value(r, &section);
        if let (Ok(field), Some(test)) = (field, test) {
            out.push((field, test));
        }
    }
    out
}

fn read_value(r: &mut Reader<'_>, s: &Section<'_>) -> Option<ValueMatch> {
    let mut negated = false;
    r.set(s, "not", &mut negated, switch);
    let test = match one_of_keys(r, s, &["present", "exact", "prefix", "suffix", "regex"])? {
        "present" => {
            // `present: false` is `not`.
            negated ^= !r.get(s, "present", switch)?;
            ValueTest::Present
        }
        "exact" => ValueTest::Exact(r.get(s, "exact", value_text)?),
        "prefix" => ValueTest::Prefix(r.get(s, "prefix", value_text)?),
        "suffix" => ValueTest::Suffix(r.get(s, "suffix", value_text)?),
        _ => ValueTest::Regex(r.get(s, "regex", pattern)?),
    };
    Some(ValueMatch { test, negated })
}

fn value_text(text: &str) -> Result<String, InvalidValue> {
    if text.is_empty() {
        return Err(InvalidValue::new("is empty", "write present: true for any value"));
    }
    if text.chars().any(char::is_control) {
        return Err(InvalidValue::new("has a control character, which no value has", "remove it"));
    }
    Ok(text.to_owned())
}

fn pattern(text: &str) -> Result<Pattern, InvalidValue> {
    if text.is_empty() {
        return Err(InvalidValue::new("is empty", "write present: true for any value"));
    }
    if text.len() > MAX_PATTERN_BYTES {
        let what = format!("has {} bytes, more than {}", text.len(), format_size(MAX_PATTERN_BYTES));
        return Err(InvalidValue::new(what, "make several routes of it"));
    }
    // Alone first: with the anchors around it, the places would be others.
    if let Err(error) = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(text) {
        let hint = "the value is matched as a whole; \\ takes a special character as it is";
        let (what, at) = describe_error(&error);
        return Err(InvalidValue::new(format!("is no regular expression, at column {at}: {what}"), hint));
    }
    let compiled = RegexBuilder::new(&format!("^(?:{text})$"))
        .unicode(false)
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_COMPILED_BYTES)
        .build();
    match compiled {
        Ok(regex) => Ok(Pattern { text: text.into(), regex }),
        Err(regex::Error::CompiledTooBig(_)) => {
            let what = format!("would take more than {}", format_size(MAX_COMPILED_BYTES));
            Err(InvalidValue::new(what, "repeat less in it"))
        }
        Err(_) => Err(InvalidValue::new("cannot be matched as a whole", "leave out comments")),
    }
}

impl Pattern {
    /// Reads an expression that matches a value as a whole.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        pattern(text).map_err(|wrong| wrong.what)
    }
}

/// What is wrong with an expression, and at which character.
fn describe_error(error: &regex_syntax::Error) -> (String, usize) {
    match error {
        regex_syntax::Error::Parse(error) => (error.kind().to_string(), error.span().start.column),
        regex_syntax::Error::Translate(error) => (error.kind().to_string(), error.span().start.column),
        _ => ("it cannot be read".to_owned(), 1),
    }
}

/// How many regular expressions there are.
pub(super) fn patterns(matcher: &RouteMatch) -> usize {
    let of_path = usize::from(matches!(matcher.path, Some(PathMatch::Regex(_))));
    let values = matcher.headers.iter().chain(&matcher.query);
    of_path + values.filter(|(_, value)| matches!(value.test, ValueTest::Regex(_))).count()
}
