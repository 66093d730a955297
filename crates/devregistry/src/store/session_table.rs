//! The sessions, and the form of their ids.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::index::TopicIndex;

/// The text where an operation needs a session and names none.
pub(super) const MISSING_SESSION: &str = "missing session";

/// What becomes of the keys that a session holds when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SessionBehavior {
    Release,
    Delete,
}

/// A check of a service, as a client names it for a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SessionServiceCheck {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    pub(crate) namespace: String,
}

/// A session. The JSON is that of `session/info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Session {
    /// A UUID; empty before the session is created.
    #[serde(rename = "ID")]
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) node: String,
    /// Nanoseconds; zero and below mean none.
    pub(crate) lock_delay: i64,
    pub(crate) behavior: SessionBehavior,
    /// As the client wrote it; empty without one.
    #[serde(rename = "TTL")]
    pub(crate) ttl: String,
    /// `None`: the client wrote `null`.
    pub(crate) node_checks: Option<Vec<String>>,
    pub(crate) service_checks: Option<Vec<SessionServiceCheck>>,
    /// The checks in the form before Consul 1.7.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) checks: Vec<String>,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

impl Session {
    /// The ids of all checks, of any kind.
    pub(super) fn check_ids(&self) -> impl Iterator<Item = &String> {
        let services = self.service_checks.iter().flatten().map(|check| &check.id);
        self.checks.iter().chain(self.node_checks.iter().flatten()).chain(services)
    }

    pub(super) fn has_check(&self, node: &str, check: &str) -> bool {
        self.is_on(node) && self.check_ids().any(|id| id.to_lowercase() == check.to_lowercase())
    }

    /// Whether the session is of this node. Names are compared without case.
    pub(super) fn is_on(&self, node: &str) -> bool {
        self.node.to_lowercase() == node.to_lowercase()
    }
}

/// A session, and when it ends.
#[derive(Debug)]
pub(super) struct SessionState {
    pub(super) session: Session,
    /// Its longest life without a renewal, and the end of the current one. `None`: without end.
    pub(super) expiry: Option<(Duration, Instant)>,
}

/// The sessions, by id as [`parse_id`] returns it.
#[derive(Debug, Default)]
pub(super) struct SessionTable {
    pub(super) rows: BTreeMap<String, SessionState>,
    /// The index of the last change.
    changed: u64,
    /// By lower-case name of a node, the index of the last change of its sessions.
    of_node: BTreeMap<String, u64>,
}

impl SessionTable {
    /// The index of one session. A session never changes, so only its end wakes.
    pub(super) fn session_index(&self, id: &str) -> TopicIndex {
        let own = parse_id(id).ok().and_then(|id| self.rows.get(&id));
        let wake = own.map_or(self.changed, |row| row.session.create_index);
        TopicIndex::new(self.changed, wake)
    }

    pub(super) fn node_index(&self, node: &str) -> TopicIndex {
        let wake = self.of_node.get(&node.to_lowercase()).copied().unwrap_or(self.changed);
        TopicIndex::new(self.changed, wake)
    }

    pub(super) fn table_index(&self) -> TopicIndex {
        TopicIndex::new(self.changed, self.changed)
    }

    /// When the next session ends, if none is renewed.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.rows.values().filter_map(|row| row.expiry.map(|(_, end)| end)).min()
    }

    pub(super) fn change(&mut self, node: &str, at: u64) {
        self.changed = at;
        self.of_node.insert(node.to_lowercase(), at);
    }
}

/// The id of a session in the one form that ids are compared in: hexadecimal digits in lower case.
///
/// # Errors
/// The text for an id that is no UUID.
pub(super) fn parse_id(text: &str) -> Result<String, String> {
    const LENGTH: usize = 36;
    const HYPHENS: usize = 4;
    let wrong = |why: String| Err(format!("failed session lookup: index error: {why}"));
    if text.len() != LENGTH {
        return wrong(format!("UUID must be {LENGTH} characters"));
    }
    let hyphens = text.matches('-').count();
    if hyphens > HYPHENS {
        return wrong(format!("UUID should have maximum of {HYPHENS} \"-\"; got {hyphens}"));
    }
    let digits = text.replace('-', "");
    if !digits.len().is_multiple_of(2) {
        return wrong("Input (without hyphens) must be even length".to_owned());
    }
    // Go shows the first wrong byte as if it were a character.
    match digits.bytes().find(|byte| !byte.is_ascii_hexdigit()).map(char::from) {
        None => Ok(digits.to_ascii_lowercase()),
        Some(char) if char.is_control() => {
            wrong(format!("Invalid UUID: encoding/hex: invalid byte: U+{:04X}", u32::from(char)))
        }
        Some(char) => {
            wrong(format!("Invalid UUID: encoding/hex: invalid byte: U+{:04X} '{char}'", u32::from(char)))
        }
    }
}
