//! Values of properties, and the properties of a document.

use std::{borrow::Cow, fmt::Write as _};

use outrigger_config::{DataError, DataNode, parse_yaml};
use serde::de::IgnoredAny;

/// Longest name of a property, bytes.
pub(super) const MAX_NAME_BYTES: usize = 1024;
/// Most bytes of all names and values of one document: names repeat the keys above them.
const MAX_FLAT_BYTES: usize = 8 * 1024 * 1024;

/// A value. A key for each property and Java properties have only text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PropertyValue {
    /// `null` of YAML and JSON.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number {
        /// As it was written: `0x1F`.
        written: String,
        /// As JSON writes it: `31`.
        json: String,
    },
    /// Text.
    Text(String),
    /// A list without items.
    EmptyList,
    /// An object without members.
    EmptyMap,
}

impl PropertyValue {
    /// The value where all values are text: nothing for `null` and an empty list, as in Spring. `None`: an empty object has no property
    /// there.
    pub fn as_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Null | Self::EmptyList => Some(Cow::Borrowed("")),
            Self::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
            Self::Number { written, .. } => Some(Cow::Borrowed(written)),
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::EmptyMap => None,
        }
    }

    fn number(written: String, value: String) -> Self {
        let json = [&written, &value].into_iter().find(|text| is_json_number(text)).cloned();
        match json {
            Some(json) => Self::Number { written, json },
            None => Self::Text(written),
        }
    }
}

/// The names and values of one document, in its order.
pub(super) type FlatDocument = Vec<(String, PropertyValue)>;

/// The properties of a JSON text.
pub(super) fn read_json(text: &str) -> Result<Vec<FlatDocument>, DataError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let to_u32 = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| {
        let message = error.to_string();
        // Its place is told beside it.
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        DataError { line: to_u32(error.line()), column: to_u32(error.column()), message }
    })?;
    // JSON is YAML, but for some characters, which can only be in its strings.
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_escaped(c) && !matches!(c, '\n' | '\r' | '\t') {
            push_escape(&mut escaped, c);
        } else {
            escaped.push(c);
        }
    }
    read_yaml(&escaped)
}

/// Characters that are escaped in JSON and YAML, because one of them does not take them as they are. Some end a line in YAML.
pub(super) fn is_escaped(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// `c` has one UTF-16 unit, as all of [`is_escaped`].
pub(super) fn push_escape(out: &mut String, c: char) {
    // Writing to a string does not fail.
    let _ = write!(out, "\\u{:04x}", u32::from(c));
}

/// The properties of a YAML text: those of each of its documents, of which a later one wins.
pub(super) fn read_yaml(text: &str) -> Result<Vec<FlatDocument>, DataError> {
    let documents = parse_yaml(text)?;
    let mut bytes_left = MAX_FLAT_BYTES;
    documents.into_iter().map(|document| flatten(document, &mut bytes_left)).collect()
}

fn flatten(document: DataNode, bytes_left: &mut usize) -> Result<FlatDocument, DataError> {
    let mut flat = Flattening { properties: Vec::new(), bytes_left };
    match document {
        DataNode::Map(members) => flat.add_members("", members)?,
        DataNode::Null => {}
        DataNode::List(_) => return Err(refuse("the document is a list; properties need names")),
        DataNode::Bool(_) | DataNode::Number { .. } | DataNode::Text(_) => {
            return Err(refuse("the document is a single value; properties need names"));
        }
    }
    Ok(flat.properties)
}

/// A document that is well-formed.
fn refuse(message: impl Into<String>) -> DataError {
    DataError { line: 1, column: 1, message: message.into() }
}

struct Flattening<'a> {
    properties: FlatDocument,
    bytes_left: &'a mut usize,
}

impl Flattening<'_> {
    /// The depth is that of the document, which its parser bounds.
    fn add(&mut self, name: String, node: DataNode) -> Result<(), DataError> {
        if name.len() > MAX_NAME_BYTES {
            return Err(refuse(format!("the name of a property is longer than {MAX_NAME_BYTES} bytes")));
        }
        let value = match node {
            DataNode::Null => PropertyValue::Null,
            DataNode::Bool(value) => PropertyValue::Bool(value),
            DataNode::Number { written, value } => PropertyValue::number(written, value),
            DataNode::Text(text) => PropertyValue::Text(text),
            DataNode::List(items) if items.is_empty() => PropertyValue::EmptyList,
            DataNode::Map(members) if members.is_empty() => PropertyValue::EmptyMap,
            DataNode::List(items) => {
                for (at, item) in items.into_iter().enumerate() {
                    self.add(format!("{name}[{at}]"), item)?;
                }
                return Ok(());
            }
            DataNode::Map(members) => return self.add_members(&name, members),
        };
        let bytes = name.len() + value.as_text().map_or(0, |text| text.len());
        *self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or_else(|| {
            refuse(format!("the properties of the document have more than {MAX_FLAT_BYTES} bytes"))
        })?;
        self.properties.push((name, value));
        Ok(())
    }

    fn add_members(&mut self, above: &str, members: Vec<(String, DataNode)>) -> Result<(), DataError> {
        for (key, node) in members {
            // A key in brackets is for a name with dots: `"[com.example]"`.
            let separator = if above.is_empty() || key.starts_with('[') { "" } else { "." };
            self.add(format!("{above}{separator}{key}"), node)?;
        }
        Ok(())
    }
}

