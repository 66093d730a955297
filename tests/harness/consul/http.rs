//! One HTTP exchange on its own connection, without pool, redirects and retries: a test sees exactly the answer of
//! the server.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// Longest exchange, unless the caller gives another limit.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest body that is read.
const MAX_BODY: usize = 16 << 20;

/// `GET path`, within 10 s.
///
/// # Errors
/// No connection, no answer, or no answer in time.
pub async fn get(addr: SocketAddr, path: &str) -> io::Result<Response<Bytes>> {
    call(addr, Method::GET, path, "").await
}

/// `PUT path` with a body, within 10 s.
///
/// # Errors
/// No connection, no answer, or no answer in time.
pub async fn put(addr: SocketAddr, path: &str, body: &str) -> io::Result<Response<Bytes>> {
    call(addr, Method::PUT, path, body).await
}

/// Any method, within 10 s.
///
/// # Errors
/// No connection, no answer, or no answer in time.
pub async fn call(addr: SocketAddr, method: Method, path: &str, body: &str) -> io::Result<Response<Bytes>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(Bytes::copy_from_slice(body.as_bytes()))
        .map_err(io::Error::other)?;
    exchange(addr, request, TIMEOUT).await
}

/// Sends `request` to `addr` and reads the whole answer, all within `limit`. `Host` is `addr` unless the request
/// has one.
///
/// # Errors
/// No connection, no answer, or no answer in time.
pub async fn exchange(
    addr: SocketAddr,
    request: Request<Bytes>,
    limit: Duration,
) -> io::Result<Response<Bytes>> {
    match timeout(limit, send_and_read(addr, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{addr} answered too late"))),
    }
}

/// Connects from another address of this machine than the programs under test, because Consul counts connections by address.
async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    if addr.ip() != Ipv4Addr::LOCALHOST || !cfg!(target_os = "linux") {
        return TcpStream::connect(addr).await;
    }
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 9], 0)))?;
    socket.connect(addr).await
}

async fn send_and_read(addr: SocketAddr, mut request: Request<Bytes>) -> io::Result<Response<Bytes>> {
    if !request.headers().contains_key(header::HOST) {
        let host = HeaderValue::from_str(&addr.to_string()).map_err(io::Error::other)?;
        request.headers_mut().insert(header::HOST, host);
    }
    let stream = connect(addr).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // The connection runs in this task, so that it ends with the exchange.
    let answer = async {
        let response = sender.send_request(request.map(Full::new)).await.map_err(io::Error::other)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    tokio::pin!(connection, answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection may end just before the answer is read.
        _ = &mut connection => answer.await,
    }
}
