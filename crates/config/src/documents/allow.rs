//! What a document may set. A program that can write a key of the KV must not be able to send requests elsewhere, to open a
//! listener, or to make this process read a file: so a document has the settings of a list, and no others.

use crate::{
    DynamicConfig, SettingGroup, keys,
    raw::{Node, NodeValue, Position},
};

/// The settings of a policy that are in no group, by their key in a document.
///
/// `retry.non_idempotent` and `retry.grpc_methods` make requests that the app sent once arrive twice.
const NEVER: [&str; 4] = [
    "retry.non_idempotent",
    "routes[].retry.non_idempotent",
    "retry.grpc_methods",
    "routes[].retry.grpc_methods",
];

/// Keys at the top of a document, beside the sections of a settings file, that no document will ever have.
const NEVER_AT_TOP: [&str; 5] = ["tls", "protocol", "allow_origins", "api", "dns"];

/// The group of a key at the top of a document.
fn group_of(name: &str) -> Option<SettingGroup> {
    let is_key_of = |keys: &[keys::KeySpec]| keys.iter().any(|key| key.name == name);
    match (is_key_of(keys::TRAFFIC), is_key_of(keys::POLICY)) {
        // Other addresses may be in a network that others read.
        (_, true) if name == "address" => Some(SettingGroup::Routing),
        (true, _) => Some(SettingGroup::Routing),
        (_, true) => Some(SettingGroup::Tuning),
        _ => None,
    }
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

/// Removes every key that the document may not have, and returns them. `is_of_service`: it is about one service.
pub(crate) fn take_forbidden(
    document: &mut Node,
    rules: &DynamicConfig,
    is_of_service: bool,
) -> Vec<Forbidden> {
    let mut out = Vec::new();
    walk(document, "", &|group| check_group(group, rules, is_of_service), &mut out);
    out
}

/// Why the document may not have a key of this group: what is wrong, and what to do.
fn check_group(
    group: SettingGroup,
    rules: &DynamicConfig,
    is_of_service: bool,
) -> Option<(String, &'static str)> {
    if group == SettingGroup::Routing && !is_of_service {
        let what = "only a document about one service can have traffic rules".to_owned();
        return Some((what, "put it into services/NAME or apps/APP/services/NAME"));
    }
    (!rules.allow.contains(&group)).then(|| {
        let what = format!("is of the group {}, which dynamic_config.allow does not have", group.as_str());
        (what, "add the group in the settings file")
    })
}

fn walk(
    node: &mut Node,
    path: &str,
    refusal: &impl Fn(SettingGroup) -> Option<(String, &'static str)>,
    out: &mut Vec<Forbidden>,
) {
    match &mut node.value {
        NodeValue::Null | NodeValue::Scalar(_) => {}
        NodeValue::Seq(items) => {
            items.iter_mut().for_each(|item| walk(item, &format!("{path}[]"), refusal, out))
        }
        NodeValue::Map(entries) => {
            let of_traffic = keys::TRAFFIC.iter().any(|key| path.split(['.', '[']).next() == Some(key.name));
            entries.retain_mut(|(key, value)| {
                let path = keys::join(path, &key.name);
                let group = group_of(&key.name).filter(|_| path == key.name);
                let never = NEVER.contains(&path.as_str())
                    // Traffic rules have free names, and no path of a file.
                    || (!of_traffic && is_path(&key.name))
                    || (path == key.name && is_never_at_top(&key.name));
                if never {
                    let (what, hint) = ("no document can set it".to_owned(), "set it in the settings file");
                    out.push(Forbidden { at: key.at, key: path, what, hint });
                    false
                } else if let Some((what, hint)) = group.and_then(refusal) {
                    out.push(Forbidden { at: key.at, key: path, what, hint });
                    false
                } else {
                    walk(value, &path, refusal, out);
                    true
                }
            });
        }
    }
}
