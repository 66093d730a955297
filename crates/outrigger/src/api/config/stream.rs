//! The configuration as server-sent events.
//!
//! | event | when |
//! |---|---|
//! | `config` | at once, unless the client's `Last-Event-ID` is its version, and after each change; the id is the version, the data is the whole configuration |
//! | `unknown` | at once, when a part of it is not known yet; the data names the parts |
//! | `stale` | the registry does not answer any more, or answers again: `{"stale": true}` |
//! | `draining` | the sidecar stops, once; the stream ends when its listener closes |
//!
//! With each comment the registry is asked a question of its own, because that of a watch says nothing for most of a minute.
//!
//! A client that reads slowly gets the newest configuration, and none of those between: nothing is queued.

use std::{convert::Infallible, sync::Arc};

use axum::{body::Bytes, http::HeaderMap, response::Response};
use futures_util::stream;
use outrigger_app_config::{ConfigState, PrefixWatches};
use serde_json::json;
use tokio::{sync::watch, time::Interval};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::ConnectionControl,
    sse::{RETRY_FRAME, comments, frame, stream_response},
};

struct ConfigStream {
    states: watch::Receiver<Arc<ConfigState>>,
    registry: Option<RegistryWatch>,
    control: ConnectionControl,
    /// Absent: it is told.
    draining: Option<CancellationToken>,
    comments: Interval,
    has_begun: bool,
    /// The version that the client has.
    told: Option<Arc<str>>,
    is_told_unknown: bool,
    is_told_stale: bool,
}

/// Whether the registry answers.
struct RegistryWatch {
    prefixes: Arc<PrefixWatches>,
    is_away: watch::Receiver<bool>,
}

impl RegistryWatch {
    /// Resolves with another answer.
    async fn changed(watch: &mut Option<Self>) {
        if let Some(watch) = watch
            && watch.is_away.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

/// The stream, from the present state of `states` on.
pub(super) fn follow_config(
    states: watch::Receiver<Arc<ConfigState>>,
    prefixes: Option<Arc<PrefixWatches>>,
    headers: &HeaderMap,
    draining: CancellationToken,
    control: ConnectionControl,
) -> Response {
    let told = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(Arc::from);
    let registry = prefixes.map(|prefixes| RegistryWatch { is_away: prefixes.registry_away(), prefixes });
    let stream = ConfigStream {
        states,
        registry,
        control,
        draining: Some(draining),
        comments: comments(),
        has_begun: false,
        told,
        is_told_unknown: false,
        is_told_stale: false,
    };
    stream_response(stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next_chunk().await?;
        Some((Ok::<_, Infallible>(chunk), stream))
    }))
}

impl ConfigStream {
    /// The next bytes of the body. hyper asks for them while the client takes what was sent before.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        self.control.extend();
        if !std::mem::replace(&mut self.has_begun, true) {
            return Some(format!("{RETRY_FRAME}{}", self.news()).into());
        }
        loop {
            let draining = async {
                match &self.draining {
                    Some(draining) => draining.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            let chunk = tokio::select! {
                biased;
                () = draining => {
                    self.draining = None;
                    let detail = "the sidecar stops, and this stream ends with its listener";
                    frame(Some("draining"), None, &json!({"detail": detail}))
                }
                () = self.control.stopped() => return None,
                changed = self.states.changed() => {
                    changed.ok()?;
                    // Other settings name no part any more.
                    if self.states.borrow().parts.is_empty() {
                        return None;
                    }
                    let news = self.news();
                    if news.is_empty() {
                        continue;
                    }
                    news
                }
                () = RegistryWatch::changed(&mut self.registry) => match self.news() {
                    news if news.is_empty() => continue,
                    news => news,
                },
                _ = self.comments.tick() => {
                    if let Some(registry) = &self.registry {
                        registry.prefixes.is_registry_away().await;
                    }
                    match self.news() {
                        news if news.is_empty() => ": no change\n\n".to_owned(),
                        news => news,
                    }
                }
            };
            self.control.extend();
            return Some(chunk.into());
        }
    }

    /// What the client does not have yet.
    fn news(&mut self) -> String {
        let state = self.states.borrow_and_update().clone();
        let mut out = String::new();
        match &state.known {
            Some(known) => {
                if self.told.replace(known.version.clone()).as_ref() != Some(&known.version) {
                    out.push_str(&frame(Some("config"), Some(&known.version), &known.json));
                }
            }
            None => {
                if !std::mem::replace(&mut self.is_told_unknown, true) {
                    let missing: Vec<_> = state.unknown().map(|part| &part.context.prefix).collect();
                    out.push_str(&frame(Some("unknown"), None, &json!({"missing": missing})));
                }
            }
        }
        let is_away = self.registry.as_mut().is_some_and(|registry| *registry.is_away.borrow_and_update());
        let is_stale = state.known.is_some() && (is_away || state.is_stale());
        if std::mem::replace(&mut self.is_told_stale, is_stale) != is_stale {
            out.push_str(&frame(Some("stale"), None, &json!({"stale": is_stale})));
        }
        out
    }
}
