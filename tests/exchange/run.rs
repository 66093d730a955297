//! Runs one row through a proxy.

use std::{io, net::SocketAddr, time::Duration};

use outrigger_tests::wire::Wire;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use crate::{
    proxy::Proxy,
    row::{ExpectedError, OK, Row, Step, unescape},
};

/// Longest wait for bytes that must come.
const WAIT: Duration = Duration::from_secs(5);
/// Pause between two writes, so that they arrive as two reads. Nothing is proven by it.
const BETWEEN_WRITES: Duration = Duration::from_millis(30);
/// How long bytes that must not come are waited for.
const QUIET: Duration = Duration::from_millis(150);

/// One end of a connection.
#[derive(Debug)]
struct End(Wire);

impl End {
    /// Reads more. False: the other side closed or reset the connection.
    async fn more(&mut self, wait: Duration) -> Result<bool, String> {
        match timeout(wait, self.0.fill()).await {
            Ok(read) => Ok(read.unwrap_or(false)),
            Err(_) => Err(format!("no more bytes within {wait:?}; so far {}", shown(self.0.buffered()))),
        }
    }

    /// Reads until `len` finds the end of a part in the bytes, and takes the part.
    async fn take_part(&mut self, len: impl Fn(&[u8]) -> Option<usize>) -> Result<Vec<u8>, String> {
        loop {
            if let Some(len) = len(self.0.buffered()) {
                let part = self.0.buffered()[..len].to_vec();
                self.0.consume(len);
                return Ok(part);
            }
            if !self.more(WAIT).await? {
                return Err(format!("closed after {}", shown(self.0.buffered())));
            }
        }
    }

    async fn take(&mut self, n: usize) -> Result<Vec<u8>, String> {
        self.take_part(|bytes| (bytes.len() >= n).then_some(n)).await
    }

    async fn take_head(&mut self) -> Result<Vec<u8>, String> {
        self.take_part(|bytes| find(bytes, b"\r\n\r\n").map(|at| at + 4)).await
    }

    async fn read_to_end(&mut self) -> Result<(), String> {
        while self.more(WAIT).await? {}
        Ok(())
    }

    /// Compares what comes with `expected`, message by message: heads as `proxy` may write them, bodies exactly.
    async fn expect(&mut self, proxy: Proxy, mut expected: &[u8], is_first_head: bool) -> Result<(), String> {
        let mut is_head = is_first_head;
        while !expected.is_empty() {
            if is_head && let Some(at) = find(expected, b"\r\n\r\n") {
                let (head, rest) = expected.split_at(at + 4);
                let found = self.take_head().await?;
                if proxy.normalized(&found) != proxy.normalized(head) {
                    return Err(format!("expected {}, found {}", shown(head), shown(&found)));
                }
                expected = rest;
                is_head = expected.starts_with(b"HTTP/1.");
                continue;
            }
            let found = self.take(expected.len()).await?;
            if found != expected {
                return Err(format!("expected {}, found {}", shown(expected), shown(&found)));
            }
            expected = b"";
        }
        Ok(())
    }

    async fn expect_end(&mut self) -> Result<(), String> {
        self.read_to_end().await?;
        match self.0.buffered() {
            [] => Ok(()),
            more => Err(format!("more than expected: {}", shown(more))),
        }
    }
}

/// Both sides of the proxy.
struct Exchange<'a> {
    proxy: Proxy,
    addr: SocketAddr,
    service: &'a str,
    listener: TcpListener,
    app: Option<End>,
    instance: Option<End>,
}

/// Runs `row` through a proxy that listens at `addr` and sends to the instance `listener`. `Err`: what went wrong, at which step.
pub(crate) async fn run(
    proxy: Proxy,
    row: &Row,
    addr: SocketAddr,
    service: &str,
    listener: TcpListener,
) -> Result<(), String> {
    let mut exchange = Exchange { proxy, addr, service, listener, app: None, instance: None };
    for (at, step) in row.steps.iter().enumerate() {
        let result = exchange.step(step).await;
        result.map_err(|error| format!("step {} ({}): {error}", at + 1, name_of(step)))?;
    }
    for (side, end) in [("app", &exchange.app), ("instance", &exchange.instance)] {
        if let Some(end) = end
            && !end.0.buffered().is_empty()
        {
            return Err(format!("the {side} got more: {}", shown(end.0.buffered())));
        }
    }
    Ok(())
}

