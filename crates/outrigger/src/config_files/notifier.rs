//! Tells the app that a file has changed, by a request.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use outrigger_config::{LoopbackUrl, error_chain};
use outrigger_policy::backoff::Backoff;
use outrigger_registration::http_client;
use tokio::time::sleep;

/// Longest time of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Most tries. With the pauses, an app has at least a minute to start.
const MAX_TRIES: u32 = 10;
/// Pauses between two tries. At least half of each longest pause is waited.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(30) };

/// `localhost`: one address after the other.
const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Sends `POST` to the app until it answers 2xx. Returns the number of tries. `tell`: called once, when the first try has failed.
pub(super) async fn post_until_taken(url: &LoopbackUrl, tell: impl FnOnce(&str)) -> Result<u32, String> {
    let mut failure = String::new();
    let mut tell = Some(tell);
    for failures in 0..MAX_TRIES {
        match post(url).await {
            Ok(()) => return Ok(failures + 1),
            Err(why) => failure = why,
        }
        if let Some(tell) = tell.take() {
            tell(&format!("{failure}; it is tried again, up to {MAX_TRIES} times"));
        }
        if failures + 1 < MAX_TRIES {
            sleep(BACKOFF.pause_of_half(failures, fastrand::u64(..))).await;
        }
    }
    Err(format!("{failure}, after {MAX_TRIES} tries"))
}

async fn post(url: &LoopbackUrl) -> Result<(), String> {
    let addresses = url.ip.map_or_else(|| LOCALHOST.to_vec(), |ip| vec![ip]);
    let mut failures = Vec::new();
    for ip in addresses {
        let addr = SocketAddr::new(ip, url.port);
        let request = Request::post(&url.path)
            .header(header::HOST, url.authority())
            .header(header::USER_AGENT, concat!("outrigger/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_LENGTH, 0)
            .body(Full::<Bytes>::default())
            .map_err(|error| error.to_string())?;
        match http_client::exchange(addr, request, REQUEST_TIMEOUT).await {
            Ok(answer) => return judge(url, answer.status()),
            // The app may listen on the other address.
            Err(error @ http_client::Error::Connect { .. }) => failures.push(error_chain(&error)),
            Err(error) => return Err(format!("{url}: {}", error_chain(&error))),
        }
    }
    Err(format!("{url}: {}", failures.join("; ")))
}

fn judge(url: &LoopbackUrl, status: StatusCode) -> Result<(), String> {
    if status.is_success() {
        return Ok(());
    }
    let hint = if status.is_redirection() { "; redirects are not followed: name the final path" } else { "" };
    Err(format!("{url} answers {status}{hint}"))
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::Instant,
    };

    use super::*;

    fn url(addr: SocketAddr, path: &str) -> LoopbackUrl {
        LoopbackUrl { ip: Some(addr.ip()), port: addr.port(), path: path.into() }
    }

    /// Answers the requests one after the other with these statuses, and returns their heads.
    async fn serve(listener: TcpListener, statuses: &[&str]) -> Vec<String> {
        let mut heads = Vec::new();
        for status in statuses {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let length = socket.read(&mut head).await.unwrap();
            heads.push(String::from_utf8_lossy(&head[..length]).into_owned());
            let answer = format!("HTTP/1.1 {status}\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n");
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
        heads
    }

    #[tokio::test]
    async fn a_request_is_repeated_until_the_app_takes_it_and_redirects_are_not_followed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = url(listener.local_addr().unwrap(), "/reload?all=1");
        let statuses = ["503 Service Unavailable", "302 Found", "204 No Content"];
        let (heads, tries) = tokio::join!(serve(listener, &statuses), post_until_taken(&url, |_| ()));
        assert_eq!(tries, Ok(3));
        for head in heads {
            assert!(head.starts_with("POST /reload?all=1 HTTP/1.1\r\n"), "{head}");
            assert!(head.contains(&format!("host: {}\r\n", url.authority())), "{head}");
            assert!(head.contains("content-length: 0\r\n"), "{head}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_tries_are_bounded_and_the_last_reason_is_told() {
        let url = url(outrigger_net::reserve_addr(), "/reload");
        let from = Instant::now();
        let told = Mutex::new(Vec::new());
        let tell = |why: &str| told.lock().push((from.elapsed(), why.to_owned()));
        let failure = post_until_taken(&url, tell).await.unwrap_err();
        assert!(failure.contains("refused") && failure.ends_with("after 10 tries"), "{failure}");
        // The first failure is told at once, with the address.
        let told = told.into_inner();
        assert!(told.len() == 1 && told[0].0 < Duration::from_secs(1), "{told:?}");
        let expected = format!("{url}: connect to {}:{}: ", url.ip.unwrap(), url.port);
        assert!(told[0].1.starts_with(&expected) && told[0].1.contains("refused"), "{told:?}");
        let took = from.elapsed();
        assert!(took > Duration::from_secs(50) && took < Duration::from_secs(180), "{took:?}");
    }

    #[tokio::test]
    async fn localhost_is_both_loopback_addresses() {
        let listener = match TcpListener::bind("[::1]:0").await {
            Ok(listener) => listener,
            // A machine without IPv6.
            Err(_) => TcpListener::bind("127.0.0.1:0").await.unwrap(),
        };
        let url = LoopbackUrl { ip: None, port: listener.local_addr().unwrap().port(), path: "/".into() };
        let (heads, tries) = tokio::join!(serve(listener, &["200 OK"]), post_until_taken(&url, |_| ()));
        assert_eq!(tries, Ok(1));
        assert!(heads[0].contains(&format!("host: localhost:{}\r\n", url.port)), "{heads:?}");
    }

    #[test]
    fn a_redirect_says_what_to_do() {
        let url = url(([127, 0, 0, 1], 80).into(), "/a");
        let why = judge(&url, StatusCode::FOUND).unwrap_err();
        assert_eq!(
            why,
            "http://127.0.0.1:80/a answers 302 Found; redirects are not followed: name the final path"
        );
    }
}
