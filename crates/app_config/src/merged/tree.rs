//! The configuration as nested objects, and how JSON and YAML write them.
//!
//! A property that has a value and properties below it, as `db` and `db.url`, is an object with the value as the member `""`; `null`
//! and an empty object are left out there. A list with the indexes 0, 2 is a list of two, and a problem says so. An object that has
//! items of a list too has them as the members `[0]`, `[1]`.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    path::{PathSegment, PropertyPath},
    property::{MergedProperty, ProblemReason, ViewProblem},
    value::{PropertyValue, is_escaped, push_escape},
};

/// Longest key that YAML reads without `?`: 1,024 characters, quotes included.
const MAX_PLAIN_KEY: usize = 1000;

/// A value of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tree {
    Leaf(PropertyValue),
    List(Vec<Tree>),
    /// In the order of the members' names.
    Map(Vec<(String, Tree)>),
}

impl Default for Tree {
    fn default() -> Self {
        Self::Map(Vec::new())
    }
}

/// A name, with what is at it and below it.
#[derive(Default)]
struct Branch<'a> {
    property: Option<&'a MergedProperty>,
    members: BTreeMap<&'a PathSegment, Branch<'a>>,
}

/// The depth is that of the paths, which is bounded.
pub(super) fn build_tree(
    properties: &BTreeMap<PropertyPath, MergedProperty>,
    problems: &mut Vec<ViewProblem>,
) -> Tree {
    let mut root = Branch::default();
    for (path, property) in properties {
        let mut branch = &mut root;
        for segment in path.segments() {
            branch = branch.members.entry(segment).or_default();
        }
        branch.property = Some(property);
    }
    Tree::Map(root.into_members(problems))
}

impl<'a> Branch<'a> {
    fn into_tree(self, problems: &mut Vec<ViewProblem>) -> Tree {
        let value = self.property.map(|property| &property.value);
        if self.members.is_empty() {
            return Tree::Leaf(value.cloned().unwrap_or(PropertyValue::EmptyMap));
        }
        let own = value.filter(|value| !matches!(value, PropertyValue::Null | PropertyValue::EmptyMap));
        let is_list = self.members.keys().all(|segment| matches!(segment, PathSegment::Index(_)));
        if !is_list || own.is_some() {
            let own = own.map(|value| (String::new(), Tree::Leaf(value.clone())));
            return Tree::Map(own.into_iter().chain(self.into_members(problems)).collect());
        }
        if let Some((missing, property)) = self.first_gap() {
            let name = &property.name;
            problems.push(ViewProblem {
                key: property.origin.key.clone(),
                index: property.origin.index,
                reason: ProblemReason::ListGap,
                detail: format!(
                    "the list that {name} is in has no item [{missing}]; in JSON and YAML the items after it move up"
                ),
                in_effect: Some(property.origin.index),
            });
        }
        Tree::List(self.members.into_values().map(|item| item.into_tree(problems)).collect())
    }

    fn into_members(self, problems: &mut Vec<ViewProblem>) -> Vec<(String, Tree)> {
        let named = self.members.into_iter().map(|(segment, branch)| {
            let name = match segment {
                PathSegment::Name(name) => name.clone(),
                PathSegment::Index(index) => format!("[{index}]"),
            };
            (name, branch.into_tree(problems))
        });
        named.collect()
    }

    /// The first index that has no item though a later one has, and a property of that later one.
    fn first_gap(&self) -> Option<(u32, &'a MergedProperty)> {
        let (expected, (_, branch)) =
            (0..).zip(&self.members).find(|(at, (segment, _))| ***segment != PathSegment::Index(*at))?;
        Some((expected, branch.any_property()?))
    }

    fn any_property(&self) -> Option<&'a MergedProperty> {
        self.property.or_else(|| self.members.values().find_map(Branch::any_property))
    }
}

impl Tree {
    /// With an indent of two spaces, and a line feed at the end.
    pub(super) fn to_json(&self) -> String {
        let mut out = String::new();
        write_json(&mut out, self, Some(0));
        out.push('\n');
        out
    }

