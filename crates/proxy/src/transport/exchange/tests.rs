use std::{
    future::poll_fn,
    io::{Read as _, Write as _},
    sync::Arc,
};

use outrigger_http1::{Edits, Inbox};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A stream, and the other end of it, which blocks.
async fn stream() -> (Stream, std::net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let far = far.unwrap().0.into_std().unwrap();
    far.set_nonblocking(false).unwrap();
    (near.unwrap().into(), far)
}

fn head(method: &str) -> Head {
    let limits = HeadLimits { bytes: 1000, fields: 10, target: 100 };
    let mut inbox = Inbox::from(format!("{method} / HTTP/1.1\r\nHost: o\r\n\r\n").as_bytes());
    HeadParser::new(HeadKind::Request, limits, Vec::new()).parse(&mut inbox, Vec::new).unwrap().unwrap()
}

/// A body that follows in a packet of its own, of which the reactor does not know yet.
#[tokio::test]
async fn a_body_after_a_response_that_has_none_ends_the_reuse_of_the_connection() {
    for (method, response) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    ] {
        let (near, mut instance) = stream().await;
        let (app, _app) = stream().await;
        let mut app = Channel::new(app);
        let open = OpenConnection::reserve(&Arc::default(), 1).unwrap();
        let mut exchange = Exchange::new(near, open, Instant::now());
        let head = head(method);
        let mut upload = Upload::new(&head, Framing::None, false, Instant::now());
        exchange.begin(&head, &Edits::default(), Framing::None, Instant::now());
        poll_fn(|cx| exchange.poll_upload(&mut app, &mut upload, cx)).await.unwrap();
        assert!(instance.read(&mut [0; 1000]).unwrap() > 0);
        instance.write_all(response.as_bytes()).unwrap();
        let limits = HeadLimits { bytes: 1000, fields: 10, target: 100 };
        let got = poll_fn(|cx| exchange.poll_head(limits, &mut app, &mut upload, cx)).await.unwrap();
        assert!(matches!(got, ResponseHead::Final(Framing::None)), "{got:?}");
        exchange.begin_download(Framing::None, Instant::now());
        poll_fn(|cx| exchange.poll_download(&mut app, cx)).await.unwrap();
        assert!(exchange.settle() && !exchange.is_stale(false), "{method}: nothing is wrong so far");
        instance.write_all(b"hello").unwrap();
        assert!(exchange.is_stale(false), "{method} {response}");
    }
}
