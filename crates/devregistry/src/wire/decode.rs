//! Decodes a JSON object as Go does: keys in any case, `null` counts as absent, what follows the first value is ignored,
//! an unknown field is refused. The error texts are Go's.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::duration::{self, GoDuration};

/// The body cannot be decoded; Go's text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DecodeError(pub(crate) String);

type Result<T> = std::result::Result<T, DecodeError>;

/// The first JSON value of `body`.
fn first_value(body: &[u8]) -> Result<Value> {
    match serde_json::Deserializer::from_slice(body).into_iter::<Value>().next() {
        None => Err(decode_error("EOF")),
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) if error.is_eof() => Err(decode_error("unexpected EOF")),
        Some(Err(error)) => Err(decode_error(&describe_syntax_error(body, &error))),
    }
}

/// An object. Its fields are taken out one by one.
#[derive(Debug, Default)]
pub(crate) struct JsonFields {
    fields: Map<String, Value>,
    /// The path of the object as Go's texts name it; empty for a struct without a name.
    path: &'static str,
}

impl JsonFields {
    /// The first JSON value of `body`; `null` is an empty object.
    pub(crate) fn parse(body: &[u8]) -> Result<Self> {
        Self::parse_as(body, "struct")
    }

    /// [`JsonFields::parse`] for a Go type of this name.
    pub(crate) fn parse_as(body: &[u8], go_type: &str) -> Result<Self> {
        Self::from_value(first_value(body)?, || format!("Go value of type {go_type}"))
    }

    /// The first JSON value of `body` as a list of objects, for Go types of these names; `null` is an empty list.
    pub(crate) fn parse_list(body: &[u8], list_type: &str, item_type: &str) -> Result<Vec<Self>> {
        let items = match first_value(body)? {
            Value::Null => Vec::new(),
            Value::Array(items) => items,
            other => {
                let shown = json_type(&other);
                let text = format!("json: cannot unmarshal {shown} into Go value of type {list_type}");
                return Err(decode_error(&text));
            }
        };
        items
            .into_iter()
            .map(|item| Self::from_value(item, || format!("Go value of type {item_type}")))
            .collect()
    }

    fn from_value(value: Value, into: impl Fn() -> String) -> Result<Self> {
        match value {
            Value::Null => Ok(Self::default()),
            Value::Object(fields) => Ok(Self { fields, path: "" }),
            other => {
                Err(decode_error(&format!("json: cannot unmarshal {} into {}", json_type(&other), into())))
            }
        }
    }

