//! YAML text → a tree in which every node knows its line and column, or the data of other programs. The only file that names the
//! YAML crate.
//!
//! Scalars stay text, as written: the key decides what `2.30` or `off` means, not YAML. Duplicate keys are kept, so that `check` can name both places. Aliases and merge keys
//! work in a file, within a budget that an exponential document exceeds early; a document of the registry has none.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Budget, DuplicateKeyPolicy, Error, NonFiniteFloatPolicy, Spanned, budget::BudgetBreach};

use crate::data::{DataError, DataNode};

/// A place in the text; both numbers start at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: u32,
    pub(crate) col: u32,
}

/// A value and its place (where it is defined, for an alias).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) value: NodeValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeValue {
    /// Nothing after the colon or in an item of a list, `~`, or `null` outside a list.
    Null,
    /// Text as written, without its quotes.
    Scalar(String),
    Seq(Vec<Node>),
    /// In the order of the file; a key may be there twice.
    Map(Vec<(KeyNode, Node)>),
}

impl NodeValue {
    /// For messages: `a list is not allowed here`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) => "a single value",
            Self::Seq(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl Node {
    /// The entries of a mapping; none of anything else.
    fn entries(&self) -> &[(KeyNode, Self)] {
        if let NodeValue::Map(entries) = &self.value { entries } else { &[] }
    }

    /// What a mapping has at this key. Of a key that is there twice, the first.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(name, _)| name.name == key).map(|(_, node)| node)
    }

    /// The keys of a mapping that have a value.
    pub(crate) fn keys_with_values(&self) -> impl Iterator<Item = &str> {
        let entries = self.entries().iter().filter(|(_, node)| node.value != NodeValue::Null);
        entries.map(|(key, _)| key.name.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyNode {
    pub(crate) at: Position,
    pub(crate) name: String,
}

/// The text is not YAML, or above the limits of the parser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) at: Position,
    pub(crate) message: String,
}

/// Most documents of a text of data.
const MAX_DATA_DOCUMENTS: usize = 64;

/// Which YAML a text may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// A file of the operator.
    File,
    /// A document of the registry's KV: without anchors, aliases and merge keys.
    Document,
}

/// Parses a file. An empty text is [`NodeValue::Null`].
pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    parse_as(text, Dialect::File)
}

/// Parses a text. An empty one is [`NodeValue::Null`].
pub(crate) fn parse_as(text: &str, dialect: Dialect) -> Result<Node, SyntaxError> {
    // The byte order mark, which some editors write. YAML ignores it, but would count it as a column.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let tree: Spanned<Tree> =
        serde_saphyr::from_str_with_options(text, options(dialect)).map_err(|error| syntax_error(&error))?;
    Ok(build_node(tree, text))
}

/// The documents of a text of another program, without the empty ones.
///
/// # Errors
/// The text is not YAML, a key is twice in a mapping or is no word, there are anchors, aliases, merge keys or tags of a program, or the text
/// has more than 100,000 nodes, 32 levels or 64 documents.
pub fn parse_yaml(text: &str) -> Result<Vec<DataNode>, DataError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut options = options(Dialect::Document);
    options.duplicate_keys = DuplicateKeyPolicy::Error;
    // No number of JSON.
    options.non_finite_float_policy = NonFiniteFloatPolicy::AsString;
    if let Some(budget) = &mut options.budget {
        budget.max_documents = MAX_DATA_DOCUMENTS;
    }
    let documents: Vec<Spanned<Tree>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
            let SyntaxError { at, message } = syntax_error(&error);
            DataError { line: at.line, column: at.col, message }
        })?;
    Ok(documents.into_iter().map(|document| build_data(document, text)).collect())
}

fn syntax_error(error: &Error) -> SyntaxError {
    let at = error.location().map_or(Position { line: 1, col: 1 }, |l| position_of(&l));
    SyntaxError { at, message: describe_error(error.without_snippet()) }
}

fn options(dialect: Dialect) -> serde_saphyr::Options {
    let mut budget = Budget::default();
    // Far above any settings file, and low enough to stop an exponential document early.
    budget.max_events = 200_000;
    budget.max_nodes = 100_000;
    budget.max_depth = 32;
    budget.max_aliases = 1_000;
    budget.max_anchors = 1_000;
    budget.max_merge_keys = 1_000;
    budget.max_recorded_anchor_events = 100_000;
    budget.max_documents = 2;
    if dialect == Dialect::Document {
        (budget.max_aliases, budget.max_anchors, budget.max_merge_keys) = (0, 0, 0);
    }
    let mut options = serde_saphyr::Options::default();
    options.budget = Some(budget);
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    options.reject_unsupported_tags = true;
    options.with_snippet = false;
    options
}

