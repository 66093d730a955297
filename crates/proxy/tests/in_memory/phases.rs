//! What becomes of a request when a side leaves in each phase of the exchange: `phases.txt` is the table.
//!
//! A row is an event in a phase, and what it leads to: what the app gets, the reason that is counted, how often instances got the
//! request, failures counted of instances, what becomes of the instance's connection and of the app's. It follows the table of
//! "Early answers and silence" of the data path's design, and docs/errors.md. Both methods stand in one row where they agree.

use std::{fmt::Write as _, time::Duration};

use outrigger_config::Config;
use tokio::time::advance;

use crate::path::{CAPACITY, End, Path, Peer};

const BODY: &str = "0123456789";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const TUNNEL: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
/// A body that an instance does not take at once: twice what has room.
const LONG: usize = 20_000;
/// How long each case is watched, and in which steps. Each bound of [`bounds`] is shorter.
const STEP: Duration = Duration::from_millis(20);
const STEPS: u32 = 150;

/// No bound lasts for as long as the watch for stalled instances, which would ask for a connection.
fn bounds(config: &mut Config) {
    let policy = &mut config.upstreams[0].policy;
    policy.timeout = Duration::from_millis(900);
    policy.body_idle = Duration::from_millis(600);
    config.outbound.limits.head_timeout = Duration::from_millis(700);
    config.outbound.limits.tunnel_idle = Duration::from_millis(1500);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    BeforeHead,
    RequestHead,
    RequestBody,
    BlockedBody,
    Sent,
    Interim,
    ResponseHead,
    HeadComplete,
    LengthBody,
    ChunkedBody,
    UntilClose,
    Trailers,
    AfterEnd,
    Tunnel,
    EarlyRetried,
    EarlyFinal,
}

const PHASES: [(Phase, &str); 16] = [
    (Phase::BeforeHead, "before the head"),
    (Phase::RequestHead, "in the request's head"),
    (Phase::RequestBody, "in the request's body"),
    (Phase::BlockedBody, "the instance takes no more of the body"),
    (Phase::Sent, "the request is sent"),
    (Phase::Interim, "a 103 was passed on"),
    (Phase::ResponseHead, "in the response's head"),
    (Phase::HeadComplete, "the response's head is complete"),
    (Phase::LengthBody, "in a body with a length"),
    (Phase::ChunkedBody, "in a chunked body"),
    (Phase::UntilClose, "in a body until the close"),
    (Phase::Trailers, "in the trailers"),
    (Phase::AfterEnd, "after the end"),
    (Phase::Tunnel, "in a tunnel"),
    (Phase::EarlyRetried, "a 503 before the body's end"),
    (Phase::EarlyFinal, "in a 200 before the body's end"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    AppResets,
    AppHalfCloses,
    InstanceCloses,
    InstanceResets,
    Silence,
}

const EVENTS: [(Event, &str); 5] = [
    (Event::AppResets, "app resets"),
    (Event::AppHalfCloses, "app half-closes"),
    (Event::InstanceCloses, "instance closes"),
    (Event::InstanceResets, "instance resets"),
    (Event::Silence, "silence"),
];

impl Phase {
    /// What the app says first.
    fn request(self, method: &str) -> String {
        let head = format!("{method} / HTTP/1.1\r\nHost: orders\r\n");
        match self {
            Self::BeforeHead => String::new(),
            Self::RequestHead => head[..head.len() - 4].to_owned(),
            Self::RequestBody | Self::EarlyRetried | Self::EarlyFinal => {
                format!("{head}Content-Length: 10\r\n\r\n0123")
            }
            Self::BlockedBody => format!("{head}Content-Length: {LONG}\r\n\r\n{}", "x".repeat(LONG)),
            Self::Tunnel => format!("{head}Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 0\r\n\r\n"),
            _ => format!("{head}Content-Length: 10\r\n\r\n{BODY}"),
        }
    }

    /// What the app says afterwards, when it is still there.
    fn rest(self, method: &str) -> String {
        match self {
            Self::BeforeHead | Self::AfterEnd => Self::Sent.request(method),
            Self::RequestHead => format!("rs\r\nContent-Length: 10\r\n\r\n{BODY}"),
            Self::RequestBody | Self::EarlyRetried | Self::EarlyFinal => BODY[4..].to_owned(),
            _ => String::new(),
        }
    }

    /// What the instance says first.
    fn response(self) -> &'static str {
        match self {
            Self::Interim => "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
            Self::ResponseHead => "HTTP/1.1 200 O",
            Self::HeadComplete => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
            Self::LengthBody | Self::EarlyFinal => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123",
            Self::ChunkedBody => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n",
            Self::UntilClose => "HTTP/1.1 200 OK\r\n\r\n0123",
            Self::Trailers => {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n0\r\nX-Sum: 1\r\n"
            }
            Self::AfterEnd => OK,
            Self::Tunnel => TUNNEL,
            Self::EarlyRetried => "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno",
            _ => "",
        }
    }
}

