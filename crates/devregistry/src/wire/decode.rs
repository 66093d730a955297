//! Decodes a JSON object as Go does: keys in any case, `null` counts as absent, what follows the first value is ignored,
//! an unknown field is refused. The error texts are Go's.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::duration::{self, GoDuration};

/// The body cannot be decoded; the error text for the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DecodeError(pub(crate) String);

type Result<T> = std::result::Result<T, DecodeError>;

/// An object. Its fields are taken out one by one.
#[derive(Debug, Default)]
pub(crate) struct JsonFields(Map<String, Value>);

impl JsonFields {
    /// The first JSON value of `body`; `null` is an empty object.
    pub(crate) fn parse(body: &[u8]) -> Result<Self> {
        let first = serde_json::Deserializer::from_slice(body).into_iter::<Value>().next();
        match first {
            None => Err(decode_error("EOF")),
            Some(Ok(value)) => Self::from_value(value, || "Go value of type struct".to_owned()),
            Some(Err(error)) if error.is_eof() => Err(decode_error("unexpected EOF")),
            Some(Err(error)) => Err(decode_error(&describe_syntax_error(body, &error))),
        }
    }

    fn from_value(value: Value, into: impl Fn() -> String) -> Result<Self> {
        match value {
            Value::Null => Ok(Self::default()),
            Value::Object(fields) => Ok(Self(fields)),
            other => {
                Err(decode_error(&format!("json: cannot unmarshal {} into {}", json_type(&other), into())))
            }
        }
    }

    /// Takes the field of this name, in any case. `null` counts as absent.
    fn take(&mut self, name: &str) -> Option<Value> {
        let key = match self.0.contains_key(name) {
            true => name.to_owned(),
            false => self.0.keys().find(|key| key.eq_ignore_ascii_case(name))?.clone(),
        };
        self.0.remove(&key).filter(|value| !value.is_null())
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<String> {
        match self.take(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(type_mismatch(&other, name, "string")),
        }
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<bool> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(other) => Err(type_mismatch(&other, name, "bool")),
        }
    }

    pub(crate) fn integer(&mut self, name: &str) -> Result<i64> {
        match self.take(name) {
            None => Ok(0),
            Some(value) => value.as_i64().ok_or_else(|| type_mismatch(&value, name, "int")),
        }
    }

    pub(crate) fn strings(&mut self, name: &str) -> Result<Vec<String>> {
        let items = match self.take(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(other) => return Err(type_mismatch(&other, name, "[]string")),
        };
        items.into_iter().map(|item| into_string(item, name)).collect()
    }

    pub(crate) fn string_map(&mut self, name: &str) -> Result<BTreeMap<String, String>> {
        let items = match self.take(name) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(items)) => items,
            Some(other) => return Err(type_mismatch(&other, name, "map[string]string")),
        };
        items.into_iter().map(|(key, value)| Ok((key, into_string(value, name)?))).collect()
    }

    /// Header lists: one value per pair.
    pub(crate) fn header_lists(&mut self, name: &str) -> Result<Vec<(String, String)>> {
        let mut pairs = Vec::new();
        let mut lists = self.object(name)?;
        let keys: Vec<String> = lists.0.keys().cloned().collect();
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
            Some(other) => Err(type_mismatch(&other, name, "time.Duration")),
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
        let Some(value) = self.take(name) else { return Ok(None) };
        Self::from_value(value, || format!("Go struct field .{name} of type struct")).map(Some)
    }

    /// A list of objects.
    pub(crate) fn objects(&mut self, name: &str) -> Result<Vec<Self>> {
        let items = match self.take(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(other) => return Err(type_mismatch(&other, name, "structs.CheckTypes")),
        };
        items
            .into_iter()
            .map(|item| Self::from_value(item, || format!("Go struct field .{name} of type struct")))
            .collect()
    }

    /// Every entry as a nested object, for maps with data as keys.
    pub(crate) fn entries(self, of: &str) -> Result<Vec<(String, Self)>> {
        let into = || format!("Go struct field .{of} of type structs.ServiceAddress");
        self.0.into_iter().map(|(key, value)| Ok((key, Self::from_value(value, into)?))).collect()
    }

    /// Refuses a remaining field.
    pub(crate) fn finish(self) -> Result<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => Err(decode_error(&format!("json: unknown field {key:?}"))),
        }
    }
}

fn into_string(value: Value, field: &str) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Ok(String::new()),
        other => Err(type_mismatch(&other, field, "string")),
    }
}

fn decode_error(reason: &str) -> DecodeError {
    DecodeError(format!("Request decode failed: {reason}"))
}

fn type_mismatch(value: &Value, field: &str, wanted: &str) -> DecodeError {
    let shown = match value {
        // Go shows the number where an integer is expected.
        Value::Number(number) if wanted == "int" => format!("number {number}"),
        other => json_type(other).to_owned(),
    };
    decode_error(&format!("json: cannot unmarshal {shown} into Go struct field .{field} of type {wanted}"))
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
            assert_eq!(decode_reason(body), format!("Request decode failed: {reason}"), "{body}");
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