/// What serde returns; numbers and booleans get their text from the source afterwards.
enum Tree {
    Null,
    Text(String),
    Bool(bool),
    Number(String),
    Seq(Vec<Spanned<Tree>>),
    /// A key is text, also where YAML reads a number.
    Map(Vec<(Spanned<String>, Spanned<Tree>)>),
}

fn build_node(tree: Spanned<Tree>, source: &str) -> Node {
    let place = tree.defined;
    let value = match tree.value {
        Tree::Null => NodeValue::Null,
        Tree::Text(text) => NodeValue::Scalar(text),
        Tree::Bool(value) => {
            NodeValue::Scalar(source_text(&place, source).unwrap_or_else(|| value.to_string()))
        }
        Tree::Number(text) => NodeValue::Scalar(source_text(&place, source).unwrap_or(text)),
        Tree::Seq(items) => NodeValue::Seq(items.into_iter().map(|item| build_item(item, source)).collect()),
        Tree::Map(entries) => NodeValue::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let at = position_of(&key.defined);
                    (KeyNode { at, name: key.value }, build_node(value, source))
                })
                .collect(),
        ),
    };
    Node { at: position_of(&place), value }
}

/// An item of a list. A word of the file is text there, `null` too: it is an origin of browser pages, and may be a tag.
fn build_item(tree: Spanned<Tree>, source: &str) -> Node {
    let written = source_text(&tree.defined, source);
    let mut node = build_node(tree, source);
    if node.value == NodeValue::Null
        && let Some(word) = written.filter(|word| word.eq_ignore_ascii_case("null"))
    {
        node.value = NodeValue::Scalar(word);
    }
    node
}

fn build_data(tree: Spanned<Tree>, source: &str) -> DataNode {
    let place = tree.defined;
    match tree.value {
        Tree::Null => DataNode::Null,
        // A number that is too large is read as infinity: it stays as it is written.
        Tree::Text(text) if matches!(text.as_str(), ".inf" | "-.inf" | ".nan") => {
            DataNode::Text(source_text(&place, source).unwrap_or(text))
        }
        Tree::Text(text) => DataNode::Text(text),
        // YAML 1.1 also reads yes, no, on and off as booleans: they are text here, as in YAML 1.2.
        Tree::Bool(value) => match source_text(&place, source) {
            Some(text) if !text.eq_ignore_ascii_case(&value.to_string()) => DataNode::Text(text),
            _ => DataNode::Bool(value),
        },
        Tree::Number(value) => {
            let written = source_text(&place, source).unwrap_or_else(|| value.clone());
            DataNode::Number { written, value }
        }
        Tree::Seq(items) => DataNode::List(items.into_iter().map(|item| build_data(item, source)).collect()),
        Tree::Map(entries) => DataNode::Map(
            entries.into_iter().map(|(key, value)| (key.value, build_data(value, source))).collect(),
        ),
    }
}

/// The number or boolean as the file spells it: `0.20`, `off`, `1e3`.
fn source_text(place: &serde_saphyr::Location, source: &str) -> Option<String> {
    let start = usize::try_from(place.span().byte_offset()?).ok()?;
    let len = usize::try_from(place.span().byte_len()?).ok()?;
    let text = source.get(start..start.checked_add(len)?)?.trim();
    let plain = !text.is_empty() && !text.contains(['"', '\'', '!', '\n', '*']);
    plain.then(|| text.to_owned())
}

fn position_of(location: &serde_saphyr::Location) -> Position {
    let fit = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).max(1);
    Position { line: fit(location.line()), col: fit(location.column()) }
}

