//! How a message repeats a value: short, quoted, harmless to a terminal, without a password.

/// Longest piece of a wrong value that a message repeats, in characters.
const SHOWN: usize = 60;

pub(super) fn quote(text: &str) -> String {
    format!("{:?}", show(text))
}

/// A text cut to a length that fits in a message, without what would break a terminal.
pub(super) fn show(text: &str) -> String {
    let text = &without_user(text);
    let clean = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut shown: String = clean.take(SHOWN).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// A URL without the user name and password that people put in it.
fn without_user(text: &str) -> String {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, host)) => format!("{scheme}://(hidden)@{host}"),
        None => text.to_owned(),
    }
}
