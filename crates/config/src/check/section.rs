//! A mapping of the file with valid keys.

use crate::{
    Origin,
    keys::{self, KeyKind, KeySpec},
    raw::{Node, NodeValue, Position},
};

/// A mapping of the file with valid keys; without entries when the file does not have it.
pub(super) struct Section<'n> {
    /// Dotted; empty for the root.
    pub(super) path: String,
    /// Where the mapping is; [`Origin::Default`] when the file has none.
    pub(super) origin: Origin,
    pub(super) keys: &'static [KeySpec],
    pub(super) entries: Vec<(&'static str, Position, &'n Node)>,
}

impl<'n> Section<'n> {
    pub(super) fn key(&self, name: &str) -> String {
        keys::join(&self.path, name)
    }

    /// The value in the file.
    pub(super) fn node(&self, name: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(key, ..)| *key == name).map(|(.., node)| *node)
    }

    /// Whether the value in the file is a list without items.
    pub(super) fn is_empty_list(&self, name: &str) -> bool {
        self.node(name).is_some_and(|node| matches!(&node.value, NodeValue::Seq(items) if items.is_empty()))
    }

    pub(super) fn subkeys(&self, name: &str) -> &'static [KeySpec] {
        let key = self.keys.iter().find(|key| key.name == name);
        match key.map(|key| key.kind) {
            Some(KeyKind::Section(keys) | KeyKind::Sections(keys)) => keys,
            Some(KeyKind::Value) | None => &[],
        }
    }
}
