//! What a drain of the data path does with connections that have no answer to wait for.
//!
//! A connection that is parked, just accepted, or in a queue is asked once whether bytes have arrived: with bytes, also with a part
//! of a head only, it is served once; without, it is closed.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use outrigger_proxy::Workers;
use outrigger_tests::{
    client::Client,
    instance::Instance,
    sidecar::{Services, Sidecar},
    wait,
    wire::Wire,
};
use tokio::net::TcpStream;

const FIRST_HALF: &str = "GET / HTTP/1.1\r\nHo";
const SECOND_HALF: &str = "st: orders\r\n\r\n";

/// What the app has sent before the drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nothing,
    HalfAHead,
    Request,
}

const ALL: [Sent; 3] = [Sent::Nothing, Sent::HalfAHead, Sent::Request];

impl Sent {
    fn bytes(self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::HalfAHead => FIRST_HALF.to_owned(),
            Self::Request => format!("{FIRST_HALF}{SECOND_HALF}"),
        }
    }
}

/// A connection with its bytes in the kernel's queues. No other task of this thread runs meanwhile.
fn connect_and_send(addr: SocketAddr, sent: Sent) -> Client {
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    stream.write_all(sent.bytes().as_bytes()).unwrap();
    stream.set_nonblocking(true).unwrap();
    Client { wire: Wire::new(TcpStream::from_std(stream).unwrap()) }
}

/// Asserts what becomes of a connection after the drain has begun. No response came before it.
async fn assert_served_once_or_closed(client: &mut Client, sent: Sent) {
    if let Some(connection) = assert_served(client, sent).await {
        assert_eq!(connection, "close", "{sent:?}");
    }
    assert_closed(client, sent).await;
}

/// Asserts that a request is answered; the response's `Connection`.
async fn assert_served(client: &mut Client, sent: Sent) -> Option<String> {
    if sent == Sent::HalfAHead {
        client.send(SECOND_HALF).await;
    }
    if sent == Sent::Nothing {
        return None;
    }
    let response = client.response().await;
    assert_eq!(response.status, 200, "{sent:?}");
    Some(response.field("connection").to_owned())
}

async fn assert_closed(client: &mut Client, sent: Sent) {
    let more = wait::within("the connection is closed", client.wire.read_head()).await;
    assert!(matches!(more, Ok(None)), "{sent:?}: {more:?}");
}

async fn assert_refused(addr: SocketAddr) {
    wait::until("no connection is accepted", wait::TIMEOUT, async || TcpStream::connect(addr).await.is_err())
        .await;
}

/// The worker shares this test's thread, so that it accepts nothing before the drain.
#[tokio::test]
async fn connections_in_the_queue_of_the_kernel_are_served_once_or_closed() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut clients = ALL.map(|sent| (sent, connect_and_send(sidecar.addr(), sent)));
    sidecar.proxy.close_listeners();
    for (sent, client) in &mut clients {
        assert_served_once_or_closed(client, *sent).await;
    }
    assert_refused(sidecar.addr()).await;
    assert_eq!(instance.count(), 2);
    assert_eq!(sidecar.stop(Duration::ZERO).await, 0);
}

#[tokio::test]
async fn accepted_connections_without_a_request_are_served_once_or_closed() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let connections =
        |state| sidecar.metric("outrigger_app_connections", &[("state", state)]).round().abs() as usize;
    let mut idle = connect_and_send(sidecar.addr(), Sent::Nothing);
    let mut half = connect_and_send(sidecar.addr(), Sent::HalfAHead);
    wait::until_true("one is parked, and one reads a head", || {
        (connections("parked"), connections("active")) == (1, 1)
    })
    .await;
    let mut late = sidecar.client().await;
    wait::until_true("two are parked", || connections("parked") == 2).await;
    let mut used = sidecar.client().await;
    assert_eq!(used.get("orders", "/").await.status, 200);
    // These bytes arrive with the drain: the worker does not know of them.
    late.send(Sent::Request.bytes()).await;
    sidecar.proxy.close_listeners();
    for (sent, client) in [
        (Sent::Nothing, &mut idle),
        (Sent::Nothing, &mut used),
        (Sent::Request, &mut late),
        (Sent::HalfAHead, &mut half),
    ] {
        assert_served_once_or_closed(client, sent).await;
    }
    assert_eq!(instance.count(), 3);
    assert_eq!(sidecar.stop(Duration::ZERO).await, 0);
}

/// With several workers, a connection also waits in the queue between the worker that accepts and the one that serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_in_any_queue_of_several_workers_are_served_once_or_closed() {
    let instance = Instance::start("a").await;
    for _ in 0..10 {
        let services = Services::of("orders", &[&instance]);
        let sidecar = Sidecar::start_on(Workers::Threads(3), "", &services).await;
        let kinds = [ALL, ALL, ALL, ALL].concat();
        let mut clients: Vec<_> =
            kinds.into_iter().map(|sent| (sent, connect_and_send(sidecar.addr(), sent))).collect();
        sidecar.proxy.close_listeners();
        for (sent, client) in &mut clients {
            // A response that a worker sent before the drain says nothing of the close.
            assert_served(client, *sent).await;
            assert_closed(client, *sent).await;
        }
        assert_refused(sidecar.addr()).await;
        assert_eq!(sidecar.stop(Duration::ZERO).await, 0);
    }
    assert_eq!(instance.count(), 80);
}
