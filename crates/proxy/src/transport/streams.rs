//! The connections of HTTP/2 to one instance: shared by the requests of a worker, one stream each.
//!
//! A worker has one connection, and another one when the first takes no more streams. One request at a time makes a connection; the
//! others of the worker wait for it, and share its failure.

use std::time::Duration;

use outrigger_http2::client::InstanceConnection;
use outrigger_net::Stream;
use outrigger_policy::Outcome;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::transport::{
    exchange::Exchange,
    pool::{CheckoutError, OpenConnection},
};

/// The name of HTTP/1.1 in a TLS handshake (RFC 7301 §6).
pub(crate) const ALPN_HTTP1: &[u8] = b"http/1.1";
/// The name of HTTP/2 in a TLS handshake (RFC 9113 §3.2).
pub(crate) const ALPN_HTTP2: &[u8] = b"h2";

/// The connections, by worker.
#[derive(Debug)]
pub(crate) struct SharedConnections {
    shards: Box<[Shard]>,
}

#[derive(Debug, Default)]
struct Shard {
    connections: Mutex<Connections>,
    /// Held by the request that makes a connection: how the last one failed, and when.
    turn: tokio::sync::Mutex<Option<(Instant, CheckoutError)>>,
}

#[derive(Debug, Default)]
struct Connections {
    open: Vec<SharedConnection>,
    /// The instance is gone: no connection is kept.
    is_closed: bool,
}

#[derive(Debug)]
struct SharedConnection {
    connection: InstanceConnection,
    /// When a stream was opened last, or seen under way.
    used: Instant,
}

impl SharedConnections {
    pub(crate) fn new(workers: usize) -> Self {
        Self { shards: (0..workers.max(1)).map(|_| Shard::default()).collect() }
    }

    fn shard(&self, worker: usize) -> &Shard {
        &self.shards[worker % self.shards.len()]
    }

    /// A stream of a connection that takes one more.
    pub(crate) fn open(&self, worker: usize, now: Instant) -> Option<Box<Exchange>> {
        self.shard(worker).connections.lock().open(now)
    }

    /// A stream: of a connection that takes one more, else of the one that `connect` makes. `head`: most bytes of the fields of a
    /// response.
    pub(crate) async fn open_or_connect(
        &self,
        worker: usize,
        head: usize,
        connect: impl Future<Output = Result<(Stream, OpenConnection), CheckoutError>>,
    ) -> Result<Box<Exchange>, CheckoutError> {
        let (shard, since) = (self.shard(worker), Instant::now());
        let mut last_failure = shard.turn.lock().await;
        let now = Instant::now();
        if let Some(stream) = shard.connections.lock().open(now) {
            return Ok(stream);
        }
        if let Some((at, failure)) = &*last_failure
            && *at > since
        {
            return Err(failure.clone());
        }
        let connected = async {
            let (stream, open) = connect.await?;
            self.add(worker, head, stream, open).await
        };
        match connected.await {
            Ok(stream) => Ok(stream),
            Err(failure) => {
                *last_failure = Some((Instant::now(), CheckoutError::clone(&failure)));
                Err(failure)
            }
        }
    }

    /// A stream of a new connection over `stream`, which others share from then on.
    pub(crate) async fn add(
        &self,
        worker: usize,
        head: usize,
        stream: Stream,
        open: OpenConnection,
    ) -> Result<Box<Exchange>, CheckoutError> {
        let head = u32::try_from(head).unwrap_or(u32::MAX);
        let alpn = stream.alpn().map(<[u8]>::to_vec);
        let is_tls = stream.encrypted_written().is_some();
        if is_tls && alpn.as_deref() != Some(ALPN_HTTP2) {
            let detail = "the instance did not choose HTTP/2 in the TLS handshake (ALPN); set protocol: http"
                .to_owned();
            return Err(CheckoutError { outcome: Outcome::Http1Instance, detail });
        }
        let begun = InstanceConnection::begin(stream, is_tls, head).await;
        let (connection, moved) = begun.map_err(|error| CheckoutError {
            outcome: Outcome::Closed,
            detail: format!("the preface of HTTP/2: {error}"),
        })?;
        // Contained: a panic ends one connection to an instance.
        tokio::spawn(async move {
            moved.await;
            drop(open);
        });
        self.shard(worker).connections.lock().add(connection, Instant::now())
    }

    /// Closes the connections without a stream for `limit`, and forgets those that take none any more.
    pub(crate) fn sweep(&self, limit: Duration, now: Instant) {
        for shard in &self.shards {
            let mut connections = shard.connections.lock();
            for one in &mut connections.open {
                if one.connection.active() > 0 {
                    one.used = now;
                }
            }
            connections
                .open
                .retain(|one| !one.connection.is_closed() && now.saturating_duration_since(one.used) < limit);
        }
    }

    /// The instance is gone: each connection ends with its last stream.
    pub(crate) fn close(&self) {
        for shard in &self.shards {
            let mut connections = shard.connections.lock();
            connections.is_closed = true;
            connections.open.clear();
        }
    }
}

impl Connections {
    fn open(&mut self, now: Instant) -> Option<Box<Exchange>> {
        let mut has_closed = false;
        let mut opened = None;
        for one in &mut self.open {
            if let Some(stream) = one.connection.open() {
                one.used = now;
                opened = Some(Exchange::on_stream(stream, one.connection.mark_used(), now));
                break;
            }
            has_closed |= one.connection.is_closed();
        }
        if has_closed {
            self.open.retain(|one| !one.connection.is_closed());
        }
        opened
    }

    /// A stream of a new connection, which is kept for others.
    fn add(
        &mut self,
        mut connection: InstanceConnection,
        now: Instant,
    ) -> Result<Box<Exchange>, CheckoutError> {
        let opened = connection.open();
        connection.mark_used();
        if !self.is_closed {
            self.open.push(SharedConnection { connection, used: now });
        }
        opened.map(|stream| Exchange::on_stream(stream, false, now)).ok_or_else(|| CheckoutError {
            outcome: Outcome::Closed,
            detail: "the new connection of HTTP/2 takes no stream".to_owned(),
        })
    }
}
