use axum::routing::get;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use super::*;

const LONG: Duration = Duration::from_secs(20);

fn start(listen: Listen) -> AdminServer {
    // More than the buffers of a connection hold.
    let large = Bytes::from(vec![b'x'; 16 << 20]);
    let large = move || {
        let large = large.clone();
        async move { large }
    };
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/large", get(large))
        .route("/slow", get(std::future::pending::<&str>));
    AdminServer::start(bind(&listen).unwrap(), router, ServerLimits::PAGES)
}

fn bind(listen: &Listen) -> Result<BoundListeners, Vec<BindError>> {
    BoundListeners::bind_for_test(listen, &Handle::current())
}

const ASK: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// A connection from `from` that has sent `text`.
async fn connect_from(from: &str, to: SocketAddr, text: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

async fn read_to_end(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = timeout(LONG, stream.read_to_end(&mut rest)).await.expect("closed");
    rest
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
    let error = bind(&taken.into()).unwrap_err()[0].to_string();
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
    bind(&addr.into()).unwrap();
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = start(Listen::localhost(0));
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(70_000));
    assert!(ask(server.addrs[0], &head).await.starts_with("HTTP/1.1 431"));
    server.stop().await;
}

#[tokio::test]
async fn idle_and_slow_peers_keep_no_request_waiting_and_the_idlest_is_closed_first() {
    let server = start(Listen::from(SocketAddr::from(([127, 0, 0, 1], 0))));
    let addr = server.addrs[0];
    // Half a head, an answer that is not read, a request that is not answered: each from many peers.
    let texts =
        ["", "GET / HTT", "GET /large HTTP/1.1\r\nhost: x\r\n\r\n", "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n"];
    let mut slow = Vec::new();
    for nth in 0..2 * ServerLimits::PAGES.max_connections {
        let from = format!("127.0.1.{}", nth % 200 + 1);
        slow.push(connect_from(&from, addr, texts[nth % texts.len()]).await);
    }
    for _ in 0..3 {
        assert!(ask(addr, ASK).await.ends_with("hello"));
    }
    // The first of them was idle for longest.
    assert_eq!(read_to_end(slow.remove(0)).await, b"");
    timeout(LONG, server.stop()).await.unwrap();
}

#[tokio::test]
async fn one_peer_closes_its_own_connections_and_none_of_another() {
    let server = start(Listen::from(SocketAddr::from(([127, 0, 0, 1], 0))));
    let addr = server.addrs[0];
    let quiet = connect_from("127.0.0.2", addr, "GET / HTTP/1.1\r\nhost: x\r\n").await;
    let mut greedy = Vec::new();
    for _ in 0..2 * ServerLimits::PAGES.max_connections {
        greedy.push(connect_from("127.0.0.3", addr, "").await);
    }
    assert_eq!(read_to_end(greedy.remove(0)).await, b"");
    assert!(ask(addr, ASK).await.ends_with("hello"));
    let mut quiet = quiet;
    quiet.write_all(b"connection: close\r\n\r\n").await.unwrap();
    assert!(read_to_end(quiet).await.ends_with(b"hello"));
    timeout(LONG, server.stop()).await.unwrap();
}

/// A server of the stream of `events`, and a connection that has got its head and asked for it.
async fn start_stream(events: &outrigger_events::Events) -> (AdminServer, TcpStream) {
    use crate::admin::pages::{EventsQuery, events_response};

    let events = events.clone();
    let page =
        get(move |connection: Option<axum::Extension<ConnectionControl>>, headers: http::HeaderMap| {
            let connection = connection.map(|axum::Extension(found)| found);
            let answer = events_response(&events, &EventsQuery::default(), connection, &headers);
            async move { answer }
        });
    let bound = bind(&Listen::from(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
    let server = AdminServer::start(bound, Router::new().route("/events", page), ServerLimits::PAGES);
    let ask = "GET /events HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n";
    let mut stream = connect_from("127.0.0.1", server.addrs[0], ask).await;
    let mut head = Vec::new();
    while !head.ends_with(b"retry: 1000\n\n\r\n") {
        head.push(timeout(LONG, stream.read_u8()).await.unwrap().unwrap());
    }
    (server, stream)
}

fn event(reason: impl AsRef<str>) -> outrigger_events::Event {
    outrigger_events::Event::new(outrigger_events::EventKind::RegistryLost, reason)
}

#[tokio::test]
async fn a_stream_of_events_ends_whole_when_the_listener_stops() {
    let events = outrigger_events::Events::default();
    let (server, stream) = start_stream(&events).await;
    events.record(event("the last one"));
    let (rest, ()) = tokio::join!(read_to_end(stream), async {
        timeout(STOP_TIMEOUT, server.stop()).await.expect("it is not waited for");
    });
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.contains("\"reason\":\"the last one\"") && rest.ends_with("\r\n0\r\n\r\n"), "{rest}");
}

#[tokio::test]
async fn a_stream_that_is_not_read_is_cut_and_one_that_is_read_is_not() {
    use outrigger_events::{EventFilter, Events, MAX_READERS, ReadFrom};

    let events = Events::default();
    let (_server, unread) = start_stream(&events).await;
    let (_other_server, mut read) = start_stream(&events).await;
    let reader = || events.reader(EventFilter::default(), ReadFrom::Newest(0));
    let mut readers: Vec<_> = (2..MAX_READERS).map(|_| reader().unwrap()).collect();
    assert!(reader().is_err());
    // From here on time passes as fast as the streams are written.
    tokio::time::pause();
    let started = Instant::now();
    let mut buffer = vec![0; 1 << 20];
    for n in 0.. {
        events.record(event(format!("{n} {}", "x".repeat(1000))));
        assert!(timeout(LONG, read.read(&mut buffer)).await.unwrap().unwrap() > 0, "it is open");
        sleep(Duration::from_millis(10)).await;
        if let Ok(another) = reader() {
            readers.push(another);
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(3600), "the stream that is not read stays");
    }
    assert!(reader().is_err(), "only one of them is cut");
    drop(unread);
}

#[test]
fn a_network_of_ipv6_is_one_peer() {
    let key = |ip: &str| PeerKey::from(ip.parse::<IpAddr>().unwrap());
    assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
    assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
}
