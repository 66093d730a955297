//! Consul's JSON, in and out. Outrigger's Consul client does not share these types, because a mistake in a shared type
//! would stay hidden.

pub(crate) mod agent;
pub(crate) mod base64;
pub(crate) mod coordinate;
pub(crate) mod decode;
pub(crate) mod duration;
pub(crate) mod event;
pub(crate) mod kv;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod session;

mod format;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, PrettyFormatter, Serializer};

use format::GoNumbers;

/// `value` as Consul writes it: compact, or (as dev agents and `?pretty` do) indented by four with
/// a line end. As Go does, `<`, `>`, `&` and two line separators are escaped.
pub(crate) fn to_json<T: Serialize>(value: &T, pretty: bool) -> serde_json::Result<String> {
    let mut bytes = Vec::with_capacity(512);
    if pretty {
        let indent = PrettyFormatter::with_indent(b"    ");
        value.serialize(&mut Serializer::with_formatter(&mut bytes, GoNumbers(indent)))?;
        bytes.push(b'\n');
    } else {
        value.serialize(&mut Serializer::with_formatter(&mut bytes, GoNumbers(CompactFormatter)))?;
    }
    Ok(escape_like_go(&String::from_utf8_lossy(&bytes)))
}

/// None of the escaped characters occurs in JSON outside a string.
fn escape_like_go(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for char in json.chars() {
        match char {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_escaped_as_go_does() {
        let written = to_json(&"a<b>&\u{2028}\u{e9}\"", false).unwrap();
        assert_eq!(written, r#""a\u003cb\u003e\u0026\u2028é\"""#);
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        let numbers = [0.0, 1.0, -1.5, 1e-5, 1e-6, 1e-7, 2.5e-10, 1e20, 1e21, 1.5e300];
        let written = "[0,1,-1.5,0.00001,0.000001,1e-7,2.5e-10,100000000000000000000,1e+21,1.5e+300]";
        assert_eq!(to_json(&numbers, false).unwrap(), written);
        assert_eq!(to_json(&[1.0], true).unwrap(), "[\n    1\n]\n");
    }

    #[test]
    fn pretty_json_is_indented_by_four_and_ends_the_line() {
        assert_eq!(to_json(&vec![1], true).unwrap(), "[\n    1\n]\n");
        assert_eq!(to_json(&Vec::<u8>::new(), true).unwrap(), "[]\n");
    }
}
