//! Opens the mappings of the file: checks their keys, and records their places.

use super::{quote::sanitize, reader::Reader, section::Section};
use crate::{
    Origin,
    error::InvalidValue,
    keys::{self, KeySpec},
    raw::{Node, NodeValue, Position},
    renamed,
};

impl Reader<'_> {
    pub(super) fn root<'n>(&mut self, tree: Option<&'n Node>) -> Section<'n> {
        self.open_section(String::new(), keys::ROOT, tree)
    }

    /// The section of this name; without entries when the file does not have it.
    pub(super) fn section<'n>(&mut self, parent: &Section<'n>, name: &str) -> Section<'n> {
        self.open_section(parent.key(name), parent.subkeys(name), parent.node(name))
    }

    /// A section that may be shortened to the value of one of its keys.
    pub(super) fn section_or_value<'n>(
        &mut self,
        parent: &Section<'n>,
        name: &str,
        main: &'static str,
    ) -> Section<'n> {
        match parent.node(name) {
            Some(node @ Node { at, value: NodeValue::Scalar(_) }) => Section {
                path: parent.key(name),
                origin: self.origin_at(*at),
                keys: parent.subkeys(name),
                entries: vec![(main, *at, node)],
            },
            _ => self.section(parent, name),
        }
    }

    /// The sections of a list.
    pub(super) fn sections<'n>(&mut self, parent: &Section<'n>, name: &str) -> Vec<Section<'n>> {
        let (path, keys) = (parent.key(name), parent.subkeys(name));
        match parent.node(name).map(|node| (node.at, &node.value)) {
            None | Some((_, NodeValue::Null)) => Vec::new(),
            Some((_, NodeValue::Seq(items))) => items
                .iter()
                .enumerate()
                .map(|(n, item)| self.open_section(format!("{path}[{n}]"), keys, Some(item)))
                .collect(),
            Some((at, other)) => {
                let what = format!("{} is not allowed here", other.kind());
                self.report(
                    &self.origin_at(at),
                    &path,
                    InvalidValue::new(what, format!("write a list: {path}: [{{...}}]")),
                );
                Vec::new()
            }
        }
    }

    /// Checks that each key of the mapping exists, and is there once.
    pub(super) fn open_section<'n>(
        &mut self,
        path: String,
        keys: &'static [KeySpec],
        node: Option<&'n Node>,
    ) -> Section<'n> {
        let mut section = Section { path, origin: Origin::Default, keys, entries: Vec::new() };
        let Some(node) = node else { return section };
        section.origin = self.origin_at(node.at);
        match &node.value {
            // A section in which every key is commented out.
            NodeValue::Null => {}
            NodeValue::Map(entries) => {
                for (key, value) in entries {
                    if !is_extension(&section, &key.name) {
                        self.add_entry(&mut section, key.at, &key.name, value);
                    }
                }
            }
            other => {
                let names = keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ");
                let what = format!("{} is not allowed here", other.kind());
                let wrong = InvalidValue::new(what, format!("write a mapping with some of: {names}"));
                self.report(&section.origin, &section.path, wrong);
            }
        }
        section
    }

    fn add_entry<'n>(&mut self, section: &mut Section<'n>, at: Position, name: &str, value: &'n Node) {
        let path = section.key(&sanitize(name));
        let Some(key) = section.keys.iter().find(|key| key.name == name) else {
            let wrong = InvalidValue::new("unknown key", suggest_key(name, section));
            return self.report(&self.origin_at(at), &path, wrong);
        };
        match section.entries.iter().find(|(known, ..)| *known == name) {
            Some((_, first, _)) => {
                let what = format!("is given twice, first on line {}", first.line);
                self.report(&self.origin_at(at), &path, InvalidValue::new(what, "remove one of them"));
            }
            None => section.entries.push((key.name, at, value)),
        }
    }

    /// The place of the problem when a required key of the section is missing.
    pub(super) fn origin_of(&self, section: &Section<'_>) -> Origin {
        match (&section.origin, self.overlay.first_below(&section.path)) {
            (Origin::Default, Some(value)) => value.origin.clone(),
            (origin, _) => origin.clone(),
        }
    }
}

/// A key at the top of the file that holds what other keys refer to (`x-slow: &slow {timeout: 30s}`), as in
/// compose files. Below the top it is more likely a mistake: `x-forwarded` for `x_forwarded`.
fn is_extension(section: &Section<'_>, name: &str) -> bool {
    section.path.is_empty() && name.starts_with("x-")
}

/// The hint for a key that does not exist: the nearest key, also by its old name.
fn suggest_key(name: &str, section: &Section<'_>) -> String {
    let by_old_name = renamed::suggest(&section.path, name);
    if let (None, Some(hint)) = (keys::nearest_key(name, section.keys), by_old_name) {
        return hint;
    }
    if name.starts_with("x-") && keys::nearest_key(name, section.keys).is_none() {
        return "a key x-… for anchors belongs at the top of the file".to_owned();
    }
    keys::suggest(name, section.keys)
}