/// RFC 8259 §6.
fn is_json_number(text: &str) -> bool {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let rest = text.strip_prefix('-').unwrap_or(text);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest.starts_with('0')) {
        return false;
    }
    let mut rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let count = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = &fraction[count..];
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let count = digits(exponent);
        if count == 0 {
            return false;
        }
        rest = &exponent[count..];
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match read_yaml(text) {
            Ok(documents) => {
                let one = |(name, value): &(String, PropertyValue)| format!("{name}={value:?}");
                let document = |all: &Vec<_>| all.iter().map(one).collect::<Vec<_>>().join(" ");
                documents.iter().map(document).collect::<Vec<_>>().join(" | ")
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_document_becomes_dotted_names() {
        let text = "db:\n  url: x\n  pool.max: 5\n  hosts: [a, {b: 1}]\nempty: []\nnone: {}\nnil: ~\n";
        let expected = r#"db.url=Text("x") db.pool.max=Number { written: "5", json: "5" } db.hosts[0]=Text("a") db.hosts[1].b=Number { written: "1", json: "1" } empty=EmptyList none=EmptyMap nil=Null"#;
        assert_eq!(shown(text), expected);
        assert_eq!(shown("level:\n  '[com.example]': debug\n"), r#"level[com.example]=Text("debug")"#);
        assert_eq!(shown("a: 0x1F\n"), r#"a=Number { written: "0x1F", json: "31" }"#);
        assert_eq!(shown("a: 1\n---\nb: true\n"), r#"a=Number { written: "1", json: "1" } | b=Bool(true)"#);
        assert_eq!(shown(r#"{"a": 1.50}"#), r#"a=Number { written: "1.50", json: "1.50" }"#);
    }

    #[test]
    fn a_document_without_names_or_above_the_limits_is_refused() {
        assert_eq!(shown("[a]"), "line 1, column 1: the document is a list; properties need names");
        assert_eq!(shown("a"), "line 1, column 1: the document is a single value; properties need names");
        let half = "x".repeat(600);
        assert!(shown(&format!("{half}: {{{half}: 1}}")).contains("longer than 1024 bytes"));
        // 20,000 short members below a long key.
        let members: String = (0..20_000).map(|n| format!(" k{n}: 1\n")).collect();
        let text = format!("{}:\n{members}", "x".repeat(1000));
        assert!(shown(&text).contains("more than 8388608 bytes"));
    }

    #[test]
    fn json_is_read_strictly_and_with_every_character() {
        let shown = |text: &str| match read_json(text) {
            Ok(documents) => format!("{documents:?}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(
            shown("{\n\"a\": \"\u{7f}\u{85}\u{2028}\u{9f}\"\n}"),
            "[[(\"a\", Text(\"\\u{7f}\\u{85}\\u{2028}\\u{9f}\"))]]"
        );
        assert_eq!(shown("{\n  a: 1}"), "line 2, column 3: key must be a string");
        assert_eq!(shown("{\"a\": 1,}"), "line 1, column 9: key must be a string");
        assert_eq!(shown("{\"a\": 1, \"a\": 2}"), "line 1, column 10: a key is here twice");
        assert_eq!(shown(" \n"), "[]");
        assert_eq!(shown("null"), "[]");
    }

    #[test]
    fn numbers_of_json_are_recognised() {
        for (text, expected) in [
            ("0", true),
            ("-0.5e+3", true),
            ("12E1", true),
            ("1.50", true),
            ("", false),
            ("-", false),
            ("01", false),
            ("1.", false),
            (".5", false),
            ("+1", false),
            ("1e", false),
            ("0x1", false),
            ("1 ", false),
        ] {
            assert_eq!(is_json_number(text), expected, "{text}");
        }
    }
}
