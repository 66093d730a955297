//! Java properties, read and written by the rules of `java.util.Properties`.

use std::{char, fmt::Write as _, str::Chars};

use outrigger_config::DataError;

use super::value::MAX_NAME_BYTES;

/// White space between and before the parts of a line.
const BLANK: [char; 3] = [' ', '\t', '\u{c}'];

/// The properties of a text, in its order. Of two with one name the later one counts.
///
/// # Errors
/// An escape `\u` is not followed by four hexadecimal digits, or its character is half of a pair, or a name is too long.
pub(super) fn read_properties(text: &str) -> Result<Vec<(String, String)>, DataError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out = Vec::new();
    for (line, logical) in logical_lines(text) {
        let refuse = |message: String| DataError { line, column: 1, message };
        let (name, value) = split_line(&logical);
        let name = unescape(name).map_err(refuse)?;
        if name.len() > MAX_NAME_BYTES {
            return Err(refuse(format!("the name of a property is longer than {MAX_NAME_BYTES} bytes")));
        }
        out.push((name, unescape(value).map_err(refuse)?));
    }
    Ok(out)
}

/// The lines that have a property, each with its number: without comments, blank lines and the white space in front, and joined
/// with the lines that continue it. Escapes are as written.
fn logical_lines(text: &str) -> Vec<(u32, String)> {
    let text = text.replace("\r\n", "\n");
    let mut lines = (1_u32..).zip(text.split(['\n', '\r']).map(|line| line.trim_start_matches(BLANK)));
    let mut out = Vec::new();
    while let Some((number, line)) = lines.next() {
        if line.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = String::new();
        let mut part = line;
        while has_open_escape(part) {
            logical.push_str(&part[..part.len() - 1]);
            part = lines.next().map_or("", |(_, next)| next);
        }
        logical.push_str(part);
        if !logical.is_empty() {
            out.push((number, logical));
        }
    }
    out
}