/// The error for the author of a file. Where a type is wrong, the messages of the YAML crate are for Rust
/// programmers.
fn describe_error(error: &Error) -> String {
    match error {
        Error::MultipleDocuments { .. } => {
            "a second document starts, but settings are one document".to_owned()
        }
        // Only a key has a type.
        Error::NullIntoString { .. } | Error::Unexpected { expected: "string scalar", .. } => {
            "a key must be a word".to_owned()
        }
        Error::Budget { breach: BudgetBreach::Aliases { aliases: 1 }, .. } => {
            "* begins an alias, which a document of the registry cannot have; a text needs quotes".to_owned()
        }
        Error::Budget { breach: BudgetBreach::Anchors { anchors: 1 }, .. } => {
            "& begins an anchor, which a document of the registry cannot have; a text needs quotes".to_owned()
        }
        Error::Budget { breach: BudgetBreach::MergeKeys { merge_keys: 1 }, .. } => {
            "<< merges a mapping, which a document of the registry cannot do".to_owned()
        }
        Error::DuplicateMappingKey { .. } => "a key is here twice".to_owned(),
        other => explain_star(first_line(&other.to_string())),
    }
}

/// A text with a star in front, as `*` in `allow_origins`, is an alias for YAML.
fn explain_star(message: String) -> String {
    if message.contains("scanning an anchor or alias") {
        return "* begins an alias and & an anchor, and no name follows; a text needs quotes: \"*\""
            .to_owned();
    }
    if message == "alias references unknown anchor" {
        return format!("{message}; a text that begins with * needs quotes");
    }
    message
}

/// The first line of the parser's message, without the place (`Problem` shows it).
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.split_once("error: ").map_or(line, |(_, rest)| rest);
    let cut = line.find(" at line ").map_or(line, |n| &line[..n]);
    cut.to_owned()
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

