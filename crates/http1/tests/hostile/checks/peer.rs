//! What hyper makes of the same bytes, without sockets: its reads give the input, its writes go nowhere.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use http_body_util::{BodyExt, Empty};
use hyper::{
    HeaderMap, Method, Request, Response,
    body::{Bytes, Incoming},
    rt::{Read, ReadBufCursor, Write},
    service::service_fn,
};

use super::relay::Message;

/// Polls that end every exchange of a short input.
const MOST_POLLS: usize = 10_000;

/// An input that waits for the first written byte, when it is a response.
struct Memory {
    input: Vec<u8>,
    at: usize,
    waits: bool,
}

impl Read for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.waits {
            return Poll::Pending;
        }
        let end = self.input.len().min(self.at + buffer.remaining());
        buffer.put_slice(&self.input[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.waits = false;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The requests that hyper's server reads to their last byte.
pub(crate) fn requests(input: &[u8]) -> Vec<Message> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let start = format!("{} {}", parts.method, parts.uri).into_bytes();
                seen.borrow_mut().push(message(start, &parts.headers, body.to_bytes().to_vec()));
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let memory = Memory { input: input.to_vec(), at: 0, waits: false };
    let connection =
        hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(memory, service);
    drive(connection);
    seen.take()
}

/// The response that hyper's client reads to its last byte.
pub(crate) fn response(input: &[u8], is_head: bool) -> Option<Message> {
    let memory = Memory { input: input.to_vec(), at: 0, waits: true };
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(memory).await.ok()?;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = if is_head { Method::HEAD } else { Method::GET };
        let answer = async {
            let (parts, body) = sender.send_request(request).await.ok()?.into_parts();
            let body = body.collect().await.ok()?.to_bytes().to_vec();
            Some(message(parts.status.as_u16().to_string().into_bytes(), &parts.headers, body))
        };
        let (mut connection, mut answer) = (pin!(connection), pin!(answer));
        std::future::poll_fn(|context| {
            let _ = connection.as_mut().poll(context);
            answer.as_mut().poll(context)
        })
        .await
    };
    drive(exchange).flatten()
}

fn message(start: Vec<u8>, headers: &HeaderMap, body: Vec<u8>) -> Message {
    let fields = headers
        .iter()
        .map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect();
    Message { start, fields, body, trailers: Vec::new() }
}

fn drive<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..MOST_POLLS {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
    }
    None
}
