//! Files by the settings, with contents that the test sets.

use std::time::Duration;

use outrigger_config::{AppSignal, ConfigFormat, LoopbackUrl};
use tokio::time::{sleep, timeout};

use super::{super::keeper::FileContent, *};

const LONG: Duration = Duration::from_secs(20);

/// A content that stays.
struct Fixed(FileContent);

impl ContentSource for Fixed {
    fn now(&mut self) -> FileContent {
        self.0.clone()
    }

    async fn changed(&mut self) {
        std::future::pending().await
    }
}

fn known(text: &str) -> FileContent {
    FileContent::Known { bytes: text.as_bytes().into(), is_of_earlier_run: false }
}

fn none() -> FileContent {
    FileContent::None("no key at config/orders".to_owned())
}

fn file(folder: &tempfile::TempDir, name: &str, required: bool) -> ConfigFile {
    ConfigFile {
        prefix: Some("config/orders".into()),
        path: folder.path().join(name),
        format: ConfigFormat::Value,
        mode: 0o600,
        wait: Duration::from_secs(3),
        required,
        on_change: None,
    }
}

fn app_files() -> AppFiles {
    AppFiles::new(Arc::default(), Events::default(), &prometheus::Registry::new()).unwrap()
}

fn states(files: &AppFiles) -> Vec<&'static str> {
    files.summaries().iter().map(|file| file.state).collect()
}

async fn until_content(file: &ConfigFile, text: &str) {
    let is = async {
        while std::fs::read_to_string(&file.path).ok().as_deref() != Some(text) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(LONG, is).await.is_ok(), "{text:?} never in {}", file.path.display());
}

#[tokio::test]
async fn the_app_waits_until_its_files_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let (files, all) = (app_files(), [file(&folder, "a", true), file(&folder, "b", false)]);
    files.apply(&all, &[], |_| Fixed(known("x")));
    timeout(LONG, files.written()).await.unwrap().unwrap();
    assert_eq!(states(&files), ["written", "written"]);
    assert_eq!(std::fs::read_to_string(&all[1].path).unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn after_the_wait_a_required_file_is_an_error_and_another_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    for (required, is_ok) in [(false, true), (true, false)] {
        let (files, from) = (app_files(), Instant::now());
        files.apply(&[file(&folder, "missing", required)], &[], |_| Fixed(none()));
        assert_eq!(states(&files), ["waiting"]);
        let written = files.written().await;
        assert_eq!(from.elapsed().as_secs(), 3);
        assert_eq!(states(&files), ["missing"]);
        assert_eq!(written.is_ok(), is_ok);
        if let Err(missing) = written {
            let expected = format!(
                "the app is not started without its files: {}, within 3s: no key at config/orders",
                folder.path().join("missing").display()
            );
            assert_eq!(missing.to_string(), expected);
        }
    }
}

#[tokio::test]
async fn a_reload_keeps_starts_and_ends_single_files_and_removes_none() {
    let folder = tempfile::tempdir().unwrap();
    let files = app_files();
    let [a, b, c] = ["a", "b", "c"].map(|name| file(&folder, name, false));
    files.apply(&[a.clone(), b.clone()], &[], |_| Fixed(known("1")));
    timeout(LONG, files.written()).await.unwrap().unwrap();
    let version = || files.changes.app.files_version();
    // `a` is as before and keeps its source; `b` has another prefix, which is a change; `c` is new and none.
    let b = ConfigFile { prefix: Some("config/others".into()), ..b };
    files.apply(&[a.clone(), b.clone(), c.clone()], &[], |_| Fixed(known("2")));
    until_content(&b, "2").await;
    until_content(&c, "2").await;
    timeout(LONG, files.written()).await.unwrap().unwrap();
    let changed = async {
        while version() == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, changed).await.unwrap();
    assert_eq!((std::fs::read_to_string(&a.path).unwrap(), version()), ("1".to_owned(), 1));
    files.apply(&[c], &[], |_| Fixed(known("3")));
    assert_eq!(states(&files), ["written"]);
    assert!(a.path.exists() && b.path.exists());
}

#[tokio::test]
async fn an_app_that_runs_waits_for_no_file_of_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let files = app_files();
    files.apply(&[], &[], |_| Fixed(none()));
    files.apply(&[file(&folder, "new", true)], &[], |_| Fixed(none()));
    assert_eq!(states(&files), ["missing"]);
}

#[tokio::test]
async fn other_sources_change_only_the_files_that_are_merged_from_them() {
    let folder = tempfile::tempdir().unwrap();
    let files = app_files();
    let (of_prefix, merged) =
        (file(&folder, "a", false), ConfigFile { prefix: None, ..file(&folder, "b", false) });
    let all = [of_prefix.clone(), merged.clone()];
    let context = |prefix: &str| {
        let layout = outrigger_config::KvLayout::Keys;
        [PropertySource::Context(outrigger_config::ConfigContext { prefix: prefix.into(), layout })]
    };
    files.apply(&all, &context("config/a/"), |_| Fixed(known("1")));
    timeout(LONG, files.written()).await.unwrap().unwrap();
    files.apply(&all, &context("config/b/"), |_| Fixed(known("2")));
    until_content(&merged, "2").await;
    assert_eq!(std::fs::read_to_string(&of_prefix.path).unwrap(), "1");
}

#[tokio::test]
async fn what_the_sidecar_cannot_do_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let with = |on_change| [ConfigFile { on_change: Some(on_change), ..file(&folder, "a", false) }];
    let signal = with(OnChange::Signal(AppSignal::Hup));
    let restart = with(OnChange::Restart { at_once: 1, min_interval: Duration::ZERO });
    let http = with(OnChange::Http(LoopbackUrl { ip: None, port: 8080, path: "/".into() }));
    // (files, runs the app, has a service, what the error says)
    for (files, runs_app, has_service, expected) in [
        (&signal, true, false, None),
        (
            &signal,
            false,
            true,
            Some("on_change.signal needs an app that the sidecar runs (outrigger run -- APP)"),
        ),
        (&restart, true, true, None),
        (&restart, false, true, Some("on_change.restart needs an app that the sidecar runs")),
        (&restart, true, false, Some("on_change.restart needs service.name")),
        (&http, false, false, None),
    ] {
        let checked = AppFiles::check(files, runs_app, has_service);
        let text = checked.err().map(|error| error.to_string());
        assert_eq!(text.is_some(), expected.is_some(), "{text:?}");
        assert!(text.as_deref().unwrap_or("").contains(expected.unwrap_or("")), "{text:?}");
    }
}

#[tokio::test]
async fn the_state_of_restarts_is_shown_while_a_file_asks_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = prometheus::Registry::new();
    let files = AppFiles::new(Arc::default(), Events::default(), &metrics).unwrap();
    let series = || {
        let families = metrics.gather();
        families
            .iter()
            .filter(|one| one.name() == "outrigger_app_restart_state")
            .flat_map(|one| one.get_metric())
            .count()
    };
    let restart = OnChange::Restart { at_once: 1, min_interval: Duration::ZERO };
    for (on_change, expected) in [(None, 0), (Some(restart), RestartState::ALL.len()), (None, 0)] {
        files.apply(&[ConfigFile { on_change, ..file(&folder, "a", false) }], &[], |_| Fixed(known("x")));
        assert_eq!(series(), expected);
    }
}