impl Exchange<'_> {
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        let proxy = self.proxy;
        match step {
            Step::App(bytes) => {
                let written = self.app().await?.0.stream.write_all(bytes).await;
                sleep(BETWEEN_WRITES).await;
                // A proxy that refuses may close before it has read everything.
                written.or_else(|error| if is_closed(&error) { Ok(()) } else { Err(error.to_string()) })
            }
            Step::Gets(expected) => {
                let is_head = find(expected, b" HTTP/1.").is_some();
                let text = replace(expected, b"{service}", self.service.as_bytes());
                self.instance().await?.expect(proxy, &text, is_head).await
            }
            Step::Says(bytes) => {
                let written = self.instance().await?.0.stream.write_all(bytes).await;
                sleep(BETWEEN_WRITES).await;
                written.map_err(|error| error.to_string())
            }
            Step::Back(expected) => {
                let is_head = expected.starts_with(b"HTTP/1.");
                self.app().await?.expect(proxy, expected, is_head).await
            }
            Step::Refuse(error) => {
                self.expect_error(error).await?;
                self.expect_no_request(error).await
            }
            Step::Error(error) => self.expect_error(error).await,
            Step::Again => self.exchange_again().await.map(|_| ()),
            Step::Reused | Step::Fresh => {
                let is_reused = self.exchange_again().await?;
                match (step, is_reused) {
                    (Step::Reused, false) => Err("the request came on a new connection".to_owned()),
                    (Step::Fresh, true) => Err("the request came on the same connection".to_owned()),
                    _ => Ok(()),
                }
            }
            Step::Closed => self.app().await?.expect_end().await,
            Step::Next => {
                self.instance = None;
                Ok(())
            }
            Step::GetsEnd => self.instance().await?.read_to_end().await,
            Step::Cut => self.expect_cut().await,
            Step::End => self.app().await?.0.stream.shutdown().await.map_err(|error| error.to_string()),
            Step::SaysEnd => {
                self.instance().await?.0.stream.shutdown().await.map_err(|error| error.to_string())
            }
            Step::Reset => {
                reset(self.app.take());
                Ok(())
            }
            Step::SaysReset => {
                reset(self.instance.take());
                Ok(())
            }
        }
    }

    async fn app(&mut self) -> Result<&mut End, String> {
        if self.app.is_none() {
            let stream = TcpStream::connect(self.addr).await.map_err(|error| format!("connect: {error}"))?;
            self.app = Some(End(Wire::new(stream)));
        }
        self.app.as_mut().ok_or_else(|| "no connection".to_owned())
    }

    async fn instance(&mut self) -> Result<&mut End, String> {
        if self.instance.is_none() {
            let accepted = timeout(WAIT, self.listener.accept()).await;
            let (stream, _) =
                accepted.map_err(|_| "no connection to the instance")?.map_err(|error| error.to_string())?;
            self.instance = Some(End(Wire::new(stream)));
        }
        self.instance.as_mut().ok_or_else(|| "no connection".to_owned())
    }

    async fn expect_error(&mut self, error: &ExpectedError) -> Result<(), String> {
        let proxy = self.proxy;
        let app = self.app().await?;
        let head = match app.take_head().await {
            Ok(head) => head,
            Err(_) if proxy != Proxy::Outrigger && app.0.buffered().is_empty() => return Ok(()),
            Err(wrong) => return Err(wrong),
        };
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let status: u16 = text.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let length =
            text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
        let body = app.take(length.unwrap_or(0)).await?;
        if proxy != Proxy::Outrigger {
            let is_refused = status >= 400 || status == error.status;
            drop(app.0.take_buffered());
            return if is_refused { Ok(()) } else { Err(format!("carried: {status}")) };
        }
        let has_reason =
            error.reason == "-" || text.contains(&format!("x-outrigger-error: {}\r\n", error.reason));
        if status != error.status || !has_reason {
            return Err(format!("expected {} {}, found {}", error.status, error.reason, shown(&head)));
        }
        if find(&body, error.text.as_bytes()).is_none() && !error.text.is_empty() {
            return Err(format!("the body does not say {:?}: {}", error.text, shown(&body)));
        }
        Ok(())
    }

    /// Nothing of a refused request reached the instance; of one with a broken body at most a part, never its end.
    async fn expect_no_request(&mut self, error: &ExpectedError) -> Result<(), String> {
        if self.instance.is_none()
            && let Ok(Ok((stream, _))) = timeout(QUIET, self.listener.accept()).await
        {
            self.instance = Some(End(Wire::new(stream)));
        }
        let Some(mut instance) = self.instance.take() else { return Ok(()) };
        while instance.more(QUIET).await == Ok(true) {}
        let got = instance.0.buffered();
        let is_part = error.reason == "bad_body" && find(got, b"\r\n0\r\n\r\n").is_none();
        let requests = got.windows(9).filter(|window| window == b" HTTP/1.1").count();
        if got.is_empty() || is_part && requests < 2 {
            Ok(())
        } else {
            Err(format!("the instance got {}", shown(got)))
        }
    }

    /// A plain GET on the app's connection. Whether it reached the instance on the connection before.
    async fn exchange_again(&mut self) -> Result<bool, String> {
        let proxy = self.proxy;
        let request = b"GET /again HTTP/1.1\r\nHost: o\r\n\r\n";
        self.app().await?.0.stream.write_all(request).await.map_err(|error| format!("write: {error}"))?;
        let mut is_reused = false;
        let mut instance = match self.instance.take() {
            None => accept(&self.listener).await?,
            Some(mut before) => tokio::select! {
                more = before.more(WAIT) => {
                    if more? {
                        is_reused = true;
                        before
                    } else {
                        accept(&self.listener).await?
                    }
                }
                fresh = accept(&self.listener) => fresh?,
            },
        };
        instance.expect(proxy, request, true).await?;
        let answer = unescape(OK);
        instance.0.stream.write_all(&answer).await.map_err(|error| format!("answer: {error}"))?;
        self.instance = Some(instance);
        self.app().await?.expect(proxy, &answer, true).await?;
        Ok(is_reused)
    }

    async fn expect_cut(&mut self) -> Result<(), String> {
        let app = self.app().await?;
        app.read_to_end().await?;
        let got = app.0.take_buffered();
        let text = String::from_utf8_lossy(&got).to_ascii_lowercase();
        if text.starts_with("http/1.1 502") {
            return Ok(());
        }
        let body = find(&got, b"\r\n\r\n").map_or(0, |at| got.len() - at - 4);
        let length =
            text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
        let is_complete = got.ends_with(b"0\r\n\r\n") || length.is_some_and(|length| body >= length);
        if is_complete { Err(format!("complete: {}", shown(&got))) } else { Ok(()) }
    }
}

