//! One HTTP/1.1 exchange per connection, for health probes, the commands and the demo's registrations. No
//! pool, no redirects, no TLS, because every server is on this machine.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response, response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use outrigger_net::{DialStage, Fault};
use tokio::time::timeout;

/// Largest answer that is read, bytes.
const MAX_BODY: usize = 1024 * 1024;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("connect to {addr}")]
    Connect {
        /// The server.
        addr: SocketAddr,
        /// What the failure is about.
        fault: Fault,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or the answer was not HTTP.
    #[error("exchange with {addr}")]
    Exchange {
        /// The server.
        addr: SocketAddr,
        /// The error of the connection.
        #[source]
        source: hyper::Error,
    },
    /// The body of the answer is cut or too large.
    #[error("read the answer of {addr}: {reason}")]
    Body {
        /// The server.
        addr: SocketAddr,
        /// What is wrong with the body.
        reason: String,
    },
    /// The time ran out.
    #[error("no answer of {addr} within {after:?}")]
    Timeout {
        /// The server.
        addr: SocketAddr,
        /// The limit of the exchange.
        after: Duration,
    },
}

/// Sends `request` to `addr` and reads the whole answer, within `limit`.
///
/// # Errors
/// When there is no whole answer of at most 1 MiB within `limit`.
pub async fn exchange(
    addr: SocketAddr,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<Response<Bytes>, Error> {
    timeout(limit, connect_and_exchange(addr, request, limit, LongBody::IsAnError))
        .await
        .unwrap_or(Err(Error::Timeout { addr, after: limit }))
}

/// As [`exchange`], where the status decides: of a body of more than 1 MiB the rest is not read. As Consul's own check, for which a
/// long body is no fault.
///
/// # Errors
/// When there is no answer within `limit`, or one that is cut or no HTTP.
pub(crate) async fn exchange_for_status(
    addr: SocketAddr,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<response::Parts, Error> {
    let answer = timeout(limit, connect_and_exchange(addr, request, limit, LongBody::IsLeft))
        .await
        .unwrap_or(Err(Error::Timeout { addr, after: limit }))?;
    Ok(answer.into_parts().0)
}

/// What a body of more than [`MAX_BODY`] is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LongBody {
    IsAnError,
    IsLeft,
}

async fn connect_and_exchange(
    addr: SocketAddr,
    request: Request<Full<Bytes>>,
    limit: Duration,
    long: LongBody,
) -> Result<Response<Bytes>, Error> {
    let stream = outrigger_net::connect(addr, limit).await.map_err(|error| match error.stage {
        DialStage::TimedOut => Error::Timeout { addr, after: limit },
        DialStage::Connect | DialStage::Configure => {
            Error::Connect { addr, fault: error.fault, source: error.source }
        }
    })?;
    let exchange = |source| Error::Exchange { addr, source };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(exchange)?;
    let answer = async {
        let (head, body) = sender.send_request(request).await.map_err(exchange)?.into_parts();
        let body = match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if long == LongBody::IsLeft && error.is::<LengthLimitError>() => Bytes::new(),
            Err(error) => return Err(Error::Body { addr, reason: error.to_string() }),
        };
        Ok(Response::from_parts(head, body))
    };
    // Driven here and not in a task, so that dropping this future closes the connection.
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = connection => match ended {
            // The connection may end in the same poll that completes the answer.
            Ok(()) => answer.await,
            Err(source) => Err(exchange(source)),
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    async fn get_from_test_server(answer: &'static str) -> Result<Response<Bytes>, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = socket.read(&mut head).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
        });
        let request = Request::get("/x").header("host", "localhost").body(Full::default()).unwrap();
        let answer = exchange(addr, request, LONG).await;
        server.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn an_answer_that_ends_with_its_connection_is_read_whole() {
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            "HTTP/1.0 200 OK\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello",
        ] {
            let response = get_from_test_server(answer).await.unwrap();
            assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"hello"[..]), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_cut_answer_is_an_error() {
        assert!(get_from_test_server("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello").await.is_err());
        assert!(get_from_test_server("").await.is_err());
    }

    #[tokio::test]
    async fn a_closed_port_is_a_connect_error_that_names_the_port() {
        let addr = outrigger_net::reserve_addr();
        let request = Request::get("/").body(Full::default()).unwrap();
        let error = exchange(addr, request, LONG).await.unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error:?}");
        assert!(error.to_string().contains(&addr.port().to_string()));
    }
}
