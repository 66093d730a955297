//! Whether the agent answers: what all questions and calls of this process have found. The end of an outage ends the pauses of those
//! that follow a key.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::Error;

/// The end of a shorter outage ends no pause: pauses are still short, and a question that fails for its own reasons must not be
/// repeated with each answer to another one.
const LONG_OUTAGE: Duration = Duration::from_secs(5);

/// What answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnsweredBy {
    /// The agent alone, which says nothing of the servers.
    Agent,
    /// A server, by the agent.
    Servers,
    /// The servers of the datacenter that is named, by those of this one: that they give no answer says nothing of these.
    NamedDatacenter,
}

impl AnsweredBy {
    /// By path and query.
    pub(super) fn of(target: &str) -> Self {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        if target.starts_with("/v1/agent/") {
            Self::Agent
        } else if query.split('&').any(|one| one.starts_with("dc=")) {
            Self::NamedDatacenter
        } else {
            Self::Servers
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct AgentContact {
    lost: Mutex<LostContacts>,
    returned: watch::Sender<()>,
}

/// The first failure since the last answer, of each.
#[derive(Debug, Default)]
struct LostContacts {
    agent: Option<Instant>,
    servers: Option<Instant>,
}

impl AgentContact {
    /// The end of a request of `asked_at`.
    pub(super) fn record<T>(&self, by: AnsweredBy, asked_at: Instant, result: &Result<T, Error>) {
        let now = Instant::now();
        let mut lost = self.lost.lock();
        match (result, by) {
            (Err(Error::Connect { .. }), _) => {
                lost.agent.get_or_insert(now);
                lost.servers.get_or_insert(now);
            }
            (Err(error), AnsweredBy::Agent) if is_silence(error) => {
                lost.agent.get_or_insert(now);
            }
            // An agent that has no server says so in several ways, each with a status of its own failure.
            (Err(error), AnsweredBy::Servers) if is_silence(error) || is_failure(error) => {
                lost.servers.get_or_insert(now);
            }
            // That another datacenter is not reached is not told by the status.
            (Err(error), AnsweredBy::NamedDatacenter) if is_failure(error) => {}
            (Ok(_) | Err(Error::Refused { .. }), _) => {
                // A server that stops answers what waits.
                let ended = |lost_at: &mut Option<Instant>| {
                    let lost_at = lost_at.take_if(|lost_at| *lost_at <= asked_at);
                    lost_at.is_some_and(|lost_at| lost_at.elapsed() >= LONG_OUTAGE)
                };
                let is_agent_back = ended(&mut lost.agent);
                let are_servers_back = by != AnsweredBy::Agent && ended(&mut lost.servers);
                if is_agent_back || are_servers_back {
                    self.returned.send_replace(());
                }
            }
            (Err(_), _) => {}
        }
    }

    /// Changes when the agent, or a server, answers again after at least [`LONG_OUTAGE`].
    pub(super) fn returned(&self) -> watch::Receiver<()> {
        self.returned.subscribe()
    }
}

fn is_silence(error: &Error) -> bool {
    matches!(error, Error::Exchange { .. } | Error::Timeout { .. })
}

fn is_failure(error: &Error) -> bool {
    matches!(error, Error::Refused { status: 500..=599, .. })
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn timed_out() -> Result<(), Error> {
        Err(Error::Timeout { request: "GET /v1/kv/a".to_owned(), after: Duration::from_secs(1) })
    }

    fn refused(status: u16, text: &str) -> Result<(), Error> {
        Err(Error::Refused { request: "GET /v1/kv/a".to_owned(), status, text: text.to_owned(), hint: None })
    }

    fn is_told(returned: &mut watch::Receiver<()>) -> bool {
        let told = returned.has_changed().unwrap();
        returned.mark_unchanged();
        told
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_without_servers_that_answers_for_itself_does_not_end_the_outage() {
        let contact = AgentContact::default();
        let mut returned = contact.returned();
        let record = |target: &str, result| contact.record(AnsweredBy::of(target), Instant::now(), &result);
        // As Consul 1.8 says it one after the other while its servers are gone.
        for text in
            ["rpc error making call: EOF", "No known Consul servers", "rpc error getting client: refused"]
        {
            record("/v1/kv/a?index=1", refused(500, text));
            advance(LONG_OUTAGE).await;
            record("/v1/agent/service/a", Ok(()));
            assert!(!is_told(&mut returned), "{text}");
        }
        record("/v1/kv/a", refused(403, "Permission denied"));
        assert!(is_told(&mut returned), "a server has answered");
        record("/v1/kv/a", Ok(()));
        assert!(!is_told(&mut returned), "once");
        // An agent that was gone is told when it is back, and its servers again when they are.
        let gone =
            || Err::<(), _>(Error::Connect { address: "a".into(), source: std::io::Error::other("refused") });
        record("/v1/health/service/a", gone());
        advance(LONG_OUTAGE).await;
        record("/v1/agent/service/a", Ok(()));
        assert!(is_told(&mut returned));
        record("/v1/kv/a", Ok(()));
        assert!(is_told(&mut returned));
    }

    #[tokio::test(start_paused = true)]
    async fn another_datacenter_that_does_not_answer_is_no_outage_of_the_servers() {
        let contact = AgentContact::default();
        let mut returned = contact.returned();
        let record = |target: &str, result| contact.record(AnsweredBy::of(target), Instant::now(), &result);
        for result in
            [refused(500, "No path to datacenter"), refused(500, "rpc error getting client: x"), timed_out()]
        {
            record("/v1/health/service/a?dc=dc2", result);
            advance(2 * LONG_OUTAGE).await;
            record("/v1/health/service/a?index=1", Ok(()));
            assert!(!is_told(&mut returned));
        }
        // An answer from there came through the servers of this one.
        record("/v1/kv/a", refused(500, "No cluster leader"));
        advance(LONG_OUTAGE).await;
        record("/v1/health/service/a?index=1&dc=dc2", Ok(()));
        assert!(is_told(&mut returned));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_long_outage_is_told_once_by_an_answer_to_a_later_question() {
        let contact = AgentContact::default();
        let mut returned = contact.returned();
        let record = |asked_at, result| contact.record(AnsweredBy::Servers, asked_at, &result);
        record(Instant::now(), Ok(()));
        assert!(!is_told(&mut returned), "it was never gone");
        let before = Instant::now();
        advance(Duration::from_secs(1)).await;
        record(before, timed_out());
        advance(Duration::from_secs(4)).await;
        record(Instant::now(), timed_out());
        record(Instant::now(), Ok(()));
        assert!(!is_told(&mut returned), "a short outage");
        record(Instant::now(), timed_out());
        advance(LONG_OUTAGE).await;
        record(before, Ok(()));
        assert!(!is_told(&mut returned), "the answer to a question from before");
        record(Instant::now(), Ok(()));
        assert!(is_told(&mut returned));
        record(Instant::now(), Ok(()));
        assert!(!is_told(&mut returned));
    }
}
