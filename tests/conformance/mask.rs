//! Masks the values of an answer that differ at each run. It works on the text, so that the order of fields and every
//! space are still compared.

/// The replacement of an index.
const INDEX: &str = "#";

/// Masks a body: indexes other than 0, UUIDs, content hashes, and the target's own `words`.
pub(crate) fn body(text: &str, words: &[(String, &str)]) -> String {
    let mut text = uuids(text);
    for field in ["CreateIndex", "ModifyIndex"] {
        text = field_value(&text, &format!("\"{field}\":"), |value| value != "0", INDEX);
    }
    text = number_after(&text, "current modify index ");
    text = field_value(&text, "\"ContentHash\":", |_| true, "\"<hash>\"");
    for (word, mask) in words {
        text = text.replace(word, mask);
    }
    text
}

/// Masks a header's value.
pub(crate) fn header(name: &str, value: &str) -> String {
    match name {
        // A failed read answers index 1, which a client must not keep: the value matters.
        "x-consul-index" if value != "1" => INDEX.to_owned(),
        "x-consul-contenthash" => "<hash>".to_owned(),
        _ => value.to_owned(),
    }
}

/// Replaces the values (up to `,` or `}`) that follow `key`, where `which` says so.
fn field_value(text: &str, key: &str, which: impl Fn(&str) -> bool, mask: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(key) {
        let value_at = at + key.len();
        let after = &rest[value_at..];
        let spaces = after.len() - after.trim_start().len();
        let value = &after[spaces..];
        let end = value.find([',', '}', '\n']).unwrap_or(value.len());
        out.push_str(&rest[..value_at + spaces]);
        out.push_str(if which(&value[..end]) { mask } else { &value[..end] });
        rest = &value[end..];
    }
    out.push_str(rest);
    out
}

/// Replaces the number that follows `words`.
fn number_after(text: &str, words: &str) -> String {
    let mut parts = text.split(words);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| {
        out + words + INDEX + part.trim_start_matches(|char: char| char.is_ascii_digit())
    })
}

fn uuids(text: &str) -> String {
    const LENGTH: usize = 36;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        if rest.get(..LENGTH).is_some_and(is_uuid) {
            out.push_str("<uuid>");
            rest = &rest[LENGTH..];
        } else {
            let next = rest.chars().next().map_or(1, char::len_utf8);
            out.push_str(&rest[..next]);
            rest = &rest[next..];
        }
    }
    out
}

fn is_uuid(text: &str) -> bool {
    text.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    })
}

#[test]
fn only_what_cannot_be_the_same_twice_is_masked() {
    let seen = r#"{"ID":"b5d1f9bd-a9d4-1a20-5cc9-e6ec69a47211","Port":8300,"CreateIndex":5,"ModifyIndex":0,"ContentHash":"145c"}"#;
    assert_eq!(body("current modify index 330 != 1", &[]), "current modify index # != 1");
    let masked = body(seen, &[("8300".to_owned(), "<port>")]);
    assert_eq!(
        masked,
        r#"{"ID":"<uuid>","Port":<port>,"CreateIndex":#,"ModifyIndex":0,"ContentHash":"<hash>"}"#
    );
}
