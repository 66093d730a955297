//! Apps, the proxy, and two instances of the service `orders`, joined by streams in memory.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker, ready},
};

use outrigger_config as config;
use outrigger_net::Stream;
use outrigger_proxy::{ClusterStatus, EndpointStatus, Reason, testing::StreamProxy};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    task::{JoinHandle, yield_now},
};

/// Instances of the service.
const INSTANCES: u16 = 2;
/// Unread bytes in one direction of a stream, about as many as a socket takes.
pub(crate) const CAPACITY: usize = 64 * 1024;

/// How a peer of the proxy saw its connection end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    Reset,
}

/// The other end of one of the proxy's connections.
#[derive(Debug)]
pub(crate) struct Peer {
    /// `None`: the peer has closed it.
    stream: Option<Stream>,
    pub(crate) got: Vec<u8>,
    pub(crate) end: Option<End>,
}

impl Peer {
    fn new(stream: Stream) -> Self {
        Self { stream: Some(stream), got: Vec::new(), end: None }
    }

    /// Writes as much of `bytes` as has room: how much that was.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let Some(stream) = &mut self.stream else { return 0 };
        match Pin::new(stream).poll_write(&mut Context::from_waker(Waker::noop()), bytes) {
            Poll::Ready(written) => written.unwrap_or(0),
            Poll::Pending => 0,
        }
    }

    /// Writes all of it. A connection that the proxy has closed takes nothing.
    pub(crate) fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let n = self.write(bytes);
        assert!(n == bytes.len() || n == 0, "{n} of {} bytes had room", bytes.len());
    }

    /// Reads what is there. True: something was.
    pub(crate) fn read(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut has_read = false;
        while self.poll_more(&mut cx) == Poll::Ready(true) {
            has_read = true;
        }
        has_read
    }

    /// Reads once. Ready with false: the connection has ended.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(stream) = self.stream.as_mut().filter(|_| self.end.is_none()) else {
            return Poll::Ready(false);
        };
        let mut buffer = vec![0; CAPACITY];
        let mut read = ReadBuf::new(&mut buffer);
        match ready!(Pin::new(stream).poll_read(cx, &mut read)) {
            Ok(()) if read.filled().is_empty() => self.end = Some(End::Closed),
            Ok(()) => self.got.extend_from_slice(read.filled()),
            Err(_) => self.end = Some(End::Reset),
        }
        Poll::Ready(self.end.is_none())
    }

    /// Reads, while the clock goes on, until `is_done` or the end of the connection.
    pub(crate) async fn read_until(&mut self, is_done: impl Fn(&[u8]) -> bool) {
        poll_fn(|cx| {
            while !is_done(&self.got) && ready!(self.poll_more(cx)) {}
            Poll::Ready(())
        })
        .await;
    }

    /// Whether bytes or an end are to be read.
    pub(crate) fn is_readable(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.stream.as_mut().is_some_and(|stream| stream.poll_read_ready(&mut cx).is_ready())
    }

    /// Whether a write is refused, because the proxy has closed the connection for good.
    pub(crate) fn is_reset(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return true };
        let written = Pin::new(stream).poll_write(&mut Context::from_waker(Waker::noop()), b"x");
        matches!(written, Poll::Ready(Err(_)))
    }

    /// Whether the peer itself has left.
    pub(crate) fn is_gone(&self) -> bool {
        self.stream.is_none()
    }

    pub(crate) fn half_close(&mut self) {
        if let Some(stream) = &mut self.stream {
            let _ = Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// Closes in order: with unread bytes, a close would be a reset.
    pub(crate) fn close(&mut self) {
        self.read();
        self.stream = None;
    }

    pub(crate) fn reset(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            stream.reset_on_close();
        }
    }
}

/// The tasks of the app's connections that were polled, in order, by the number of the connection.
type Polled = Arc<Mutex<Vec<usize>>>;

