//! The content of a file: the value of a key, the keys below a prefix as one document, or the merged configuration.

use std::{collections::HashSet, sync::Arc};

use outrigger_app_config::{
    ConfigPart, ConfigState, ConfigView, EnvQuoting, KvEntries, LastGoodDocuments, PrefixView, PrefixWatches,
    ProblemReason, RenderedConfig, ViewProblem,
};
use outrigger_config::{ConfigContext, ConfigFile, ConfigFormat, KvLayout};
use tokio::{
    sync::watch,
    time::{Duration, sleep},
};
use tracing::warn;

use super::keeper::{ContentSource, FileContent};

/// Pause before a prefix that is not followed is looked for again: a reload replaces the watches.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

/// The content of a file from what is known of the registry's KV.
#[derive(Debug)]
pub(crate) struct KvContent {
    of: ContentOrigin,
    format: ConfigFormat,
    /// Problems that are in the log.
    told: HashSet<String>,
}

#[derive(Debug)]
enum ContentOrigin {
    /// A prefix of the file's own.
    Prefix(OwnPrefix),
    /// What `GET /v1/config` answers, too.
    Merged(watch::Receiver<Arc<ConfigState>>),
}

#[derive(Debug)]
struct OwnPrefix {
    watches: Arc<PrefixWatches>,
    prefix: String,
    /// Absent: the prefix is not followed now.
    view: Option<watch::Receiver<Arc<PrefixView>>>,
}

impl KvContent {
    /// `merged`: for a file without a prefix of its own.
    pub(crate) fn open(
        watches: &Arc<PrefixWatches>,
        merged: watch::Receiver<Arc<ConfigState>>,
        file: &ConfigFile,
    ) -> Self {
        let of = match &file.prefix {
            Some(prefix) => ContentOrigin::Prefix(OwnPrefix {
                watches: watches.clone(),
                prefix: prefix.clone(),
                view: watches.view(prefix),
            }),
            None => ContentOrigin::Merged(merged),
        };
        Self { of, format: file.format, told: HashSet::new() }
    }

    /// The bytes, and whether they are of an earlier run.
    fn read(&mut self) -> Result<(Vec<u8>, bool), FileContent> {
        let (format, told) = (self.format, &mut self.told);
        match &mut self.of {
            ContentOrigin::Prefix(own) => {
                let (entries, is_of_earlier_run) = own.entries()?;
                let bytes = match format {
                    ConfigFormat::Value => value_of(&own.prefix, &entries),
                    _ => document_of(&own.prefix, &entries, format, told).map(String::into_bytes),
                };
                Ok((bytes.map_err(FileContent::None)?, is_of_earlier_run))
            }
            ContentOrigin::Merged(state) => {
                let state = state.borrow_and_update().clone();
                let Some(known) = &state.known else { return Err(unknown_part(&state)) };
                let text = merged_text(&state.parts, &known.view, format, told).map_err(FileContent::None)?;
                let is_of_earlier_run = state.parts.iter().any(|part| is_of_earlier_run(&part.prefix));
                Ok((text.into_bytes(), is_of_earlier_run))
            }
        }
    }
}

fn is_of_earlier_run(view: &PrefixView) -> bool {
    view.answered.is_none()
}

/// The registry has not been heard of a prefix.
fn unknown(prefix: &str, failure: Option<&str>) -> FileContent {
    let why = format!("the registry has not answered for {prefix} yet");
    match failure {
        None => FileContent::Awaited(why),
        Some(failure) => FileContent::None(format!("{why}: {failure}")),
    }
}

/// Why there is no merged configuration.
fn unknown_part(state: &ConfigState) -> FileContent {
    let part = state.unknown().next();
    // A reload follows other parts in a moment.
    part.map_or_else(
        || FileContent::Awaited("no source is followed".to_owned()),
        |part| unknown(&part.context.prefix, part.prefix.failure.as_deref()),
    )
}

