//! A Consul agent as a source of instances: one health query after the other.

use std::time::Duration;

use ::http::HeaderMap;
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout},
};

use super::{
    Consul, LONGEST_WAIT, SHORTEST_WAIT,
    agent::go_duration,
    api_client::{ApiRequest, percent_encode},
    connection::ApiResponse,
    cursor, expect_ok, malformed, wire,
};
use crate::{
    AnswerFuture, ChainAnswer, Consistency, Cursor, Error, Instance, LookupFuture, Query, Registration,
    Registry, WatchAnswer,
};

/// Reads stall for seven seconds while the cluster has no leader, before they fail.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Time in addition to the wait of a blocking query and its jitter of a sixteenth.
const WAIT_MARGIN: Duration = Duration::from_secs(5);

impl Registry for Consul {
    fn watch<'a>(
        &'a self,
        query: &'a Query,
        cursor: Cursor,
        consistency: Consistency,
        wait: Duration,
    ) -> AnswerFuture<'a, WatchAnswer> {
        Box::pin(async move {
            let target = |from| self.health_target(query, consistency, from);
            let is_elsewhere = query.datacenter.is_some() && cursor == Cursor::START;
            let _turn = match is_elsewhere {
                true => Some(self.wait_for_turn_elsewhere(wait, &target(None)).await?),
                false => None,
            };
            let (listed, watched) = self
                .read_or_watch(cursor, wait, target, |reply, request| {
                    parse_watch_answer(reply, cursor, consistency, request)
                })
                .await?;
            let listed = self.choose_addresses(query, listed, wait).await?;
            Ok(WatchAnswer { instances: self.resolver.resolve(listed).await, ..watched })
        })
    }

    fn watch_chain<'a>(
        &'a self,
        service: &'a str,
        cursor: Cursor,
        wait: Duration,
    ) -> Option<AnswerFuture<'a, ChainAnswer>> {
        Some(Box::pin(self.read_chain(service, cursor, wait)))
    }

    fn look_up_again<'a>(&'a self, instances: &'a [Instance]) -> LookupFuture<'a> {
        Box::pin(self.resolver.resolve_again(instances))
    }

    fn longest_wait(&self) -> Duration {
        *self.wait.lock()
    }

    fn empty_hint(&self) -> Option<&'static str> {
        Some(if self.api.token.is_set() {
            "if Consul's ACLs are on, the token may lack node:read: lists are then empty without an error"
        } else {
            "if Consul's ACLs are on, no token is set: lists are then empty without an error"
        })
    }
}

impl Consul {
    /// The turn of a read in another datacenter.
    async fn wait_for_turn_elsewhere(
        &self,
        wait: Duration,
        target: &str,
    ) -> Result<SemaphorePermit<'_>, Error> {
        let turn = timeout(wait, self.reads_elsewhere.acquire()).await;
        turn.ok().and_then(Result::ok).ok_or_else(|| Error::Busy {
            request: format!("GET {target}"),
            limit: self.reads_elsewhere.available_permits(),
            after: wait,
        })
    }

    /// One question for a watch. At [`Cursor::START`] it is a read, which is answered at once; from another cursor it waits
    /// for a change. `target` makes path and query, with the cursor and the wait where it waits; `parse` reads the answer, of
    /// status 200 or, for a key that does not exist, 404.
    pub(super) async fn read_or_watch<T>(
        &self,
        cursor: Cursor,
        wait: Duration,
        target: impl Fn(Option<(Cursor, Duration)>) -> String,
        parse: impl Fn(&ApiResponse, &str) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (asked_at, wait) = (Instant::now(), wait.clamp(SHORTEST_WAIT, LONGEST_WAIT));
        match self.ask_once(cursor, wait, false, &target, &parse).await {
            // The slot without a connection is gone: the watch waits for its turn on those that there are.
            Err(Error::ConnectionLimit { open, .. }) if open > 0 => {
                let left = wait.saturating_sub(asked_at.elapsed()).max(SHORTEST_WAIT);
                self.ask_once(cursor, left, true, &target, &parse).await
            }
            other => other,
        }
    }

    /// One query. `is_in_turn`: it waits for its turn with the blocking ones, also when it would be answered at once.
    async fn ask_once<T>(
        &self,
        cursor: Cursor,
        wait: Duration,
        is_in_turn: bool,
        target: impl Fn(Option<(Cursor, Duration)>) -> String,
        parse: impl Fn(&ApiResponse, &str) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (ask, slot) = if cursor == Cursor::START {
            let ask = ApiRequest::get("read", target(None), READ_TIMEOUT);
            let reads = self.read_connections.as_ref().filter(|_| !is_in_turn);
            let slot = self.acquire_slot(reads.unwrap_or(&self.api.watches), &ask, wait).await?;
            (ask, slot)
        } else {
            let blocking =
                |wait| ApiRequest::get("watch", target(Some((cursor, wait))), blocking_timeout(wait));
            let slot = self.acquire_slot(&self.api.watches, &blocking(wait), wait).await?;
            (blocking(slot.fair_wait(wait).max(SHORTEST_WAIT)), slot)
        };
        let request = ask.method_and_path();
        self.api.send(slot, ask, |reply| parse(&reply, &request)).await
    }

    /// Only entries with this id are sent: the answers to all sidecars of a service would otherwise grow
    /// with the square of its instances.
    pub(super) async fn fetch_catalog_entry(
        &self,
        registration: &Registration,
        cursor: Cursor,
        wait: Duration,
    ) -> Result<WatchAnswer, Error> {
        let wait = self.agent_wait(wait);
        let (mut options, mut longest) = (Vec::new(), READ_TIMEOUT);
        if cursor != Cursor::START {
            options.extend(blocking_params(cursor, wait));
            longest = blocking_timeout(wait);
        }
        options.extend(id_filter(&registration.id));
        let target = health_path(&registration.name, &options);
        let ask = ApiRequest::get("listed", target, longest);
        let request = ask.method_and_path();
        let judge = |reply: ApiResponse| parse_watch_answer(&reply, cursor, Consistency::Default, &request);
        let (listed, watched) = self.send_to_agent(ask, judge).await?;
        // A resolver must not hold up what keeps the registration.
        let instances = listed.into_iter().map(|one| one.lan.without_look_up()).collect();
        Ok(WatchAnswer { instances, ..watched })
    }

    fn health_target(
        &self,
        query: &Query,
        consistency: Consistency,
        from: Option<(Cursor, Duration)>,
    ) -> String {
        let mut options = Vec::new();
        if let Some((cursor, wait)) = from {
            options.extend(blocking_params(cursor, wait));
        }
        if let Some(datacenter) = query.datacenter.as_deref().or(self.datacenter.as_deref()) {
            options.push(format!("dc={}", percent_encode(datacenter)));
        }
        options.extend(consistency_param(consistency).map(str::to_owned));
        if let Some(filter) = &query.filter {
            options.push(format!("filter={}", percent_encode(filter)));
        }
        health_path(&query.service, &options)
    }
}

