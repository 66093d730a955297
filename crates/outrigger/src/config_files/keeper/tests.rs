//! One file, with a content that the test sets.

use std::{net::Ipv4Addr, os::unix::fs::PermissionsExt as _, path::PathBuf};

use outrigger_config::{ConfigFormat, LoopbackUrl};
use outrigger_events::EventFilter;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
    time::timeout,
};

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// The content of a file as a test sets it.
struct TestSource(watch::Receiver<FileContent>);

impl ContentSource for TestSource {
    fn now(&mut self) -> FileContent {
        self.0.borrow_and_update().clone()
    }

    async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

fn known(text: &str) -> FileContent {
    FileContent::Known { bytes: text.as_bytes().into(), is_of_earlier_run: false }
}

struct KeeperFixture {
    folder: tempfile::TempDir,
    content: watch::Sender<FileContent>,
    status: watch::Receiver<FileStatus>,
    app: Arc<AppControl>,
    requests: RestartRequests,
    events: Events,
    metrics: prometheus::Registry,
    keeper: JoinHandle<()>,
}

impl Drop for KeeperFixture {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl KeeperFixture {
    fn start(first: FileContent, on_change: Option<OnChange>) -> Self {
        Self::start_in("", first, on_change)
    }

    /// The file is in a folder below that of the test.
    fn start_in(below: &str, first: FileContent, on_change: Option<OnChange>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (content, source) = watch::channel(first);
        let (status, shown) = watch::channel(FileStatus::default());
        let metrics = prometheus::Registry::new();
        let changes = ChangeTeller {
            app: Arc::default(),
            requests: RestartRequests::default(),
            events: Events::default(),
            metrics: FileMetrics::register(&metrics).unwrap(),
        };
        let file = ConfigFile {
            prefix: None,
            path: folder.path().join(below).join("app.yaml"),
            format: ConfigFormat::Yaml,
            mode: 0o640,
            wait: Duration::from_secs(30),
            required: false,
            on_change,
        };
        let (app, requests, events) = (changes.app.clone(), changes.requests.clone(), changes.events.clone());
        let keeper = FileKeeper { source: TestSource(source), file, status, changes };
        let keeper = tokio::spawn(keeper.run());
        Self { folder, content, status: shown, app, requests, events, metrics, keeper }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("app.yaml")
    }

    async fn until_content(&self, text: &str) {
        let is = async {
            while std::fs::read_to_string(self.path()).ok().as_deref() != Some(text) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(LONG, is).await.is_ok(), "{text:?} is never there: {:?}", std::fs::read(self.path()));
    }

    async fn until_status(&self, is: impl Fn(&FileStatus) -> bool) {
        let mut status = self.status.clone();
        let reached = timeout(LONG, status.wait_for(|status| is(status))).await;
        assert!(reached.is_ok_and(|reached| reached.is_ok()), "{:?}", self.status.borrow());
    }

    async fn until_files_version(&self, version: u64) {
        let is = async {
            while self.app.files_version() < version {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(LONG, is).await.is_ok());
    }

    /// The app is asked for a restart by this version, and by none after it.
    async fn until_version(&self, version: u64) {
        let is = async {
            while !self.requests.is_asking(version - 1) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(LONG, is).await.is_ok());
        assert_eq!(self.app.files_version(), version);
    }

    /// Of these kinds, `kind: reason` with the folder of the test cut off.
    fn events(&self, kinds: &[EventKind]) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        let all = self.events.page(&EventFilter::default(), None, usize::MAX).events;
        let wanted = all.iter().filter(|one| kinds.contains(&one.kind()));
        wanted.map(|one| format!("{}: {}", one.kind(), one.reason()).replace(&folder, "")).collect()
    }