/// What a case led to, as in the table.
async fn outcome(phase: Phase, event: Event, method: &str) -> String {
    let capacity = if phase == Phase::BlockedBody { LONG / 2 } else { CAPACITY };
    let mut path = Path::new(3, capacity, bounds).await;
    let mut app = path.connect();
    app.say(phase.request(method));
    path.settle().await;
    let first = path.used().first().copied();
    if let Some(at) = first {
        if phase != Phase::BlockedBody {
            path.instances[at].read();
        }
        path.instances[at].say(phase.response());
        path.settle().await;
    }
    app.read();
    if phase == Phase::Tunnel {
        app.say("up");
        path.instances[first.unwrap()].say("down");
        path.settle().await;
        app.read();
        assert!(app.got.ends_with(b"down") && path.instances[first.unwrap()].read());
    }
    if phase == Phase::AfterEnd {
        assert!(app.got.ends_with(b"ok"));
        app.got.clear();
    }
    // Before there is a request, the connections that it would take.
    let instances = first.map_or_else(|| path.instances.len() - 2..path.instances.len(), |at| at..at + 1);
    for instance in &mut path.instances[instances] {
        match event {
            Event::InstanceCloses => instance.close(),
            Event::InstanceResets => instance.reset(),
            _ => {}
        }
    }
    match event {
        Event::AppResets => app.reset(),
        Event::AppHalfCloses => app.half_close(),
        _ => {}
    }
    let mut goes_on = matches!(event, Event::InstanceCloses | Event::InstanceResets)
        || event == Event::Silence && phase == Phase::AfterEnd;
    let is_silent = |at: usize| Some(at) == first && phase != Phase::AfterEnd;
    for step in 0..STEPS {
        // The app sees what happened before it goes on.
        if goes_on && step == 1 {
            app.say(phase.rest(method));
            goes_on = false;
        }
        loop {
            path.settle().await;
            let mut has_read = app.read();
            for at in path.used() {
                let is_blocked = phase == Phase::BlockedBody && Some(at) == first;
                if !is_blocked && path.instances[at].read() {
                    has_read = true;
                    if !is_silent(at) {
                        answer(&mut path.instances[at]);
                    }
                }
            }
            if !has_read {
                break;
            }
        }
        advance(STEP).await;
    }
    for instance in &mut path.instances {
        instance.read();
    }
    describe(&path, &app, first)
}

/// Answers a request that is complete.
fn answer(instance: &mut Peer) {
    let got = String::from_utf8_lossy(&instance.got);
    if got.ends_with(BODY) || got.ends_with(&"x".repeat(LONG)) {
        instance.say(OK);
    }
}

fn describe(path: &Path, app: &Peer, first: Option<usize>) -> String {
    let reasons: Vec<_> = path.reasons().into_keys().collect();
    let endpoints = path.endpoints();
    let picks: u64 = endpoints.iter().map(|one| one.picks).sum();
    let failures: u64 = endpoints.iter().map(|one| one.failures).sum();
    for endpoint in &endpoints {
        assert_eq!(endpoint.in_flight, 0, "a request is still under way: {endpoint:?}");
        assert_eq!(endpoint.connections, endpoint.idle, "a connection is still in use: {endpoint:?}");
    }
    let end = |peer: &Peer| match peer.end {
        _ if peer.is_gone() => "-",
        None => "open",
        Some(End::Closed) => "closed",
        Some(End::Reset) => "reset",
    };
    let instance = first.map_or("-", |at| end(&path.instances[at]));
    format!(
        "{} | {} | {picks} | {failures} | {instance} | {}",
        response(&app.got),
        reasons.join(" "),
        end(app)
    )
}

/// What the app got, in a few words.
fn response(got: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(got).into_owned();
    while text.starts_with("HTTP/1.1 103") {
        text = text.split_once("\r\n\r\n").unwrap().1.to_owned();
    }
    if text.is_empty() {
        return "nothing".to_owned();
    }
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    let field = |name: &str| {
        head.lines()
            .find_map(|line| Some(line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name))?.1))
    };
    let mut said = head[9..12].to_owned();
    if let Some(reason) = field("x-outrigger-error") {
        let _ = write!(said, " {reason}");
    }
    if field("connection") == Some("close") {
        said.push_str(" close");
    }
    let is_whole = match field("content-length") {
        Some(length) => body.len() == length.parse::<usize>().unwrap(),
        None => head.starts_with("HTTP/1.1 101") || body.ends_with("0\r\n\r\n"),
    };
    if !is_whole {
        said.push_str(" cut");
    }
    said
}

#[tokio::test(start_paused = true)]
async fn every_event_in_every_phase_leads_to_what_the_table_says() {
    let mut table = String::new();
    for (phase, phase_name) in PHASES {
        for (event, event_name) in EVENTS {
            let [put, post] = [outcome(phase, event, "PUT").await, outcome(phase, event, "POST").await];
            if put == post {
                let _ = writeln!(table, "{phase_name} | {event_name} | both | {put}");
            } else {
                let _ = writeln!(table, "{phase_name} | {event_name} | PUT | {put}");
                let _ = writeln!(table, "{phase_name} | {event_name} | POST | {post}");
            }
        }
    }
    let lines = include_str!("phases.txt").lines().filter(|line| !line.starts_with('#'));
    let words = |line: &str| line.split('|').map(str::trim).collect::<Vec<_>>().join(" | ");
    let expected: String = lines.map(|line| words(line) + "\n").collect();
    let differs = |(found, expected): &(&str, &str)| found != expected;
    let different: Vec<_> = table.lines().zip(expected.lines()).filter(differs).collect();
    assert!(different.is_empty(), "found, expected: {different:#?}\n{table}");
    assert_eq!(table.lines().count(), expected.lines().count(), "{table}");
}
