//! Parts of texts that users read: numbers of things, labels, and text that others have written.

use std::borrow::Cow;

/// Replaces a secret.
pub(crate) const HIDDEN: &str = "(hidden)";

/// `1 instance`, `2 instances`: `noun` takes an `s` except after 1.
///
/// ```
/// # use outrigger_config::count;
/// assert_eq!([0, 1, 2].map(|n| count(n, "instance")), ["0 instances", "1 instance", "2 instances"]);
/// assert_eq!([1, 2].map(|n| count(n, "retry")), ["1 retry", "2 retries"]);
/// ```
pub fn count(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    match noun.strip_suffix('y') {
        _ if number == 1 => format!("1 {noun}"),
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {noun}s"),
    }
}

/// The text on one line: control characters and Unicode line separators as in a Rust literal (`\n`, `\u{1b}`). For text from
/// others (ids, tags, names and check outputs of a registry) on lines that are read by line.
///
/// ```
/// # use outrigger_config::escape_control;
/// assert_eq!(escape_control("a\nb\u{2028}"), r"a\nb\u{2028}");
/// assert_eq!(escape_control("ü \\ \""), "ü \\ \"");
/// ```
pub fn escape_control(text: &str) -> Cow<'_, str> {
    if !text.contains(breaks_line) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for one in text.chars() {
        if breaks_line(one) { escaped.extend(one.escape_default()) } else { escaped.push(one) }
    }
    Cow::Owned(escaped)
}

/// The text as YAML has it in double quotes.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// Whether a terminal or a reader of lines may take it for something other than text: control characters (C0, DEL, C1), and the
/// line and paragraph separators of Unicode.
pub fn breaks_line(one: char) -> bool {
    one.is_control() || matches!(one, '\u{2028}' | '\u{2029}')
}

/// `[a,b]`: tags as a part of a label. A tag that holds a comma or another character of the label's syntax is quoted, so that the
/// tags `a` and `b` and the tag `a,b` have two labels. Empty without tags.
///
/// ```
/// # use outrigger_config::tag_list;
/// assert_eq!(tag_list(&["a", "b"]), "[a,b]");
/// assert_eq!(tag_list(&["a,b"]), r#"["a,b"]"#);
/// assert_eq!(tag_list::<&str>(&[]), "");
/// ```
pub fn tag_list<T: AsRef<str>>(tags: &[T]) -> String {
    if tags.is_empty() {
        return String::new();
    }
    let is_syntax = |one: char| matches!(one, ',' | '[' | ']' | '@' | '"' | '\\') || breaks_line(one);
    let quote = |tag: &T| match tag.as_ref() {
        tag if tag.is_empty() || tag.contains(is_syntax) => format!("{tag:?}"),
        tag => tag.to_owned(),
    };
    format!("[{}]", tags.iter().map(quote).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_lists_of_tags_have_one_label() {
        let lists: [&[&str]; 10] = [
            &["a", "b"],
            &["a,b"],
            &["a", "b,c"],
            &["a,b", "c"],
            &["a", "b", "c"],
            &["\"a", "b\""],
            &["\"a,b\""],
            &["a]@dc2"],
            &["a", ""],
            &["a\n"],
        ];
        let labels: std::collections::BTreeSet<_> = lists.iter().map(|tags| tag_list(tags)).collect();
        assert_eq!(labels.len(), lists.len(), "{labels:?}");
        for label in labels {
            assert!(!label.contains(breaks_line), "{label:?}");
        }
    }
}
