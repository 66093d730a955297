//! Runs cases against a target, and compares the results with the recording.

use std::{
    fs,
    future::Future,
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use outrigger_tests::consul::http as plain;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    case::{Action, Case, Step},
    cases, mask,
    shape::Shape,
    target::{Target, escape},
};

/// How long a watch blocks when nothing wakes it.
const WAIT: Duration = Duration::from_millis(1500);
/// Time for a watch to reach the registry before the next request; its arrival cannot be observed.
const ARRIVAL: Duration = Duration::from_millis(150);
/// Longest wait for any result.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Runs every case, and reports all differences at the end. Most of the time passes in watches that nothing wakes, so
/// the groups of cases run at the same time, each on a registry of its own.
pub(crate) async fn run_all<F: Future<Output = Target>>(start: impl Fn() -> F) {
    let [first, second, third] = cases::groups().map(|cases| run_group(cases, &start));
    let (first, second, third) = tokio::join!(first, second, third);
    let wrong = [first, second, third].concat();
    assert!(wrong.is_empty(), "{} steps differ:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

/// The differences of the cases, which share a registry.
async fn run_group<F: Future<Output = Target>>(cases: Vec<Case>, start: &impl Fn() -> F) -> Vec<String> {
    let wanted = std::env::var("OUTRIGGER_CASES").unwrap_or_default();
    let cases: Vec<Case> = cases.into_iter().filter(|case| case.name.contains(&wanted)).collect();
    if cases.is_empty() {
        return Vec::new();
    }
    let shared = start().await;
    let mut wrong = Vec::new();
    for case in cases {
        let own;
        let target = if case.fresh {
            own = start().await;
            &own
        } else {
            &shared
        };
        let seen = run_case(target, &case).await;
        if std::env::var_os("OUTRIGGER_RECORD").is_some() && !target.is_dev() {
            fs::write(recording(&case), seen.join("\n\n") + "\n").unwrap();
        }
        wrong.extend(compare(target, &case, &seen));
        target.clear().await;
    }
    wrong
}

fn recording(case: &Case) -> PathBuf {
    let file = format!("{}.txt", case.name.replace(|char: char| !char.is_alphanumeric(), "_"));
    [env!("CARGO_MANIFEST_DIR"), "conformance", "recorded", &file].iter().collect()
}

/// The steps with a result that differs from the recording.
fn compare(target: &Target, case: &Case, seen: &[String]) -> Vec<String> {
    let text = fs::read_to_string(recording(case)).unwrap_or_default();
    let recorded: Vec<&str> = text.trim_end().split("\n\n").collect();
    if recorded.len() != seen.len() {
        return vec![format!("{}: {} steps, {} recorded", case.name, seen.len(), recorded.len())];
    }
    let mut wrong = Vec::new();
    for ((step, seen), recorded) in case.steps.iter().zip(seen).zip(recorded) {
        let same = seen == recorded;
        match step.differs.filter(|_| target.is_dev()) {
            None if same => {}
            None => wrong.push(format!("{}:\nrecorded: {recorded}\nseen:     {seen}", case.name)),
            Some(why) if same => {
                wrong.push(format!("{}: no longer differs ({why}):\n{seen}", case.name));
            }
            Some(why) => {
                let first = seen.lines().next().unwrap_or_default();
                // Not captured by the test runner, so that every run shows the differences.
                let _ = writeln!(io::stderr(), "known difference: {}: {why} [{first}]", case.name);
            }
        }
    }
    wrong
}

/// A query in the background: its index, start and answer.
struct BackgroundQuery {
    index: u64,
    /// The index is a hash: it grows or falls by chance.
    is_hash: bool,
    begun: Instant,
    answer: JoinHandle<Response<Bytes>>,
}

/// What the steps of a case share.
#[derive(Default)]
struct CaseState {
    background: Option<BackgroundQuery>,
    /// Saved values, by `{name}`.
    saved: Vec<(String, String)>,
}

impl CaseState {
    /// `{name}` in a request becomes the saved value.
    fn fill(&self, text: &str) -> String {
        self.saved.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    /// Masks a saved number where an answer compares with it.
    fn mask(&self, text: String) -> String {
        self.saved
            .iter()
            .fold(text, |text, (name, value)| text.replace(&format!("!= {value}\""), &format!("!= {name}\"")))
    }

    fn save(&mut self, (pointer, name): (&str, &str), answer: &Response<Bytes>) {
        let json: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let value =
            json.pointer(pointer).map(|value| value.as_str().map_or(value.to_string(), str::to_owned));
        let name = format!("{{{name}}}");
        let value = value.unwrap_or_else(|| format!("no {name}"));
        self.saved.retain(|(known, _)| *known != name);
        self.saved.push((name, value));
    }
}

async fn run_case(target: &Target, case: &Case) -> Vec<String> {
    let mut state = CaseState::default();
    let mut seen = Vec::new();
    for step in &case.steps {
        let done = timeout(TIMEOUT, run_step(target, step, &mut state)).await;
        let done = done.unwrap_or_else(|_| format!("nothing within {TIMEOUT:?}"));
        seen.push(done.trim_end().to_owned());
    }
    seen
}

async fn run_step(target: &Target, step: &Step, state: &mut CaseState) -> String {
    match &step.action {
        Action::Request { method, path, body } => {
            let answer = ask(target, method, &state.fill(path), &state.fill(body)).await;
            if let Some(saves) = step.saves {
                state.save(saves, &answer);
            }
            let answer = if path.starts_with("/v1/catalog/services") { sort_tags(answer) } else { answer };
            format!("{method} {path} {body}\n{}", state.mask(format_answer(target, &answer)))
        }
        Action::Until { path, has } => loop {
            let answer = ask(target, "GET", path, "").await;
            if String::from_utf8_lossy(answer.body()).contains(has) {
                break format!("GET {path} until {has:?}\n{}", format_answer(target, &answer));
            }
            sleep(Duration::from_millis(20)).await;
        },
        Action::Filtered { path, expression } => {
            let answer = ask(target, "GET", &format!("{path}?filter={}", escape(expression)), "").await;
            let answer = match answer.status().is_success() {
                true => answer.map(|body| name_rows(&body).into()),
                false => answer,
            };
            format!("FILTER {path} {expression:?}\n{}", format_answer(target, &answer))
        }
        Action::Shape { path } => {
            let answer = ask(target, "GET", path, "").await;
            let shape: Shape = serde_json::from_slice(answer.body()).unwrap();
            format!("GET {path} shape\n{}", shape.0)
        }
        Action::Part { path, pointer } => {
            let answer = ask(target, "GET", path, "").await;
            let json: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
            let part = json.pointer(pointer).map(ToString::to_string).unwrap_or_default();
            format!("GET {path} at {pointer}\n{}", mask::body(&part, &target.variable_parts()))
        }
        Action::HeaderNames { method, path } => {
            format!("{method} {path} header names\n{}", header_names(target, method, path).await)
        }
        Action::Watch { path, offset } => {
            let filled = state.fill(path);
            let index = index(&ask(target, "GET", &filled, "").await).saturating_add_signed(*offset);
            let query = start_background(target, &filled, &format!("index={index}"), index).await;
            state.background = Some(query);
            format!("WATCH {path} {offset:+}")
        }
        Action::WatchHash { path } => {
            let answer = ask(target, "GET", path, "").await;
            let hash = answer.headers()["x-consul-contenthash"].to_str().unwrap().to_owned();
            state.background = Some(start_background(target, path, &format!("hash={hash}"), 0).await);
            format!("WATCH {path} by hash")
        }
        Action::Pause(time) => {
            sleep(*time).await;
            format!("PAUSE {time:?}")
        }
        Action::Outcome => {
            let BackgroundQuery { index: sent, is_hash, begun, answer } = state.background.take().unwrap();
            let answer = answer.await.unwrap();
            let slept = begun.elapsed() >= WAIT;
            let moved = match index(&answer) {
                got if got != sent && is_hash => ", index changed",
                got if got > sent && sent > 0 => ", index up",
                got if got < sent => ", index down",
                _ => "",
            };
            let how = if slept { "slept" } else { "woken" };
            format!("OUTCOME {how}{moved}\n{}", format_answer(target, &answer))
        }
    }
}

async fn start_background(target: &Target, path: &str, seen: &str, index: u64) -> BackgroundQuery {
    let is_hash = path.starts_with("/v1/event/");
    let join = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{join}{seen}&wait={}ms", WAIT.as_millis());
    let addr = target.addr();
    let begun = Instant::now();
    let answer = tokio::spawn(async move {
        let request = Request::get(path).body(Bytes::new()).unwrap();
        plain::exchange(addr, request, TIMEOUT).await.unwrap()
    });
    sleep(ARRIVAL).await;
    BackgroundQuery { index, is_hash, begun, answer }
}

async fn ask(target: &Target, method: &str, path: &str, body: &str) -> Response<Bytes> {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    plain::call(target.addr(), method, &target.fill_addresses(path), &target.fill_addresses(body))
        .await
        .unwrap()
}

fn index(answer: &Response<Bytes>) -> u64 {
    let index = answer.headers().get("x-consul-index");
    index.and_then(|index| index.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// Status, the headers that a client may look at, and the body.
fn format_answer(target: &Target, answer: &Response<Bytes>) -> String {
    let counts = |name: &str| {
        matches!(name, "allow" | "content-security-policy" | "content-type" | "location" | "vary" | "x-cache")
            || name == "x-content-type-options"
            || name.starts_with("x-consul-")
    };
    let mut headers: Vec<String> = answer
        .headers()
        .iter()
        .filter(|(name, _)| counts(name.as_str()))
        .map(|(name, value)| {
            format!("{name}: {}", mask::header(name.as_str(), &String::from_utf8_lossy(value.as_bytes())))
        })
        .collect();
    headers.sort();
    let body = mask::body(&String::from_utf8_lossy(answer.body()), &target.variable_parts());
    // An empty line ends a step in a recording.
    let body = body.replace("\n\n", "\n~\n");
    format!("{} [{}]\n{body}", answer.status().as_u16(), headers.join("; ")).trim_end().to_owned()
}

/// The names of the rows of a list.
fn name_rows(body: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap();
    let rows = json.get("Services").unwrap_or(&json);
    if let Some(rows) = rows.as_object() {
        return rows.keys().map(String::as_str).collect::<Vec<_>>().join(" ");
    }
    let Some(rows) = rows.as_array() else { return rows.to_string() };
    let names = ["/CheckID", "/Service/ID", "/ServiceID", "/Node", "/ID"];
    let name = |row: &serde_json::Value| {
        let named = names.iter().find_map(|name| row.pointer(name)?.as_str());
        named.unwrap_or_default().to_owned()
    };
    format!("[{}]", rows.iter().map(name).collect::<Vec<_>>().join(" "))
}

/// Consul gives the tags of a service's name in any order.
fn sort_tags(answer: Response<Bytes>) -> Response<Bytes> {
    answer.map(|body| {
        let Ok(mut json) = serde_json::from_slice::<serde_json::Value>(&body) else { return body };
        for tags in json.as_object_mut().into_iter().flat_map(|names| names.values_mut()) {
            if let Some(tags) = tags.as_array_mut() {
                tags.sort_by_key(ToString::to_string);
            }
        }
        json.to_string().into()
    })
}

/// The headers as written on the wire, without those that each server writes differently.
async fn header_names(target: &Target, method: &str, path: &str) -> String {
    let addr = target.addr();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    let names = head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0));
    let own = ["Connection", "Content-Length", "Date", "Transfer-Encoding"];
    names.filter(|name| !own.contains(name)).collect::<Vec<_>>().join(", ")
}
