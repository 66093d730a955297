//! The merged configuration of parts that the test sets, on a paused clock.

use std::path::Path;

use outrigger_config::KvLayout;
use outrigger_events::{EventFilter, ReadFrom};
use outrigger_registry::KvEntry;
use tokio::time::timeout;

use super::*;

fn entries(all: &[(&str, &str, u64)]) -> Arc<KvEntries> {
    let entry = |(key, value, index): &(&str, &str, u64)| {
        let entry = KvEntry {
            key: key.to_string(),
            value: value.as_bytes().to_vec(),
            flags: 0,
            session: None,
            lock_index: 0,
            create_index: 1,
            modify_index: *index,
        };
        (key.to_string(), Arc::new(entry))
    };
    Arc::new(all.iter().map(entry).collect())
}

fn store(folder: &Path) -> PrefixStore {
    PrefixStore::at(folder, "orders-good", "a registry", || Duration::from_secs(2_000_000_000))
}

/// Two parts: a document, and a key for each property.
struct PartsRig {
    watch: ConfigWatch,
    events: Events,
    metrics: prometheus::Registry,
    document: watch::Sender<Arc<PrefixView>>,
    keys: watch::Sender<Arc<PrefixView>>,
}

impl PartsRig {
    fn new(store: PrefixStore) -> Self {
        let events = Events::new(|| Duration::from_secs(2_000_000_000));
        let metrics = prometheus::Registry::new();
        let watch = ConfigWatch::new(store, events.clone(), &metrics).unwrap();
        Self { watch, events, metrics, document: watch::Sender::default(), keys: watch::Sender::default() }
    }

    fn follow(&self, cache: bool) {
        let part = |prefix: &str, layout, view: &watch::Sender<_>| {
            (ConfigContext { prefix: prefix.to_owned(), layout }, view.subscribe())
        };
        let document = part("a/data", KvLayout::Yaml, &self.document);
        self.watch.follow(vec![document, part("b/", KvLayout::Keys, &self.keys)], cache);
    }

    fn json(&self) -> Option<String> {
        let state = self.watch.state().borrow().clone();
        state.known.as_ref().map(|known| known.json.to_string())
    }

    async fn wait_for(&self, json: &str) {
        let mut state = self.watch.state();
        let is_wanted =
            |state: &Arc<ConfigState>| state.known.as_ref().is_some_and(|known| &*known.json == json);
        let found = timeout(Duration::from_secs(3600), state.wait_for(is_wanted)).await;
        found.unwrap_or_else(|_| panic!("{json}, but {:?}", self.json())).unwrap();
    }

