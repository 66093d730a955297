//! The result of a probe: the health of the app, and why it is not healthy, as one text for `/readyz`, the log and the output of the
//! check.

use outrigger_config::breaks_line;
use outrigger_registry::ReportedHealth;

/// Longest text, characters. What is cut off is shown as `…`.
const MAX_TEXT: usize = 512;

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProbeResult {
    /// `None`: the sidecar could not probe, which is no news of the app.
    pub(super) health: Option<ReportedHealth>,
    /// The kind of the reason why it is not passing. `None`: it is, or that is not known.
    pub(super) kind: Option<ReasonKind>,
    /// One line, bounded.
    pub(super) detail: String,
}

/// Why the app is not healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReason {
    /// The health that it explains.
    pub health: ReportedHealth,
    /// What kind of reason it is.
    pub kind: ReasonKind,
    /// The first text since the kind is the same: one line, at most 512 characters.
    pub text: String,
}

/// The kinds of reasons. A text that differs within one kind (another port of this side, another address that refuses first) is no
/// news: each new output of a check is written to the registry, and wakes every watcher of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReasonKind {
    /// The app accepts no connection.
    Refused,
    /// There was no answer in time.
    Silent,
    /// The connection broke, or the answer is not HTTP.
    Broken,
    /// The status of the answer.
    Status(u16),
    /// A redirect that is not followed, or followed in vain.
    Redirect,
}

pub(super) fn passing(detail: &str) -> ProbeResult {
    ProbeResult { health: Some(ReportedHealth::Passing), kind: None, detail: one_line(detail) }
}

pub(super) fn warning(kind: ReasonKind, why: &str) -> ProbeResult {
    ProbeResult { health: Some(ReportedHealth::Warning), kind: Some(kind), detail: one_line(why) }
}

pub(super) fn critical(kind: ReasonKind, why: &str) -> ProbeResult {
    ProbeResult { health: Some(ReportedHealth::Critical), kind: Some(kind), detail: one_line(why) }
}

pub(super) fn no_news(why: &str) -> ProbeResult {
    ProbeResult { health: None, kind: None, detail: one_line(why) }
}

/// `text` as one line of at most [`MAX_TEXT`] characters, whatever the app has written into it.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::new();
    let mut left = MAX_TEXT;
    for one in text.chars() {
        let shown = if breaks_line(one) { one.escape_default().to_string() } else { one.to_string() };
        match left.checked_sub(shown.chars().count()) {
            Some(rest) => left = rest,
            None => {
                line.push('…');
                break;
            }
        }
        line.push_str(&shown);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line_and_bounded() {
        assert_eq!(one_line("a\r\nb\u{1b}[2J\u{2028}ä"), "a\\r\\nb\\u{1b}[2J\\u{2028}ä");
        assert_eq!(one_line(&"ä".repeat(MAX_TEXT)), "ä".repeat(MAX_TEXT));
        assert_eq!(one_line(&"x".repeat(MAX_TEXT * 9)), format!("{}…", "x".repeat(MAX_TEXT)));
        assert_eq!(one_line(&"\u{2028}".repeat(MAX_TEXT)).chars().count(), MAX_TEXT + 1);
    }
}
