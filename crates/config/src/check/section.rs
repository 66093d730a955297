//! Opens the file's mappings: which keys they may have, and where they are.

use super::{reader::Reader, shown::show};
use crate::{
    Origin,
    error::Wrong,
    raw::{At, Node, Value},
    schema::{self, Holds, Key},
};

/// A mapping of the file whose keys are known to be valid, or the absence of one.
pub(super) struct Section<'n> {
    /// Dotted; empty for the root.
    pub(super) path: String,
    /// Where the mapping is; [`Origin::Default`] when the file has none.
    pub(super) origin: Origin,
    keys: &'static [Key],
    entries: Vec<(&'static str, At, &'n Node)>,
}

impl<'n> Section<'n> {
    pub(super) fn key(&self, name: &str) -> String {
        schema::join(&self.path, name)
    }

    /// The file's value, unless it is nothing.
    pub(super) fn node(&self, name: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(key, ..)| *key == name).map(|(.., node)| *node)
    }

    fn subkeys(&self, name: &str) -> &'static [Key] {
        let key = self.keys.iter().find(|key| key.name == name);
        match key.map(|key| key.holds) {
            Some(Holds::Section(keys) | Holds::Sections(keys)) => keys,
            Some(Holds::Value) | None => &[],
        }
    }
}

impl Reader<'_> {
    pub(super) fn root<'n>(&mut self, tree: Option<&'n Node>) -> Section<'n> {
        self.open(String::new(), schema::ROOT, tree)
    }

    /// The section of this name; without any entry when the file does not have it.
    pub(super) fn section<'n>(&mut self, parent: &Section<'n>, name: &str) -> Section<'n> {
        self.open(parent.key(name), parent.subkeys(name), parent.node(name))
    }

    /// A section that may be shortened to the value of one of its keys.
    pub(super) fn section_or_value<'n>(
        &mut self,
        parent: &Section<'n>,
        name: &str,
        main: &'static str,
    ) -> Section<'n> {
        match parent.node(name) {
            Some(node @ Node { at, value: Value::Scalar(_) }) => Section {
                path: parent.key(name),
                origin: self.at(*at),
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
            None | Some((_, Value::Null)) => Vec::new(),
            Some((_, Value::Seq(items))) => items
                .iter()
                .enumerate()
                .map(|(n, item)| self.open(format!("{path}[{n}]"), keys, Some(item)))
                .collect(),
            Some((at, other)) => {
                let what = format!("{} is not allowed here", other.kind());
                self.problem(
                    &self.at(at),
                    &path,
                    Wrong::new(what, format!("write a list: {path}: [{{...}}]")),
                );
                Vec::new()
            }
        }
    }

    /// Checks the mapping's keys, so that nobody later meets one that does not exist or exists twice.
    fn open<'n>(&mut self, path: String, keys: &'static [Key], node: Option<&'n Node>) -> Section<'n> {
        let mut section = Section { path, origin: Origin::Default, keys, entries: Vec::new() };
        let Some(node) = node else { return section };
        section.origin = self.at(node.at);
        match &node.value {
            // A section whose keys are all commented out.
            Value::Null => {}
            Value::Map(entries) => {
                for (key, value) in entries {
                    self.entry(&mut section, key.at, &key.name, value);
                }
            }
            other => {
                let names = keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ");
                let what = format!("{} is not allowed here", other.kind());
                let wrong = Wrong::new(what, format!("write a mapping with some of: {names}"));
                self.problem(&section.origin, &section.path, wrong);
            }
        }
        section
    }

    fn entry<'n>(&mut self, section: &mut Section<'n>, at: At, name: &str, value: &'n Node) {
        let path = section.key(&show(name));
        let Some(key) = section.keys.iter().find(|key| key.name == name) else {
            let wrong = Wrong::new("unknown key", schema::suggest(name, section.keys));
            return self.problem(&self.at(at), &path, wrong);
        };
        match section.entries.iter().find(|(known, ..)| *known == name) {
            Some((_, first, _)) => {
                let what = format!("is given twice, first on line {}", first.line);
                self.problem(&self.at(at), &path, Wrong::new(what, "remove one of them"));
            }
            None => section.entries.push((key.name, at, value)),
        }
    }

    /// Where to point when a required key of the section is missing.
    pub(super) fn place_of(&self, section: &Section<'_>) -> Origin {
        match (&section.origin, self.overlay.below(&section.path)) {
            (Origin::Default, Some(said)) => said.origin.clone(),
            (origin, _) => origin.clone(),
        }
    }
}
