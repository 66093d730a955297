//! Text in quotes, as Go writes and reads it.

use std::fmt::Write as _;

/// `text` in double quotes with Go's escapes, as `%q` prints it.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            char if is_printable(char) => out.push(char),
            // Writing to a string cannot fail.
            char => drop(match u32::from(char) {
                code @ ..=0x7f => write!(out, "\\x{code:02x}"),
                code @ ..=0xffff => write!(out, "\\u{code:04x}"),
                code => write!(out, "\\U{code:08x}"),
            }),
        }
    }
    out.push('"');
    out
}

/// Go prints no space but U+0020, and no unassigned character.
fn is_printable(char: char) -> bool {
    // Rust escapes a combining mark only at the beginning.
    let text = ['a', char].iter().collect::<String>();
    char == '\'' || text.escape_debug().count() == 2
}

/// The value of a Go literal in double quotes or backquotes. `None`: Go's `invalid syntax`.
pub fn unquote(literal: &str) -> Option<String> {
    if let Some(raw) = literal.strip_prefix('`') {
        let raw = raw.strip_suffix('`')?;
        return (!raw.contains('`')).then(|| raw.replace('\r', ""));
    }
    let inner = literal.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(char) = rest.next() {
        match char {
            '\n' | '"' => return None,
            '\\' => unescape(&mut rest, &mut bytes)?,
            other => push_char(&mut bytes, other),
        }
    }
    // Escapes of single bytes may make any bytes.
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads what follows a backslash.
fn unescape(rest: &mut std::str::Chars<'_>, bytes: &mut Vec<u8>) -> Option<()> {
    let kind = rest.next()?;
    let mut number = |first: u32, count: usize, base: u32| {
        (0..count)
            .try_fold(first, |value, _| value.checked_mul(base)?.checked_add(rest.next()?.to_digit(base)?))
    };
    match kind {
        'a' => bytes.push(0x07),
        'b' => bytes.push(0x08),
        'f' => bytes.push(0x0c),
        'n' => bytes.push(b'\n'),
        'r' => bytes.push(b'\r'),
        't' => bytes.push(b'\t'),
        'v' => bytes.push(0x0b),
        '\\' => bytes.push(b'\\'),
        '"' => bytes.push(b'"'),
        'x' => bytes.push(u8::try_from(number(0, 2, 16)?).ok()?),
        'u' => push_char(bytes, char::from_u32(number(0, 4, 16)?)?),
        'U' => push_char(bytes, char::from_u32(number(0, 8, 16)?)?),
        '0'..='7' => bytes.push(u8::try_from(number(kind.to_digit(8)?, 2, 8)?).ok()?),
        _ => return None,
    }
    Some(())
}

fn push_char(bytes: &mut Vec<u8>, char: char) {
    bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_go_quotes_it() {
        let cases = [
            ("a", r#""a""#),
            ("", r#""""#),
            ("a\"b\\", r#""a\"b\\""#),
            ("\n\t\u{7}\u{1}\u{7f}", r#""\n\t\a\x01\x7f""#),
            ("it's ü 日 \u{301}", "\"it's ü 日 \u{301}\""),
            ("\u{a0}\u{2028}\u{feff}", r#""\u00a0\u2028\ufeff""#),
        ];
        for (text, expected) in cases {
            assert_eq!(quote(text), expected, "{text:?}");
        }
    }

    #[test]
    fn literals_are_read_as_go_reads_them() {
        let cases = [
            (r#""a b""#, Some("a b")),
            (r#""""#, Some("")),
            (r#""\n\t\\\"""#, Some("\n\t\\\"")),
            (r#""\x41\101\u00fc\U0001F600""#, Some("AAü😀")),
            ("`a\\n\"\rb`", Some("a\\n\"b")),
            (r#""\'""#, None),
            (r#""\q""#, None),
            (r#""\x4""#, None),
            (r#""\777""#, None),
            (r#""\ud800""#, None),
            (r#""\UFFFFFFFF""#, None),
            ("\"a\nb\"", None),
            (r#""a\""#, None),
            ("a", None),
            ("\"", None),
        ];
        for (literal, expected) in cases {
            assert_eq!(unquote(literal).as_deref(), expected, "{literal}");
        }
    }
}
