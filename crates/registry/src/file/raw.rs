//! The serde types of the file. Only this module depends on the YAML parser.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_saphyr::Spanned;

/// Reads a whole file. An empty one is an empty document.
pub(super) fn parse_document(text: &str) -> Result<RawDocument, serde_saphyr::Error> {
    // A byte order mark, which some editors write: YAML ignores it, but it moves the columns.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document: Option<RawDocument> = serde_saphyr::from_str_with_options(text, parser_options())?;
    Ok(document.unwrap_or_default())
}

fn parser_options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    // Messages are one line; line and column are reported separately.
    options.with_snippet = false;
    options
}

/// The instances of a service, each with its line and column.
type RawInstances = Vec<Spanned<RawInstance>>;

/// The whole file. Keys `x-…` hold what other keys refer to, as at the top of the settings.
#[derive(Default)]
pub(super) struct RawDocument {
    pub(super) services: Option<BTreeMap<String, Spanned<Option<RawInstances>>>>,
}

/// A key at the top of the file.
enum TopKey {
    Services,
    Extension,
}

impl<'de> Deserialize<'de> for TopKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl Visitor<'_> for KeyVisitor {
            type Value = TopKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`services`, or a key `x-…` for anchors")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<TopKey, E> {
                match name {
                    "services" => Ok(TopKey::Services),
                    name if name.starts_with("x-") => Ok(TopKey::Extension),
                    name => Err(E::unknown_field(name, &["services"])),
                }
            }
        }

        deserializer.deserialize_identifier(KeyVisitor)
    }
}

impl<'de> Deserialize<'de> for RawDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopVisitor;

        impl<'de> Visitor<'de> for TopVisitor {
            type Value = RawDocument;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map with `services`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawDocument, A::Error> {
                let mut document = RawDocument::default();
                while let Some(key) = map.next_key()? {
                    match key {
                        TopKey::Services => document.services = map.next_value()?,
                        TopKey::Extension => _ = map.next_value::<IgnoredAny>()?,
                    }
                }
                Ok(document)
            }
        }

        deserializer.deserialize_map(TopVisitor)
    }
}

/// One instance, in either form.
pub(super) enum RawInstance {
    Short(String),
    Full(Box<FullForm>),
}

/// The long form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FullForm {
    pub(super) address: Spanned<String>,
    pub(super) port: Spanned<i64>,
    pub(super) id: Option<Spanned<String>>,
    pub(super) weight: Option<Spanned<i64>>,
    pub(super) tags: Option<Vec<Spanned<String>>>,
    pub(super) meta: Option<BTreeMap<String, String>>,
    pub(super) status: Option<Spanned<String>>,
}

/// By hand, because the untagged enums of serde lose line and column.
impl<'de> Deserialize<'de> for RawInstance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EitherForm;

        impl<'de> Visitor<'de> for EitherForm {
            type Value = RawInstance;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an instance: `address:port`, or a map with address and port")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawInstance, E> {
                Ok(RawInstance::Short(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawInstance, A::Error> {
                FullForm::deserialize(MapAccessDeserializer::new(map))
                    .map(|full| RawInstance::Full(Box::new(full)))
            }
        }

        deserializer.deserialize_any(EitherForm)
    }
}
