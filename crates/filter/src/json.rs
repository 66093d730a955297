//! JSON as rows.

use serde_json::Value;

use crate::row::FilterValue;

impl<'a> FilterValue<'a> for &'a Value {
    fn text(self) -> &'a str {
        self.as_str().unwrap_or_default()
    }

    fn integer(self) -> i64 {
        self.as_i64().unwrap_or_default()
    }

    fn boolean(self) -> bool {
        self.as_bool().unwrap_or_default()
    }

    fn entry(self, name: &str) -> Option<Self> {
        self.get(name)
    }

    fn element(self, n: usize) -> Option<Self> {
        self.get(n)
    }

    fn is_empty(self) -> bool {
        match self {
            Value::Array(elements) => elements.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            _ => true,
        }
    }
}
