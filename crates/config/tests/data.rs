//! YAML and JSON of other programs.

use outrigger_config::{DataNode, parse_yaml};
use proptest::prelude::*;

fn shown(node: &DataNode) -> String {
    match node {
        DataNode::Null => "null".to_owned(),
        DataNode::Bool(value) => value.to_string(),
        DataNode::Number { written, value } if written == value => written.clone(),
        DataNode::Number { written, value } => format!("{written}={value}"),
        DataNode::Text(text) => format!("{text:?}"),
        DataNode::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        DataNode::Map(entries) => {
            let entries = entries.iter().map(|(key, value)| format!("{key}: {}", shown(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

fn check(text: &str, expected: &str) {
    let got = match parse_yaml(text) {
        Ok(documents) => documents.iter().map(shown).collect::<Vec<_>>().join(" | "),
        Err(error) => error.to_string(),
    };
    assert_eq!(got, expected, "in {text:?}");
}

#[test]
fn values_keep_their_types() {
    check(
        "{a: true, b: False, c: 'true', d: null, e: ~, f: }",
        r#"{a: true, b: false, c: "true", d: null, e: null, f: null}"#,
    );
    check("a: [off, No, y, on]", r#"{a: ["off", "No", "y", "on"]}"#);
    check("[8080, -1, 1.50, 0x1F, 1e3, '5', 007]", r#"[8080, -1, 1.50=1.5, 0x1F=31, 1e3=1000, "5", 007=7]"#);
    check("[.inf, .nan, '.inf', -.INF]", r#"[".inf", ".nan", ".inf", "-.INF"]"#);
    // Neither infinity nor another number.
    check("[1e400, -1e400, 1e-400]", r#"["1e400", "-1e400", 1e-400=0]"#);
    check(r#"{"a": 1E+999}"#, r#"{a: "1E+999"}"#);
    check(
        "[18446744073709551616, -9223372036854775809]",
        "[18446744073709551616=18446744073709552000, -9223372036854775809=-9223372036854776000]",
    );
    check(
        "[99999999999999999999, 1.2.3, 2026-11-30, 10:30]",
        r#"[99999999999999999999=100000000000000000000, "1.2.3", "2026-11-30", "10:30"]"#,
    );
    check("1: {true: x}", r#"{1: {true: "x"}}"#);
    check("a: |\n  b\n  c\n", r#"{a: "b\nc\n"}"#);
    check("{~: 1}", "line 1, column 2: a key must be a word");
    check("{a: [], b: {}}", "{a: [], b: {}}");
}

#[test]
fn json_is_yaml() {
    check(
        r#"{"a":"\/\u00e9\ud83d\ude00","b":[1,2.0,-0],"c":{"d":null}}"#,
        r#"{a: "/é😀", b: [1, 2.0=2, -0=0], c: {d: null}}"#,
    );
    check("{\n\t\"a\":\t1\n}\n", "{a: 1}");
}

#[test]
fn a_text_may_have_several_documents() {
    check("a: 1\n---\n# nothing\n---\nb: 2\n...\n", "{a: 1} | {b: 2}");
    check("", "");
    check("# nothing\n", "");
    check("\u{feff}a: 1", "{a: 1}");
}

#[test]
fn what_is_refused_has_a_place() {
    check("a: 1\nb: 2\na: 3\n", "line 3, column 1: a key is here twice");
    check(r#"{"a": 1, "a": 2}"#, "line 1, column 10: a key is here twice");
    check(
        "a: &x 1\n",
        "line 1, column 7: & begins an anchor, which a document of the registry cannot have; a text needs quotes",
    );
    check("a: !ruby/object 1\n", "line 1, column 17: unsupported tag `!ruby/object`");
    assert!(parse_yaml(&"---\na: 1\n".repeat(100)).is_err());
    assert!(parse_yaml(&"[".repeat(100_000)).is_err());
    assert!(parse_yaml(&"a: \n- ".repeat(200_000)).is_err());
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "[ab:\\-\\[\\]{}&*!|>'\"%@\n #?,~<1é.\u{85}]{0,60}") {
        let _ = parse_yaml(&text);
    }
}
