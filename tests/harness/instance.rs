//! A real HTTP instance on raw sockets: it answers by a script, and remembers what it saw.
//!
//! Every byte is under the test's control, and nothing of it is shared with the code under test.
//! Everything of an instance ends when its handle is dropped.
#![allow(clippy::expect_used, reason = "a harness fails its test by panicking")]

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpSocket},
    task::{JoinHandle, JoinSet},
};

mod answer;
mod connection;
mod state;

pub use answer::{Answer, Gate};
pub use state::{ConnectionEnd, Kill, Request, SeenRequest};

use state::InstanceState;

use crate::{wait, wire::Wire};

/// A running instance.
pub struct Instance {
    addr: SocketAddr,
    shared: Arc<InstanceState>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance").field("name", &self.shared.name).field("addr", &self.addr).finish()
    }
}

impl Instance {
    /// Answers everything with 200 and its name.
    pub async fn start(name: &str) -> Self {
        let body = name.to_owned();
        Self::scripted(name, move |_| Answer::ok(&body)).await
    }

    /// Answers by `script`, on 127.0.0.1.
    pub async fn scripted(name: &str, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_on(outrigger_net::reserve_addr(), name, script).await
    }

    /// Answers by `script`, on `addr` (port 0: any).
    ///
    /// # Panics
    /// The address is not free in time.
    pub async fn start_on(
        addr: SocketAddr,
        name: &str,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = listen_when_free(addr).await;
        let addr = listener.local_addr().expect("the address of a bound socket");
        let shared = Arc::new(InstanceState::new(name, script));
        let instance = Self { addr, shared, listener: Mutex::new(None) };
        instance.serve(listener);
        instance
    }

