//! Streams of server-sent events: a lock that is held by its connection, and the changes of a lock.
//!
//! The lock lives as long as the connection: hyper drops the body when the peer closes it, and a comment every few seconds finds a peer
//! that has vanished.

use std::{convert::Infallible, sync::Arc};

use axum::{body::Bytes, response::Response};
use futures_util::{StreamExt as _, stream};
use outrigger_locks::{Held, HoldState, LockManager, LockName, LockView, LockWatch};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Interval};
use tokio_util::sync::CancellationToken;

use super::{problem::holder_json, reason::ApiReason};
use crate::sse::{comments, frame, stream_response};

/// A comment: the client ignores it.
const COMMENT: &[u8] = b": held\n\n";

/// One event.
fn event(name: &str, data: &Value) -> Bytes {
    frame(Some(name), None, data).into()
}

/// A hold that is told: `acquired`, then `draining` or `lost`, each once. After `lost` the stream ends.
struct HoldStream {
    /// Dropping it gives the lock back.
    held: Held,
    state: watch::Receiver<HoldState>,
    draining: Option<CancellationToken>,
    comments: Interval,
    is_begun: bool,
    is_over: bool,
}

impl HoldStream {
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        if !self.is_begun {
            self.is_begun = true;
            return Some(event("acquired", &json!({"token": self.held.token()})));
        }
        let draining = self.draining.clone();
        let draining = async {
            match draining {
                Some(draining) => draining.cancelled_owned().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(draining);
        loop {
            tokio::select! {
                biased;
                state = self.state.wait_for(|state| *state != HoldState::Held) => {
                    self.is_over = true;
                    let data = match state.as_deref() {
                        Ok(HoldState::Lost(reason)) => {
                            json!({"reason": reason.name(), "detail": reason.to_string()})
                        }
                        Ok(HoldState::Held | HoldState::Released) | Err(_) => json!({"reason": "released"}),
                    };
                    return Some(event("lost", &data));
                }
                () = &mut draining => {
                    self.draining = None;
                    return Some(event("draining", &json!({"detail": "the sidecar stops; give the lock back"})));
                }
                _ = self.comments.tick() => {
                    // After a stop of this process the loss comes first.
                    if self.held.is_certain() {
                        return Some(Bytes::from_static(COMMENT));
                    }
                }
            }
        }
    }
}

/// The response to a hold.
pub(super) fn hold_response(held: Held, locks: &LockManager) -> Response {
    let (state, draining) = (held.state(), Some(locks.draining()));
    let hold = HoldStream { held, state, draining, comments: comments(), is_begun: false, is_over: false };
    stream_response(stream::unfold(hold, |mut hold| async move {
        let next = hold.next().await?;
        Some((Ok::<_, Infallible>(next), hold))
    }))
}

/// What is said of a lock, in a stream and in a single answer.
pub(super) fn state_json(name: &LockName, view: &LockView) -> Value {
    let holders: Vec<_> = view.holders.iter().map(holder_json).collect();
    json!({
        "name": name.as_str(),
        "kind": view.watched.kind_text(),
        "limit": view.watched.limit(),
        "held": !holders.is_empty(),
        "holders": holders,
        "waiters_here": view.waiters,
    })
}

/// The changes of a lock, the present state first. With each comment the registry is asked, and an event `stale` tells when it does not answer
/// or refuses, and when it answers again.
pub(super) fn watch_response(
    name: LockName,
    first: &LockView,
    watch: LockWatch,
    locks: &LockManager,
) -> Response {
    let first = event("state", &state_json(&name, first));
    let changes = WatchStream { name, watch, comments: comments(), draining: locks.draining(), stale: None };
    let changes = stream::unfold(changes, |mut changes| async move {
        let next = changes.next().await?;
        Some((next, changes))
    });
    stream_response(stream::once(async { first }).chain(changes).map(Ok::<_, Infallible>))
}

/// The changes of a lock.
struct WatchStream {
    name: LockName,
    watch: LockWatch,
    comments: Interval,
    draining: CancellationToken,
    /// Why the registry does not answer, as it was told.
    stale: Option<Arc<str>>,
}

impl WatchStream {
    async fn next(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            () = self.draining.cancelled() => None,
            () = self.watch.changed() => {
                let state = state_json(&self.name, &self.watch.tell().await);
                Some(event("state", &state))
            }
            _ = self.comments.tick() => {
                let was_stale = self.stale.is_some();
                self.stale = self.watch.check().await;
                Some(match &self.stale {
                    Some(why) if !was_stale => {
                        let reason = ApiReason::RegistryUnavailable.label();
                        event("stale", &json!({"stale": true, "reason": reason, "detail": &**why}))
                    }
                    None if was_stale => event("stale", &json!({"stale": false})),
                    _ => Bytes::from_static(b": no change\n\n"),
                })
            }
        }
    }
}
