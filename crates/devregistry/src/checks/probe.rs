//! One probe of a service, by an HTTP request or a TCP connection. Status and output are Consul's. No TLS, and
//! redirects are not followed.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1, ext::ReasonPhrase};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::store::{Probe, ProbeTarget, Status};

/// Most bytes of an answer that are read; the last of these are kept.
const BODY_MAX: usize = 1 << 20;

/// Probes once, within the probe's time-out.
pub(super) async fn run_probe(probe: &Probe) -> (Status, String) {
    match &probe.target {
        ProbeTarget::Tcp(address) => probe_tcp(address, probe.timeout).await,
        ProbeTarget::Http { url, method, headers, body } => {
            let result =
                timeout(probe.timeout, probe_http(url, method, headers, body, probe.output_max)).await;
            let timed_out =
                || "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into();
            match result.unwrap_or_else(|_| Err(timed_out())) {
                Ok(result) => result,
                Err(reason) => (Status::Critical, format!("{} {url:?}: {reason}", go_method_name(method))),
            }
        }
    }
}

async fn probe_tcp(address: &str, limit: Duration) -> (Status, String) {
    match timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(_)) => (Status::Passing, format!("TCP connect {address}: Success")),
        Ok(Err(error)) => (Status::Critical, dial_error_text(address, &error)),
        Err(_) => (Status::Critical, format!("dial tcp {address}: i/o timeout")),
    }
}

async fn probe_http(
    url: &str,
    method: &str,
    headers: &[(String, String)],
    body: &str,
    output_max: usize,
) -> Result<(Status, String), String> {
    let uri: Uri = url.parse().map_err(|_| "the URL cannot be used".to_owned())?;
    let authority = uri.authority().ok_or("unsupported protocol scheme \"\"")?;
    let address = match authority.port() {
        Some(_) => authority.to_string(),
        None => format!("{authority}:80"),
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, authority.as_str())
        .header(header::USER_AGENT, "Consul Health Check")
        .header(header::ACCEPT, "text/plain, text/*, */*")
        .header(header::CONNECTION, "close");
    for (name, value) in headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        request = request.header(name, value);
    }
    let mut request =
        request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).map_err(|e| e.to_string())?;
    if let Some((_, host)) = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host")) {
        let host = host.parse().map_err(|_| "the Host header cannot be used".to_owned())?;
        request.headers_mut().insert(header::HOST, host);
    }
    let stream = TcpStream::connect(&address).await.map_err(|error| dial_error_text(&address, &error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        classify_response(url, method, answer, output_max).await
    };
    tokio::pin!(exchange, connection);
    // In the same task, so that an aborted probe also ends its connection.
    tokio::select! {
        result = &mut exchange => result,
        _ = &mut connection => exchange.await,
    }
}

async fn classify_response(
    url: &str,
    method: &str,
    answer: Response<Incoming>,
    output_max: usize,
) -> Result<(Status, String), String> {
    let status = answer.status();
    if status.is_redirection() && !answer.headers().contains_key(header::LOCATION) {
        return Err(format!("{} response missing Location header", status.as_u16()));
    }
    let health = match status {
        StatusCode::TOO_MANY_REQUESTS => Status::Warning,
        status if status.is_success() => Status::Passing,
        _ => Status::Critical,
    };
    // hyper keeps only a reason phrase that differs from the canonical one.
    let own = answer.extensions().get::<ReasonPhrase>().cloned();
    let reason = match &own {
        Some(reason) => String::from_utf8_lossy(reason.as_bytes()),
        None => status.canonical_reason().unwrap_or_default().into(),
    };
    let body = read_last_bytes(answer.into_body(), output_max).await;
    Ok((health, format!("HTTP {method} {url}: {} {reason} Output: {body}", status.as_u16())))
}

/// The last `max` bytes of a body. An error ends the body.
async fn read_last_bytes(mut body: Incoming, max: usize) -> String {
    let (mut kept, mut read) = (Vec::new(), 0);
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        read += data.len();
        kept.extend_from_slice(&data);
        kept.drain(..kept.len().saturating_sub(max));
        if read >= BODY_MAX {
            break;
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

fn dial_error_text(address: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("dial tcp {address}: connect: connection refused"),
        _ => format!("dial tcp {address}: {error}"),
    }
}

/// `Get`, as Go's client writes a method in an error.
fn go_method_name(method: &str) -> String {
    let mut chars = method.chars();
    chars.next().map_or_else(String::new, |first| format!("{first}{}", chars.as_str().to_lowercase()))
}
