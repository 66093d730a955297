//! A Consul agent as the place where the local app is registered.
//!
//! [`Registrar::held`] and [`Registrar::listed`] keep one of the connections for agent calls each for as
//! long as they wait: one registration needs two.

use std::{fmt::Write as _, time::Duration};

use ::http::{Method, StatusCode};
use bytes::Bytes;
use tokio::sync::watch;

use super::{
    AGENT_CALL, Consul, LONGEST_WAIT, SHORTEST_WAIT,
    agent::{Register, Update, check_id, go_duration},
    http::{Ask, encoded},
    malformed, ok, wire,
};
use crate::{Answer, Checks, Cursor, Error, Held, Registrar, Registration, ReportedHealth, Watched};

impl Registrar for Consul {
    fn register<'a>(&'a self, registration: &'a Registration) -> Answer<'a, ()> {
        Box::pin(async move {
            let body = json(&Register::from(registration))?;
            // Not with `replace-existing-checks`: that removes the check of maintenance mode as well, so
            // that a correction would send traffic to what somebody took out (seen on 1.8.7).
            self.put("register", "/v1/agent/service/register".into(), body).await
        })
    }

    fn checks<'a>(&'a self, id: &'a str) -> Answer<'a, Checks> {
        Box::pin(self.ask_checks(id))
    }

    fn remove_check<'a>(&'a self, check: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let target = format!("/v1/agent/check/deregister/{}", encoded(check));
            match self.put("remove_check", target, Bytes::new()).await {
                // What the agent says of an unknown id where ACLs are on.
                Err(error) if error.is_unknown_check() => Ok(()),
                other => other,
            }
        })
    }

    fn deregister<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let target = format!("/v1/agent/service/deregister/{}", encoded(id));
            match self.put("deregister", target, Bytes::new()).await {
                // What the agent says of an unknown id where ACLs are on.
                Err(error) if error.is_unknown_service() => Ok(()),
                other => other,
            }
        })
    }

    fn report<'a>(&'a self, id: &'a str, health: ReportedHealth, output: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let body = json(&Update::new(health, output))?;
            self.put("report", format!("/v1/agent/check/update/{}", encoded(&check_id(id))), body).await
        })
    }

    fn maintenance<'a>(&'a self, id: &'a str, on: bool, reason: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let (id, reason) = (encoded(id), encoded(reason));
            let target = format!("/v1/agent/service/maintenance/{id}?enable={on}&reason={reason}");
            self.put("maintenance", target, Bytes::new()).await
        })
    }

    fn held<'a>(&'a self, id: &'a str, hash: Option<&'a str>, wait: Duration) -> Answer<'a, Option<Held>> {
        Box::pin(self.ask_held(id, hash, wait))
    }

    fn listed<'a>(
        &'a self,
        registration: &'a Registration,
        cursor: Cursor,
        wait: Duration,
    ) -> Answer<'a, Watched> {
        Box::pin(self.ask_listed(registration, cursor, wait))
    }

    fn all_held(&self) -> Answer<'_, Vec<Held>> {
        let target = "/v1/agent/services".into();
        Box::pin(self.call("all_held", Method::GET, target, Bytes::new(), wire::agent_services))
    }

    fn credentials(&self) -> watch::Receiver<u64> {
        self.http.rotations()
    }
}

impl Consul {
    async fn ask_checks(&self, id: &str) -> Result<Checks, Error> {
        let target = format!("/v1/agent/health/service/id/{}", encoded(id));
        let ask =
            Ask { operation: "checks", method: Method::GET, target, body: Bytes::new(), longest: AGENT_CALL };
        let request = ask.name();
        self.ask_agent(ask, |reply| match (reply.status.as_u16(), wire::agent_health(id, &reply.body)) {
            (404, _) => Ok(Checks::default()),
            // The status says how the service is: 429 is a warning, 503 critical. Unless it comes with
            // something else than the answer: then it is a refusal.
            (200 | 429 | 503, Ok(checks)) => Ok(checks),
            (200, Err(error)) => Err(malformed(&request, &error)),
            _ => ok(reply, &request).map(|_| Checks::default()),
        })
        .await
    }

    async fn ask_held(&self, id: &str, hash: Option<&str>, wait: Duration) -> Result<Option<Held>, Error> {
        let mut target = format!("/v1/agent/service/{}", encoded(id));
        let mut longest = AGENT_CALL;
        if let Some(hash) = hash.filter(|hash| !hash.is_empty()) {
            let wait = wait.clamp(SHORTEST_WAIT, LONGEST_WAIT);
            // Writing to a `String` cannot fail.
            let _ = write!(target, "?hash={}&wait={}", encoded(hash), go_duration(wait));
            longest = wait + wait / 16 + AGENT_CALL;
        }
        let ask = Ask { operation: "held", method: Method::GET, target, body: Bytes::new(), longest };
        let request = ask.name();
        self.ask_agent(ask, |reply| {
            if reply.status == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            let reply = ok(reply, &request)?;
            wire::agent_service(&reply.body).map(Some).map_err(|error| malformed(&request, &error))
        })
        .await
    }
}

fn json(body: &impl serde::Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| malformed("our own request", &error))
}
