//! Whether the agent answers: what all questions and calls of this process have found. The end of an outage ends the pauses of those
//! that follow a key.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::Error;

/// The end of a shorter outage ends no pause: pauses are still short, and a question that fails for its own reasons must not be
/// repeated with each answer to another one.
const LONG_OUTAGE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct AgentContact {
    /// The first failure since the last answer.
    lost_at: Mutex<Option<Instant>>,
    returned: watch::Sender<()>,
}

impl AgentContact {
    /// The end of a request of `asked_at`.
    pub(super) fn record<T>(&self, asked_at: Instant, result: &Result<T, Error>) {
        match result {
            Err(error) if is_outage(error) => {
                self.lost_at.lock().get_or_insert_with(Instant::now);
            }
            Ok(_) | Err(Error::Refused { .. }) => {
                // A server that stops answers what waits.
                let lost_at = self.lost_at.lock().take_if(|lost_at| *lost_at <= asked_at);
                if lost_at.is_some_and(|lost_at| lost_at.elapsed() >= LONG_OUTAGE) {
                    self.returned.send_replace(());
                }
            }
            Err(_) => {}
        }
    }

    /// Changes when the agent answers again after at least [`LONG_OUTAGE`].
    pub(super) fn returned(&self) -> watch::Receiver<()> {
        self.returned.subscribe()
    }
}

fn is_outage(error: &Error) -> bool {
    matches!(error, Error::Connect { .. } | Error::Exchange { .. } | Error::Timeout { .. })
        || error.is_no_leader()
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn timed_out() -> Result<(), Error> {
        Err(Error::Timeout { request: "GET /v1/kv/a".to_owned(), after: Duration::from_secs(1) })
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_long_outage_is_told_once_by_an_answer_to_a_later_question() {
        let contact = AgentContact::default();
        let mut returned = contact.returned();
        let is_told = |returned: &mut watch::Receiver<()>| {
            let told = returned.has_changed().unwrap();
            returned.mark_unchanged();
            told
        };
        contact.record(Instant::now(), &Ok(()));
        assert!(!is_told(&mut returned), "it was never gone");
        let before = Instant::now();
        advance(Duration::from_secs(1)).await;
        contact.record(before, &timed_out());
        advance(Duration::from_secs(4)).await;
        contact.record(Instant::now(), &timed_out());
        contact.record(Instant::now(), &Ok(()));
        assert!(!is_told(&mut returned), "a short outage");
        contact.record(Instant::now(), &timed_out());
        advance(LONG_OUTAGE).await;
        contact.record(before, &Ok(()));
        assert!(!is_told(&mut returned), "the answer to a question from before");
        contact.record(Instant::now(), &Ok(()));
        assert!(is_told(&mut returned));
        contact.record(Instant::now(), &Ok(()));
        assert!(!is_told(&mut returned));
    }
}
