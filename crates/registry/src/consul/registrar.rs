//! The five verbs of [`Registrar`], made of the calls to an agent.

use std::sync::Arc;

use super::{
    agent::{CHECK_OUTPUT, DRAIN_OUTPUT, UNPROBED_OUTPUT, explained_output},
    agent_api::AgentApi,
    drift, stale,
};
use crate::{AnswerFuture, Drift, Registrar, Registration, Report, ReportedHealth, Seen};

impl<A: AgentApi> Registrar for A {
    fn announce<'a>(&'a self, registration: &'a Registration, seen: &'a mut Seen) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            // Subscribed before the call, so that a token that is replaced during the call counts as new.
            let credentials = self.watch_credentials();
            let marked = stale::with_mark(registration, &drift::run_of(seen));
            self.register(&marked).await?;
            seen.credentials = Some(credentials);
            drift::begin_anew(seen);
            Ok(())
        })
    }

    fn report<'a>(&'a self, id: &'a str, report: Report<'a>) -> AnswerFuture<'a, ()> {
        match report {
            Report::Health(health) => self.update_check(id, health, CHECK_OUTPUT),
            Report::Explained { health, why } => {
                Box::pin(async move { self.update_check(id, health, &explained_output(why)).await })
            }
            Report::Unprobed { last, why } => {
                Box::pin(async move { self.update_check(id, last, &format!("{UNPROBED_OUTPUT}{why}")).await })
            }
            Report::Draining => self.update_check(id, ReportedHealth::Critical, DRAIN_OUTPUT),
        }
    }

    fn maintain<'a>(&'a self, id: &'a str, reason: Option<&'a str>) -> AnswerFuture<'a, ()> {
        self.set_maintenance(id, reason.is_some(), reason.unwrap_or_default())
    }

    fn withdraw<'a>(&'a self, id: &'a str) -> AnswerFuture<'a, ()> {
        self.deregister(id)
    }

    fn drift<'a>(
        self: Arc<Self>,
        registration: &'a Registration,
        seen: &'a mut Seen,
    ) -> AnswerFuture<'a, Drift> {
        Box::pin(drift::ask(self, registration, seen))
    }
}
