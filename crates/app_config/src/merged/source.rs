//! What a source gives: entries of the KV → properties with their origins.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_config::DataError;
use outrigger_registry::KvEntry;

use super::{
    properties::read_properties,
    property::{ProblemReason, PropertyOrigin, ViewProblem},
    value::{FlatDocument, MAX_NAME_BYTES, PropertyValue, read_json, read_yaml},
};

/// Largest document, bytes: the largest value that Consul takes.
const MAX_BLOB_BYTES: usize = 512 * 1024;
/// The key that keeps a prefix from being empty, which is no property.
const MARKER_KEY: &str = ".outrigger";

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobFormat {
    /// YAML, each document of which wins over those before it.
    Yaml,
    /// JSON.
    Json,
    /// Java properties.
    Properties,
}

impl BlobFormat {
    /// By the ending of the name of a file: `yml`, `yaml`, `json` or `properties`.
    pub fn of_file(name: &str) -> Option<Self> {
        let (_, ending) = name.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "yml" | "yaml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            "properties" => Some(Self::Properties),
            _ => None,
        }
    }

    fn read(self, text: &str) -> Result<Vec<FlatDocument>, DataError> {
        match self {
            Self::Yaml => read_yaml(text),
            Self::Json => read_json(text),
            Self::Properties => {
                let text_of = |(name, value)| (name, PropertyValue::Text(value));
                Ok(vec![read_properties(text)?.into_iter().map(text_of).collect()])
            }
        }
    }
}

/// Properties of one rank: the keys of a source, or one document. Of two with one name the later one counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PropertyLayer {
    /// Name, value, origin.
    pub properties: Vec<(String, PropertyValue, Arc<PropertyOrigin>)>,
}

/// What a source gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceProperties {
    /// Most specific first.
    pub layers: Vec<PropertyLayer>,
    /// Keys that give nothing, or less than they have.
    pub problems: Vec<ViewProblem>,
}

/// The last good version of each document, by its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastGoodDocuments(pub BTreeMap<String, Arc<KvEntry>>);

impl SourceProperties {
    /// A key for each property: `/` below the prefix becomes `.`. `entries`: those that the prefix names.
    pub fn of_keys<'a>(prefix: &str, entries: impl IntoIterator<Item = &'a Arc<KvEntry>>) -> Self {
        let mut out = Self::default();
        let mut layer = PropertyLayer::default();
        for entry in entries {
            let Some(name) = name_of_key(prefix, &entry.key) else { continue };
            let origin = origin_of(entry);
            let problem = |reason, detail| ViewProblem {
                key: entry.key.clone(),
                index: entry.modify_index,
                reason,
                detail,
                in_effect: None,
            };
            match std::str::from_utf8(&entry.value) {
                _ if name.len() > MAX_NAME_BYTES => {
                    let detail = format!("the name of the property is longer than {MAX_NAME_BYTES} bytes");
                    out.problems.push(problem(ProblemReason::NameTooLong, detail));
                }
                Ok(text) => layer.properties.push((name, PropertyValue::Text(text.to_owned()), origin)),
                Err(_) => {
                    let detail = "the value is not UTF-8; a property is text".to_owned();
                    out.problems.push(problem(ProblemReason::NotText, detail));
                }
            }
        }
        out.layers.push(layer);
        out
    }

    /// One document. A wrong one gives what its last good version has.
    pub fn of_blob(format: BlobFormat, entry: &Arc<KvEntry>, last_good: &mut LastGoodDocuments) -> Self {
        let (layers, problem) = match read_blob(format, &entry.value) {
            Ok(layers) => {
                last_good.0.insert(entry.key.clone(), entry.clone());
                (with_origin(layers, &origin_of(entry)), None)
            }
            Err((reason, detail)) => {
                let good = last_good.0.get(&entry.key).and_then(|good| {
                    Some((
                        good.modify_index,
                        with_origin(read_blob(format, &good.value).ok()?, &origin_of(good)),
                    ))
                });
                let (in_effect, layers) = good.unzip();
                let layers = layers.unwrap_or_default();
                let key = entry.key.clone();
                let problem = ViewProblem { key, index: entry.modify_index, reason, detail, in_effect };
                (layers, Some(problem))
            }
        };
        Self { layers, problems: problem.into_iter().collect() }
    }

    /// Files, a key each: the ending of the key says what it is, and the file wins that is last in the order of the keys. `entries`: those
    /// that the prefix names, in the order of their keys.
    pub fn of_files<'a>(
        prefix: &str,
        entries: impl IntoIterator<Item = &'a Arc<KvEntry>>,
        last_good: &mut LastGoodDocuments,
    ) -> Self {
        let mut out = Self::default();
        let mut of_files = Vec::new();
        for entry in entries {
            let is_prefix = entry.key == prefix && !prefix.ends_with('/');
            if !is_prefix && name_of_key(prefix, &entry.key).is_none() {
                continue;
            }
            let Some(format) = BlobFormat::of_file(&entry.key) else {
                out.problems.push(ViewProblem {
                    key: entry.key.clone(),
                    index: entry.modify_index,
                    reason: ProblemReason::UnknownEnding,
                    detail: "the key does not end with .yml, .yaml, .json or .properties".to_owned(),
                    in_effect: None,
                });
                continue;
            };
            let mut of_file = Self::of_blob(format, entry, last_good);
            of_files.push(of_file.layers);
            out.problems.append(&mut of_file.problems);
        }
        out.layers = of_files.into_iter().rev().flatten().collect();
        out
    }
}

