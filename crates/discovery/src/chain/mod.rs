//! Follows what the registry says of a service's requests: one question after the other, and each new chain as traffic rules.
//!
//! Any write of a config entry answers every question, so that answers are compared, and a service is asked about at most once a
//! second. A failure changes nothing: the last good chain stays.

use std::{sync::Arc, time::Duration};

use outrigger_config::TrafficRules;
use outrigger_policy::Backoff;
use outrigger_registry::{Cursor, Error, Registry, chain::Chain};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::{DiskCache, watch::FIRST_ANSWER_WAIT};

mod translate;

use translate::GoodFilters;
pub use translate::{ChainProblem, ChainProblemKind, ChainRules};

/// Shortest time between two questions about a service.
const INTERVAL: Duration = Duration::from_secs(1);
/// The time between two questions of which none waits: the index of the registry cannot be used.
const INTERVAL_WITHOUT_INDEX: Duration = Duration::from_secs(5);
/// The time to the next question where the registry has no chains, or refuses to show them.
const INTERVAL_REFUSED: Duration = Duration::from_secs(30);
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(15) };

/// What is known of a chain.
#[derive(Debug, Clone, PartialEq)]
pub enum ChainNews {
    /// It is another one than before.
    Changed(Arc<ChainRules>),
    /// There was no chain yet, and the registry does not give one.
    Unavailable(String),
}

/// Follows the chain of one service.
#[derive(Debug)]
pub struct ChainFollower {
    registry: Arc<dyn Registry>,
    service: Arc<str>,
    cursor: Cursor,
    /// When the next question may be asked.
    due: Instant,
    /// `None`: there was no answer yet.
    known: Option<Chain>,
    cache: Option<Arc<DiskCache>>,
    /// What was known before the restart, as long as nothing else is.
    remembered: Option<Arc<Chain>>,
    good: GoodFilters,
    /// What the next start would know.
    kept: Option<Arc<Chain>>,
    is_default: bool,
    failures: u32,
}

impl ChainFollower {
    pub(crate) fn new(registry: Arc<dyn Registry>, service: Arc<str>, cache: Option<Arc<DiskCache>>) -> Self {
        Self {
            remembered: cache.as_ref().and_then(|cache| cache.load_chain(&service)),
            cache,
            registry,
            service,
            cursor: Cursor::START,
            due: Instant::now(),
            known: None,
            good: GoodFilters::new(),
            kept: None,
            is_default: false,
            failures: 0,
        }
    }

    /// The next change, or the first failure where nothing is known. What was known before a restart is a change too, when the first
    /// answer is late or a failure. May be dropped at any time: the question is asked anew then.
    pub async fn next(&mut self) -> ChainNews {
        loop {
            sleep_until(self.due).await;
            let asked = Instant::now();
            let wait = self.registry.longest_wait();
            let Some(question) = self.registry.watch_chain(&self.service, self.cursor, wait) else {
                return std::future::pending().await;
            };
            let answer = match self.remembered {
                None => question.await,
                Some(_) => match timeout(FIRST_ANSWER_WAIT, question).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        self.due = asked + INTERVAL;
                        if let Some(news) = self.remember() {
                            return news;
                        }
                        continue;
                    }
                },
            };
            match answer {
                Ok(answer) => {
                    if let Some(chain) = self.remembered.take() {
                        // Its filters are the last good ones.
                        translate::rules_of(&chain, &mut self.good);
                    }
                    if self.failures > 0 {
                        info!(service = %self.service, "the chain can be read again");
                    }
                    self.failures = 0;
                    let has_index = answer.cursor != Cursor::START;
                    self.due = asked + if has_index { INTERVAL } else { INTERVAL_WITHOUT_INDEX };
                    self.cursor = answer.cursor;
                    if self.known.as_ref() == Some(&answer.chain) {
                        self.confirm();
                        continue;
                    }
                    return self.set_known(answer.chain);
                }
                Err(error) => {
                    if let Some(news) = self.on_failure(&error) {
                        return news;
                    }
                }
            }
        }
    }

    fn set_known(&mut self, chain: Chain) -> ChainNews {
        let rules = translate::rules_of(&chain, &mut self.good);
        for problem in &rules.problems {
            let (service, kind) = (&self.service, problem.kind.label());
            warn!(%service, kind, problem = problem.text, "a part of Consul's chain has no effect");
        }
        self.is_default = rules.rules == TrafficRules::default();
        // The next start has the filters that are in use.
        self.kept = Some(Arc::new(translate::with_good_filters(&chain, &self.good)));
        self.known = Some(chain);
        self.confirm();
        ChainNews::Changed(Arc::new(rules))
    }

    /// Notes for the next start that the chain is known.
    fn confirm(&self) {
        if let Some((cache, kept)) = self.cache.as_ref().zip(self.kept.as_ref()) {
            cache.record_chain(&self.service, kept, self.is_default);
        }
    }

    /// What was known before the restart.
    fn remember(&mut self) -> Option<ChainNews> {
        let chain = self.remembered.take()?;
        info!(service = %self.service, "the chain is that from before the restart");
        let rules = translate::rules_of(&chain, &mut self.good);
        self.is_default = rules.rules == TrafficRules::default();
        self.known = Some(Chain::clone(&chain));
        self.kept = Some(chain);
        Some(ChainNews::Changed(Arc::new(rules)))
    }

    fn on_failure(&mut self, error: &Error) -> Option<ChainNews> {
        self.failures = self.failures.saturating_add(1);
        let is_first = self.failures == 1;
        self.cursor = Cursor::START;
        let pause = match has_no_chains(error) {
            true => INTERVAL_REFUSED,
            false => INTERVAL.max(BACKOFF.pause(self.failures - 1, fastrand::u64(..))),
        };
        self.due = Instant::now() + pause;
        let service = &self.service;
        if is_first {
            let then = match (&self.known, &self.remembered) {
                (Some(_), _) => "the last one stays",
                (None, Some(_)) => "that from before the restart is used",
                (None, None) => "there is none",
            };
            warn!(%service, %error, "the chain cannot be read; {then}");
        } else {
            debug!(%service, %error, "the chain cannot be read");
        }
        if let Some(news) = self.remember() {
            return Some(news);
        }
        (is_first && self.known.is_none()).then(|| ChainNews::Unavailable(error.to_string()))
    }
}

/// Whether asking again soon is of no use: the token may not read it, or the registry knows no chains. A Consul 1.8.7 without
/// `connect { enabled = true }` answers 500.
fn has_no_chains(error: &Error) -> bool {
    match error {
        Error::Refused { status: 400 | 403 | 404 | 405 | 501, .. } => true,
        Error::Refused { status: 500, text, .. } => {
            text.contains("can't find") || text.contains("Connect must be enabled")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
