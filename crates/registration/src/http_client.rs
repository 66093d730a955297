//! One HTTP/1.1 exchange per connection, for health probes, the commands and the demo's registrations. No
//! pool, no redirects, no TLS, because every server is on this machine.

use std::{fmt, io, net::SocketAddr, pin::Pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response, response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
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
    let StreamedAnswer { head, body, mut connection, .. } = connect_and_send(addr, request, limit).await?;
    let body = async {
        match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if long == LongBody::IsLeft && error.is::<LengthLimitError>() => Ok(Bytes::new()),
            Err(error) => Err(Error::Body { addr, reason: error.to_string() }),
        }
    };
    let body = connection.drive(addr, body).await?;
    Ok(Response::from_parts(head, body))
}

/// Sends `request` to `addr` and reads the head of the answer, within `limit`. The body is read by [`StreamedAnswer::chunk`].
///
/// # Errors
/// When there is no head within `limit`.
pub async fn open(
    addr: SocketAddr,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<StreamedAnswer, Error> {
    timeout(limit, connect_and_send(addr, request, limit))
        .await
        .unwrap_or(Err(Error::Timeout { addr, after: limit }))
}

async fn connect_and_send(
    addr: SocketAddr,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<StreamedAnswer, Error> {
    let stream = outrigger_net::connect(addr, limit).await.map_err(|error| match error.stage {
        DialStage::TimedOut => Error::Timeout { addr, after: limit },
        DialStage::Connect | DialStage::Configure => {
            Error::Connect { addr, fault: error.fault, source: error.source }
        }
    })?;
    let exchange = |source| Error::Exchange { addr, source };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(exchange)?;
    let mut connection = DrivenConnection(Some(Box::pin(connection)));
    let head = async { sender.send_request(request).await.map_err(exchange) };
    let (head, body) = connection.drive(addr, head).await?.into_parts();
    Ok(StreamedAnswer { addr, head, body, connection })
}

/// A connection. Driven by the futures that use it and not in a task, so that dropping it closes it. `None`: it has ended.
struct DrivenConnection(Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>);

impl DrivenConnection {
    /// Waits for `answer`, which comes by the connection.
    async fn drive<T>(
        &mut self,
        addr: SocketAddr,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let Some(connection) = &mut self.0 else { return answer.await };
        tokio::pin!(answer);
        let ended = tokio::select! {
            biased;
            answer = &mut answer => return answer,
            ended = connection => ended,
        };
        self.0 = None;
        match ended {
            // The connection may end in the same poll that completes the answer.
            Ok(()) => answer.await,
            Err(source) => Err(Error::Exchange { addr, source }),
        }
    }
}

/// An answer of which the body is read as it comes. Dropping it closes the connection.
pub struct StreamedAnswer {
    addr: SocketAddr,
    /// The head.
    pub head: response::Parts,
    body: Incoming,
    connection: DrivenConnection,
}

impl StreamedAnswer {
    /// The next bytes of the body; `None` at its end.
    ///
    /// # Errors
    /// When the connection breaks, or no byte comes within `limit`.
    pub async fn chunk(&mut self, limit: Duration) -> Result<Option<Bytes>, Error> {
        let Self { addr, body, connection, .. } = self;
        let addr = *addr;
        let frame = async {
            loop {
                match body.frame().await {
                    None => return Ok(None),
                    Some(Err(source)) => return Err(Error::Exchange { addr, source }),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) if !data.is_empty() => return Ok(Some(data)),
                        Ok(_) | Err(_) => {}
                    },
                }
            }
        };
        timeout(limit, connection.drive(addr, frame))
            .await
            .unwrap_or(Err(Error::Timeout { addr, after: limit }))
    }
}

impl fmt::Debug for StreamedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamedAnswer")
            .field("addr", &self.addr)
            .field("head", &self.head)
            .finish_non_exhaustive()
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
    async fn an_answer_is_read_as_it_comes_and_a_silence_is_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (go_on, mut wait) = tokio::sync::mpsc::channel::<()>(1);
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = socket.read(&mut head).await.unwrap();
            let begin = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";
            socket.write_all(begin.as_bytes()).await.unwrap();
            wait.recv().await;
            socket.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
            wait.recv().await;
        });
        let request = Request::get("/x").header("host", "localhost").body(Full::default()).unwrap();
        let mut answer = open(addr, request, LONG).await.unwrap();
        assert_eq!(answer.head.status, 200);
        assert_eq!(answer.chunk(LONG).await.unwrap().as_deref(), Some(&b"one"[..]));
        let silence = answer.chunk(Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(silence, Error::Timeout { .. }), "{silence:?}");
        go_on.send(()).await.unwrap();
        assert_eq!(answer.chunk(LONG).await.unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(answer.chunk(LONG).await.unwrap(), None);
        go_on.send(()).await.unwrap();
        server.await.unwrap();
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