/// The property of a key below `prefix`. `None`: it is a folder, the prefix itself, or the marker.
fn name_of_key(prefix: &str, key: &str) -> Option<String> {
    let below = key.strip_prefix(prefix)?;
    let below = if prefix.ends_with('/') { below } else { below.strip_prefix('/')? };
    let is_property = !below.is_empty() && !below.ends_with('/') && below != MARKER_KEY;
    is_property.then(|| below.replace('/', "."))
}

fn origin_of(entry: &KvEntry) -> Arc<PropertyOrigin> {
    Arc::new(PropertyOrigin { key: entry.key.clone(), index: entry.modify_index })
}

/// A later document of one text wins.
fn with_origin(documents: Vec<FlatDocument>, origin: &Arc<PropertyOrigin>) -> Vec<PropertyLayer> {
    let layer = |properties: FlatDocument| {
        let with = |(name, value)| (name, value, origin.clone());
        PropertyLayer { properties: properties.into_iter().map(with).collect() }
    };
    documents.into_iter().rev().map(layer).collect()
}

fn read_blob(format: BlobFormat, value: &[u8]) -> Result<Vec<FlatDocument>, (ProblemReason, String)> {
    if value.len() > MAX_BLOB_BYTES {
        let detail = format!("the document has more than {MAX_BLOB_BYTES} bytes");
        return Err((ProblemReason::WrongDocument, detail));
    }
    let text = std::str::from_utf8(value).map_err(|error| {
        let detail = format!("the document is not UTF-8 from byte {} on", error.valid_up_to());
        (ProblemReason::NotText, detail)
    })?;
    format.read(text).map_err(|error| (ProblemReason::WrongDocument, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: impl AsRef<[u8]>, index: u64) -> Arc<KvEntry> {
        Arc::new(KvEntry {
            key: key.to_owned(),
            value: value.as_ref().to_vec(),
            flags: 0,
            session: None,
            lock_index: 0,
            create_index: 1,
            modify_index: index,
        })
    }

    fn shown(source: &SourceProperties) -> String {
        let property = |(name, value, origin): &(String, PropertyValue, Arc<PropertyOrigin>)| {
            format!("{name}={}@{}", value.as_text().unwrap_or_default(), origin.index)
        };
        let layers = source
            .layers
            .iter()
            .map(|layer| layer.properties.iter().map(property).collect::<Vec<_>>().join(" "));
        let problems = source.problems.iter().map(|problem| {
            format!("{}@{} {} {:?}", problem.key, problem.index, problem.reason.as_str(), problem.in_effect)
        });
        layers.chain(problems).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn keys_below_the_prefix_are_dotted_names() {
        let all = [
            entry("config/orders/", "", 1),
            entry("config/orders/.outrigger", "", 2),
            entry("config/orders/db/url", "x", 3),
            entry("config/orders/db/", "", 4),
            entry("config/orders/db/config/orders/url", "y", 5),
            entry("config/orders/hosts[0]", "é", 6),
            entry("config/orders/key", b"\xff\xfe", 7),
            entry(&format!("config/orders/{}", "n".repeat(1025)), "", 8),
            entry("config/orders/empty", "", 9),
        ];
        let source = SourceProperties::of_keys("config/orders/", &all);
        let expected = "db.url=x@3 db.config.orders.url=y@5 hosts[0]=é@6 empty=@9 | config/orders/key@7 not_text None | ";
        let got = shown(&source);
        assert!(got.starts_with(expected), "{got}");
        assert!(got.ends_with("n@8 name_too_long None"), "{got}");
        // A prefix without the slash names the same keys.
        assert_eq!(SourceProperties::of_keys("config/orders", &all), source);
    }

    #[test]
    fn a_wrong_document_gives_its_last_good_version() {
        let mut last_good = LastGoodDocuments::default();
        let mut read = |text: &[u8], index| {
            shown(&SourceProperties::of_blob(BlobFormat::Yaml, &entry("k", text, index), &mut last_good))
        };
        assert_eq!(read(b"a: [", 1), "k@1 wrong_document None");
        assert_eq!(read(b"a: 1\n", 2), "a=1@2");
        assert_eq!(read(b"a: [", 3), "a=1@2 | k@3 wrong_document Some(2)");
        assert_eq!(read(b"a: \xff", 4), "a=1@2 | k@4 not_text Some(2)");
        assert_eq!(read(&vec![b'#'; 512 * 1024 + 1], 5), "a=1@2 | k@5 wrong_document Some(2)");
        assert_eq!(read(b"a: 1\n---\na: 2\n", 6), "a=2@6 | a=1@6");
        assert_eq!(read(b"", 7), "");
    }

    #[test]
    fn the_last_file_in_the_alphabet_wins() {
        let all = [
            entry("repo/master/", "", 1),
            entry("repo/master/10.yml", "a: 1\n", 2),
            entry("repo/master/20.properties", "a=2", 3),
            entry("repo/master/30.JSON", r#"{"a": 3}"#, 4),
            entry("repo/master/40.yaml", "a: [", 5),
            entry("repo/master/README.md", "", 6),
            entry("repo/master/sub/50.yml", "b: 5", 7),
        ];
        let source = SourceProperties::of_files("repo/master/", &all, &mut LastGoodDocuments::default());
        let expected = "b=5@7 | a=3@4 | a=2@3 | a=1@2 | repo/master/40.yaml@5 wrong_document None | repo/master/README.md@6 unknown_ending None";
        assert_eq!(shown(&source), expected);
    }
}
