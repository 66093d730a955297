//! Captures log lines.

use std::{cell::RefCell, io, sync::Once};

use tracing::Level;

thread_local! {
    /// A paused test runs on one thread, watchers included.
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Keeps the lines of level INFO and above, per thread. There is one subscriber for the process, installed
/// before the first line, because tracing caches a call site without a subscriber as disabled: with a
/// subscriber per test, lines are missing now and then.
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