    /// Names the path of the object in error texts.
    pub(crate) fn at_path(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    /// Takes the field of this name, in any case. `null` counts as absent.
    fn take(&mut self, name: &str) -> Option<Value> {
        let key = match self.fields.contains_key(name) {
            true => name.to_owned(),
            false => self.fields.keys().find(|key| key.eq_ignore_ascii_case(name))?.clone(),
        };
        self.fields.remove(&key).filter(|value| !value.is_null())
    }

    /// A field that may be `null`. `None`: there is no such field; `Some(None)`: it is `null`.
    pub(crate) fn nullable<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Self, &str) -> Result<T>,
    ) -> Result<Option<Option<T>>> {
        match self.fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)) {
            None => Ok(None),
            Some((_, Value::Null)) => Ok(Some(None)),
            Some(_) => read(self, name).map(Some).map(Some),
        }
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<String> {
        self.string_as(name, "string")
    }

    /// A string of a Go type of this name.
    pub(crate) fn string_as(&mut self, name: &str, go_type: &str) -> Result<String> {
        match self.take(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.type_mismatch(&other, name, go_type)),
        }
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<bool> {
        self.scalar(name, "bool", Value::as_bool)
    }

    pub(crate) fn integer(&mut self, name: &str) -> Result<i64> {
        self.scalar(name, "int", Value::as_i64)
    }

    /// A number of 64 bits without a sign.
    pub(crate) fn unsigned(&mut self, name: &str) -> Result<u64> {
        self.scalar(name, "uint64", Value::as_u64)
    }

    /// A number with a fraction.
    pub(crate) fn number(&mut self, name: &str) -> Result<f64> {
        self.scalar(name, "float64", Value::as_f64)
    }

    /// A value of a Go type of this name; absent is its zero value.
    fn scalar<T: Default>(
        &mut self,
        name: &str,
        go_type: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T> {
        match self.take(name) {
            None => Ok(T::default()),
            Some(value) => read(&value).ok_or_else(|| self.type_mismatch(&value, name, go_type)),
        }
    }

    /// A list of a Go type of this name; absent is empty.
    fn list(&mut self, name: &str, go_type: &str) -> Result<Vec<Value>> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(self.type_mismatch(&other, name, go_type)),
        }
    }

    /// A list of numbers with a fraction.
    pub(crate) fn numbers(&mut self, name: &str) -> Result<Vec<f64>> {
        let items = self.list(name, "[]float64")?;
        let number = |item: Value| match item {
            Value::Null => Ok(0.0),
            item => item.as_f64().ok_or_else(|| self.type_mismatch(&item, name, "float64")),
        };
        items.into_iter().map(number).collect()
    }

    pub(crate) fn strings(&mut self, name: &str) -> Result<Vec<String>> {
        self.strings_as(name, "string")
    }

    /// A list of strings of a Go type of this name.
    pub(crate) fn strings_as(&mut self, name: &str, item_type: &str) -> Result<Vec<String>> {
        let items = self.list(name, &format!("[]{item_type}"))?;
        items.into_iter().map(|item| self.string_of(item, name, item_type)).collect()
    }

    pub(crate) fn string_map(&mut self, name: &str) -> Result<BTreeMap<String, String>> {
        let items = match self.take(name) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(items)) => items,
            Some(other) => return Err(self.type_mismatch(&other, name, "map[string]string")),
        };
        items.into_iter().map(|(key, value)| Ok((key, self.string_of(value, name, "string")?))).collect()
    }

    /// Header lists: one value per pair.
    pub(crate) fn header_lists(&mut self, name: &str) -> Result<Vec<(String, String)>> {
        let mut pairs = Vec::new();
        let mut lists = self.object(name)?;
        let keys: Vec<String> = lists.fields.keys().cloned().collect();
        for key in keys {
            let values = lists.strings(&key).map_err(|_| {
                decode_error(&format!(
                    "json: cannot unmarshal a header that is no list into Go struct field .{name} of type []string"
                ))
            })?;
            pairs.extend(values.into_iter().map(|value| (key.clone(), value)));
        }
        Ok(pairs)
    }

    /// A duration: Go's notation, or nanoseconds. Absent and zero are the same.
    pub(crate) fn duration(&mut self, name: &str) -> Result<GoDuration> {
        match self.take(name) {
            None => Ok(GoDuration(0)),
            Some(Value::String(text)) if text.is_empty() => Ok(GoDuration(0)),
            Some(Value::String(text)) => duration::parse(&text).map_err(|reason| decode_error(&reason)),
            #[expect(clippy::cast_possible_truncation, reason = "Go truncates here as well")]
            Some(Value::Number(nanos)) => {
                Ok(GoDuration(nanos.as_i64().unwrap_or_else(|| nanos.as_f64().unwrap_or(0.0) as i64)))
            }
            Some(other) => Err(self.type_mismatch(&other, name, "time.Duration")),
        }
    }

    /// A lock-delay: as a duration, but a value of any other type counts as zero.
    pub(crate) fn lock_delay(&mut self, name: &str) -> Result<Option<GoDuration>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => {
                duration::parse(&text).map(Some).map_err(|reason| decode_error(&reason))
            }
            #[expect(clippy::cast_possible_truncation, reason = "Go truncates here as well")]
            Some(Value::Number(nanos)) => Ok(nanos.as_f64().map(|nanos| GoDuration(nanos as i64))),
            Some(_) => Ok(Some(GoDuration(0))),
        }
    }

    /// Takes the field; whether it is present and not `null`.
    pub(crate) fn has(&mut self, name: &str) -> bool {
        self.take(name).is_some()
    }

    /// A nested object; absent is empty.
    pub(crate) fn object(&mut self, name: &str) -> Result<Self> {
        Ok(self.object_if_any(name)?.unwrap_or_default())
    }

    /// A nested object, if there is one.
    pub(crate) fn object_if_any(&mut self, name: &str) -> Result<Option<Self>> {
        self.object_as(name, "struct")
    }

    /// A nested object of a Go type of this name, if there is one.
    pub(crate) fn object_as(&mut self, name: &str, go_type: &str) -> Result<Option<Self>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let path = self.path;
        Self::from_value(value, || format!("Go struct field {path}.{name} of type {go_type}")).map(Some)
    }

    /// A list of objects.
    pub(crate) fn objects(&mut self, name: &str) -> Result<Vec<Self>> {
        self.objects_as(name, "structs.CheckTypes", "struct")
    }

    /// A list of objects, for Go types of these names.
    pub(crate) fn objects_as(&mut self, name: &str, list_type: &str, item_type: &str) -> Result<Vec<Self>> {
        self.list(name, list_type)?
            .into_iter()
            .map(|item| Self::from_value(item, || format!("Go struct field .{name} of type {item_type}")))
            .collect()
    }

    /// Every entry as a nested object, for maps with data as keys.
    pub(crate) fn entries(self, of: &str) -> Result<Vec<(String, Self)>> {
        let into = || format!("Go struct field .{of} of type structs.ServiceAddress");
        self.fields.into_iter().map(|(key, value)| Ok((key, Self::from_value(value, into)?))).collect()
    }

    /// Refuses a remaining field.
    pub(crate) fn finish(self) -> Result<()> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(key) => Err(decode_error(&format!("json: unknown field {key:?}"))),
        }
    }

    fn string_of(&self, value: Value, field: &str, go_type: &str) -> Result<String> {
        match value {
            Value::String(text) => Ok(text),
            Value::Null => Ok(String::new()),
            other => Err(self.type_mismatch(&other, field, go_type)),
        }
    }

    fn type_mismatch(&self, value: &Value, field: &str, wanted: &str) -> DecodeError {
        let shown = match value {
            // Go shows the number where an integer is expected.
            Value::Number(number) if matches!(wanted, "int" | "uint64") => format!("number {number}"),
            other => json_type(other).to_owned(),
        };
        let path = self.path;
        decode_error(&format!(
            "json: cannot unmarshal {shown} into Go struct field {path}.{field} of type {wanted}"
        ))
    }
}

