//! The data path between an app and four endpoints of one service, on streams in memory, in one thread, with a clock that
//! moves only between two steps.

use std::{
    future::Future,
    hint::black_box,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use outrigger_config as config;
use outrigger_net::Stream;
use outrigger_proxy::testing::StreamProxy;
use tikv_jemalloc_ctl::thread::{ThreadLocal, allocatedp};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    runtime::Builder,
    time::advance,
};

use crate::error::{Error, doing};

/// A GET with five fields, as a client library writes it.
pub const GET: &[u8] = b"GET /api/v1/orders/4711?expand=lines HTTP/1.1\r\n\
    Host: orders\r\n\
    User-Agent: Apache-HttpClient/5.2.1 (Java/17.0.8)\r\n\
    Accept: application/json\r\n\
    Accept-Encoding: gzip, x-gzip, deflate\r\n\
    X-Request-Id: 6f1d0c1e-0d6b-4a3c-9e9d-0f4b2f7c5a11\r\n\r\n";
/// The head of nginx's answer with a file of 1 KiB.
const ANSWER_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx/1.22.1\r\n\
    Date: Sat, 14 Mar 2026 09:26:53 GMT\r\n\
    Content-Type: application/octet-stream\r\n\
    Content-Length: 1024\r\n\
    Last-Modified: Sat, 14 Mar 2026 08:00:00 GMT\r\n\
    Connection: keep-alive\r\n\
    ETag: \"69b51f80-400\"\r\n\
    Accept-Ranges: bytes\r\n\r\n";
const BODY: [u8; 1024] = [b'x'; 1024];
const ENDPOINTS: u16 = 4;
/// Unread bytes in one direction of a stream, about as many as a socket takes.
const CAPACITY: usize = 64 * 1024;
/// The clock moves by this between an app's request and its answer.
const STEP: Duration = Duration::from_micros(250);
/// Steps of the clock before a request counts as lost.
const MOST_STEPS: u32 = 20;

/// What is carried, and how.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Connections of the app, at least 1. Each is kept alive, and sends its next request when all have their answer.
    pub connections: usize,
    /// A request to the service `orders`, without a body.
    pub request: Vec<u8>,
    /// The settings, with one declared service `orders`.
    pub config: config::Config,
}

impl Scenario {
    /// [`GET`] with all defaults.
    pub fn new(connections: usize) -> Self {
        let orders = config::Upstream {
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
        };
        let config = config::Config { upstreams: vec![orders], ..config::Config::default() };
        Self { connections, request: GET.to_vec(), config }
    }

    /// The same with routes, of which the last one takes the request.
    pub fn with_routes(connections: usize, routes: Routes) -> Self {
        let mut scenario = Self::new(connections);
        let last = ROUTES - 1;
        let matcher = |n: usize| match routes {
            Routes::Prefix => {
                let prefix =
                    if n == last { "/api/v1/orders/".to_owned() } else { format!("/api/v1/other-{n}/") };
                config::RouteMatch { path: Some(config::PathMatch::Prefix(prefix)), ..Default::default() }
            }
            Routes::Header => {
                let (name, value) = match n {
                    _ if n == last => ("accept".to_owned(), "application/json"),
                    _ => (format!("x-other-{n}"), "1"),
                };
                let test = config::ValueTest::Exact(value.to_owned());
                let headers = vec![(name, config::ValueMatch { test, negated: false })];
                config::RouteMatch { headers, ..Default::default() }
            }
        };
        let route = |n| config::Route {
            matcher: matcher(n),
            to: config::RouteTarget::Own,
            on_empty: config::OnEmpty::Fail,
            policy: None,
            rewrite_prefix: None,
            headers: config::HeaderEdits::default(),
            tuning: None,
            number: None,
        };
        for orders in &mut scenario.config.upstreams {
            orders.traffic.routes = (0..ROUTES).map(route).collect();
        }
        scenario
    }
}

/// What the routes of [`Scenario::with_routes`] look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routes {
    /// The beginning of the path.
    Prefix,
    /// One header each.
    Header,
}

impl Routes {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Prefix, Self::Header];

    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Prefix => "prefix",
            Self::Header => "header",
        }
    }
}

/// How many routes [`Scenario::with_routes`] has.
pub const ROUTES: usize = 20;

/// What a number of requests took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathCost {
    /// Requests that were answered.
    pub requests: u64,
    /// Bytes that the connections' tasks allocated for them.
    pub allocated: u64,
    /// How often the connections' tasks were polled.
    pub polls: u64,
    /// Bytes of the future of a parked connection.
    pub future: usize,
}

/// Carries the scenario's request `requests` times, after `warm_up` times that are not counted; both numbers are rounded up so
/// that each connection carries as many.
///
/// # Errors
/// When a request is not answered as the endpoint answered it, or the program's allocator is not jemalloc.
pub fn run(scenario: &Scenario, warm_up: u64, requests: u64) -> Result<PathCost, Error> {
    // Where the balancers begin, and what else is drawn.
    fastrand::seed(1);
    let connections = scenario.connections as u64;
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.map_err(doing("make a runtime"))?.block_on(async {
        let mut path = DataPath::new(scenario).await?;
        if allocated() == 0 {
            return Err(Error::new("ask jemalloc what was allocated: it is not this program's allocator"));
        }
        for _ in 0..warm_up.div_ceil(connections) {
            path.request_each(&scenario.request).await?;
        }
        let (allocated, polls) = path.counts.read();
        let rounds = requests.div_ceil(connections);
        for _ in 0..rounds {
            path.request_each(&scenario.request).await?;
        }
        let (allocated_since, polls_since) = path.counts.read();
        Ok(PathCost {
            requests: rounds * connections,
            allocated: allocated_since - allocated,
            polls: polls_since - polls,
            future: path.future,
        })
    })
}

