//! `null` in the JSON of Consul: Go writes an empty list or map so.

use serde::{Deserialize, Deserializer};

/// `null` is the default value.
pub(crate) fn or_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(
    value: D,
) -> Result<T, D::Error> {
    Option::deserialize(value).map(Option::unwrap_or_default)
}
