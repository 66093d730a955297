//! The parts of the settings, with the entries of each → the merged configuration; and the formats that the settings name.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_config::{ConfigContext, ConfigFormat, KvLayout};
use outrigger_registry::KvEntry;

use super::{
    env::EnvQuoting,
    merge::ConfigView,
    property::ViewProblem,
    source::{BlobFormat, LastGoodDocuments, SourceProperties},
};

/// The configuration as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedConfig {
    /// The text, with a line feed at its end where it is not empty.
    pub text: String,
    /// Properties that this format does not have.
    pub problems: Vec<ViewProblem>,
}

impl ConfigView {
    /// Merges parts, most specific first, each with the entries that its prefix names. `last_good` is brought up to date.
    pub fn of_contexts<'a>(
        parts: impl IntoIterator<Item = (&'a ConfigContext, &'a BTreeMap<String, Arc<KvEntry>>)>,
        last_good: &mut LastGoodDocuments,
    ) -> Self {
        let mut read = LastGoodDocuments(std::mem::take(&mut last_good.0));
        let mut sources = Vec::new();
        for (context, entries) in parts {
            sources.push(read_context(context, entries, &mut read));
            // A document that is gone has no good version.
            let present = read.0.iter().filter(|(key, _)| entries.contains_key(*key));
            last_good.0.extend(present.map(|(key, entry)| (key.clone(), entry.clone())));
        }
        Self::merge(sources)
    }

    /// The keys below one prefix, a key for each property.
    pub fn of_prefix(prefix: &str, entries: &BTreeMap<String, Arc<KvEntry>>) -> Self {
        Self::merge(vec![SourceProperties::of_keys(prefix, entries.values())])
    }

    /// The configuration in a format. `None`: [`ConfigFormat::Value`] is not a format of properties.
    pub fn render(&self, format: ConfigFormat, quoting: EnvQuoting) -> Option<RenderedConfig> {
        let whole = |text| RenderedConfig { text, problems: Vec::new() };
        Some(match format {
            ConfigFormat::Json => whole(self.to_json()),
            ConfigFormat::Yaml => whole(self.to_yaml()),
            ConfigFormat::Properties => whole(self.to_properties()),
            ConfigFormat::Env => {
                let (text, problems) = self.to_env(quoting);
                RenderedConfig { text, problems }
            }
            ConfigFormat::Value => return None,
        })
    }
}

fn read_context(
    context: &ConfigContext,
    entries: &BTreeMap<String, Arc<KvEntry>>,
    last_good: &mut LastGoodDocuments,
) -> SourceProperties {
    let format = match context.layout {
        KvLayout::Keys => return SourceProperties::of_keys(&context.prefix, entries.values()),
        KvLayout::Files => return SourceProperties::of_files(&context.prefix, entries.values(), last_good),
        KvLayout::Yaml => BlobFormat::Yaml,
        KvLayout::Properties => BlobFormat::Properties,
        KvLayout::Json => BlobFormat::Json,
    };
    let entry = context.blob_key().and_then(|key| entries.get(&key));
    entry.map_or_else(SourceProperties::default, |entry| SourceProperties::of_blob(format, entry, last_good))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(all: &[(&str, &str)]) -> BTreeMap<String, Arc<KvEntry>> {
        let entry = |(number, (key, value)): (u64, &(&str, &str))| {
            let entry = KvEntry {
                key: key.to_string(),
                value: value.as_bytes().to_vec(),
                flags: 0,
                session: None,
                lock_index: 0,
                create_index: 1,
                modify_index: number,
            };
            (key.to_string(), Arc::new(entry))
        };
        (1..).zip(all).map(entry).collect()
    }

    fn context(prefix: &str, layout: KvLayout) -> ConfigContext {
        ConfigContext { prefix: prefix.to_owned(), layout }
    }

    #[test]
    fn each_part_is_read_by_its_layout_and_the_first_wins() {
        let parts = [
            (
                context("config/orders,prod/data", KvLayout::Yaml),
                entries(&[("config/orders,prod/data", "a: 1\n")]),
            ),
            (
                context("config/orders/", KvLayout::Json),
                entries(&[("config/orders/data", r#"{"a": 2, "b": 2}"#), ("config/orders/x", "y")]),
            ),
            (
                context("config/orders.properties", KvLayout::Properties),
                entries(&[("config/orders.properties", "b=3\nc=3")]),
            ),
            (context("repo/", KvLayout::Files), entries(&[("repo/a.yml", "c: 4\nd: 4\n")])),
            (
                context("config/application/", KvLayout::Keys),
                entries(&[("config/application/d", "5"), ("config/application/e/f", "5")]),
            ),
            (context("nothing/data", KvLayout::Yaml), entries(&[])),
        ];
        let mut last_good = LastGoodDocuments::default();
        let view = ConfigView::of_contexts(
            parts.iter().map(|(context, entries)| (context, entries)),
            &mut last_good,
        );
        assert_eq!(view.to_json_line(), r#"{"a":1,"b":2,"c":"3","d":4,"e":{"f":"5"}}"#);
        assert_eq!(last_good.0.len(), 4);
        let text = |format| view.render(format, EnvQuoting::default()).map(|rendered| rendered.text);
        assert_eq!(text(ConfigFormat::Properties).unwrap(), "a=1\nb=2\nc=3\nd=4\ne.f=5\n");
        assert_eq!(text(ConfigFormat::Env).unwrap(), "A=1\nB=2\nC=3\nD=4\nE_F=5\n");
        assert_eq!(text(ConfigFormat::Yaml).unwrap(), "a: 1\nb: 2\nc: \"3\"\nd: 4\ne:\n  f: \"5\"\n");
        assert_eq!(text(ConfigFormat::Value), None);
    }

    #[test]
    fn the_last_good_version_stays_until_the_document_is_gone() {
        let part = context("a/data", KvLayout::Yaml);
        let mut last_good = LastGoodDocuments::default();
        let mut view = |all: &[(&str, &str)]| {
            ConfigView::of_contexts([(&part, &entries(all))], &mut last_good).to_json_line()
        };
        assert_eq!(view(&[("a/data", "x: 1\n")]), r#"{"x":1}"#);
        assert_eq!(view(&[("a/data", "x: [")]), r#"{"x":1}"#);
        assert_eq!(view(&[]), "{}");
        assert_eq!(view(&[("a/data", "x: [")]), "{}");
    }
}