/// What the tasks of the connections count.
#[derive(Debug, Default)]
struct Counts {
    allocated: AtomicU64,
    polls: AtomicU64,
}

impl Counts {
    fn read(&self) -> (u64, u64) {
        (self.allocated.load(Relaxed), self.polls.load(Relaxed))
    }
}

/// The proxy, with the other ends of its streams.
#[derive(Debug)]
struct DataPath {
    apps: Vec<Stream>,
    endpoints: Vec<Stream>,
    counts: Arc<Counts>,
    future: usize,
    buffer: Vec<u8>,
    /// Keeps the service's view.
    _proxy: StreamProxy,
}

impl DataPath {
    async fn new(scenario: &Scenario) -> Result<Self, Error> {
        let Scenario { connections, config, .. } = scenario;
        let proxy = StreamProxy::new(config, ENDPOINTS).map_err(doing("set up the proxy"))?;
        proxy.wait_for_first_answers().await;
        let mut endpoints = Vec::new();
        for _ in 0..*connections {
            proxy.give_idle(|_| {
                let (near, far) = Stream::in_memory(CAPACITY);
                endpoints.push(far);
                near
            });
        }
        let counts = Arc::new(Counts::default());
        let (mut apps, mut future) = (Vec::new(), 0);
        for _ in 0..*connections {
            let (near, far) = Stream::in_memory(CAPACITY);
            apps.push(far);
            let serve = proxy.serve(near);
            future = size_of_val(&serve);
            tokio::spawn(CountedTask { future: Box::pin(serve), counts: counts.clone() });
        }
        let buffer = vec![0; CAPACITY];
        Ok(Self { apps, endpoints, counts, future, buffer, _proxy: proxy })
    }

    /// Sends a request on each of the app's connections, and takes the answers.
    async fn request_each(&mut self, request: &[u8]) -> Result<(), Error> {
        for app in &mut self.apps {
            write_now(app, request)?;
        }
        let mut missing = self.apps.len();
        for _ in 0..MOST_STEPS {
            advance(STEP).await;
            // The tasks that the step woke, and those that were woken before.
            tokio::task::yield_now().await;
            for endpoint in &mut self.endpoints {
                let read = read_now(endpoint, &mut self.buffer)?;
                if read.is_empty() {
                    continue;
                }
                if !read.ends_with(b"\r\n\r\n") {
                    return Err(Error::new(format!("read a request: {}", read.escape_ascii())));
                }
                write_now(endpoint, ANSWER_HEAD)?;
                write_now(endpoint, &BODY)?;
            }
            for app in &mut self.apps {
                let read = read_now(app, &mut self.buffer)?;
                if read.is_empty() {
                    continue;
                }
                if !(read.starts_with(b"HTTP/1.1 200 OK\r\n") && read.ends_with(&BODY)) {
                    return Err(Error::new(format!("read an answer: {}", read.escape_ascii())));
                }
                missing -= 1;
            }
            if missing == 0 {
                return Ok(());
            }
        }
        Err(Error::new(format!("read {missing} answers: they did not come")))
    }
}

fn write_now(stream: &mut Stream, bytes: &[u8]) -> Result<(), Error> {
    let mut cx = Context::from_waker(Waker::noop());
    match Pin::new(stream).poll_write(&mut cx, bytes) {
        Poll::Ready(Ok(n)) if n == bytes.len() => Ok(()),
        other => Err(Error::new(format!("write {} bytes: {other:?}", bytes.len()))),
    }
}

fn read_now<'a>(stream: &mut Stream, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut read = ReadBuf::new(buffer);
    match Pin::new(stream).poll_read(&mut cx, &mut read) {
        Poll::Pending => Ok(&[]),
        Poll::Ready(Ok(())) if read.filled().is_empty() => Err(Error::new("read: the proxy has closed")),
        Poll::Ready(Ok(())) => {
            let n = read.filled().len();
            Ok(&buffer[..n])
        }
        Poll::Ready(Err(error)) => Err(Error::at("read", error)),
    }
}

/// The task of one of the app's connections.
struct CountedTask {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    counts: Arc<Counts>,
}

thread_local! {
    /// Bytes that the thread ever allocated.
    static ALLOCATED: Option<ThreadLocal<u64>> = allocatedp::read().ok();
}

fn allocated() -> u64 {
    ALLOCATED.with(|count| count.as_ref().map_or(0, |count| count.get()))
}

impl Future for CountedTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let before = allocated();
        let polled = poll_data_path(self.future.as_mut(), cx);
        self.counts.allocated.fetch_add(allocated() - before, Relaxed);
        self.counts.polls.fetch_add(1, Relaxed);
        polled
    }
}

/// callgrind counts within this function, by its name: no harness, no runtime, no peers.
#[inline(never)]
fn poll_data_path(future: Pin<&mut (dyn Future<Output = ()> + Send)>, cx: &mut Context<'_>) -> Poll<()> {
    // Not a tail call, which would leave the function.
    black_box(future.poll(cx))
}