fn value_of(key: &str, entries: &KvEntries) -> Result<Vec<u8>, String> {
    let entry = entries.get(key).map(|entry| entry.value.clone());
    entry.ok_or_else(|| format!("the registry has no key {key}"))
}

fn document_of(
    prefix: &str,
    entries: &KvEntries,
    format: ConfigFormat,
    told: &mut HashSet<String>,
) -> Result<String, String> {
    if entries.is_empty() {
        return Err(format!("the registry has no key at {prefix}"));
    }
    let context = ConfigContext { prefix: prefix.to_owned(), layout: KvLayout::Keys };
    // Keys are no documents, so there is no last good one.
    let view = ConfigView::of_contexts([(&context, entries)], &mut LastGoodDocuments::default());
    let RenderedConfig { text, problems } = render(&view, format)?;
    tell(told, view.problems().iter().chain(&problems));
    Ok(text)
}

fn merged_text(
    parts: &[ConfigPart],
    view: &ConfigView,
    format: ConfigFormat,
    told: &mut HashSet<String>,
) -> Result<String, String> {
    let is_empty = |part: &ConfigPart| part.prefix.entries.as_ref().is_none_or(|entries| entries.is_empty());
    if parts.iter().all(is_empty) {
        let prefixes: Vec<_> = parts.iter().map(|part| part.context.prefix.as_str()).collect();
        return Err(format!("the registry has no key at {}", prefixes.join(", ")));
    }
    let is_document = |problem: &ViewProblem| {
        let is_of = |part: &ConfigPart| {
            part.context.layout != KvLayout::Keys && problem.key.starts_with(&part.context.prefix)
        };
        problem.reason == ProblemReason::WrongDocument
            || (problem.reason == ProblemReason::NotText && parts.iter().any(is_of))
    };
    // Not a part of the configuration as if it were all.
    if let Some(problem) = view.problems().iter().find(|one| is_document(one) && one.in_effect.is_none()) {
        return Err(format!("{}, index {}: {}", problem.key, problem.index, problem.detail));
    }
    // The problems of the view were told by the merge.
    let RenderedConfig { text, problems } = render(view, format)?;
    tell(told, problems.iter());
    Ok(text)
}

fn render(view: &ConfigView, format: ConfigFormat) -> Result<RenderedConfig, String> {
    view.render(format, EnvQuoting::WhereNeeded)
        .ok_or_else(|| "the format is one of a single value".to_owned())
}

/// Logs what is new.
fn tell<'a>(told: &mut HashSet<String>, problems: impl Iterator<Item = &'a ViewProblem>) {
    let mut now = HashSet::new();
    for ViewProblem { key, index, detail, in_effect, .. } in problems {
        let text = format!("{key} {index} {detail}");
        if !told.contains(&text) {
            warn!(key, index, in_effect, detail, "a key of the app's configuration is not used as it is");
        }
        now.insert(text);
    }
    *told = now;
}

impl OwnPrefix {
    /// The entries, and whether they are of an earlier run.
    fn entries(&mut self) -> Result<(Arc<KvEntries>, bool), FileContent> {
        let Some(view) = &mut self.view else { return Err(unknown(&self.prefix, None)) };
        let view = view.borrow_and_update().clone();
        match &view.entries {
            Some(entries) => Ok((entries.clone(), is_of_earlier_run(&view))),
            None => Err(unknown(&self.prefix, view.failure.as_deref())),
        }
    }

    async fn changed(&mut self) {
        if let Some(view) = &mut self.view
            && view.changed().await.is_ok()
        {
            return;
        }
        self.view = None;
        loop {
            sleep(REOPEN_PAUSE).await;
            if let Some(view) = self.watches.view(&self.prefix) {
                self.view = Some(view);
                return;
            }
        }
    }
}

impl ContentSource for KvContent {
    fn now(&mut self) -> FileContent {
        match self.read() {
            Ok((bytes, is_of_earlier_run)) => FileContent::Known { bytes: bytes.into(), is_of_earlier_run },
            Err(none) => none,
        }
    }

