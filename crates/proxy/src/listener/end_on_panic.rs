//! A panic that cannot be contained ends the process.

use std::{
    future::poll_fn,
    io::{self, Write as _},
    pin::pin,
};

use tracing::error;

/// Ends the process when a panic drops it. Without the loop of a worker, or without an acceptor, connections would be left
/// without an answer, and nothing would say so.
pub(crate) struct EndOnPanic(pub(crate) &'static str);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!("{} panicked: the process ends", self.0);
            // The log may be written by another task; the standard error is not.
            let _ = writeln!(io::stderr(), "outrigger: {} panicked: the process ends", self.0);
            std::process::abort();
        }
    }
}

/// Runs `future`; a panic of it ends the process. A future that is dropped because another one on its thread panicked has not
/// panicked itself.
pub(crate) async fn end_on_panic<F: Future>(what: &'static str, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _guard = EndOnPanic(what);
        future.as_mut().poll(cx)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{future::pending, process::Command};

    use super::*;

    /// Set in the process that this test starts: itself once more.
    const IN_CHILD: &str = "OUTRIGGER_TEST_PANIC";

    #[tokio::test]
    async fn a_panic_in_a_worker_or_in_accept_ends_the_process_with_a_message() {
        if std::env::var_os(IN_CHILD).is_some() {
            let fault = async { panic!("a fault of the sidecar") };
            let task = tokio::spawn(end_on_panic("the acceptor of a listener", fault));
            let _ = task.await;
            // Reached only when the process goes on.
            return;
        }
        let name =
            "listener::end_on_panic::tests::a_panic_in_a_worker_or_in_accept_ends_the_process_with_a_message";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let ended = child.args(["--exact", name, "--nocapture"]).env(IN_CHILD, "1").output().unwrap();
        assert!(!ended.status.success());
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.contains("the acceptor of a listener panicked: the process ends"), "{said}");
    }

    /// A runtime that a panic drops is a test's; a process that ended here would not say which test has failed.
    #[test]
    fn an_acceptor_that_the_panic_of_another_task_drops_does_not_end_the_process() {
        let thread = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                tokio::spawn(end_on_panic("the acceptor of a listener", pending::<()>()));
                tokio::task::yield_now().await;
                panic!("a fault of a test");
            });
        });
        assert!(thread.join().is_err());
    }
}
