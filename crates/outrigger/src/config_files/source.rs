//! The content of a file: the value of a key, or keys and documents of the KV as one document.

use std::{collections::HashSet, sync::Arc};

use futures_util::future::select_all;
use outrigger_app_config::{
    ConfigView, EnvQuoting, KvEntries, LastGoodDocuments, PrefixView, PrefixWatches, ProblemReason,
    RenderedConfig, ViewProblem,
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

/// The content of a file from what is known of its prefixes.
#[derive(Debug)]
pub(crate) struct KvContent {
    watches: Arc<PrefixWatches>,
    parts: Vec<PartOfContent>,
    format: ConfigFormat,
    /// The last good version of each document.
    last_good: LastGoodDocuments,
    /// Problems that are in the log.
    told: HashSet<String>,
}

/// One of the prefixes that a file is written from.
#[derive(Debug)]
struct PartOfContent {
    context: ConfigContext,
    /// Absent: the prefix is not followed now.
    view: Option<watch::Receiver<Arc<PrefixView>>>,
}

impl KvContent {
    /// `contexts`: the parts of the merged configuration, for a file without a prefix of its own.
    pub(crate) fn open(watches: Arc<PrefixWatches>, file: &ConfigFile, contexts: Vec<ConfigContext>) -> Self {
        let own = |prefix: &String| vec![ConfigContext { prefix: prefix.clone(), layout: KvLayout::Keys }];
        let contexts = file.prefix.as_ref().map_or(contexts, own);
        let part = |context: ConfigContext| PartOfContent { view: watches.view(&context.prefix), context };
        let parts = contexts.into_iter().map(part).collect();
        Self {
            watches,
            parts,
            format: file.format,
            last_good: LastGoodDocuments::default(),
            told: HashSet::new(),
        }
    }

    fn read(&mut self) -> Result<(Vec<u8>, bool), FileContent> {
        let mut of_parts = Vec::new();
        let mut is_of_earlier_run = false;
        for part in &mut self.parts {
            let (entries, is_earlier) = part.entries()?;
            is_of_earlier_run |= is_earlier;
            of_parts.push(entries);
        }
        let bytes = match self.format {
            ConfigFormat::Value => self.value(&of_parts),
            _ => self.document(&of_parts).map(String::into_bytes),
        };
        let bytes = bytes.map_err(FileContent::None)?;
        Ok((bytes, is_of_earlier_run))
    }

    fn value(&self, of_parts: &[Arc<KvEntries>]) -> Result<Vec<u8>, String> {
        let key = self.parts.first().map(|part| part.context.prefix.as_str()).unwrap_or_default();
        let entry = of_parts.iter().find_map(|entries| entries.get(key));
        entry.map(|entry| entry.value.clone()).ok_or_else(|| format!("the registry has no key {key}"))
    }

    fn document(&mut self, of_parts: &[Arc<KvEntries>]) -> Result<String, String> {
        if of_parts.iter().all(|entries| entries.is_empty()) {
            let prefixes: Vec<_> = self.parts.iter().map(|part| part.context.prefix.as_str()).collect();
            return Err(format!("the registry has no key at {}", prefixes.join(", ")));
        }
        let contexts = self.parts.iter().map(|part| &part.context);
        let parts = contexts.zip(of_parts.iter().map(AsRef::as_ref));
        let view = ConfigView::of_contexts(parts, &mut self.last_good);
        let without = |problem: &&ViewProblem| {
            problem.reason == ProblemReason::WrongDocument && problem.in_effect.is_none()
        };
        // Not a part of the configuration as if it were all.
        if let Some(problem) = view.problems().iter().find(without) {
            return Err(format!("{}, index {}: {}", problem.key, problem.index, problem.detail));
        }
        let rendered = view.render(self.format, EnvQuoting::WhereNeeded);
        let RenderedConfig { text, problems } = rendered.ok_or("the format is one of a single value")?;
        self.tell(view.problems().iter().chain(&problems));
        Ok(text)
    }

    /// Logs what is new.
    fn tell<'a>(&mut self, problems: impl Iterator<Item = &'a ViewProblem>) {
        let mut now = HashSet::new();
        for ViewProblem { key, index, detail, in_effect, .. } in problems {
            let text = format!("{key} {index} {detail}");
            if !self.told.contains(&text) {
                warn!(key, index, in_effect, detail, "a key of the app's configuration is not used as it is");
            }
            now.insert(text);
        }
        self.told = now;
    }
}