    fn serve(&self, listener: TcpListener) {
        let task = tokio::spawn(accept(listener, Arc::clone(&self.shared)));
        *self.listener.lock() = Some(task);
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its name: in each built answer's `x-instance`.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Another script, for requests from now on.
    pub fn set_script(&self, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        *self.shared.script.lock() = Arc::new(script);
    }

    /// Every request seen, in order.
    pub fn seen(&self) -> Vec<SeenRequest> {
        self.shared.seen.lock().clone()
    }

    /// Every request seen since the last call, in order; the instance forgets them.
    pub fn take_seen(&self) -> Vec<SeenRequest> {
        std::mem::take(&mut self.shared.seen.lock())
    }

    /// The only request seen.
    ///
    /// # Panics
    /// There were none or several.
    #[track_caller]
    pub fn only_request(&self) -> SeenRequest {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{} saw {:#?}", self.name(), start_lines(&seen));
        seen.remove(0)
    }

    /// The first request of that method.
    ///
    /// # Panics
    /// There was none.
    #[track_caller]
    pub fn first_with_method(&self, method: &str) -> SeenRequest {
        let found = self.seen().into_iter().find(|seen| seen.request.method() == method);
        found.expect("a request of that method")
    }

    /// How many requests it saw.
    pub fn count(&self) -> usize {
        self.shared.seen.lock().len()
    }

    /// How many connections it accepted.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many of them are open.
    pub fn open(&self) -> usize {
        self.accepted() - self.shared.ends.lock().len()
    }

    /// How many requests are neither answered nor given up.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// How connection `number` ended, if it did.
    pub fn connection_end(&self, number: usize) -> Option<ConnectionEnd> {
        self.shared.ends.lock().iter().find(|(n, _)| *n == number).map(|(_, end)| end.clone())
    }

    /// Waits until it has seen `count` requests.
    pub async fn wait_requests(&self, count: usize) {
        wait::until_true(&format!("{} sees {count} requests", self.name()), || self.count() >= count).await;
    }

    /// Waits until connection `number` has ended, and says how.
    pub async fn wait_connection_end(&self, number: usize) -> ConnectionEnd {
        wait::until_true(&format!("connection {number} of {} ends", self.name()), || {
            self.connection_end(number).is_some()
        })
        .await;
        self.connection_end(number).expect("just seen")
    }

    /// Accepts nothing more; open connections go on.
    pub async fn stop_accepting(&self) {
        let listener = self.listener.lock().take();
        if let Some(task) = listener {
            task.abort();
            // Only that it has ended matters: then the port is free.
            let _ = task.await;
        }
    }

    /// Closes the listener and every connection, and waits until that is done.
    pub async fn kill(&self, how: Kill) {
        self.stop_accepting().await;
        self.shared.kill.send_replace(Some(how));
        wait::until_true("every connection of a killed instance ends", || self.open() == 0).await;
    }

    /// Listens again on the same address, after [`Instance::kill`] or [`Instance::stop_accepting`].
    pub async fn listen_again(&self) {
        self.shared.kill.send_replace(None);
        self.serve(listen_when_free(self.addr).await);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(task) = self.listener.lock().take() {
            task.abort();
        }
        self.shared.kill.send_replace(Some(Kill::Fin));
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(1024)
}

/// Listens on `addr`, as soon as no other socket has it: for a moment the port may be a client's.
async fn listen_when_free(addr: SocketAddr) -> TcpListener {
    let mut listener = None;
    wait::until_true(&format!("{addr} is free"), || {
        listener = listen(addr).ok();
        listener.is_some()
    })
    .await;
    listener.expect("it listens now")
}

async fn accept(listener: TcpListener, shared: Arc<InstanceState>) {
    // The connections outlive the listener: `kill` ends them, and so does the runtime's end.
    let connections = JoinSet::new();
    let mut connections = DetachedTasks(connections);
    while let Ok((stream, _)) = listener.accept().await {
        while connections.0.try_join_next().is_some() {}
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        connections.0.spawn(connection::serve(Wire::new(stream), number, Arc::clone(&shared)));
    }
}

/// Tasks that go on when their spawner is aborted.
struct DetachedTasks(JoinSet<()>);

impl Drop for DetachedTasks {
    fn drop(&mut self) {
        self.0.detach_all();
    }
}

/// An address on 127.0.0.1 that refuses connections.
///
/// # Panics
/// No socket could be bound.
pub fn refusing_addr() -> SocketAddr {
    // Bound and never listening: no other socket gets the port while the test runs, and a connect is
    // refused. Never closed, because the address is used after this function has returned.
    let socket = std::mem::ManuallyDrop::new(
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket"),
    );
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
    socket.local_addr().ok().and_then(|addr| addr.as_socket()).expect("its address")
}

/// Method and target of each, for a panic's text.
pub fn start_lines(seen: &[SeenRequest]) -> Vec<String> {
    seen.iter().map(|seen| seen.request.head.start_line.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::Client, wire::WireError};

    #[tokio::test]
    async fn an_instance_answers_by_its_script_and_records_requests() {
        let instance = Instance::scripted("a", |request| match request.target() {
            "/chunked" => Answer::chunked(&["ab", "c"], &["x-sum: 3"]),
            "/pattern" => Answer::chunked_pattern(100_000, 999),
            _ => Answer::ok("hi").closing(),
        })
        .await;
        let mut client = Client::connect(instance.addr()).await;
        let chunked = client.post("a", "/chunked", "body").await;
        assert_eq!((chunked.text().as_str(), chunked.body.chunks), ("abc", 2));
        assert_eq!(chunked.body.trailers, [("x-sum".to_owned(), "3".to_owned())]);
        let pattern = client.get("a", "/pattern").await;
        assert!(pattern.body.is_pattern && pattern.body.len == 100_000 && pattern.body.complete);
        assert_eq!(client.exchange("HEAD /pattern HTTP/1.1\r\nHost: a\r\n\r\n").await.body.len, 0);
        assert_eq!(client.get("a", "/").await.text(), "hi");
        assert_eq!(client.wait_closed().await, WireError::Closed);

        assert_eq!(instance.wait_connection_end(0).await, ConnectionEnd::ByScript);
        assert_eq!(instance.seen()[0].body().text(), "body");
        assert_eq!((instance.count(), instance.accepted(), instance.in_flight()), (4, 1, 0));
    }

    #[tokio::test]
    async fn a_killed_instance_resets_its_connections_and_can_listen_again() {
        let instance = Instance::scripted("a", |_| Answer::ok("half").then_hang()).await;
        let mut client = Client::connect(instance.addr()).await;
        client.send("GET / HTTP/1.1\r\n\r\n").await;
        instance.wait_requests(1).await;
        instance.kill(Kill::Reset).await;
        client.try_response_to("GET").await.ok();
        assert_eq!(client.wait_closed().await, WireError::Reset);
        assert!(tokio::net::TcpStream::connect(instance.addr()).await.is_err());
        instance.listen_again().await;
        instance.set_script(|_| Answer::ok("back"));
        assert_eq!(Client::connect(instance.addr()).await.get("a", "/").await.text(), "back");
    }

    #[tokio::test]
    async fn an_instance_records_how_a_client_closed() {
        let instance = Instance::scripted("a", |_| Answer::no_answer()).await;
        for (number, reset) in [(0, false), (1, true)] {
            let mut client = Client::connect(instance.addr()).await;
            client.send("GET / HTTP/1.1\r\n\r\n").await;
            instance.wait_requests(number + 1).await;
            if reset {
                client.reset();
            } else {
                drop(client);
            }
            let expected = if reset { WireError::Reset } else { WireError::Closed };
            assert_eq!(instance.wait_connection_end(number).await, ConnectionEnd::ByPeer(expected));
        }
    }

    #[tokio::test]
    async fn a_refusing_address_refuses() {
        assert!(tokio::net::TcpStream::connect(refusing_addr()).await.is_err());
    }
}
