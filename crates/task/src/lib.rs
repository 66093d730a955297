//! Tasks that the process cannot do without, such as the watch of a service or an acceptor: a panic of one ends the process, with a
//! message that names the task.
//!
//! tokio contains the panic of a task, and nothing else notices that the task is gone: the process would go on with a view that never
//! changes again, or with a listener that never accepts. A process that ends is started again by its service manager.
//!
//! Every task and thread that lives longer than one connection, one request or one call is started through [`essential`] or
//! [`EndOnPanic`]; `make lint` finds those that are not. Tasks of connections are not: a panic there ends one connection.

use std::{
    borrow::Cow,
    io::{self, Write as _},
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tracing::error;

/// Runs `task`; a panic of it ends the process. `name` is the subject of the message: `the watch of orders`. A future that is dropped
/// because another one on its thread panicked has not panicked itself.
pub fn essential<F: Future>(name: impl Into<Cow<'static, str>>, task: F) -> Essential<F> {
    Essential { name: name.into(), task }
}

pin_project! {
    /// The future of [`essential`]. An async function would hold the task twice.
    #[derive(Debug)]
    #[must_use = "a future does nothing unless it is polled"]
    pub struct Essential<F> {
        name: Cow<'static, str>,
        #[pin]
        task: F,
    }
}

impl<F: Future> Future for Essential<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _guard = EndOnPanic::new(this.name);
        this.task.poll(cx)
    }
}

/// Ends the process when a panic of this thread drops it: for the body of a thread.
#[derive(Debug)]
pub struct EndOnPanic<'a> {
    name: &'a str,
    /// The panic is older than this value, and of something else.
    is_unwinding: bool,
}

impl<'a> EndOnPanic<'a> {
    /// `name` is the subject of the message.
    pub fn new(name: &'a str) -> Self {
        Self { name, is_unwinding: std::thread::panicking() }
    }
}

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.is_unwinding {
            end_process(self.name);
        }
    }
}

#[cold]
fn end_process(name: &str) {
    error!("{name} panicked: the process ends");
    // The log may lose lines, or go elsewhere.
    let _ = writeln!(io::stderr(), "outrigger: {} panicked: the process ends", name.escape_debug());
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set in the process that a test starts, which is the test itself once more: what is to panic.
    const IN_CHILD: &str = "OUTRIGGER_TEST_ESSENTIAL";

    async fn panics() {
        tokio::task::yield_now().await;
        panic!("a fault of a test");
    }

    /// Runs what `how` says. It returns only when the process goes on.
    fn run(how: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        match how {
            "a task" => drop(runtime.block_on(async { tokio::spawn(essential("a task", panics())).await })),
            "a task of\na set" => runtime.block_on(async {
                let mut tasks = tokio::task::JoinSet::new();
                tasks.spawn(essential("a task of\na set".to_owned(), panics()));
                while tasks.join_next().await.is_some() {}
            }),
            _ => {
                let thread = std::thread::spawn(|| {
                    let _guard = EndOnPanic::new("a thread");
                    panic!("a fault of a test");
                });
                drop(thread.join());
            }
        }
    }

    #[test]
    fn a_panic_ends_the_process_with_a_message_that_names_the_task() {
        if let Ok(how) = std::env::var(IN_CHILD) {
            return run(&how);
        }
        for (how, named) in
            [("a task", "a task"), ("a task of\na set", "a task of\\na set"), ("a thread", "a thread")]
        {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let name = "tests::a_panic_ends_the_process_with_a_message_that_names_the_task";
            let ended = child.args(["--exact", name, "--nocapture"]).env(IN_CHILD, how).output().unwrap();
            assert!(!ended.status.success(), "{how}: the process goes on");
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert!(said.contains(&format!("outrigger: {named} panicked: the process ends")), "{said}");
        }
    }

    /// A runtime that a panic drops is a test's; a process that ended here would not say which test has failed.
    #[test]
    fn a_task_that_the_panic_of_another_one_drops_or_runs_does_not_end_the_process() {
        struct RunsWhenDropped;
        impl Drop for RunsWhenDropped {
            fn drop(&mut self) {
                let mut task =
                    std::pin::pin!(essential("a task that runs while its thread unwinds", async {}));
                let polled = task.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
                assert_eq!(polled, Poll::Ready(()));
            }
        }
        let thread = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                tokio::spawn(essential("a task that waits", std::future::pending::<()>()));
                tokio::task::yield_now().await;
                let _runs = RunsWhenDropped;
                panic!("a fault of a test");
            });
        });
        assert!(thread.join().is_err());
    }

    #[test]
    fn the_result_of_a_task_is_passed_on() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(essential("a task", async { 7 })), 7);
    }
}