async fn accept(listener: &TcpListener) -> Result<End, String> {
    let accepted = timeout(WAIT, listener.accept()).await.map_err(|_| "no connection to the instance")?;
    accepted.map(|(stream, _)| End(Wire::new(stream))).map_err(|error| error.to_string())
}

fn reset(end: Option<End>) {
    if let Some(End(wire)) = end {
        wire.reset();
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len().max(1)).position(|window| window == part)
}

fn replace(bytes: &[u8], part: &[u8], with: &[u8]) -> Vec<u8> {
    match find(bytes, part) {
        Some(at) => [&bytes[..at], with, &bytes[at + part.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

/// At most 300 bytes, escaped.
fn shown(bytes: &[u8]) -> String {
    let most = bytes.len().min(300);
    let dots = if bytes.len() > most { "…" } else { "" };
    format!("`{}{dots}`", bytes[..most].escape_ascii())
}

fn name_of(step: &Step) -> &'static str {
    match step {
        Step::App(_) => "app",
        Step::Gets(_) => "gets",
        Step::Says(_) => "says",
        Step::Back(_) => "back",
        Step::Refuse(_) => "refuse",
        Step::Error(_) => "error",
        Step::Again => "again",
        Step::Next => "next",
        Step::Closed => "closed",
        Step::Cut => "cut",
        Step::End => "end",
        Step::Reset => "reset",
        Step::SaysEnd => "says-end",
        Step::SaysReset => "says-reset",
        Step::GetsEnd => "gets-end",
        Step::Reused => "reused",
        Step::Fresh => "fresh",
    }
}