fn health_path(service: &str, options: &[String]) -> String {
    let path = format!("/v1/health/service/{}", percent_encode(service));
    if options.is_empty() { path } else { format!("{path}?{}", options.join("&")) }
}

/// Longest time until a blocking query is answered.
fn blocking_timeout(wait: Duration) -> Duration {
    wait + wait / 16 + WAIT_MARGIN
}

/// The parameter of a read that asks for `consistency`.
pub(super) fn consistency_param(consistency: Consistency) -> Option<&'static str> {
    match consistency {
        Consistency::Default => None,
        Consistency::Stale => Some("stale"),
        Consistency::Consistent => Some("consistent"),
    }
}

pub(super) fn blocking_params(cursor: Cursor, wait: Duration) -> [String; 2] {
    [format!("index={}", cursor.index()), format!("wait={}", go_duration(wait))]
}

/// The filter expression for an id. `None` for an id that would need escapes: the answer is not filtered
/// then.
fn id_filter(id: &str) -> Option<String> {
    let plain = !id.contains(['"', '\\']);
    plain.then(|| format!("filter={}", percent_encode(&format!("Service.ID == \"{id}\""))))
}

/// An answer, with instances of which no address is chosen yet.
fn parse_watch_answer(
    reply: &ApiResponse,
    sent: Cursor,
    consistency: Consistency,
    request: &str,
) -> Result<(Vec<wire::ListedInstance>, WatchAnswer), Error> {
    expect_ok(reply, request)?;
    let listed = wire::parse_health_service(&reply.body).map_err(|error| malformed(request, &error))?;
    let Freshness { cursor, index_went_back, age, known_leader } =
        Freshness::read(&reply.headers, sent, consistency);
    Ok((listed, WatchAnswer { instances: Vec::new(), cursor, index_went_back, age, known_leader }))
}

/// What the header fields of an answer say of its place and its age.
pub(super) struct Freshness {
    pub(super) cursor: Cursor,
    pub(super) index_went_back: bool,
    pub(super) age: Option<Duration>,
    pub(super) known_leader: bool,
}

impl Freshness {
    /// Reads the fields of the answer to a question that was sent with the cursor `sent`.
    pub(super) fn read(headers: &HeaderMap, sent: Cursor, consistency: Consistency) -> Self {
        let (cursor, index_went_back) = cursor::next_cursor(sent, header_text(headers, "x-consul-index"));
        // An agent of Consul 1.10 and later answers many questions from what its server streams to it, and then states a last
        // contact of 0 and no leader, however healthy all is. So the two say something only in an answer that a server has made.
        let is_streamed = header_text(headers, "x-consul-query-backend")
            .is_some_and(|backend| backend.eq_ignore_ascii_case("streaming"));
        let of_server = |name| header_text(headers, name).filter(|_| !is_streamed);
        let age = of_server("x-consul-lastcontact").and_then(|text| text.parse().ok());
        Self {
            cursor,
            index_went_back,
            // The answers of the leader itself carry a meaningless 0.
            age: age.filter(|_| consistency == Consistency::Stale).map(Duration::from_millis),
            // Only the leader answers a default read: without one it is refused (500).
            known_leader: consistency == Consistency::Default
                || of_server("x-consul-knownleader") != Some("false"),
        }
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
