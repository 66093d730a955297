//! What a document may set. A program that can write a key of the KV must not be able to send requests elsewhere, to open a
//! listener, or to make this process read a file: so a document has the settings of a list, and no others.

use crate::{
    DynamicConfig, SettingGroup, keys,
    raw::{Node, NodeValue, Position},
};

/// The settings of a policy that are in no group, by their key in a document.
///
/// `retry.non_idempotent` makes requests that the app sent once arrive twice.
const NEVER: [&str; 1] = ["retry.non_idempotent"];

/// Keys at the top of a document, beside the sections of a settings file, that no document will ever have.
const NEVER_AT_TOP: [&str; 5] = ["tls", "protocol", "allow_origins", "api", "dns"];

/// The group of a key of a policy, at the top of a document.
fn group_of(name: &str) -> Option<SettingGroup> {
    let is_policy = keys::POLICY.iter().any(|key| key.name == name);
    is_policy.then_some(SettingGroup::Tuning)
}

/// Whether no version of Outrigger takes a key of this name at the top of a document: a section of the file, or what an
/// upstream of the file says beside its policy.
fn is_never_at_top(name: &str) -> bool {
    let is_key_of = |keys: &[keys::KeySpec]| keys.iter().any(|key| key.name == name);
    group_of(name).is_none()
        && (NEVER_AT_TOP.contains(&name) || is_key_of(keys::ROOT) || is_key_of(keys::UPSTREAM))
}

/// A key that holds the path of a file or folder.
fn is_path(name: &str) -> bool {
    matches!(name, "file" | "folder") || ["_file", "_dir", "_folder"].iter().any(|end| name.ends_with(end))
}

/// A key that the document may not have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Forbidden {
    pub(crate) at: Position,
    /// Dotted.
    pub(crate) key: String,
    pub(crate) what: String,
    pub(crate) hint: &'static str,
}

/// Removes every key that the document may not have, and returns them.
pub(crate) fn take_forbidden(document: &mut Node, rules: &DynamicConfig) -> Vec<Forbidden> {
    let mut out = Vec::new();
    walk(document, "", rules, &mut out);
    out
}

fn walk(node: &mut Node, path: &str, rules: &DynamicConfig, out: &mut Vec<Forbidden>) {
    match &mut node.value {
        NodeValue::Null | NodeValue::Scalar(_) => {}
        NodeValue::Seq(items) => {
            items.iter_mut().for_each(|item| walk(item, &format!("{path}[]"), rules, out))
        }
        NodeValue::Map(entries) => {
            entries.retain_mut(|(key, value)| {
                let path = keys::join(path, &key.name);
                let group = group_of(&key.name).filter(|_| path == key.name);
                let never = NEVER.contains(&path.as_str())
                    || is_path(&key.name)
                    || (path == key.name && is_never_at_top(&key.name));
                if never {
                    let (what, hint) = ("no document can set it".to_owned(), "set it in the settings file");
                    out.push(Forbidden { at: key.at, key: path, what, hint });
                    false
                } else if let Some(group) = group.filter(|group| !rules.allow.contains(group)) {
                    let what = format!(
                        "is of the group {}, which dynamic_config.allow does not have",
                        group.as_str()
                    );
                    let hint = "add the group in the settings file";
                    out.push(Forbidden { at: key.at, key: path, what, hint });
                    false
                } else {
                    walk(value, &path, rules, out);
                    true
                }
            });
        }
    }
}
