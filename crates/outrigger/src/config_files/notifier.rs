//! Tells the app that a file has changed, by a request or by a signal.

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
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::process::AppControl;

/// Longest time of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Most tries. With the pauses, an app has at least a minute to start.
const MAX_TRIES: u32 = 10;
/// Pauses between two tries. At least half of each longest pause is waited.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(30) };
/// How long an app that was started a moment ago has to install the handler of a signal.
const HANDLER_WAIT: Duration = Duration::from_secs(10);
/// Pause between two looks at the handlers of the app.
const HANDLER_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// `localhost`: one address after the other.
const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Sends `POST` to the app until it answers 2xx. Returns the number of tries.
pub(super) async fn post_until_taken(url: &LoopbackUrl) -> Result<u32, String> {
    let mut failure = String::new();
    for failures in 0..MAX_TRIES {
        match post(url).await {
            Ok(()) => return Ok(failures + 1),
            Err(why) => failure = why,
        }
        if failures + 1 < MAX_TRIES {
            sleep(BACKOFF.pause_of_half(failures, fastrand::u64(..))).await;
        }
    }
    Err(format!("{failure}, after {MAX_TRIES} tries"))
}

async fn post(url: &LoopbackUrl) -> Result<(), String> {
    let addresses = url.ip.map_or_else(|| LOCALHOST.to_vec(), |ip| vec![ip]);
    let mut failure = String::new();
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
            Err(error @ http_client::Error::Connect { .. }) => failure = error_chain(&error),
            Err(error) => return Err(error_chain(&error)),
        }
    }
    Err(failure)
}

fn judge(url: &LoopbackUrl, status: StatusCode) -> Result<(), String> {
    if status.is_success() {
        return Ok(());
    }
    let hint = if status.is_redirection() { "; redirects are not followed: name the final path" } else { "" };
    Err(format!("{url} answers {status}{hint}"))
}

/// What becomes of a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SignalDecision {
    /// The running app gets it.
    Send,
    /// There is no app that has read the content before: it reads the content when it starts.
    NotNeeded,
    /// It would end the app; why.
    Refuse(String),
}

/// Waits until the app can take the signal: an app that has not installed its handler is ended by most signals.
pub(super) async fn await_handler(app: &AppControl, signal: Signal, name: &str) -> SignalDecision {
    let before = app.now();
    let until = Instant::now() + HANDLER_WAIT;
    loop {
        let run = app.now();
        let Some(pid) = run.pid.filter(|_| run.starts == before.starts) else {
            return SignalDecision::NotNeeded;
        };
        let status = tokio::fs::read_to_string(format!("/proc/{pid}/status")).await;
        match status.map(|status| takes_signal(&status, signal)) {
            // Where the system does not say it, the app is trusted.
            Ok(Some(true) | None) | Err(_) => return SignalDecision::Send,
            Ok(Some(false)) => {}
        }
        if Instant::now() >= until {
            let why = format!("the app does not handle {name}, which would end it");
            return SignalDecision::Refuse(why);
        }
        sleep(HANDLER_POLL_INTERVAL).await;
    }
}

/// Whether a process with this `/proc/PID/status` goes on after the signal: it catches, ignores or blocks it, or the signal ends no
/// process. `None`: the text does not say it.
fn takes_signal(status: &str, signal: Signal) -> Option<bool> {
    if signal == Signal::WINCH {
        return Some(true);
    }
    let bit = 1_u64.checked_shl(u32::try_from(signal.as_raw()).ok()?.checked_sub(1)?)?;
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let (caught, ignored, blocked) = (mask("SigCgt:")?, mask("SigIgn:")?, mask("SigBlk:")?);
    Some((caught | ignored | blocked) & bit != 0)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
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
        let (heads, tries) = tokio::join!(serve(listener, &statuses), post_until_taken(&url));
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
        let failure = post_until_taken(&url).await.unwrap_err();
        assert!(failure.contains("refused") && failure.ends_with("after 10 tries"), "{failure}");
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
        let (heads, tries) = tokio::join!(serve(listener, &["200 OK"]), post_until_taken(&url));
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

    #[test]
    fn the_handlers_of_a_process_are_read_from_its_status() {
        let status = |caught: u64, ignored: u64, blocked: u64| {
            format!("Name:\tapp\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n")
        };
        // HUP is signal 1, USR1 signal 10.
        for (caught, ignored, blocked, signal, expected) in [
            (0x1, 0, 0, Signal::HUP, Some(true)),
            (0, 0x1, 0, Signal::HUP, Some(true)),
            (0, 0, 0x1, Signal::HUP, Some(true)),
            (0x200, 0, 0, Signal::HUP, Some(false)),
            (0x200, 0, 0, Signal::USR1, Some(true)),
            (0, 0, 0, Signal::WINCH, Some(true)),
        ] {
            assert_eq!(
                takes_signal(&status(caught, ignored, blocked), signal),
                expected,
                "{caught:x} {signal:?}"
            );
        }
        assert_eq!(takes_signal("Name:\tapp\n", Signal::HUP), None);
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(takes_signal(&own, Signal::HUP).is_some());
    }

    #[tokio::test]
    async fn a_signal_waits_for_the_handler_of_an_app_that_has_just_started() {
        let app = AppControl::default();
        assert_eq!(await_handler(&app, Signal::HUP, "SIGHUP").await, SignalDecision::NotNeeded);
        let script = "sleep 0.3; trap 'exit 3' HUP; while :; do sleep 0.05; done";
        let mut child = tokio::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
        app.note_start(child.id().unwrap(), app.files_version());
        assert_eq!(await_handler(&app, Signal::HUP, "SIGHUP").await, SignalDecision::Send);
        child.kill().await.unwrap();
    }

    #[tokio::test]
    async fn a_signal_that_would_end_the_app_is_not_sent() {
        let app = AppControl::default();
        let mut child = tokio::process::Command::new("sleep").arg("60").spawn().unwrap();
        app.note_start(child.id().unwrap(), app.files_version());
        let decision = await_handler(&app, Signal::USR1, "SIGUSR1").await;
        assert_eq!(
            decision,
            SignalDecision::Refuse("the app does not handle SIGUSR1, which would end it".into())
        );
        child.kill().await.unwrap();
    }
}
