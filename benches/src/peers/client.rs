//! A plain client: waits until a proxy answers, and opens idle connections.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use outrigger_tests::consul::http::exchange;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    process::PinnedProcess,
    proxy::{BODY, SERVICE},
};
use crate::{Error, error::doing};

/// Longest wait for a server to start: under callgrind, on a busy machine, some start slowly.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for one response.
const TIMEOUT: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until the server answers a request with 200.
pub(super) async fn until_it_answers(process: &mut PinnedProcess, addr: SocketAddr) -> Result<(), Error> {
    let answers = async {
        loop {
            process.check_running()?;
            let request = Request::get("/").header(header::HOST, SERVICE).body(Bytes::new());
            let request = request.map_err(doing("make a request"))?;
            if exchange(addr, request, TIMEOUT).await.is_ok_and(|answer| answer.status() == StatusCode::OK) {
                return Ok(());
            }
            sleep(POLL_INTERVAL).await;
        }
    };
    timeout(START_TIMEOUT, answers).await.map_err(doing(format!("wait until {addr} answers")))?
}

/// Opens `count` connections one after the other, each with one request and its response.
pub(super) async fn idle_connections(addr: SocketAddr, count: usize) -> Result<Vec<TcpStream>, Error> {
    let mut connections = Vec::with_capacity(count);
    for n in 0..count {
        let connection = timeout(TIMEOUT, used_once(addr)).await;
        let connection = connection.map_err(doing(format!("wait for the answer on connection {n}")))?;
        connections.push(connection.map_err(doing(format!("use connection {n}")))?);
    }
    Ok(connections)
}

async fn used_once(addr: SocketAddr) -> std::io::Result<TcpStream> {
    let mut connection = TcpStream::connect(addr).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !is_whole(&answer) {
        if connection.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(connection)
}

/// The answer to GET `/` has this many bytes of body, and no proxy makes it chunked.
fn is_whole(answer: &[u8]) -> bool {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    head.is_some_and(|at| answer.len() >= at + 4 + BODY)
}
