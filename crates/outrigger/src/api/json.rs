//! Entries of the KV as Go's `encoding/json` writes those of Consul.

use std::{fmt::Write as _, sync::Arc};

use outrigger_registry::KvEntry;

/// The list of entries; `is_pretty`: as for `?pretty`. `encode` makes base64.
pub(super) fn write_entries(
    entries: &[Arc<KvEntry>],
    is_pretty: bool,
    encode: impl Fn(&[u8]) -> String,
) -> String {
    let fields = |entry: &KvEntry| {
        let value = match entry.value.as_slice() {
            [] => "null".to_owned(),
            value => format!("\"{}\"", encode(value)),
        };
        let mut fields = vec![
            ("LockIndex", entry.lock_index.to_string()),
            ("Key", quote(&entry.key)),
            ("Flags", entry.flags.to_string()),
            ("Value", value),
        ];
        fields.extend(entry.session.as_ref().map(|session| ("Session", quote(session))));
        fields.push(("CreateIndex", entry.create_index.to_string()));
        fields.push(("ModifyIndex", entry.modify_index.to_string()));
        let fields = fields.into_iter().map(|(name, value)| match is_pretty {
            true => format!("\n        \"{name}\": {value}"),
            false => format!("\"{name}\":{value}"),
        });
        let fields = fields.collect::<Vec<_>>().join(",");
        if is_pretty { format!("{{{fields}\n    }}") } else { format!("{{{fields}}}") }
    };
    write_list(entries.iter().map(|entry| fields(entry)), is_pretty)
}

/// The list of keys.
pub(super) fn write_keys(keys: &[&str], is_pretty: bool) -> String {
    write_list(keys.iter().map(|key| quote(key)), is_pretty)
}

fn write_list(items: impl Iterator<Item = String>, is_pretty: bool) -> String {
    let items = items.map(|item| if is_pretty { format!("\n    {item}") } else { item });
    let items = items.collect::<Vec<_>>().join(",");
    if is_pretty { format!("[{items}\n]\n") } else { format!("[{items}]") }
}

/// A string as Go writes it: `<`, `>` and `&` are escaped, so that it may stand in HTML.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str, session: Option<&str>) -> Arc<KvEntry> {
        Arc::new(KvEntry {
            key: key.into(),
            value: value.into(),
            flags: 42,
            session: session.map(str::to_owned),
            lock_index: 1,
            create_index: 12,
            modify_index: 15,
        })
    }

    #[test]
    fn entries_are_written_as_consul_writes_them() {
        let all = [entry("a<b>&\"\\\n\u{1}ü", "", None), entry("b", "x", Some("s-1"))];
        assert_eq!(
            write_entries(&all, false, |_| "eA==".into()),
            r#"[{"LockIndex":1,"Key":"a\u003cb\u003e\u0026\"\\\n\u0001ü","Flags":42,"Value":null,"CreateIndex":12,"ModifyIndex":15},{"LockIndex":1,"Key":"b","Flags":42,"Value":"eA==","Session":"s-1","CreateIndex":12,"ModifyIndex":15}]"#
        );
        assert_eq!(
            write_entries(&all[1..], true, |_| "eA==".into()),
            "[\n    {\n        \"LockIndex\": 1,\n        \"Key\": \"b\",\n        \"Flags\": 42,\n        \"Value\": \"eA==\",\n        \"Session\": \"s-1\",\n        \"CreateIndex\": 12,\n        \"ModifyIndex\": 15\n    }\n]\n"
        );
        assert_eq!(write_keys(&["a/", "b"], false), r#"["a/","b"]"#);
        assert_eq!(write_keys(&["a/", "b"], true), "[\n    \"a/\",\n    \"b\"\n]\n");
    }
}
