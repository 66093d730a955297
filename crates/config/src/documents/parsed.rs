//! One version of a document, as far as it can be read without the others.

use std::sync::Arc;

use super::{
    MAX_DOCUMENT_BYTES, SettingsDocument, allow::take_forbidden, scope::DocumentScope, settings_prefix,
};
use crate::{
    DynamicConfig, Origin, Problem,
    check::{DocumentTree, parse_scalar},
    error::InvalidValue,
    format_size,
    raw::{self, Dialect, Node, NodeValue, Position},
    stable_hash, units,
};

/// The key of a document that limits the instances that it is for.
const ROLLOUT: &str = "rollout";

/// A version of a document.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) tree: DocumentTree,
    /// The percentage of instances that it is for.
    pub(super) rollout: Option<f64>,
    pub(super) problems: Vec<Problem>,
}

impl Parsed {
    pub(super) fn new(document: &SettingsDocument, prefix: &str, rules: &DynamicConfig) -> Self {
        let key = Arc::from(settings_prefix(prefix) + &document.name);
        let nothing = Node { at: Position { line: 0, col: 0 }, value: NodeValue::Null };
        let tree = DocumentTree { key, index: document.index, root: nothing };
        let mut parsed = Self { tree, rollout: None, problems: Vec::new() };
        if document.value.len() > MAX_DOCUMENT_BYTES {
            let what =
                format!("has {} bytes, more than {}", document.value.len(), format_size(MAX_DOCUMENT_BYTES));
            parsed.refuse(what, "a document has settings of services and nothing else");
            return parsed;
        }
        let Ok(text) = str::from_utf8(&document.value) else {
            parsed.refuse("is not UTF-8".to_owned(), "write YAML or JSON");
            return parsed;
        };
        let is_of_service = DocumentScope::of(&document.name).is_some_and(|scope| scope.service().is_some());
        match raw::parse_as(text, Dialect::Document) {
            Ok(mut root) => {
                for forbidden in take_forbidden(&mut root, rules, is_of_service) {
                    parsed.report(forbidden.at, &forbidden.key, forbidden.what, forbidden.hint);
                }
                parsed.tree.root = root;
                parsed.take_rollout();
            }
            Err(error) => {
                parsed.report(error.at, "", error.message, "the document is not valid YAML or JSON here");
            }
        }
        parsed
    }

    fn report(&mut self, at: Position, key: &str, what: String, hint: impl Into<String>) {
        let origin = Origin::Kv {
            key: Arc::clone(&self.tree.key),
            index: self.tree.index,
            line: at.line,
            col: at.col,
        };
        self.problems.push(Problem { origin, key: key.to_owned(), what, hint: hint.into() });
    }

    /// A problem of the whole document.
    pub(super) fn refuse(&mut self, what: String, hint: &str) {
        self.report(Position { line: 0, col: 0 }, "", what, hint);
    }

    fn take_rollout(&mut self) {
        let NodeValue::Map(entries) = &mut self.tree.root.value else { return };
        let Some(n) = entries.iter().position(|(key, _)| key.name == ROLLOUT) else { return };
        let (key, node) = entries.remove(n);
        let again = entries.iter().find(|(key, _)| key.name == ROLLOUT).map(|(key, _)| key.at);
        entries.retain(|(key, _)| key.name != ROLLOUT);
        if let Some(again) = again {
            let what = format!("is given twice, first on line {}", key.at.line);
            self.report(again, ROLLOUT, what, "remove one of them");
        }
        let read = match &node.value {
            NodeValue::Null => return,
            NodeValue::Scalar(text) => parse_scalar(text, units::percent),
            other => Err(InvalidValue::new(
                format!("{} is not allowed here", other.kind()),
                "write a percentage, as 10%",
            )),
        };
        match read {
            Ok(percent) => self.rollout = Some(percent),
            Err(InvalidValue { what, hint }) => self.report(node.at, ROLLOUT, what, hint),
        }
    }

    pub(super) fn selects(&self, instance: &str) -> bool {
        self.rollout.is_none_or(|percent| is_selected(instance, percent))
    }
}

/// Whether a rollout to this percentage of the instances has this one. An instance of a smaller rollout is in every larger one.
pub(super) fn is_selected(instance: &str, percent: f64) -> bool {
    // 10,000 parts: a percentage with two decimals.
    let part = u32::try_from(stable_hash(instance.as_bytes()) % 10_000).unwrap_or_default();
    f64::from(part) < percent * 100.0
}
