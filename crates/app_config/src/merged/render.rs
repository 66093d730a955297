//! The configuration in each format but `env`.

use super::{merge::ConfigView, properties::write_property};

impl ConfigView {
    /// Nested objects, with an indent of two spaces, and a line feed at the end.
    pub fn to_json(&self) -> String {
        self.tree.to_json()
    }

    /// [`ConfigView::to_json`] in one line, without the line feed.
    pub fn to_json_line(&self) -> String {
        self.tree.to_json_line()
    }

    /// Nested mappings. YAML 1.1 and 1.2 read the same: what one of them could take for another type has quotes.
    pub fn to_yaml(&self) -> String {
        self.tree.to_yaml()
    }

    /// Java properties, a line for each property, without empty objects.
    pub fn to_properties(&self) -> String {
        let mut out = String::new();
        for property in &self.properties {
            if let Some(value) = property.value.as_text() {
                write_property(&mut out, &property.name, &value);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outrigger_registry::KvEntry;
    use proptest::prelude::*;

    use super::{
        super::{
            property::ProblemReason,
            source::{BlobFormat, LastGoodDocuments, SourceProperties},
        },
        *,
    };

    fn entry(key: &str, value: &str) -> Arc<KvEntry> {
        Arc::new(KvEntry {
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
            flags: 0,
            session: None,
            lock_index: 0,
            create_index: 1,
            modify_index: 7,
        })
    }

    fn view_of_keys(all: &[(&str, &str)]) -> ConfigView {
        let entry = |(name, value): &(&str, &str)| entry(&format!("p/{name}"), value);
        let entries: Vec<_> = all.iter().map(entry).collect();
        ConfigView::merge(vec![SourceProperties::of_keys("p/", &entries)])
    }

    fn view_of_yaml(text: &str) -> ConfigView {
        view_of(BlobFormat::Yaml, text)
    }

    fn view_of(format: BlobFormat, text: &str) -> ConfigView {
        let source =
            SourceProperties::of_blob(format, &entry("p/data", text), &mut LastGoodDocuments::default());
        assert_eq!(source.problems, [], "{text}");
        ConfigView::merge(vec![source])
    }

    #[test]
    fn dotted_names_are_nested_objects() {
        let view = view_of_keys(&[
            ("db/url", "x"),
            ("db/hosts[1]", "b"),
            ("db/hosts[0]", "a"),
            ("a..b", "1"),
            ("level[com.x]", "d"),
        ]);
        assert_eq!(
            view.to_json_line(),
            r#"{"a..b":"1","db":{"hosts":["a","b"],"url":"x"},"level":{"com.x":"d"}}"#
        );
        assert_eq!(
            view.to_json(),
            "{\n  \"a..b\": \"1\",\n  \"db\": {\n    \"hosts\": [\n      \"a\",\n      \"b\"\n    ],\n    \"url\": \"x\"\n  },\n  \"level\": {\n    \"com.x\": \"d\"\n  }\n}\n"
        );
        assert_eq!(
            view.to_yaml(),
            "a..b: \"1\"\ndb:\n  hosts:\n    - a\n    - b\n  url: x\nlevel:\n  com.x: d\n"
        );
        assert_eq!(view.problems(), []);
        let none = view_of_keys(&[]);
        assert_eq!((none.to_json().as_str(), none.to_yaml().as_str()), ("{}\n", "{}\n"));
    }

    #[test]
    fn a_value_with_properties_below_it_is_the_member_without_a_name() {
        let view = view_of_keys(&[("db", "x"), ("db.url", "y"), ("l", "z"), ("l[0]", "0")]);
        assert_eq!(view.to_json_line(), r#"{"db":{"":"x","url":"y"},"l":{"":"z","[0]":"0"}}"#);
        assert_eq!(view.to_yaml(), "db:\n  \"\": x\n  url: \"y\"\nl:\n  \"\": z\n  \"[0]\": \"0\"\n");
        let mixed = view_of_keys(&[("l[0]", "0"), ("l.a", "1")]);
        assert_eq!(mixed.to_json_line(), r#"{"l":{"[0]":"0","a":"1"}}"#);
        let root = view_of_keys(&[("[0]", "0"), ("[1]", "1")]);
        assert_eq!(root.to_json_line(), r#"{"[0]":"0","[1]":"1"}"#);
        let null = view_of_yaml("db: ~\n---\ndb: {url: y}\ne: {}\n---\ne: {f: 1}\n");
        assert_eq!(null.to_json_line(), r#"{"db":{"url":"y"},"e":{"f":1}}"#);
    }

    #[test]
    fn a_list_without_some_item_moves_up_and_says_so() {
        let view = view_of_keys(&[("l[1]", "b"), ("l[3].x", "d"), ("m[0]", "")]);
        assert_eq!(view.to_json_line(), r#"{"l":["b",{"x":"d"}],"m":[""]}"#);
        let [problem] = view.problems() else { panic!("{:?}", view.problems()) };
        assert_eq!(
            (problem.reason, problem.key.as_str(), problem.index),
            (ProblemReason::ListGap, "p/l[1]", 7)
        );
        assert!(problem.detail.contains("has no item [0]"), "{}", problem.detail);
        // A huge index takes no memory.
        assert_eq!(view_of_keys(&[("l[4294967295]", "b")]).to_json_line(), r#"{"l":["b"]}"#);
    }

    #[test]
    fn values_of_documents_keep_their_types() {
        let text = "n: 1.50\nh: 0x1F\nt: true\ntext: 'true'\nz: ~\nl: []\nm: {}\noff: off\nnum: '5'\nll: [[1, 2], [], {a: [b]}]\n";
        let view = view_of_yaml(text);
        let json = r#"{"h":31,"l":[],"ll":[[1,2],[],{"a":["b"]}],"m":{},"n":1.50,"num":"5","off":"off","t":true,"text":"true","z":null}"#;
        assert_eq!(view.to_json_line(), json);
        let yaml = "h: 31\nl: []\nll:\n  - - 1\n    - 2\n  - []\n  - a:\n      - b\nm: {}\n\"n\": 1.50\nnum: \"5\"\n\"off\": \"off\"\nt: true\ntext: \"true\"\nz: null\n";
        assert_eq!(view.to_yaml(), yaml);
    }

    #[test]
    fn deep_names_and_long_keys_can_be_written() {
        let deep = vec!["a"; 64].join("/");
        let long = "\u{1}".repeat(1024);
        let view = view_of_keys(&[(&deep, "x"), (&long, "y")]);
        assert!(serde_json::from_str::<serde_json::Value>(&view.to_json()).is_ok());
        assert!(view.to_yaml().starts_with("? \"\\u0001"));
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(|n| Value::Number(n.into())),
            "(?s).{0,8}".prop_map(Value::String),
            "[a-zA-Z0-9~:#,.'\" -]{0,5}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                proptest::collection::btree_map("[a-z0-9 :é#-]{1,4}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// A document that is read, merged alone and written is the same document, in both formats.
        #[test]
        fn what_is_written_is_what_was_read(members in proptest::collection::btree_map("[a-zA-Z0-9 :é#-]{1,5}", value(), 0..5)) {
            let document = serde_json::Value::Object(members.into_iter().collect());
            let view = view_of(BlobFormat::Json, &document.to_string());
            for json in [view.to_json(), view.to_json_line()] {
                prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&json).unwrap(), &document);
            }
            let again = view_of_yaml(&view.to_yaml());
            prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&again.to_json()).unwrap(), &document, "{}", view.to_yaml());
        }

        #[test]
        fn any_names_make_json(names in proptest::collection::vec("[ab.\\[\\]01]{0,8}", 0..8)) {
            let all: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
            let view = view_of_keys(&all);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&view.to_json()).is_ok());
            prop_assert_eq!(view_of_yaml(&view.to_yaml()).properties().is_empty(), view.properties().is_empty());
        }
    }
}
