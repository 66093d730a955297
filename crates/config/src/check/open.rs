//! Opens the mappings of the file: checks their keys, and records their places.

use super::{
    quote::sanitize,
    reader::{Reader, Source},
    section::Section,
};
use crate::{
    Origin, UnknownKeys,
    error::InvalidValue,
    keys::{self, KeySpec},
    raw::{KeyNode, Node, NodeValue, Position},
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
        match parent.node(name) {
            None => Vec::new(),
            Some(node) => self.list_sections(&parent.key(name), node, parent.subkeys(name)),
        }
    }

    /// The sections of a list that is this node.
    pub(super) fn list_sections<'n>(
        &mut self,
        path: &str,
        node: &'n Node,
        keys: &'static [KeySpec],
    ) -> Vec<Section<'n>> {
        match &node.value {
            NodeValue::Null => Vec::new(),
            NodeValue::Seq(items) => items
                .iter()
                .enumerate()
                .map(|(n, item)| self.open_section(format!("{path}[{n}]"), keys, Some(item)))
                .collect(),
            other => {
                let what = format!("{} is not allowed here", other.kind());
                self.report(
                    &self.origin_at(node.at),
                    path,
                    InvalidValue::new(what, format!("write a list: {path}: [{{...}}]")),
                );
                Vec::new()
            }
        }
    }

    /// The sections of a mapping with free names, each with the key at which it is. A value in place of a section is that of the
    /// key `main`.
    pub(super) fn named_sections<'n>(
        &mut self,
        path: &str,
        node: &'n Node,
        keys: &'static [KeySpec],
        main: Option<&'static str>,
    ) -> Vec<(&'n KeyNode, Section<'n>)> {
        let entries = match &node.value {
            NodeValue::Map(entries) => entries.as_slice(),
            NodeValue::Null => &[],
            other => {
                let what = format!("{} is not allowed here", other.kind());
                let wrong = InvalidValue::new(what, "write a mapping: {NAME: …}");
                self.report(&self.origin_at(node.at), path, wrong);
                &[]
            }
        };
        let mut out: Vec<(&KeyNode, Section<'n>)> = Vec::new();
        for (name, inside) in entries {
            let path = keys::join(path, &sanitize(&name.name));
            if let Some((first, _)) = out.iter().find(|(known, _)| known.name == name.name) {
                let what = format!("is given twice, first on line {}", first.at.line);
                let at = self.origin_at(name.at);
                self.report(&at, &path, InvalidValue::new(what, "remove one of them"));
                continue;
            }
            let section = match (main, &inside.value) {
                (Some(main), NodeValue::Scalar(_)) => Section {
                    path,
                    origin: self.origin_at(inside.at),
                    keys,
                    entries: vec![(main, inside.at, inside)],
                },
                _ => self.open_section(path, keys, Some(inside)),
            };
            out.push((name, section));
        }
        out
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
            return self.report_unknown(at, &path, name, section);
        };
        let in_document = matches!(self.source, Source::Document { .. });
        match section.entries.iter().find(|(known, ..)| *known == name) {
            Some((_, first, _)) => {
                let what = format!("is given twice, first on line {}", first.line);
                self.report(&self.origin_at(at), &path, InvalidValue::new(what, "remove one of them"));
            }
            // It drops what documents and the file below set (`prune`).
            None if in_document && value.value == NodeValue::Null => {}
            None => section.entries.push((key.name, at, value)),
        }
    }

    /// An older sidecar must not refuse a document for a key that a newer one knows.
    fn report_unknown(&mut self, at: Position, path: &str, name: &str, section: &Section<'_>) {
        let origin = self.origin_at(at);
        match &self.source {
            Source::Document { unknown: UnknownKeys::Warn, .. } => {
                self.warn(
                    origin,
                    path,
                    "unknown key, which is ignored",
                    suggest_key_of_document(name, section),
                );
            }
            Source::Document { unknown: UnknownKeys::Refuse, .. } => {
                let hint = suggest_key_of_document(name, section);
                self.report(&origin, path, InvalidValue::new("unknown key", hint));
            }
            Source::File(_) => {
                self.report(&origin, path, InvalidValue::new("unknown key", suggest_key(name, section)));
            }
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

/// As [`suggest_key`], with the keys as a document has them.
fn suggest_key_of_document(name: &str, section: &Section<'_>) -> String {
    if let Some(near) = keys::nearest_key(name, section.keys) {
        return format!("did you mean {near}?");
    }
    let all = keys::keys();
    let of_policy = all.iter().filter_map(|path| path.strip_prefix("defaults."));
    let elsewhere: Vec<_> = of_policy.filter(|path| path.rsplit('.').next() == Some(name)).collect();
    match elsewhere.is_empty() {
        true => keys::valid_here(section.keys),
        false => format!("it belongs at {}", elsewhere.join(" or ")),
    }
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