    /// In one line, without the line feed.
    pub(super) fn to_json_line(&self) -> String {
        let mut out = String::new();
        write_json(&mut out, self, None);
        out
    }

    pub(super) fn to_yaml(&self) -> String {
        let mut out = String::new();
        match self {
            Self::Map(members) if members.is_empty() => out.push_str("{}\n"),
            tree => write_yaml_block(&mut out, tree, 0),
        }
        out
    }
}

/// JSON text, in double quotes. Also a text of YAML.
pub(super) fn json_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_escaped(c) => push_escape(&mut out, c),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn json_leaf(value: &PropertyValue) -> String {
    match value {
        PropertyValue::Null => "null".to_owned(),
        PropertyValue::Bool(value) => value.to_string(),
        PropertyValue::Number { json, .. } => json.clone(),
        PropertyValue::Text(text) => json_text(text),
        PropertyValue::EmptyList => "[]".to_owned(),
        PropertyValue::EmptyMap => "{}".to_owned(),
    }
}

/// `indent`: of the line that the value is in. `None`: all is one line.
fn write_json(out: &mut String, tree: &Tree, indent: Option<usize>) {
    let inner = indent.map(|indent| indent + 2);
    match tree {
        Tree::Leaf(value) => out.push_str(&json_leaf(value)),
        Tree::List(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                begin_json_item(out, at, inner);
                write_json(out, item, inner);
            }
            end_json(out, items.is_empty(), indent, ']');
        }
        Tree::Map(members) => {
            out.push('{');
            for (at, (name, member)) in members.iter().enumerate() {
                begin_json_item(out, at, inner);
                out.push_str(&json_text(name));
                out.push_str(if inner.is_some() { ": " } else { ":" });
                write_json(out, member, inner);
            }
            end_json(out, members.is_empty(), indent, '}');
        }
    }
}

fn begin_json_item(out: &mut String, at: usize, indent: Option<usize>) {
    if at > 0 {
        out.push(',');
    }
    if let Some(indent) = indent {
        out.push('\n');
        push_spaces(out, indent);
    }
}

fn end_json(out: &mut String, is_empty: bool, indent: Option<usize>, end: char) {
    if let Some(indent) = indent.filter(|_| !is_empty) {
        out.push('\n');
        push_spaces(out, indent);
    }
    out.push(end);
}

fn push_spaces(out: &mut String, count: usize) {
    out.extend(std::iter::repeat_n(' ', count));
}

/// Whole lines. `tree` has items or members.
fn write_yaml_block(out: &mut String, tree: &Tree, indent: usize) {
    match tree {
        Tree::Leaf(value) => {
            push_spaces(out, indent);
            out.push_str(&yaml_leaf(value));
            out.push('\n');
        }
        Tree::List(items) => {
            for item in items {
                let begin = out.len();
                write_yaml_block(out, item, indent + 2);
                // The dash is in the indent of the item's first line.
                out.replace_range(begin + indent..begin + indent + 1, "-");
            }
        }
        Tree::Map(members) => {
            for (name, member) in members {
                push_spaces(out, indent);
                let key = yaml_text(name);
                if key.len() > MAX_PLAIN_KEY {
                    let _ = writeln!(out, "? {key}");
                    push_spaces(out, indent);
                } else {
                    out.push_str(&key);
                }
                out.push(':');
                match member {
                    Tree::Leaf(value) => {
                        let _ = writeln!(out, " {}", yaml_leaf(value));
                    }
                    Tree::List(_) | Tree::Map(_) => {
                        out.push('\n');
                        write_yaml_block(out, member, indent + 2);
                    }
                }
            }
        }
    }
}

fn yaml_leaf(value: &PropertyValue) -> String {
    match value {
        PropertyValue::Text(text) => yaml_text(text),
        value => json_leaf(value),
    }
}

/// Text without quotes, where no version of YAML takes it for anything else.
fn yaml_text(text: &str) -> String {
    const RESERVED: [&str; 11] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf"];
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte))
        && !RESERVED.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_plain { text.to_owned() } else { json_text(text) }
}
