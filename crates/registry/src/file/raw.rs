//! The serde shape of the file: the only place here that knows how YAML is read.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_saphyr::Spanned;

/// Reads a whole file. An empty one is an empty document.
pub(super) fn document(text: &str) -> Result<Document, serde_saphyr::Error> {
    // A mark that some editors put first; YAML counts it as nothing, its columns do not.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document: Option<Document> = serde_saphyr::from_str_with_options(text, options())?;
    Ok(document.unwrap_or_default())
}

fn options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    // Messages are one line; the place is told apart.
    options.with_snippet = false;
    options
}

/// The instances of a service, each with its place.
type Instances = Vec<Spanned<Raw>>;

/// The whole file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) services: Option<BTreeMap<String, Spanned<Option<Instances>>>>,
}

/// One instance, in either form.
pub(super) enum Raw {
    Short(String),
    Full(Box<Full>),
}

/// The long form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Full {
    pub(super) address: Spanned<String>,
    pub(super) port: Spanned<i64>,
    pub(super) id: Option<Spanned<String>>,
    pub(super) weight: Option<Spanned<i64>>,
    pub(super) tags: Option<Vec<String>>,
    pub(super) meta: Option<BTreeMap<String, String>>,
    pub(super) status: Option<Spanned<String>>,
}

/// By hand: serde's untagged enums forget the places.
impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an instance: `address:port`, or a map with address and port")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Raw, E> {
                Ok(Raw::Short(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Raw, A::Error> {
                Full::deserialize(MapAccessDeserializer::new(map)).map(|full| Raw::Full(Box::new(full)))
            }
        }

        deserializer.deserialize_any(Either)
    }
}