fn decode_error(reason: &str) -> DecodeError {
    DecodeError(reason.to_owned())
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The text for the character at which decoding stopped, as in Go.
fn describe_syntax_error(body: &[u8], error: &serde_json::Error) -> String {
    let line = body.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let at = line.get(error.column().saturating_sub(1)..).unwrap_or_default();
    let found = String::from_utf8_lossy(at).chars().next().unwrap_or(char::REPLACEMENT_CHARACTER);
    let looking =
        if error.to_string().starts_with("key must be a string") { "object key string" } else { "value" };
    format!("invalid character {found:?} looking for beginning of {looking}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_reason(body: &str) -> String {
        let read = |body: &str| {
            let mut fields = JsonFields::parse(body.as_bytes())?;
            fields.string("Name")?;
            fields.integer("Port")?;
            fields.strings("Tags")?;
            fields.string_map("Meta")?;
            fields.boolean("EnableTagOverride")?;
            fields.duration("TTL")?;
            fields.finish()
        };
        read(body).unwrap_err().0
    }

    #[test]
    fn a_decode_error_has_gos_text() {
        let cases = [
            ("", "EOF"),
            ("{\"Name\":", "unexpected EOF"),
            ("{Name:\"x\"}", "invalid character 'N' looking for beginning of object key string"),
            ("nope", "invalid character 'o' looking for beginning of value"),
            ("{\"Name\":5}", "json: cannot unmarshal number into Go struct field .Name of type string"),
            ("{\"Port\":\"80\"}", "json: cannot unmarshal string into Go struct field .Port of type int"),
            ("{\"Port\":80.5}", "json: cannot unmarshal number 80.5 into Go struct field .Port of type int"),
            ("{\"Tags\":\"a\"}", "json: cannot unmarshal string into Go struct field .Tags of type []string"),
            ("{\"Tags\":[1]}", "json: cannot unmarshal number into Go struct field .Tags of type string"),
            (
                "{\"Meta\":{\"k\":1}}",
                "json: cannot unmarshal number into Go struct field .Meta of type string",
            ),
            (
                "{\"EnableTagOverride\":\"yes\"}",
                "json: cannot unmarshal string into Go struct field .EnableTagOverride of type bool",
            ),
            ("{\"TTL\":\"bad\"}", "time: invalid duration \"bad\""),
            ("{\"TTL\":\"30\"}", "time: missing unit in duration \"30\""),
            ("{\"Bogus\":1}", "json: unknown field \"Bogus\""),
        ];
        for (body, reason) in cases {
            assert_eq!(decode_reason(body), reason, "{body}");
        }
    }

    #[test]
    fn keys_have_any_case_and_what_follows_the_first_value_is_ignored() {
        let mut fields = JsonFields::parse(br#"{"nAmE":"x","TTL":1000} trailing"#).unwrap();
        assert_eq!(fields.string("Name").unwrap(), "x");
        assert_eq!(fields.duration("TTL").unwrap(), GoDuration(1000));
        fields.finish().unwrap();
    }
}
