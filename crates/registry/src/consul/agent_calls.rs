//! The calls to a real agent.
//!
//! [`AgentApi::agent_service`] and [`AgentApi::catalog_entry`] wait at the agent: one registration needs two connections,
//! which are not those of the other calls.

use std::{fmt::Write as _, time::Duration};

use ::http::{Method, StatusCode};
use bytes::Bytes;
use tokio::sync::watch;

use super::{
    AGENT_CALL_TIMEOUT, Consul,
    agent::{CheckUpdateBody, RegisterBody, check_id, go_duration},
    agent_api::{AgentApi, AgentService, ServiceChecks},
    api_client::{ApiRequest, percent_encode},
    expect_ok, malformed, wire,
};
use crate::{AnswerFuture, Cursor, Error, Registration, ReportedHealth, WatchAnswer};

impl AgentApi for Consul {
    fn register<'a>(&'a self, registration: &'a Registration) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            let body = to_json(&RegisterBody::from(registration))?;
            // Without `replace-existing-checks`, which also removes the check of maintenance mode: a
            // correction would send traffic to an app that an operator took out (observed on 1.8.7).
            self.put("register", "/v1/agent/service/register".into(), body).await
        })
    }

    fn service_checks<'a>(&'a self, id: &'a str) -> AnswerFuture<'a, ServiceChecks> {
        Box::pin(async move {
            let target = format!("/v1/agent/health/service/id/{}", percent_encode(id));
            let ask = ApiRequest::get("checks", target, AGENT_CALL_TIMEOUT).urgent();
            let request = ask.method_and_path();
            self.send_to_agent(ask, |reply| {
                match (reply.status.as_u16(), wire::parse_agent_health(id, &reply.body)) {
                    (404, _) => Ok(ServiceChecks::default()),
                    // The status is the health of the service: 429 is a warning, 503 critical. With another
                    // body than the answer it is a refusal.
                    (200 | 429 | 503, Ok(checks)) => Ok(checks),
                    (200, Err(error)) => Err(malformed(&request, &error)),
                    _ => expect_ok(&reply, &request).map(|_| ServiceChecks::default()),
                }
            })
            .await
        })
    }

    fn deregister_check<'a>(&'a self, check: &'a str) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            let target = format!("/v1/agent/check/deregister/{}", percent_encode(check));
            match self.put("remove_check", target, Bytes::new()).await {
                // The answer for an unknown id where ACLs are on.
                Err(error) if error.is_unknown_check() => Ok(()),
                other => other,
            }
        })
    }

    fn deregister<'a>(&'a self, id: &'a str) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            let target = format!("/v1/agent/service/deregister/{}", percent_encode(id));
            match self.put("deregister", target, Bytes::new()).await {
                // The answer for an unknown id where ACLs are on.
                Err(error) if error.is_unknown_service() => Ok(()),
                other => other,
            }
        })
    }

    fn update_check<'a>(
        &'a self,
        id: &'a str,
        health: ReportedHealth,
        output: &'a str,
    ) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            let body = to_json(&CheckUpdateBody::new(health, output))?;
            self.put("report", format!("/v1/agent/check/update/{}", percent_encode(&check_id(id))), body)
                .await
        })
    }

    fn set_maintenance<'a>(&'a self, id: &'a str, on: bool, reason: &'a str) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            let (id, reason) = (percent_encode(id), percent_encode(reason));
            let target = format!("/v1/agent/service/maintenance/{id}?enable={on}&reason={reason}");
            self.put("maintenance", target, Bytes::new()).await
        })
    }

    fn agent_service<'a>(
        &'a self,
        id: &'a str,
        hash: Option<&'a str>,
        wait: Duration,
    ) -> AnswerFuture<'a, Option<AgentService>> {
        Box::pin(async move {
            let mut target = format!("/v1/agent/service/{}", percent_encode(id));
            let mut longest = AGENT_CALL_TIMEOUT;
            if let Some(hash) = hash.filter(|hash| !hash.is_empty()) {
                let wait = self.agent_wait(wait);
                // Writing to a `String` cannot fail.
                let _ = write!(target, "?hash={}&wait={}", percent_encode(hash), go_duration(wait));
                longest = wait + wait / 16 + AGENT_CALL_TIMEOUT;
            }
            let ask = ApiRequest::get("held", target, longest);
            // It is answered at once, and the registration waits for it.
            let ask = if longest == AGENT_CALL_TIMEOUT { ask.urgent() } else { ask };
            let request = ask.method_and_path();
            self.send_to_agent(ask, |reply| {
                if reply.status == StatusCode::NOT_FOUND {
                    return Ok(None);
                }
                expect_ok(&reply, &request)?;
                wire::parse_agent_service(&reply.body).map(Some).map_err(|error| malformed(&request, &error))
            })
            .await
        })
    }

    fn catalog_entry<'a>(
        &'a self,
        registration: &'a Registration,
        cursor: Cursor,
        wait: Duration,
    ) -> AnswerFuture<'a, WatchAnswer> {
        Box::pin(self.fetch_catalog_entry(registration, cursor, wait))
    }

    fn agent_services(&self) -> AnswerFuture<'_, Vec<AgentService>> {
        let target = "/v1/agent/services".into();
        Box::pin(self.call_agent("all_held", Method::GET, target, Bytes::new(), wire::parse_agent_services))
    }

    fn watch_credentials(&self) -> watch::Receiver<u64> {
        self.api.token.watch_rotations()
    }
}

fn to_json(body: &impl serde::Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| malformed("our own request", &error))
}
