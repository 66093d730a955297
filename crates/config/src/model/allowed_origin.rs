//! Which origins of browser pages may send requests.

use std::fmt;

/// One entry of `outbound.allow_origins`. Displays as it is written in a settings file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// `*`: every page, also one without an origin.
    Any,
    /// `null`: what browsers send for a page without an origin of its own, as a local file or a sandboxed frame. Any page can
    /// make itself such a frame.
    Null,
    /// `https://app.example[:port]`, as browsers write it: in lower case, without the default port.
    Exact(String),
    /// `https://*.example[:port]`: one or more whole labels stand for the star.
    Subdomains {
        /// `https`, in lower case.
        scheme: String,
        /// What follows the star: `.example` or `.example:8443`, in lower case.
        suffix: String,
    },
}

impl AllowedOrigin {
    /// Whether the entry allows `origin`, the value of an `Origin` field (RFC 6454 §7). Case is ignored.
    pub fn allows(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Null => origin == "null",
            Self::Exact(allowed) => allowed.eq_ignore_ascii_case(origin),
            Self::Subdomains { scheme, suffix } => origin.split_once("://").is_some_and(|(of, authority)| {
                of.eq_ignore_ascii_case(scheme) && labels_before(authority, suffix).is_some_and(are_labels)
            }),
        }
    }

    /// Whether pages that cannot be told apart are allowed by this entry.
    pub fn allows_any_page(&self) -> bool {
        matches!(self, Self::Any | Self::Null)
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Null => f.write_str("null"),
            Self::Exact(origin) => f.write_str(origin),
            Self::Subdomains { scheme, suffix } => write!(f, "{scheme}://*{suffix}"),
        }
    }
}

/// What stands before `suffix`, whatever its case.
fn labels_before<'a>(authority: &'a str, suffix: &str) -> Option<&'a str> {
    let (labels, end) = authority.split_at_checked(authority.len().checked_sub(suffix.len())?)?;
    end.eq_ignore_ascii_case(suffix).then_some(labels)
}

/// Whether the text is one or more labels of a host name.
fn are_labels(text: &str) -> bool {
    let is_label_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    text.split('.').all(|label| !label.is_empty() && label.bytes().all(is_label_byte))
}
