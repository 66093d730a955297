//! The fields of a JSON text, in the order in which they are written.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Field names in order, within `{}`; a list as its first element, within `[]`; any other value as its type. Settings
/// that each server names differently are left out.
pub(crate) struct Shape(pub(crate) String);

const LEFT_OUT: &[&str] = &["DebugConfig", "Labels", "Stats", "Tags"];

struct ShapeVisitor;

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor).map(Self)
    }
}

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if LEFT_OUT.contains(&name.as_str()) {
                map.next_value::<IgnoredAny>()?;
                fields.push(format!("{name}: …"));
            } else {
                fields.push(format!("{name}: {}", map.next_value::<Shape>()?.0));
            }
        }
        Ok(format!("{{{}}}", fields.join(", ")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<String, A::Error> {
        let first = list.next_element::<Shape>()?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(format!("[{}]", first.map(|shape| shape.0).unwrap_or_default()))
    }

    fn visit_str<E>(self, _: &str) -> Result<String, E> {
        Ok("text".to_owned())
    }

    fn visit_u64<E>(self, _: u64) -> Result<String, E> {
        Ok("number".to_owned())
    }

    fn visit_i64<E>(self, _: i64) -> Result<String, E> {
        Ok("number".to_owned())
    }

    fn visit_f64<E>(self, _: f64) -> Result<String, E> {
        Ok("number".to_owned())
    }

    fn visit_bool<E>(self, _: bool) -> Result<String, E> {
        Ok("boolean".to_owned())
    }

    fn visit_unit<E>(self) -> Result<String, E> {
        Ok("null".to_owned())
    }
}