impl PartOfContent {
    /// The entries, and whether they are of an earlier run.
    fn entries(&mut self) -> Result<(Arc<KvEntries>, bool), FileContent> {
        let unknown = format!("the registry has not answered for {} yet", self.context.prefix);
        let Some(view) = &mut self.view else { return Err(FileContent::Awaited(unknown)) };
        let view = view.borrow_and_update().clone();
        match (&view.entries, &view.failure) {
            (Some(entries), _) => Ok((entries.clone(), view.answered.is_none())),
            (None, None) => Err(FileContent::Awaited(unknown)),
            (None, Some(why)) => Err(FileContent::None(format!("{unknown}: {why}"))),
        }
    }

    async fn changed(&mut self, watches: &PrefixWatches) {
        if let Some(view) = &mut self.view
            && view.changed().await.is_ok()
        {
            return;
        }
        self.view = None;
        loop {
            sleep(REOPEN_PAUSE).await;
            if let Some(view) = watches.view(&self.context.prefix) {
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
        let Self { watches, parts, .. } = self;
        let changes: Vec<_> = parts.iter_mut().map(|part| Box::pin(part.changed(watches))).collect();
        if changes.is_empty() {
            return std::future::pending().await;
        }
        select_all(changes).await;
    }
}

#[cfg(test)]
mod tests {
    use outrigger_app_config::PrefixStore;
    use outrigger_registry::testing::{PendingKvQuestion, ScriptedKv};
    use tokio::{sync::mpsc, time::timeout};

    use super::*;

    struct Rig {
        watches: Arc<PrefixWatches>,
        questions: mpsc::UnboundedReceiver<PendingKvQuestion>,
    }

    impl Rig {
        fn new(prefixes: &[&str]) -> Self {
            let (kv, questions) = ScriptedKv::new();
            let watches = PrefixWatches::new(kv, || Duration::from_secs(60), PrefixStore::none());
            let rig = Self { watches: Arc::new(watches), questions };
            rig.follow(prefixes);
            rig
        }

        fn follow(&self, prefixes: &[&str]) {
            let prefixes: Vec<_> = prefixes.iter().map(|prefix| prefix.to_string()).collect();
            self.watches.follow(&prefixes, false);
        }

        fn open(
            &self,
            prefix: Option<&str>,
            format: ConfigFormat,
            contexts: &[(&str, KvLayout)],
        ) -> KvContent {
            let file = ConfigFile {
                prefix: prefix.map(str::to_owned),
                path: "/run/app".into(),
                format,
                mode: 0o600,
                wait: Duration::ZERO,
                required: false,
                on_change: None,
            };
            let context = |(prefix, layout): &(&str, KvLayout)| ConfigContext {
                prefix: prefix.to_string(),
                layout: *layout,
            };
            KvContent::open(self.watches.clone(), &file, contexts.iter().map(context).collect())
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
        let mut content = rig.open(Some("certs/orders.pem"), ConfigFormat::Value, &[]);
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
            let mut content = rig.open(Some("config/orders/"), format, &[]);
            rig.answer("config/orders/", 9, &keys).await;
            assert_eq!(next(&mut content).await.as_deref(), Ok(expected), "{format:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_merged_configuration_needs_an_answer_for_every_part_and_no_wrong_document() {
        let (keys, blob) = ("config/orders/", "config/shared");
        let mut rig = Rig::new(&[keys]);
        let parts = [(keys, KvLayout::Keys), (blob, KvLayout::Yaml)];
        let mut content = rig.open(None, ConfigFormat::Properties, &parts);
        rig.answer(keys, 9, &[("a", 3, "1")]).await;
        let missing = next(&mut content).await.unwrap_err();
        assert!(missing.contains(blob), "{missing}");
        // A part that is followed later, as after a reload.
        rig.follow(&[keys, blob]);
        rig.answer(blob, 9, &[("", 8, "a: [1")]).await;
        let mut wrong = next(&mut content).await;
        while wrong.as_ref().is_err_and(|why| why.contains("has not answered")) {
            wrong = next(&mut content).await;
        }
        let wrong = wrong.unwrap_err();
        assert!(wrong.starts_with("config/shared, index 8: "), "{wrong}");
        rig.answer(blob, 10, &[("", 10, "a: 2\nb: 3\n")]).await;
        assert_eq!(next(&mut content).await, Ok("a=1\nb=3\n".into()));
        // The last good version of a document stays.
        rig.answer(blob, 11, &[("", 11, "a: [1")]).await;
        assert_eq!(next(&mut content).await, Ok("a=1\nb=3\n".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_prefix_without_keys_is_no_content() {
        let mut rig = Rig::new(&["config/orders/"]);
        let mut content = rig.open(Some("config/orders/"), ConfigFormat::Json, &[]);
        rig.answer("config/orders/", 9, &[]).await;
        assert_eq!(next(&mut content).await, Err("the registry has no key at config/orders/".into()));
    }
}