    async fn until_event(&self, kind: EventKind) -> String {
        let found = async {
            loop {
                if let Some(line) = self.events(&[kind]).into_iter().next() {
                    return line;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, found).await.unwrap_or_else(|_| panic!("no {kind}"))
    }

    fn metric(&self, line: &str) -> bool {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.metrics.gather()).unwrap();
        text.lines().any(|one| one.replace(&*self.folder.path().to_string_lossy(), "") == line)
    }
}

#[tokio::test]
async fn a_start_that_waits_for_the_registry_is_no_failure() {
    let file = KeeperFixture::start(FileContent::Awaited("no answer yet".into()), None);
    file.until_status(|status| status.trouble.as_deref() == Some("no answer yet")).await;
    file.content.send_replace(known("1"));
    file.until_status(|status| status.is_written).await;
    assert_eq!(file.events(&[EventKind::ConfigFileFailed]), [""; 0]);
}

#[tokio::test]
async fn the_first_content_is_written_as_soon_as_it_is_known_and_changes_nothing_for_the_app() {
    let action = OnChange::Restart { at_once: 1, min_interval: Duration::ZERO };
    let file = KeeperFixture::start(FileContent::None("no such key".into()), Some(action));
    file.until_status(|status| status.trouble.as_deref() == Some("no such key")).await;
    assert!(!file.path().exists());
    file.content.send_replace(known("a: 1\n"));
    file.until_content("a: 1\n").await;
    file.until_status(|status| status.is_written && status.trouble.is_none()).await;
    let mode = std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode, file.app.files_version()), (0o640, 0));
    assert_eq!(
        file.events(&[EventKind::ConfigFileFailed, EventKind::ConfigFileWritten]),
        ["config_file_failed: app.yaml: no such key", "config_file_written: app.yaml: 5 bytes"]
    );
    assert!(file.metric(r#"outrigger_config_file_writes_total{path="/app.yaml",result="done"} 1"#));
}

#[tokio::test]
async fn the_first_content_is_a_change_for_an_app_that_was_started_without_it() {
    let action = OnChange::Restart { at_once: 1, min_interval: Duration::ZERO };
    let file = KeeperFixture::start(FileContent::None("no such key".into()), Some(action));
    file.until_status(|status| status.trouble.is_some()).await;
    file.app.note_start(1, file.app.files_version());
    file.content.send_replace(known("a: 1\n"));
    file.until_version(1).await;
}

#[tokio::test]
async fn a_change_is_written_and_told_and_the_same_content_is_neither() {
    let action = OnChange::Restart { at_once: 3, min_interval: Duration::ZERO };
    let file = KeeperFixture::start(known("a: 1\n"), Some(action));
    file.until_content("a: 1\n").await;
    file.until_status(|status| status.is_written).await;
    file.content.send_replace(known("a: 1\n"));
    file.content.send_replace(known("a: 2\n"));
    file.until_content("a: 2\n").await;
    file.until_version(1).await;
    assert!(file.requests.is_asking(0) && !file.requests.is_asking(1));
    file.content.send_replace(known("a: 2\n"));
    // A later change is the second one, so the equal content was none.
    sleep(3 * QUIET).await;
    file.content.send_replace(known("a: 3\n"));
    file.until_content("a: 3\n").await;
    file.until_version(2).await;
}

#[tokio::test]
async fn changes_without_a_pause_are_gathered() {
    let file = KeeperFixture::start(known("0"), None);
    file.until_content("0").await;
    file.until_status(|status| status.is_written).await;
    for n in 1..=20 {
        file.content.send_replace(known(&n.to_string()));
        sleep(QUIET / 20).await;
    }
    file.until_content("20").await;
    sleep(2 * QUIET).await;
    // A slow machine may write one in between; without the pause there would be twenty.
    let changes = file.app.files_version();
    assert!((1..=6).contains(&changes), "{changes}");
}

#[tokio::test]
async fn what_was_written_stays_when_the_content_is_gone() {
    let file = KeeperFixture::start(known("a: 1\n"), None);
    file.until_content("a: 1\n").await;
    file.content.send_replace(FileContent::None("the key was deleted".into()));
    file.until_status(|status| status.trouble.is_some()).await;
    file.until_content("a: 1\n").await;
    assert!(file.status.borrow().is_written);
    file.content.send_replace(known("a: 1\n"));
    file.until_status(|status| status.trouble.is_none()).await;
    assert_eq!(file.app.files_version(), 0, "the app has this content");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_tried_again() {
    let file = KeeperFixture::start_in("conf", known("a: 1\n"), None);
    file.until_status(|status| status.trouble.as_deref().is_some_and(|why| why.contains("create it"))).await;
    assert!(file.metric(r#"outrigger_config_file_writes_total{path="/conf/app.yaml",result="failed"} 1"#));
    std::fs::create_dir(file.folder.path().join("conf")).unwrap();
    file.until_status(|status| status.is_written).await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_comes_late_has_its_file_within_seconds() {
    let file = KeeperFixture::start_in("conf", known("a: 1\n"), None);
    sleep(Duration::from_secs(600)).await;
    std::fs::create_dir(file.folder.path().join("conf")).unwrap();
    let from = Instant::now();
    file.until_status(|status| status.is_written).await;
    assert!(from.elapsed() <= BACKOFF.max, "{:?}", from.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_content_of_an_earlier_run_is_taken_when_the_registry_is_silent() {
    let earlier = FileContent::Known { bytes: b"old".as_slice().into(), is_of_earlier_run: true };
    let from = Instant::now();
    let file = KeeperFixture::start(earlier.clone(), None);
    file.until_status(|status| status.is_written).await;
    assert!(from.elapsed() >= EARLIER_AFTER, "{:?}", from.elapsed());
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "old");

    let file = KeeperFixture::start(earlier, None);
    sleep(EARLIER_AFTER / 2).await;
    assert!(!file.path().exists());
    file.content.send_replace(known("new"));
    file.until_status(|status| status.is_written).await;
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "new");
}

#[tokio::test]
async fn a_changed_file_is_posted_until_the_app_takes_it_and_a_newer_one_begins_again() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = LoopbackUrl { ip: Some(Ipv4Addr::LOCALHOST.into()), port, path: "/reload".into() };
    let file = KeeperFixture::start(known("a: 1\n"), Some(OnChange::Http(url)));
    file.until_content("a: 1\n").await;
    file.until_status(|status| status.is_written).await;
    file.content.send_replace(known("a: 2\n"));
    // The first request hangs: the next content begins anew.
    let (mut first, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    file.content.send_replace(known("a: 3\n"));
    let (mut second, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "a: 3\n", "it is written before it is told");
    let mut head = vec![0; 1024];
    let read = second.read(&mut head).await.unwrap();
    assert!(String::from_utf8_lossy(&head[..read]).starts_with("POST /reload HTTP/1.1\r\n"));
    second.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let line = file.until_event(EventKind::OnChangeDone).await;
    assert!(line.starts_with("on_change_done: app.yaml: http://127.0.0.1:"), "{line}");
    assert!(file.metric(r#"outrigger_on_change_total{action="http",result="done"} 1"#));
    // It was given up, and not answered.
    let mut rest = Vec::new();
    let read = timeout(LONG, first.read_to_end(&mut rest)).await.unwrap();
    assert!(read.is_ok() && rest.starts_with(b"POST /reload"), "{read:?}");
}

#[tokio::test]
async fn a_signal_goes_to_the_app_that_runs() {
    let file = KeeperFixture::start(known("1"), Some(OnChange::Signal(AppSignal::Usr1)));
    let mut requests = file.app.requests().unwrap();
    file.until_content("1").await;
    file.until_status(|status| status.is_written).await;
    // No app runs yet: it reads the file when it starts.
    file.content.send_replace(known("2"));
    file.until_content("2").await;
    file.until_files_version(1).await;
    let script = "trap : USR1; while :; do sleep 0.05; done";
    let mut child = tokio::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
    let pid = child.id().unwrap();
    file.app.note_start(pid, file.app.files_version());
    let line = file.until_event(EventKind::OnChangeDone).await;
    assert!(line.contains("not needed"), "{line}");
    file.content.send_replace(known("3"));
    let expected = AppRequest::Signal { signal: Signal::USR1, pid };
    assert_eq!(timeout(LONG, requests.recv()).await.unwrap(), Some(expected));
    child.kill().await.unwrap();
}