macro_rules! visit_number {
    ($($visit:ident: $type:ty,)*) => {
        $(fn $visit<E>(self, value: $type) -> Result<Tree, E> {
            Ok(Tree::Number(value.to_string()))
        })*
    };
}

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a mapping")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    visit_number! {
        visit_i64: i64,
        visit_i128: i128,
        visit_u64: u64,
        visit_u128: u128,
        visit_f64: f64,
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tree::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape(node: &Node) -> String {
        let at = format!("{}:{} ", node.at.line, node.at.col);
        at + &match &node.value {
            NodeValue::Null => "null".to_owned(),
            NodeValue::Scalar(text) => format!("{text:?}"),
            NodeValue::Seq(items) => format!("[{}]", items.iter().map(shape).collect::<Vec<_>>().join(", ")),
            NodeValue::Map(entries) => {
                let entries = entries.iter().map(|(key, value)| {
                    format!("{}:{} {} = {}", key.at.line, key.at.col, key.name, shape(value))
                });
                format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn check(text: &str, expected: &str) {
        check_as(Dialect::File, text, expected);
    }

    fn check_as(dialect: Dialect, text: &str, expected: &str) {
        let got = match parse_as(text, dialect) {
            Ok(node) => shape(&node),
            Err(error) => format!("{}:{} {}", error.at.line, error.at.col, error.message),
        };
        assert_eq!(got, expected, "in {text:?}");
    }

    #[test]
    fn a_document_of_the_registry_has_no_anchor_alias_or_merge_key() {
        let check = |text: &str, expected: &str| check_as(Dialect::Document, text, expected);
        let anchor = "& begins an anchor, which a document of the registry cannot have; a text needs quotes";
        check("timeout: &x 1s\n", &format!("1:13 {anchor}"));
        check("retry: &x {max_retries: 1}\n", &format!("1:11 {anchor}"));
        let alias = "alias references unknown anchor; a text that begins with * needs quotes";
        check("timeout: *x\n", &format!("1:10 {alias}"));
        check(
            "retry:\n  <<: {max_retries: 1}\n",
            "2:3 << merges a mapping, which a document of the registry cannot do",
        );
        check("a: '*x'\nb: \"&x\"\n", r#"1:1 {1:1 a = 1:4 "*x", 2:1 b = 2:4 "&x"}"#);
    }

    #[test]
    fn a_document_may_be_json() {
        let check = |text: &str, expected: &str| check_as(Dialect::Document, text, expected);
        let expected = r#"1:1 {2:2 timeout = 2:13 "2s", 3:2 retry = 3:11 {4:3 statuses = 4:15 [4:16 "503"]}, 6:2 pool = 6:10 null}"#;
        check(
            "{\n\t\"timeout\": \"2s\",\n\t\"retry\": {\n\t\t\"statuses\": [503]\n\t},\n\t\"pool\": null\n}\n",
            expected,
        );
        check(r#"{"a":"\/\u00e9"}"#, r#"1:1 {1:2 a = 1:6 "/é"}"#);
    }

    #[test]
    fn every_node_has_its_place() {
        check("a:\n  b: [x, 1]\n", r#"1:1 {1:1 a = 2:3 {2:3 b = 2:6 [2:7 "x", 2:10 "1"]}}"#);
        check("é: ü\n", r#"1:1 {1:1 é = 1:4 "ü"}"#);
        check("\u{feff}a: 1", r#"1:1 {1:1 a = 1:4 "1"}"#);
    }

    #[test]
    fn scalars_stay_as_written() {
        for text in
            ["0.20", "off", "No", "1_000", "0x1F", "007", "1e3", "+5", "20%", "5s", "99999999999999999999"]
        {
            check(&format!("a: {text}\n"), &format!("1:1 {{1:1 a = 1:4 {text:?}}}"));
        }
        check("a: \"8080\"\nb: '8080'\n", r#"1:1 {1:1 a = 1:4 "8080", 2:1 b = 2:4 "8080"}"#);
        check("a: !!int 5\n", r#"1:1 {1:1 a = 1:10 "5"}"#);
        check("1: |\n  x\n  y\n", r#"1:1 {1:1 1 = 2:3 "x\ny\n"}"#);
    }

    #[test]
    fn an_absent_value_is_null() {
        check("", "1:1 null");
        check("# nothing\n", "2:1 null");
        check("a:\nb: ~\n", "1:1 {1:1 a = 1:2 null, 2:1 b = 2:4 null}");
    }

    #[test]
    fn duplicate_keys_are_kept_with_their_places() {
        check("a: 1\na: 2\n", r#"1:1 {1:1 a = 1:4 "1", 2:1 a = 2:4 "2"}"#);
    }

    #[test]
    fn an_alias_has_the_place_of_its_definition_and_a_merge_adds_keys() {
        check("a: &x 5s\nb: *x\n", r#"1:1 {1:1 a = 1:7 "5s", 2:1 b = 1:7 "5s"}"#);
        check("a: &x 5\nb: *x\n", r#"1:1 {1:1 a = 1:7 "5", 2:1 b = 1:7 "5"}"#);
        check(
            "a: &x {k: 1, l: 2}\nb:\n  <<: *x\n  k: 3\n",
            r#"1:1 {1:1 a = 1:7 {1:8 k = 1:11 "1", 1:14 l = 1:17 "2"}, 2:1 b = 3:3 {4:3 k = 4:6 "3", 1:14 l = 1:17 "2"}}"#,
        );
    }

    #[test]
    fn syntax_errors_have_a_place() {
        check("a: [1, 2\nb: 3\n", "2:2 illegal placement of ':' indicator");
        check("a: 1\n\tb: 2\n", "1:4 while scanning a plain scalar, found a tab");
        let quotes = "; a text that begins with * needs quotes";
        check("a: *nope\n", &format!("1:4 alias references unknown anchor{quotes}"));
        check("a: [*.example]\n", &format!("1:5 alias references unknown anchor{quotes}"));
        let quotes = "* begins an alias and & an anchor, and no name follows; a text needs quotes: \"*\"";
        for (text, at) in
            [("a: *\n", "1:4"), ("a: [*]\n", "1:5"), ("a:\n- *\n", "2:3"), ("a: [*, b]\n", "1:5")]
        {
            check(text, &format!("{at} {quotes}"));
        }
        check("a: !weird 1\n", "1:11 unsupported tag `!weird`");
        check("a: 1\n---\nb: 2\n", "3:1 a second document starts, but settings are one document");
        check("? [a, b]\n: 1\n", "1:3 a key must be a word");
        check("~: 1\n", "1:1 a key must be a word");
        check("a: b: c\n", "1:5 mapping values are not allowed in this context");
        check("a: \"x\n", "1:4 unclosed quote");
        check("a: @x\n", "1:4 unexpected character: `@'");
    }

    #[test]
    fn a_document_that_grows_exponentially_is_rejected_early() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..20 {
            let aliases = vec![format!("*a{}", n - 1); 9].join(", ");
            text.push_str(&format!("a{n}: &a{n} [{aliases}]\n"));
        }
        assert!(parse(&text).is_err());
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"- ".repeat(10_000)).is_err());
        assert!(parse("a: &a [*a]\n").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = parse(&text);
        }

        #[test]
        fn no_text_that_is_nearly_yaml_makes_the_parser_panic(text in "[ab:\\-\\[\\]{}&*!|>'\"%@\n #?,~<1é]{0,60}") {
            let _ = parse(&text);
        }
    }
}
