//! What is logged, and how often.

use std::{cell::RefCell, io, sync::Once, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::Level;

use super::{Rig, list, settle, unreachable};

thread_local! {
    /// A paused test runs on one thread, watchers included.
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Keeps what is logged from level INFO on, each thread its own. One subscriber for the process, in
/// place before anything is logged: tracing remembers a place in the code that nobody listened to as
/// silent, so that a subscriber per test misses lines now and then.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let format = tracing_subscriber::fmt().with_max_level(Level::INFO).with_ansi(false).without_time();
        tracing::subscriber::set_global_default(format.with_writer(|| LogWriter).finish()).unwrap();
    });
}

#[derive(Debug)]
struct LogWriter;

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines since the last call.
pub(super) fn take() -> Vec<String> {
    let logged = String::from_utf8(LOGGED.take()).unwrap();
    logged.lines().map(|line| line.trim().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_many_services_is_one_line_and_so_is_its_end() {
    take();
    let mut rig = Rig::new();
    let _followers: Vec<_> = (0..20).map(|n| rig.follow(&format!("s{n}"))).collect();
    let mut blocked = Vec::new();
    while blocked.len() < 20 {
        let asked = rig.next().await;
        if asked.cursor.index() == 0 { asked.answer(list(7, &["a"])) } else { blocked.push(asked) }
    }
    take();

    blocked.into_iter().for_each(|asked| asked.fail(unreachable()));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(300) {
        rig.next().await.fail(unreachable());
    }
    let logged = take();
    let [line] = &logged[..] else { panic!("not one line: {logged:?}") };
    assert!(line.starts_with("WARN") && line.contains("registry gives no answer"), "{line}");
    assert!(line.contains("connect to 127.0.0.1:8500: refused by the test"), "{line}");

    for _ in 0..20 {
        rig.next().await.answer(list(7, &["a"]));
    }
    settle().await;
    let logged = take();
    let [line] = &logged[..] else { panic!("not one line: {logged:?}") };
    assert!(line.starts_with("INFO") && line.contains("registry answers again"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_one_line_with_its_counts_and_an_unchanged_answer_none() {
    take();
    let mut rig = Rig::new();
    let (_follower, asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    let logged = take();
    let [line] = &logged[..] else { panic!("not one line: {logged:?}") };
    assert!(line.contains("service changed") && line.contains("service=orders"), "{line}");
    assert!(line.contains("passing=1") && line.contains("critical=0"), "{line}");

    sleep(Duration::from_secs(30)).await;
    asked.answer(list(8, &["a"]));
    rig.next().await;
    assert_eq!(take(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_alone_keeps_failing_is_logged_once() {
    take();
    let mut rig = Rig::new();
    let _followers = [rig.follow("bad"), rig.follow("good")];
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(300) {
        let asked = rig.next().await;
        if *asked.query.service == *"bad" { asked.fail(unreachable()) } else { asked.answer(list(7, &["a"])) }
    }
    let warnings = take().into_iter().filter(|line| line.starts_with("WARN")).collect::<Vec<_>>();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[tokio::test(start_paused = true)]
async fn a_made_up_name_is_not_logged() {
    take();
    let mut rig = Rig::new();
    let (_follower, _asked) = rig.follow_and_answer("made-up", list(7, &[])).await;
    assert_eq!(take(), Vec::<String>::new());
}
