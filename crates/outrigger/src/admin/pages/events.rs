//! `/events`: what the ring holds as JSON, and a stream of server-sent events that follows it. docs/events.md describes both.

use std::{convert::Infallible, fmt::Write as _, str::FromStr as _};

use axum::{
    Json,
    body::Bytes,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use outrigger_events::{
    CAPACITY, Delivery, EventFilter, EventId, EventKind, EventReader, Events, NotAnEventId, ReadFrom,
    RecordedEvent,
};
use serde::Deserialize;
use tokio::time::sleep;

use crate::{
    admin::activity::ConnectionControl,
    sse::{COMMENT_INTERVAL, RETRY_FRAME, accepts_stream, frame, stream_response},
};

/// The query of `/events`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct EventsQuery {
    service: Option<String>,
    /// Names of kinds, with commas between them.
    kind: Option<String>,
    since: Option<String>,
    limit: Option<usize>,
}

/// Why a query is refused.
#[derive(Debug, thiserror::Error)]
enum QueryError {
    #[error("no kind of event is called {name:?}; the kinds are: {}", EventKind::list())]
    Kind { name: String },
    #[error("since={text:?}: {source}")]
    Since { text: String, source: NotAnEventId },
}

impl EventsQuery {
    fn filter(&self) -> Result<EventFilter, QueryError> {
        let names = self.kind.iter().flat_map(|kinds| kinds.split(',')).map(str::trim);
        let kinds = names
            .filter(|name| !name.is_empty())
            .map(|name| EventKind::from_str(name).map_err(|_| QueryError::Kind { name: name.to_owned() }));
        let service = self.service.clone().filter(|service| !service.is_empty());
        Ok(EventFilter { service, kinds: kinds.collect::<Result<_, _>>()? })
    }

    fn since(&self) -> Result<Option<EventId>, QueryError> {
        let since = self.since.as_deref().filter(|since| !since.is_empty());
        let parse =
            |text: &str| text.parse().map_err(|source| QueryError::Since { text: text.to_owned(), source });
        since.map(parse).transpose()
    }
}

/// The answer to a request for the page. `connection`: the one that it came by, which a stream keeps open.
pub(in crate::admin) fn events_response(
    events: &Events,
    query: &EventsQuery,
    connection: Option<ConnectionControl>,
    headers: &HeaderMap,
) -> Response {
    let (filter, since) = match (query.filter(), query.since()) {
        (Ok(filter), Ok(since)) => (filter, since),
        (Err(error), _) | (_, Err(error)) => {
            return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response();
        }
    };
    if !accepts_stream(headers) {
        return Json(events.page(&filter, since, query.limit.unwrap_or(CAPACITY))).into_response();
    }
    // A client that connects again repeats its first query, and says by the field where it is.
    let from = match headers.get("last-event-id") {
        Some(id) if !id.is_empty() => {
            let id = id.to_str().ok().and_then(|id| id.parse().ok());
            id.map_or(ReadFrom::Unknown, ReadFrom::After)
        }
        _ => since.map_or(ReadFrom::Newest(query.limit.unwrap_or(CAPACITY)), ReadFrom::After),
    };
    match events.reader(filter, from) {
        Ok(reader) => follow(reader, connection.unwrap_or_default()),
        Err(refused) => {
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], format!("{refused}\n"))
                .into_response()
        }
    }
}

/// A stream of events, until the listener stops.
struct EventStream {
    reader: EventReader,
    connection: ConnectionControl,
    /// What the client knows as the id of the last event.
    told: Option<EventId>,
    has_begun: bool,
    /// The listener stops: what is there is delivered, and no more is waited for.
    is_ending: bool,
}

fn follow(reader: EventReader, connection: ConnectionControl) -> Response {
    let stream = EventStream { reader, connection, told: None, has_begun: false, is_ending: false };
    stream_response(stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next_chunk().await?;
        Some((Ok::<_, Infallible>(chunk), stream))
    }))
}

impl EventStream {
    /// The next bytes of the body. hyper asks for them while the client takes what was sent before.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        self.connection.extend();
        let mut text = String::new();
        if !std::mem::replace(&mut self.has_begun, true) {
            return Some(RETRY_FRAME.into());
        }
        if !self.is_ending {
            tokio::select! {
                biased;
                delivered = self.reader.next() => self.write(delivered, &mut text),
                () = self.connection.stopped() => self.is_ending = true,
                () = sleep(COMMENT_INTERVAL) => self.write_comment(&mut text),
            }
        }
        if self.is_ending {
            let delivered = self.reader.take();
            if delivered.is_empty() {
                return None;
            }
            self.write(delivered, &mut text);
        }
        self.connection.extend();
        Some(text.into())
    }

    fn write(&mut self, delivered: Vec<Delivery>, text: &mut String) {
        for delivery in delivered {
            text.push_str(&match delivery {
                Delivery::Event(event) => {
                    self.told = Some(event.id);
                    frame(None, Some(&event.id), &to_json(&event))
                }
                Delivery::Repeated(event) => frame(Some("repeated"), None, &to_json(&event)),
                Delivery::Lost(count) => frame(Some("lost"), None, &serde_json::json!({"lost": count})),
            });
        }
    }

    /// A comment. Where events were passed over, the client gets the position after them, so that it does not take them for lost when
    /// it connects again: a block without data is no event, but its id counts.
    fn write_comment(&mut self, text: &mut String) {
        text.push_str(":\n");
        let position = self.reader.position();
        if self.told.replace(position) != Some(position) {
            let _ = writeln!(text, "id: {position}");
        }
        text.push('\n');
    }
}

fn to_json(event: &RecordedEvent) -> String {
    serde_json::to_string(event).unwrap_or_default()
}

#[cfg(test)]
mod tests;
