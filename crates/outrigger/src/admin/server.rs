//! Listeners and connections of the admin side: their limits, timeouts and stop.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use outrigger_config::{Listen, error_chain};
use outrigger_net::{BindError, bind, bind_listen};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Most connections at once, per listener. Others wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 128;

/// Longest time for the head of a request, and longest idle time of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest age of a connection, against a client that never reads its answer.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(300);

/// Largest head, bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Longest wait at the stop for the answers under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Bound listeners that do not accept yet.
#[derive(Debug)]
pub(crate) struct BoundListeners(Vec<TcpListener>);

impl BoundListeners {
    /// Binds every address of `listen`. `what` names the listener in errors.
    pub(crate) fn bind(what: &'static str, listen: &Listen) -> Result<Self, String> {
        let bind_one = |_, addr| {
            let bound = bind(addr)?;
            let listener =
                TcpListener::from_std(bound.socket).map_err(|source| BindError { addr, source })?;
            Ok((listener, bound.addr))
        };
        bind_listen(listen, bind_one)
            .map(Self)
            .map_err(|error| format!("{what} cannot {}", error_chain(&error)))
    }
}

/// A running server. Dropping it closes every connection at once; [`AdminServer::stop`] lets answers end.
#[derive(Debug)]
pub(crate) struct AdminServer {
    pub(crate) addrs: Vec<SocketAddr>,
    stop: CancellationToken,
    accept_tasks: JoinSet<()>,
}

impl AdminServer {
    /// Serves `router` on the listeners of `bound`.
    pub(crate) fn start(bound: BoundListeners, router: Router) -> Self {
        let addrs = bound.0.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let stop = CancellationToken::new();
        let mut accepting = JoinSet::new();
        for listener in bound.0 {
            accepting.spawn(accept_connections(listener, router.clone(), stop.clone()));
        }
        Self { addrs, stop, accept_tasks: accepting }
    }

    /// Stops accepting, lets the answers under way end (2 s at most), and returns when every connection has
    /// ended.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while self.accept_tasks.join_next().await.is_some() {}
    }
}

async fn accept_connections(listener: TcpListener, router: Router, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = permits.clone().acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            next = next => next,
        };
        match (accepted, permit) {
            (Ok((stream, _)), Ok(permit)) => {
                connections.spawn(serve_connection(stream, router.clone(), &graceful, permit));
            }
            (Err(error), _) => {
                warn!(%error, "the admin listener could not accept");
                // Most likely no file descriptor is free: another accept at once would only use CPU.
                sleep(Duration::from_millis(100)).await;
            }
            (_, Err(_)) => break, // never: the semaphore is not closed
        }
    }
    drop(listener);
    let _ = timeout(STOP_TIMEOUT, graceful.shutdown()).await;
    connections.shutdown().await;
}

fn serve_connection(
    stream: TcpStream,
    router: Router,
    graceful: &GracefulShutdown,
    permit: OwnedSemaphorePermit,
) -> impl Future<Output = ()> + Send + 'static {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_HEAD + 16 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let connection = graceful.watch(connection);
    async move {
        match timeout(MAX_CONNECTION_AGE, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "an admin connection ended with an error"),
            Err(_) => debug!("closed an admin connection at its longest age"),
        }
        drop(permit);
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn start(listen: Listen) -> AdminServer {
        let router = Router::new().route("/", get(|| async { "hello" }));
        AdminServer::start(BoundListeners::bind("test", &listen).unwrap(), router)
    }

    async fn ask(addr: SocketAddr, text: &str) -> String {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(LONG, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn localhost_is_served_on_each_loopback_address_with_one_port() {
        let server = start(Listen::localhost(0));
        assert!(server.addrs.iter().all(|addr| addr.port() == server.addrs[0].port()));
        for addr in &server.addrs {
            let answer = ask(*addr, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
            assert!(answer.ends_with("hello"), "{answer}");
        }
        timeout(LONG, server.stop()).await.unwrap();
    }

    #[tokio::test]
    async fn an_occupied_port_is_an_error_that_names_it_and_says_what_to_do() {
        let server = start(Listen::localhost(0));
        let taken = server.addrs[0];
        let error = BoundListeners::bind("the admin side", &taken.into()).unwrap_err();
        assert!(error.contains(&taken.to_string()) && error.contains("choose another port"), "{error}");
    }

    #[tokio::test]
    async fn stopping_ends_idle_connections_and_frees_the_port() {
        let server = start(Listen::localhost(0));
        let addr = server.addrs[0];
        let mut idle = TcpStream::connect(addr).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut byte = [0];
        idle.read_exact(&mut byte).await.unwrap(); // answered, then idle
        timeout(LONG, server.stop()).await.unwrap();
        let mut rest = Vec::new();
        timeout(LONG, idle.read_to_end(&mut rest)).await.unwrap().unwrap();
        BoundListeners::bind("test", &addr.into()).unwrap();
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let server = start(Listen::localhost(0));
        let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(70_000));
        assert!(ask(server.addrs[0], &head).await.starts_with("HTTP/1.1 431"));
        server.stop().await;
    }
}
