//! A Consul agent as a source of instances: one health query after the other.

use std::time::Duration;

use ::http::{HeaderMap, Method};
use bytes::Bytes;

use super::{
    Consul, LONGEST_WAIT, SHORTEST_WAIT,
    agent::go_duration,
    conn::Reply,
    cursor,
    http::{Ask, encoded},
    malformed, ok, wire,
};
use crate::{Answer, Consistency, Cursor, Error, Query, Registration, Registry, Watched, resolve::Listed};

/// Reads stall for seven seconds while there is no leader, before they fail.
const READ: Duration = Duration::from_secs(10);
/// On top of a blocking query's wait and its jitter of a sixteenth.
const MARGIN: Duration = Duration::from_secs(5);

impl Registry for Consul {
    fn watch<'a>(
        &'a self,
        query: &'a Query,
        cursor: Cursor,
        consistency: Consistency,
        wait: Duration,
    ) -> Answer<'a, Watched> {
        Box::pin(self.ask_watch(query, cursor, consistency, wait))
    }

    fn kind(&self) -> &'static str {
        "consul"
    }

    fn longest_wait(&self) -> Duration {
        self.wait
    }

    fn empty_hint(&self) -> Option<&'static str> {
        Some(if self.http.sends_token() {
            "if Consul's ACLs are on, the token may lack node:read: lists are then empty without an error"
        } else {
            "if Consul's ACLs are on, no token is set: lists are then empty without an error"
        })
    }
}

impl Consul {
    async fn ask_watch(
        &self,
        query: &Query,
        cursor: Cursor,
        consistency: Consistency,
        wait: Duration,
    ) -> Result<Watched, Error> {
        let wait = wait.clamp(SHORTEST_WAIT, LONGEST_WAIT);
        let (ask, place) = if cursor == Cursor::START {
            let ask = self.read(query, consistency);
            let place = self.place(self.reads.as_ref().unwrap_or(&self.watches), &ask, wait).await?;
            (ask, place)
        } else {
            let ask = self.blocking(query, cursor, consistency, wait);
            let place = self.place(&self.watches, &ask, wait).await?;
            let turn = place.turn(wait).max(SHORTEST_WAIT);
            (self.blocking(query, cursor, consistency, turn), place)
        };
        let request = ask.name();
        let (listed, watched) = self
            .http
            .ask(place, ask, |reply| watched(&ok(reply, &request)?, cursor, consistency, &request))
            .await?;
        Ok(Watched { instances: self.names.resolve(listed).await, ..watched })
    }

    /// Only what bears the id is sent: the answers to all sidecars of a service would otherwise grow with
    /// the square of its instances.
    pub(super) async fn ask_listed(
        &self,
        registration: &Registration,
        cursor: Cursor,
        wait: Duration,
    ) -> Result<Watched, Error> {
        let wait = wait.clamp(SHORTEST_WAIT, LONGEST_WAIT);
        let (mut options, mut longest) = (Vec::new(), READ);
        if cursor != Cursor::START {
            options.extend(blocking(cursor, wait));
            longest = longest_of(wait);
        }
        options.extend(has_id(&registration.id));
        let target = health_target(&registration.name, &options);
        let ask = Ask { operation: "listed", method: Method::GET, target, body: Bytes::new(), longest };
        let request = ask.name();
        let judge = |reply| watched(&ok(reply, &request)?, cursor, Consistency::Default, &request);
        let (listed, watched) = self.ask_agent(ask, judge).await?;
        Ok(Watched { instances: self.names.resolve(listed).await, ..watched })
    }

    fn read(&self, query: &Query, consistency: Consistency) -> Ask {
        let target = self.health_target(query, consistency, None);
        Ask { operation: "read", method: Method::GET, target, body: Bytes::new(), longest: READ }
    }

    fn blocking(&self, query: &Query, cursor: Cursor, consistency: Consistency, wait: Duration) -> Ask {
        let target = self.health_target(query, consistency, Some((cursor, wait)));
        let longest = longest_of(wait);
        Ask { operation: "watch", method: Method::GET, target, body: Bytes::new(), longest }
    }

    fn health_target(
        &self,
        query: &Query,
        consistency: Consistency,
        from: Option<(Cursor, Duration)>,
    ) -> String {
        let mut options = Vec::new();
        if let Some((cursor, wait)) = from {
            options.extend(blocking(cursor, wait));
        }
        if let Some(datacenter) = query.datacenter.as_deref().or(self.datacenter.as_deref()) {
            options.push(format!("dc={}", encoded(datacenter)));
        }
        match consistency {
            Consistency::Default => {}
            Consistency::Stale => options.push("stale".into()),
            Consistency::Consistent => options.push("consistent".into()),
        }
        health_target(&query.service, &options)
    }
}

fn health_target(service: &str, options: &[String]) -> String {
    let path = format!("/v1/health/service/{}", encoded(service));
    if options.is_empty() { path } else { format!("{path}?{}", options.join("&")) }
}

/// Longest time until a blocking query is answered.
fn longest_of(wait: Duration) -> Duration {
    wait + wait / 16 + MARGIN
}

fn blocking(cursor: Cursor, wait: Duration) -> [String; 2] {
    [format!("index={}", cursor.index()), format!("wait={}", go_duration(wait))]
}

/// Consul's filter on an id. None for one that would need escapes: everything is sent then.
fn has_id(id: &str) -> Option<String> {
    let plain = !id.contains(['"', '\\']);
    plain.then(|| format!("filter={}", encoded(&format!("Service.ID == \"{id}\""))))
}

/// The entries of an answer, still to be resolved, and everything else that it says.
fn watched(
    reply: &Reply,
    sent: Cursor,
    consistency: Consistency,
    request: &str,
) -> Result<(Vec<Listed>, Watched), Error> {
    let listed = wire::health_service(&reply.body).map_err(|error| malformed(request, &error))?;
    let step = cursor::step(sent, text(&reply.headers, "x-consul-index"));
    let age = text(&reply.headers, "x-consul-lastcontact").and_then(|text| text.parse().ok());
    let watched = Watched {
        instances: Vec::new(),
        cursor: step.cursor,
        went_back: step.went_back,
        // The leader's own answers carry a 0 that says nothing.
        age: age.filter(|_| consistency == Consistency::Stale).map(Duration::from_millis),
        known_leader: text(&reply.headers, "x-consul-knownleader") != Some("false"),
    };
    Ok((listed, watched))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