/// Whether a line ends with a backslash that no other one escapes.
fn has_open_escape(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Name and value, both as written: separated by `=` or `:` with white space around it, or by white space alone.
fn split_line(line: &str) -> (&str, &str) {
    let mut is_escaped = false;
    let end = line.find(|c: char| {
        let is_end = !is_escaped && (matches!(c, '=' | ':') || BLANK.contains(&c));
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    let (name, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(BLANK);
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (name, value.trim_start_matches(BLANK))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('u') => out.push(unescape_unicode(&mut chars)?),
                Some('t') => out.push('\t'),
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some('f') => out.push('\u{c}'),
                Some(other) => out.push(other),
                None => {}
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

/// What follows `\u`: a character, which is two escapes where it has two UTF-16 units.
fn unescape_unicode(chars: &mut Chars<'_>) -> Result<char, String> {
    let first = hex_unit(chars)?;
    let second = match first {
        0xd800..=0xdbff if chars.as_str().starts_with("\\u") => {
            chars.next();
            chars.next();
            Some(hex_unit(chars)?)
        }
        _ => None,
    };
    let units = [Some(first), second].into_iter().flatten();
    match char::decode_utf16(units).collect::<Result<Vec<_>, _>>().as_deref() {
        Ok([one]) => Ok(*one),
        _ => Err(format!("\\u{first:04x} is half of a surrogate pair, and its other half does not follow")),
    }
}

fn hex_unit(chars: &mut Chars<'_>) -> Result<u16, String> {
    let digits: String = chars.by_ref().take(4).collect();
    let is_hex = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let unit = if is_hex { u16::from_str_radix(&digits, 16).ok() } else { None };
    unit.ok_or_else(|| format!("\\u{digits} is not \\u with four hexadecimal digits"))
}

/// One line `NAME=VALUE`. Everything but printable ASCII is escaped, so that the file is the same in ISO-8859-1 and UTF-8.
pub(super) fn write_property(out: &mut String, name: &str, value: &str) {
    escape(out, name, true);
    out.push('=');
    escape(out, value, false);
    out.push('\n');
}

/// `is_name`: every space is escaped, not only the first.
fn escape(out: &mut String, text: &str, is_name: bool) {
    for (at, c) in text.char_indices() {
        match c {
            ' ' if is_name || at == 0 => out.push_str("\\ "),
            '=' | ':' | '#' | '!' | '\\' => out.extend(['\\', c]),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string does not fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        match read_properties(text) {
            Ok(all) => {
                all.iter().map(|(name, value)| format!("{name:?}={value:?}")).collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        }
    }

    /// The examples of the documentation of `java.util.Properties.load`, and what its code does at the edges.
    #[test]
    fn a_text_is_read_as_java_reads_it() {
        for (text, expected) in [
            ("Truth = Beauty", r#""Truth"="Beauty""#),
            (" Truth:Beauty", r#""Truth"="Beauty""#),
            ("Truth                    :Beauty", r#""Truth"="Beauty""#),
            (
                "fruits    apple, banana, pear, \\\n   cantaloupe, watermelon, \\\n   kiwi, mango",
                r#""fruits"="apple, banana, pear, cantaloupe, watermelon, kiwi, mango""#,
            ),
            ("cheeses", r#""cheeses"="""#),
            ("\\:\\=", r#"":="="""#),
            ("a\\ b=c", r#""a b"="c""#),
            ("a b c", r#""a"="b c""#),
            ("a = = b", r#""a"="= b""#),
            ("a := b", r#""a"="= b""#),
            ("a=b ", r#""a"="b ""#),
            ("a\tb\n\u{c}c\u{c}d", r#""a"="b" "c"="d""#),
            ("# a=b\n  ! c=d\n\n \t\ne=f", r#""e"="f""#),
            ("# a \\\nb=c", r#""b"="c""#),
            ("a=b # c", r#""a"="b # c""#),
            ("a=b\\\n# c", r#""a"="b# c""#),
            ("a=b\\\n\nc=d", r#""a"="b" "c"="d""#),
            ("\\\n\na=b", r#""a"="b""#),
            ("a=b\\\\\nc=d", r#""a"="b\\" "c"="d""#),
            ("a=b\\", r#""a"="b""#),
            ("a=b\\\n", r#""a"="b""#),
            ("a\\\n  b=c", r#""ab"="c""#),
            ("a=b\r\nc=d\re=f", r#""a"="b" "c"="d" "e"="f""#),
            ("a=b\\\r\n  c", r#""a"="bc""#),
            ("=a", r#"""="a""#),
            ("a=\\t\\n\\r\\f\\\\\\z\\\"", r#""a"="\t\n\r\u{c}\\z\"""#),
            ("a=\\u00e9\\u20AC\\ud83d\\ude00", r#""a"="é€😀""#),
            ("a=é", r#""a"="é""#),
            ("a=1\na=2", r#""a"="1" "a"="2""#),
            ("\u{feff}a=1", r#""a"="1""#),
            ("", ""),
        ] {
            assert_eq!(shown(text), expected, "in {text:?}");
        }
    }

    #[test]
    fn a_wrong_escape_has_its_line() {
        for (text, expected) in [
            ("a=b\nc=\\u12", "line 2, column 1: \\u12 is not \\u with four hexadecimal digits"),
            ("a=\\u+123", "line 1, column 1: \\u+123 is not \\u with four hexadecimal digits"),
            (
                "a=\\ud83dx",
                "line 1, column 1: \\ud83d is half of a surrogate pair, and its other half does not follow",
            ),
            (
                "a=\\ude00",
                "line 1, column 1: \\ude00 is half of a surrogate pair, and its other half does not follow",
            ),
            (
                "a=\\ud83d\\u0041",
                "line 1, column 1: \\ud83d is half of a surrogate pair, and its other half does not follow",
            ),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn a_property_is_written_as_java_writes_it() {
        let mut out = String::new();
        write_property(&mut out, "a b:c=d#e!f\\é", "  x y:z=#!\\\t\n\r\u{c}é€😀~\u{7f}");
        assert_eq!(
            out,
            "a\\ b\\:c\\=d\\#e\\!f\\\\\\u00e9=\\  x y\\:z\\=\\#\\!\\\\\\t\\n\\r\\f\\u00e9\\u20ac\\ud83d\\ude00~\\u007f\n"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(all in proptest::collection::vec((".{0,12}", "(?s).{0,12}"), 0..6)) {
            let mut text = String::new();
            for (name, value) in &all {
                write_property(&mut text, name, value);
            }
            prop_assert!(text.is_ascii());
            prop_assert_eq!(read_properties(&text), Ok(all));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[ab\\\\u0dé:=#! \t\n\r]{0,40}") {
            let _ = read_properties(&text);
        }
    }
}