/// The proxy, and the instances' ends of its connections.
#[derive(Debug)]
pub(crate) struct Path {
    proxy: StreamProxy,
    /// The oldest first; the proxy takes the newest of an instance first.
    pub(crate) instances: Vec<Peer>,
    polled: Polled,
    /// The task of each connection of the app.
    tasks: Vec<JoinHandle<()>>,
}

impl Path {
    /// With `idle` connections to each instance, on which `capacity` bytes have room in one direction. No other can be made.
    pub(crate) async fn new(idle: usize, capacity: usize, set: impl FnOnce(&mut config::Config)) -> Self {
        fastrand::seed(1);
        let mut config = config::Config::default();
        config.upstreams.push(config::Upstream {
            service: "orders".to_owned(),
            listen: None,
            protocol: config::Protocol::default(),
            tls: None,
            tcp: config::TcpSettings::default(),
            hosts: Vec::new(),
            tags: Vec::new(),
            datacenter: None,
            policy: config::Policy::default(),
            traffic: config::TrafficRules::default(),
        });
        set(&mut config);
        let proxy = StreamProxy::new(&config, INSTANCES).unwrap();
        proxy.wait_for_first_answers().await;
        let mut instances = Vec::new();
        for _ in 0..idle {
            proxy.give_idle(|_| {
                let (near, far) = Stream::in_memory(capacity);
                instances.push(Peer::new(far));
                near
            });
        }
        Self { proxy, instances, polled: Polled::default(), tasks: Vec::new() }
    }

    /// A connection of the app.
    pub(crate) fn connect(&mut self) -> Peer {
        self.connect_with(CAPACITY)
    }

    /// A connection of the app, on which `capacity` bytes have room in one direction.
    pub(crate) fn connect_with(&mut self, capacity: usize) -> Peer {
        let (near, far) = Stream::in_memory(capacity);
        let (mut serve, polled, number) =
            (Box::pin(self.proxy.serve(near)), self.polled.clone(), self.tasks.len());
        self.tasks.push(tokio::spawn(poll_fn(move |cx| {
            polled.lock().unwrap().push(number);
            serve.as_mut().poll(cx)
        })));
        Peer::new(far)
    }

    /// Ends the tasks of the app's connections, as at the end of `drain.timeout`.
    pub(crate) async fn stop(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
    }

    /// Drains, as at the stop of the sidecar.
    pub(crate) fn drain(&self) {
        self.proxy.drain();
    }

    /// Retires the listener, as at a hand-over.
    pub(crate) fn retire(&self) {
        self.proxy.retire();
    }

    /// The connections with a task that was polled since the last call, in order.
    pub(crate) fn take_polled(&self) -> Vec<usize> {
        std::mem::take(&mut self.polled.lock().unwrap())
    }

    /// Lets the tasks run until none has anything to do at this time.
    pub(crate) async fn settle(&self) {
        let mut quiet = 0;
        while quiet < 5 {
            let before = self.polled.lock().unwrap().len();
            yield_now().await;
            quiet = if self.polled.lock().unwrap().len() == before { quiet + 1 } else { 0 };
        }
    }

    /// The instances' connections on which something is to be read or was read.
    pub(crate) fn used(&mut self) -> Vec<usize> {
        let is_used = |peer: &mut Peer| {
            !peer.got.is_empty() || peer.stream.is_some() && peer.end.is_none() && peer.is_readable()
        };
        let all = self.instances.iter_mut().enumerate();
        all.filter_map(|(at, peer)| is_used(peer).then_some(at)).collect()
    }

    /// What the proxy knows of the service.
    pub(crate) fn service(&self) -> ClusterStatus {
        self.proxy.status().remove(0)
    }

    /// What the proxy knows of the instances.
    pub(crate) fn endpoints(&self) -> Vec<EndpointStatus> {
        self.service().endpoints
    }

    /// The registry lists no instance any more.
    pub(crate) fn list_none(&self) {
        self.proxy.list(0);
    }

    /// The reasons for which requests ended, with their number.
    pub(crate) fn reasons(&self) -> BTreeMap<&'static str, u64> {
        let counts = Reason::ALL.into_iter().map(|reason| (reason.label(), self.proxy.errors(reason)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}