    fn events(&self, kind: EventKind) -> Vec<String> {
        let filter = EventFilter { service: None, kinds: vec![kind] };
        let mut reader = self.events.reader(filter, ReadFrom::Newest(100)).unwrap();
        reader
            .take()
            .into_iter()
            .map(|one| match one {
                outrigger_events::Delivery::Event(event) => event.reason().to_owned(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn problems(&self, reason: &str) -> i64 {
        let family =
            self.metrics.gather().into_iter().find(|family| family.name() == "outrigger_app_config_problems");
        let family = family.unwrap();
        let metric = family.get_metric().iter().find(|metric| metric.get_label()[0].value() == reason);
        metric.unwrap().get_gauge().get_value() as i64
    }
}

fn set(view: &watch::Sender<Arc<PrefixView>>, all: &[(&str, &str, u64)]) {
    view.send_replace(Arc::new(PrefixView { entries: Some(entries(all)), ..PrefixView::default() }));
}

#[tokio::test(start_paused = true)]
async fn there_is_no_configuration_before_every_part_is_known() {
    let rig = PartsRig::new(PrefixStore::none());
    assert!(rig.watch.state().borrow().parts.is_empty());
    rig.follow(true);
    let unknown = |rig: &PartsRig| {
        rig.watch.state().borrow().unknown().map(|part| part.context.prefix.clone()).collect::<Vec<_>>()
    };
    assert_eq!((rig.json(), unknown(&rig)), (None, vec!["a/data".to_owned(), "b/".to_owned()]));
    set(&rig.keys, &[("b/x", "1", 1)]);
    let mut state = rig.watch.state();
    state.wait_for(|state| state.unknown().count() == 1).await.unwrap();
    assert_eq!(rig.json(), None);
    let begun = Instant::now();
    set(&rig.document, &[]);
    rig.wait_for(r#"{"x":"1"}"#).await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "the first configuration is there at once");
    assert_eq!(rig.events(EventKind::AppConfigChanged), ["1 property"]);
    rig.watch.follow(Vec::new(), true);
    assert!(rig.watch.state().borrow().known.is_none());
}

#[tokio::test(start_paused = true)]
async fn changes_are_merged_after_a_tenth_of_a_second() {
    let rig = PartsRig::new(PrefixStore::none());
    set(&rig.document, &[("a/data", "x: 1\n", 1)]);
    set(&rig.keys, &[]);
    rig.follow(true);
    assert_eq!(rig.json().as_deref(), Some(r#"{"x":1}"#), "what is known is merged before follow returns");
    let version = rig.watch.state().borrow().known.as_ref().unwrap().version.clone();
    let begun = Instant::now();
    let mut seen = rig.watch.state();
    seen.mark_unchanged();
    set(&rig.document, &[("a/data", "x: 2\n", 2)]);
    tokio::time::sleep(Duration::from_millis(60)).await;
    set(&rig.keys, &[("b/y", "2", 3)]);
    seen.changed().await.unwrap();
    assert_eq!((rig.json().as_deref(), begun.elapsed()), (Some(r#"{"x":2,"y":"2"}"#), QUIET));
    assert_ne!(rig.watch.state().borrow().known.as_ref().unwrap().version, version);
    assert_eq!(rig.events(EventKind::AppConfigChanged), ["1 property", "x, y"]);
    // An answer without a change: the age is another one, and the configuration stays.
    let before = rig.watch.state().borrow().clone();
    seen.mark_unchanged();
    rig.keys.send_modify(|view| {
        let failure = Some("it is away".into());
        *view = Arc::new(PrefixView { failure, ..PrefixView::clone(view) });
    });
    seen.changed().await.unwrap();
    let after = rig.watch.state().borrow().clone();
    assert!(Arc::ptr_eq(&before.known.as_ref().unwrap().view, &after.known.as_ref().unwrap().view));
    assert!(after.parts[1].prefix.failure.is_some() && after.is_stale());
    assert_eq!(rig.events(EventKind::AppConfigChanged).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_document_stays_at_its_last_good_version_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let rig = PartsRig::new(store(folder.path()));
    set(&rig.document, &[("a/data", "x: 1\n", 1)]);
    set(&rig.keys, &[("b/y", "1", 2)]);
    rig.follow(true);
    set(&rig.document, &[("a/data", "x: [", 3)]);
    set(&rig.keys, &[("b/y", "2", 4)]);
    rig.wait_for(r#"{"x":1,"y":"2"}"#).await;
    let refused = rig.events(EventKind::AppConfigRefused);
    assert!(refused.len() == 1 && refused[0].starts_with("a/data, version 3: line 1, column"), "{refused:?}");
    assert!(refused[0].ends_with("; version 1 stays"), "{refused:?}");
    assert_eq!((rig.problems("wrong_document"), rig.problems("not_text")), (1, 0));
    drop(rig);

    let rig = PartsRig::new(store(folder.path()));
    set(&rig.document, &[("a/data", "x: [", 3)]);
    set(&rig.keys, &[]);
    rig.follow(true);
    assert_eq!(rig.json().as_deref(), Some(r#"{"x":1}"#));
    rig.follow(false);
    assert_eq!(rig.json().as_deref(), Some(r#"{"x":1}"#));
    drop(rig);
    let rig = PartsRig::new(store(folder.path()));
    set(&rig.document, &[("a/data", "x: [", 3)]);
    set(&rig.keys, &[]);
    rig.follow(true);
    assert_eq!(rig.json().as_deref(), Some("{}"), "without the cache nothing was left on disk");
    set(&rig.document, &[("a/data", "x: 5", 5)]);
    rig.wait_for(r#"{"x":5}"#).await;
    assert_eq!(rig.problems("wrong_document"), 0);
}

#[tokio::test(start_paused = true)]
async fn other_parts_are_in_place_at_once_and_the_old_ones_change_nothing() {
    let rig = PartsRig::new(PrefixStore::none());
    set(&rig.document, &[]);
    set(&rig.keys, &[("b/y", "1", 1)]);
    rig.follow(true);
    set(&rig.keys, &[("b/y", "2", 2)]);
    tokio::task::yield_now().await;
    let other = watch::Sender::default();
    set(&other, &[("c/z", "3", 3)]);
    let context = ConfigContext { prefix: "c/".to_owned(), layout: KvLayout::Keys };
    rig.watch.follow(vec![(context, other.subscribe())], true);
    assert_eq!(rig.json().as_deref(), Some(r#"{"z":"3"}"#));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.json().as_deref(), Some(r#"{"z":"3"}"#));
    // The prefix is no longer followed: nothing changes, and nothing spins.
    drop(other);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.json().as_deref(), Some(r#"{"z":"3"}"#));
}

#[test]
fn an_event_names_some_of_the_changed_properties() {
    let of = |all: &[(&str, &str, u64)]| ConfigView::of_prefix("b/", &entries(all));
    let before = of(&[("b/a", "1", 1), ("b/b", "1", 1)]);
    let after = of(&[("b/b", "2", 2), ("b/c", "1", 2)]);
    assert_eq!(describe_change(Some(&before), &after).as_deref(), Some("a, b, c"));
    assert_eq!(describe_change(Some(&after), &after), None);
    let many: Vec<_> = (0..8).map(|n| format!("b/n{n}")).collect();
    let many: Vec<_> = many.iter().map(|key| (key.as_str(), "", 3)).collect();
    assert_eq!(describe_change(Some(&of(&[])), &of(&many)).as_deref(), Some("n0, n1, n2, n3, n4 and 3 more"));
}
