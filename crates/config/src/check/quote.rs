//! How a message quotes a value: short, without control characters, without a password.

/// Longest part of a value that a message shows, in characters.
const MAX_CHARS: usize = 60;

pub(super) fn quote(text: &str) -> String {
    format!("{:?}", sanitize(text))
}

/// The text cut to a length that fits in a message, without control characters.
pub(super) fn sanitize(text: &str) -> String {
    let text = &hide_credentials(text);
    let clean = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut shown: String = clean.take(MAX_CHARS).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// A URL without its user name and password.
fn hide_credentials(text: &str) -> String {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, host)) => format!("{scheme}://(hidden)@{host}"),
        None => text.to_owned(),
    }
}
