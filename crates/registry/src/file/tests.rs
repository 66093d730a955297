//! Tests over real files.

use std::{fs, time::Duration};

use super::*;
use crate::HealthStatus;

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(600);

struct Fixture {
    _dir: tempfile::TempDir,
    path: PathBuf,
    file: FileRegistry,
}

/// A registry with a file of this text.
fn fixture(services: &str) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("services.yaml");
    fs::write(&path, services).unwrap();
    let file = FileRegistry::open(&path).unwrap();
    Fixture { _dir: dir, path, file }
}

impl Fixture {
    async fn watch(&self, service: &str, cursor: Cursor, wait: Duration) -> WatchAnswer {
        let query = Query::new(service, None);
        self.file.watch(&query, cursor, Consistency::Default, wait).await.unwrap()
    }

    /// The answer of a watch during which the file becomes `services`.
    async fn watch_while(
        &self,
        services: &str,
        service: &str,
        cursor: Cursor,
        wait: Duration,
    ) -> WatchAnswer {
        let change = async { fs::write(&self.path, services).unwrap() };
        let (watched, ()) = tokio::join!(self.watch(service, cursor, wait), change);
        watched
    }
}

fn addresses(watched: &WatchAnswer) -> Vec<String> {
    watched.instances.iter().map(|instance| instance.addr.as_ref().unwrap().to_string()).collect()
}

#[tokio::test]
async fn a_first_question_is_answered_at_once() {
    let registry = fixture("services: {orders: ['127.0.0.1:9001', '127.0.0.1:9002']}\n");
    let watched = registry.watch("orders", Cursor::START, LONG).await;
    assert_eq!(addresses(&watched), ["127.0.0.1:9001", "127.0.0.1:9002"]);
    assert_eq!(watched.instances[0].status, HealthStatus::Passing);
    assert_ne!(watched.cursor, Cursor::START);
}

#[tokio::test]
async fn an_unknown_service_has_no_instances() {
    let registry = fixture("services: {orders: ['127.0.0.1:9001']}\n");
    let watched = registry.watch("nope", Cursor::START, LONG).await;
    assert_eq!(watched.instances, []);
    assert_ne!(watched.cursor, Cursor::START, "the next question may wait");
}

#[tokio::test]
async fn a_changed_file_answers_a_watch() {
    let registry = fixture("services: {orders: ['127.0.0.1:9001']}\n");
    let first = registry.watch("orders", Cursor::START, LONG).await;
    let second =
        registry.watch_while("services: {orders: ['127.0.0.1:9003']}\n", "orders", first.cursor, LONG).await;
    assert_eq!(addresses(&second), ["127.0.0.1:9003"]);
    assert_ne!(second.cursor, first.cursor);
}

#[tokio::test]
async fn a_change_of_another_service_answers_no_watch() {
    let registry = fixture("services: {orders: ['127.0.0.1:9001']}\n");
    let first = registry.watch("orders", Cursor::START, LONG).await;
    let text = "services: {orders: ['127.0.0.1:9001'], users: ['127.0.0.1:1']}\n";
    let second = registry.watch_while(text, "orders", first.cursor, SHORT).await;
    assert_eq!(second, first);
    assert_eq!(addresses(&registry.watch("users", Cursor::START, LONG).await), ["127.0.0.1:1"]);
}

#[tokio::test]
async fn a_bad_file_leaves_the_last_good_content_until_it_is_corrected() {
    let registry = fixture("services: {orders: ['127.0.0.1:9001']}\n");
    let first = registry.watch("orders", Cursor::START, LONG).await;
    let during = registry.watch_while("services: [\n", "orders", first.cursor, SHORT).await;
    assert_eq!(during, first);
    let mended =
        registry.watch_while("services: {orders: ['127.0.0.1:9004']}\n", "orders", first.cursor, LONG).await;
    assert_eq!(addresses(&mended), ["127.0.0.1:9004"]);
}

#[tokio::test]
async fn a_file_that_is_gone_leaves_the_last_good_content() {
    let registry = fixture("services: {orders: ['127.0.0.1:9001']}\n");
    let first = registry.watch("orders", Cursor::START, LONG).await;
    fs::remove_file(&registry.path).unwrap();
    assert_eq!(registry.watch("orders", first.cursor, SHORT).await, first);
}

#[tokio::test]
async fn a_pipe_or_a_device_in_the_files_place_leaves_the_last_good_content_and_blocks_nothing() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let registry = fixture("services: {orders: ['127.0.0.1:9001']}\n");
    let first = registry.watch("orders", Cursor::START, LONG).await;
    fs::remove_file(&registry.path).unwrap();
    mknodat(CWD, &registry.path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let asked = tokio::time::timeout(LONG, registry.watch("orders", first.cursor, SHORT));
    assert_eq!(asked.await.expect("no wait for the other end"), first);
    let error = FileRegistry::open(&registry.path).unwrap_err().to_string();
    assert!(error.contains("it is a pipe"), "{error}");
    fs::remove_file(&registry.path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &registry.path).unwrap();
    assert_eq!(registry.watch("orders", first.cursor, SHORT).await, first);
    let error = FileRegistry::open("/dev/zero").unwrap_err().to_string();
    assert!(error.contains("it is a device"), "{error}");
}

#[tokio::test]
async fn a_file_put_in_place_by_a_rename_is_seen() {
    let registry = fixture("services: {orders: ['127.0.0.1:9001']}\n");
    let first = registry.watch("orders", Cursor::START, LONG).await;
    let new = registry.path.with_extension("new");
    fs::write(&new, "services: {orders: ['127.0.0.1:9005']}\n").unwrap();
    fs::rename(&new, &registry.path).unwrap();
    let second = registry.watch("orders", first.cursor, LONG).await;
    assert_eq!(addresses(&second), ["127.0.0.1:9005"]);
}

#[test]
fn a_file_that_cannot_be_used_at_start_is_an_error_with_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("services.yaml");
    let error = FileRegistry::open(&path).unwrap_err();
    assert_eq!(error.label(), "file");
    fs::write(&path, "services:\n  orders:\n    - {address: a, port: 0}\n").unwrap();
    let error = FileRegistry::open(&path).unwrap_err().to_string();
    assert!(error.contains("services.yaml:3:26: port: 0"), "{error}");
}
