//! Keeps the newest content on disk, without a wait of the part that has it: a disk that hangs stops neither what follows the registry nor
//! what applies its answers.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::{sync::watch, task::spawn_blocking};

type Save<T> = Box<dyn Fn(&T) -> io::Result<()> + Send + Sync>;
type Report<T> = Box<dyn Fn(&T, &io::Error) + Send + Sync>;

/// Saves one content at a time. Of those that are put meanwhile, the newest is saved next. Clones are the same.
pub struct NewestSaver<T>(Arc<SaverState<T>>);

struct SaverState<T> {
    save: Save<T>,
    report: Report<T>,
    queue: Mutex<SaveQueue<T>>,
    is_failing: AtomicBool,
    /// Nothing is being saved, and nothing waits.
    is_idle: watch::Sender<bool>,
}

struct SaveQueue<T> {
    next: Option<T>,
    is_running: bool,
    is_closed: bool,
}

impl<T> Clone for NewestSaver<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for NewestSaver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewestSaver").field("is_idle", &*self.0.is_idle.borrow()).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> NewestSaver<T> {
    /// `save` blocks. `report` gets the first error after a success.
    pub fn new(
        save: impl Fn(&T) -> io::Result<()> + Send + Sync + 'static,
        report: impl Fn(&T, &io::Error) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(SaverState {
            save: Box::new(save),
            report: Box::new(report),
            queue: Mutex::new(SaveQueue { next: None, is_running: false, is_closed: false }),
            is_failing: AtomicBool::new(false),
            is_idle: watch::Sender::new(true),
        }))
    }

    /// Saves this content as soon as possible, also after the last clone is dropped. Needs a tokio runtime.
    pub fn put(&self, content: T) {
        let mut queue = self.0.queue.lock();
        if queue.is_closed {
            return;
        }
        queue.next = Some(content);
        if !std::mem::replace(&mut queue.is_running, true) {
            self.0.is_idle.send_replace(false);
            let mut run = SaverRun { state: self.0.clone(), has_ended: false };
            spawn_blocking(move || run.run());
        }
    }

    /// The last content that was saved could not be.
    pub fn is_failing(&self) -> bool {
        self.0.is_failing.load(Relaxed)
    }

    /// Resolves when everything is saved, or could not be. A disk that hangs makes it wait: its callers have a bound.
    pub async fn flush(&self) {
        // Never an error: `self` holds the sender.
        let _ = self.0.is_idle.subscribe().wait_for(|is_idle| *is_idle).await;
    }

    /// Saves nothing any more, also not what waits.
    pub fn close(&self) {
        let mut queue = self.0.queue.lock();
        (queue.next, queue.is_closed) = (None, true);
    }
}

/// On a thread that may block.
struct SaverRun<T> {
    state: Arc<SaverState<T>>,
    has_ended: bool,
}

impl<T> SaverRun<T> {
    fn run(&mut self) {
        while let Some(content) = self.take() {
            let saved = (self.state.save)(&content);
            let was_failing = self.state.is_failing.swap(saved.is_err(), Relaxed);
            if let (Err(error), false) = (&saved, was_failing) {
                (self.state.report)(&content, error);
            }
        }
    }

    fn take(&mut self) -> Option<T> {
        let mut queue = self.state.queue.lock();
        let next = queue.next.take();
        if next.is_none() {
            self.has_ended = true;
            queue.is_running = false;
            self.state.is_idle.send_replace(true);
        }
        next
    }
}

impl<T> Drop for SaverRun<T> {
    /// After a panic, which was reported; or the runtime stops, and runs no new work.
    fn drop(&mut self) {
        if !self.has_ended {
            let mut queue = self.state.queue.lock();
            (queue.next, queue.is_running) = (None, false);
            self.state.is_idle.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// What was written; what could not be, with 1,000 added.
    type WriteLog = Arc<Mutex<Vec<u32>>>;

    /// A disk on which each write waits for the test.
    fn hanging_disk() -> (NewestSaver<u32>, mpsc::Sender<io::Result<()>>, WriteLog) {
        let (end, ends) = mpsc::channel();
        let ends = Mutex::new(ends);
        let log = Arc::new(Mutex::new(Vec::new()));
        let (saved, failed) = (log.clone(), log.clone());
        let save = move |content: &u32| {
            let end = ends.lock().recv_timeout(LONG).unwrap_or(Ok(()));
            if end.is_ok() {
                saved.lock().push(*content);
            }
            end
        };
        let saver = NewestSaver::new(save, move |content, _| failed.lock().push(1_000 + *content));
        (saver, end, log)
    }

    #[tokio::test]
    async fn a_disk_that_hangs_makes_nothing_wait_and_gets_the_newest_content_alone() {
        let (saver, end, log) = hanging_disk();
        saver.put(1);
        // The first one is being written.
        while saver.0.queue.lock().next.is_some() {
            tokio::task::yield_now().await;
        }
        (2..=5).for_each(|content| saver.put(content));
        assert!(timeout(Duration::from_millis(1), saver.flush()).await.is_err(), "two are to be written");
        for _ in 0..2 {
            end.send(Ok(())).unwrap();
        }
        timeout(LONG, saver.flush()).await.expect("both are written");
        assert_eq!(*log.lock(), [1, 5]);
        // What was put is written when nothing holds the saver any more.
        let idle = saver.0.is_idle.clone();
        saver.put(6);
        drop(saver);
        end.send(Ok(())).unwrap();
        timeout(LONG, idle.subscribe().wait_for(|is_idle| *is_idle)).await.unwrap().unwrap();
        assert_eq!(*log.lock(), [1, 5, 6]);
    }

    #[tokio::test]
    async fn the_first_failure_is_reported_and_what_waits_can_be_dropped() {
        let (saver, end, log) = hanging_disk();
        for (content, is_good) in [(1, false), (2, false), (3, true), (4, false)] {
            saver.put(content);
            end.send(if is_good { Ok(()) } else { Err(io::Error::other("full")) }).unwrap();
            timeout(LONG, saver.flush()).await.expect("it is over");
            assert_eq!(saver.is_failing(), !is_good);
        }
        assert_eq!(*log.lock(), [1_001, 3, 1_004]);
        saver.put(5);
        while saver.0.queue.lock().next.is_some() {
            tokio::task::yield_now().await;
        }
        saver.put(6);
        saver.close();
        saver.put(7);
        end.send(Ok(())).unwrap();
        timeout(LONG, saver.flush()).await.expect("it is over");
        assert_eq!(*log.lock(), [1_001, 3, 1_004, 5]);
    }
}