    async fn changed(&mut self) {
        match &mut self.of {
            ContentOrigin::Prefix(own) => own.changed().await,
            ContentOrigin::Merged(state) => {
                if state.changed().await.is_err() {
                    std::future::pending().await
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_app_config::{ConfigWatch, PrefixStore};
    use outrigger_events::Events;
    use outrigger_registry::testing::{PendingKvQuestion, ScriptedKv};
    use tokio::{sync::mpsc, time::timeout};

    use super::*;

    struct Rig {
        watches: Arc<PrefixWatches>,
        merged: ConfigWatch,
        questions: mpsc::UnboundedReceiver<PendingKvQuestion>,
    }

    impl Rig {
        fn new(prefixes: &[&str]) -> Self {
            let rig = Self::with_documents(PrefixStore::none());
            rig.follow(prefixes);
            rig
        }

        /// `documents`: where the last good ones are.
        fn with_documents(documents: PrefixStore) -> Self {
            let (kv, questions) = ScriptedKv::new();
            let watches = PrefixWatches::new(kv, || Duration::from_secs(60), PrefixStore::none());
            let merged = ConfigWatch::new(documents, Events::default(), &prometheus::Registry::new());
            Self { watches: Arc::new(watches), merged: merged.unwrap(), questions }
        }

        fn follow(&self, prefixes: &[&str]) {
            let prefixes: Vec<_> = prefixes.iter().map(|prefix| prefix.to_string()).collect();
            self.watches.follow(&prefixes, false);
        }

        /// Follows these sources, too.
        fn merge(&self, sources: &[(&str, KvLayout)]) {
            self.follow(&sources.iter().map(|(prefix, _)| *prefix).collect::<Vec<_>>());
            let part = |(prefix, layout): &(&str, KvLayout)| {
                let context = ConfigContext { prefix: prefix.to_string(), layout: *layout };
                (context, self.watches.view(prefix).unwrap())
            };
            self.merged.follow(sources.iter().map(part).collect(), true);
        }

        fn open(&self, prefix: Option<&str>, format: ConfigFormat) -> KvContent {
            let file = ConfigFile {
                prefix: prefix.map(str::to_owned),
                path: "/run/app".into(),
                format,
                mode: 0o600,
                wait: Duration::ZERO,
                required: false,
                on_change: None,
            };
            KvContent::open(&self.watches, self.merged.state(), &file)
        }

        /// Answers the next question about the prefix; those about others are answered as they were.
        async fn answer(&mut self, prefix: &str, index: u64, all: &[(&str, u64, &str)]) {
            loop {
                let question = timeout(Duration::from_secs(3_600), self.questions.recv()).await;
                let question = question.expect("a question").expect("a watch");
                if question.prefix == prefix {
                    return question.answer(index, all);
                }
                drop(question);
            }
        }
    }

    /// The text of the next content, or why there is none.
    async fn next(content: &mut KvContent) -> Result<String, String> {
        timeout(Duration::from_secs(3_600), content.changed()).await.expect("a change");
        match content.now() {
            FileContent::Known { bytes, .. } => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            FileContent::None(why) | FileContent::Awaited(why) => Err(why),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_value_of_one_key_is_written_as_it_is() {
        let mut rig = Rig::new(&["certs/orders.pem"]);
        let mut content = rig.open(Some("certs/orders.pem"), ConfigFormat::Value);
        let unknown = "the registry has not answered for certs/orders.pem yet".to_owned();
        assert_eq!(content.now(), FileContent::Awaited(unknown));
        rig.answer("certs/orders.pem", 5, &[("/below", 4, "another key")]).await;
        assert_eq!(next(&mut content).await, Err("the registry has no key certs/orders.pem".into()));
        rig.answer("certs/orders.pem", 6, &[("", 6, "-----BEGIN"), ("/below", 4, "")]).await;
        assert_eq!(next(&mut content).await, Ok("-----BEGIN".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_keys_below_a_prefix_are_written_in_each_format() {
        let keys = [("db/url", 3, "a b"), ("port", 4, "8080")];
        for (format, expected) in [
            (ConfigFormat::Env, "DB_URL='a b'\nPORT=8080\n"),
            (ConfigFormat::Yaml, "db:\n  url: \"a b\"\nport: \"8080\"\n"),
            (ConfigFormat::Properties, "db.url=a b\nport=8080\n"),
            (ConfigFormat::Json, "{\n  \"db\": {\n    \"url\": \"a b\"\n  },\n  \"port\": \"8080\"\n}\n"),
        ] {
            let mut rig = Rig::new(&["config/orders/"]);
            let mut content = rig.open(Some("config/orders/"), format);
            rig.answer("config/orders/", 9, &keys).await;
            assert_eq!(next(&mut content).await.as_deref(), Ok(expected), "{format:?}");
        }
    }

    /// The next content that is no wait for an answer.
    async fn answered(content: &mut KvContent) -> Result<String, String> {
        loop {
            let found = next(content).await;
            if !found.as_ref().is_err_and(|why| why.contains("has not answered")) {
                return found;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_merged_configuration_needs_an_answer_for_every_part_and_no_wrong_document() {
        let (keys, blob) = ("config/orders/", "config/shared");
        let mut rig = Rig::new(&[]);
        rig.merge(&[(keys, KvLayout::Keys)]);
        let mut content = rig.open(None, ConfigFormat::Properties);
        // A part that is followed later, as after a reload.
        rig.merge(&[(keys, KvLayout::Keys), (blob, KvLayout::Yaml)]);
        rig.answer(keys, 9, &[("a", 3, "1")]).await;
        let missing = next(&mut content).await.unwrap_err();
        assert!(missing.contains("has not answered"), "{missing}");
        rig.answer(blob, 9, &[("", 8, "a: [1")]).await;
        let wrong = answered(&mut content).await.unwrap_err();
        assert!(wrong.starts_with("config/shared, index 8: "), "{wrong}");
        rig.answer(blob, 10, &[("", 10, "a: 2\nb: 3\n")]).await;
        assert_eq!(next(&mut content).await, Ok("a=1\nb=3\n".into()));
        // The last good version of a document stays.
        rig.answer(blob, 11, &[("", 11, "a: [1")]).await;
        assert_eq!(next(&mut content).await, Ok("a=1\nb=3\n".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_version_of_a_document_is_that_of_the_api_also_in_a_later_run() {
        let folder = tempfile::tempdir().unwrap();
        let documents =
            || PrefixStore::at(folder.path(), "orders-good", "a registry", || Duration::from_secs(1 << 30));
        let source = ("config/orders", KvLayout::Yaml);
        let mut first = Rig::with_documents(documents());
        first.merge(&[source]);
        let mut content = first.open(None, ConfigFormat::Properties);
        first.answer(source.0, 9, &[("", 8, "a: 1\n")]).await;
        assert_eq!(answered(&mut content).await, Ok("a=1\n".into()));
        // It is on disk after an orderly stop.
        first.merged.stop().await;

        let mut second = Rig::with_documents(documents());
        second.merge(&[source]);
        let mut content = second.open(None, ConfigFormat::Properties);
        second.answer(source.0, 12, &[("", 11, "a: [1")]).await;
        assert_eq!(answered(&mut content).await, Ok("a=1\n".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_prefix_without_keys_is_no_content() {
        let mut rig = Rig::new(&["config/orders/"]);
        let mut content = rig.open(Some("config/orders/"), ConfigFormat::Json);
        rig.answer("config/orders/", 9, &[]).await;
        assert_eq!(next(&mut content).await, Err("the registry has no key at config/orders/".into()));
    }
}
