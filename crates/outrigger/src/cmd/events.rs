//! `outrigger events`: prints the last decisions of a sidecar with their reasons, and follows them.

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use http::StatusCode;
use outrigger_config::escape_control;
use outrigger_events::EventKind;
use outrigger_registration::http_client::StreamedAnswer;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    admin_client::AdminClient,
    report::{CommandError, print_line, try_print_line},
};
use sse::{EventParser, Message};

mod sse;

/// Longest wait for an answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest silence of a stream. The sidecar sends a comment every 5 s.
const MAX_SILENCE: Duration = Duration::from_secs(15);

/// Pause before a stream that ended is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// How long a sidecar is waited for that does not answer any more: it may be restarted.
const RECONNECT_FOR: Duration = Duration::from_secs(30);

/// Longest answer that is read where a stream is refused, bytes.
const MAX_REFUSAL: usize = 4096;

/// Print the last decisions of the sidecar, with their reasons
#[derive(Debug, Args)]
#[command(
    long_about = "Print the last decisions of the sidecar on this machine, with their reasons: instances that came, left or \
                  were ejected, circuit breakers, the registry, the registration, reloads, the drain. The sidecar keeps the \
                  last 1,000. The same event within 10 s is one, with a count.",
    after_help = "Example:\n  outrigger events --service payments\n  outrigger events -f --kind instance_ejected"
)]
pub(super) struct EventsArguments {
    /// Go on with each event as it happens, also when the sidecar is restarted (for 30 s), until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
    /// Events about this service only.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Events of this kind only. May be repeated. docs/events.md lists the kinds.
    #[arg(long, value_name = "KIND")]
    kind: Vec<EventKind>,
    /// The newest N events; with --follow, before the first new one.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// One JSON object for each line, as the page /events has it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sidecar: AdminClient,
}

impl EventsArguments {
    /// The page, with its query.
    fn path(&self) -> String {
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let kinds: Vec<_> = self.kind.iter().map(|kind| kind.label()).collect();
        let parts = [
            self.service.as_deref().map(|service| format!("service={}", encode(service))),
            (!kinds.is_empty()).then(|| format!("kind={}", kinds.join(","))),
            self.limit.map(|limit| format!("limit={limit}")),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        if parts.is_empty() { "/events".to_owned() } else { format!("/events?{}", parts.join("&")) }
    }
}

pub(super) async fn run(arguments: EventsArguments) -> Result<(), CommandError> {
    if arguments.follow { follow(&arguments).await } else { list(&arguments).await }
}

async fn list(arguments: &EventsArguments) -> Result<(), CommandError> {
    let sidecar = &arguments.sidecar;
    let answer = sidecar.request(&http::Method::GET, &arguments.path(), RESPONSE_TIMEOUT).await?;
    if answer.status() != StatusCode::OK {
        return Err(sidecar.unexpected(&answer));
    }
    let page = sidecar.parse_json(&answer)?;
    for event in page["events"].as_array().into_iter().flatten() {
        print_line(if arguments.json { event.to_string() } else { describe_event(event) });
    }
    Ok(())
}

/// Follows until nothing reads stdout any more.
async fn follow(arguments: &EventsArguments) -> Result<(), CommandError> {
    let (mut position, mut lost_since) = (String::new(), None);
    loop {
        let error = match open_stream(arguments, &position).await {
            Ok(mut stream) => {
                lost_since = None;
                match print_stream(&mut stream, &mut position, arguments.json).await {
                    StreamEnd::NoReader => return Ok(()),
                    StreamEnd::Ended(why) => CommandError::running(why),
                }
            }
            // The first answer: nothing was there that may come back.
            Err(error) if position.is_empty() => return Err(error),
            Err(error) => error,
        };
        let since = *lost_since.get_or_insert_with(Instant::now);
        if since.elapsed() > RECONNECT_FOR {
            return Err(error);
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

async fn open_stream(arguments: &EventsArguments, position: &str) -> Result<StreamedAnswer, CommandError> {
    let accept = ("accept", "text/event-stream");
    let fields = [accept, ("last-event-id", position)];
    let fields = if position.is_empty() { &fields[..1] } else { &fields[..] };
    let mut stream = arguments.sidecar.open(&arguments.path(), fields, RESPONSE_TIMEOUT).await?;
    let is_stream = stream.head.headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
    if stream.head.status == StatusCode::OK && is_stream {
        return Ok(stream);
    }
    let mut text = Vec::new();
    while text.len() < MAX_REFUSAL
        && let Ok(Some(chunk)) = stream.chunk(RESPONSE_TIMEOUT).await
    {
        text.extend_from_slice(&chunk);
    }
    let mut answer = http::Response::new(text.into());
    *answer.status_mut() = stream.head.status;
    Err(arguments.sidecar.unexpected(&answer))
}

/// How a stream ends.
enum StreamEnd {
    /// stdout is closed.
    NoReader,
    /// By the sidecar, or the connection broke: the reason.
    Ended(String),
}

/// Prints the events of one stream, and keeps the id of the last one in `position`.
async fn print_stream(stream: &mut StreamedAnswer, position: &mut String, json: bool) -> StreamEnd {
    let mut parser = EventParser::default();
    loop {
        let chunk = match stream.chunk(MAX_SILENCE).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return StreamEnd::Ended("the sidecar has ended the stream of its events".to_owned()),
            Err(error) => return StreamEnd::Ended(crate::telemetry::error_chain(&error)),
        };
        for message in parser.feed(&chunk) {
            if let Some(line) = describe_message(&message, json)
                && !try_print_line(line)
            {
                return StreamEnd::NoReader;
            }
        }
        position.clear();
        position.push_str(parser.last_id());
    }
}

/// The line of a message. `None`: a later version sends a type that is not known here.
fn describe_message(message: &Message, json: bool) -> Option<String> {
    let data: Value = serde_json::from_str(&message.data).ok()?;
    match &*message.kind {
        "" | "message" | "repeated" | "lost" if json => Some(data.to_string()),
        "" | "message" => Some(describe_event(&data)),
        "repeated" => Some(format!("{} (so far)", describe_event(&data))),
        "lost" => Some(match data["lost"].as_u64() {
            Some(lost) => format!("-- {lost} events were lost: the sidecar keeps the last 1,000"),
            None => "-- another process of the sidecar: what the earlier one recorded after the line above is lost"
                .to_owned(),
        }),
        _ => None,
    }
}

/// `TIME  KIND  SERVICE  INSTANCE  REASON (N times)`.
fn describe_event(event: &Value) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or("-");
    let mut line = format!("{}  {:<19}  {}  ", text("time"), text("kind"), text("service"));
    // Writing to a string does not fail.
    let _ = match event["node"].as_str() {
        Some(node) => write!(line, "{} on {node}", text("instance")),
        None => write!(line, "{}", text("instance")),
    };
    let _ = write!(line, "  {}", text("reason"));
    if let Some(count) = event["count"].as_u64().filter(|count| *count > 1) {
        let _ = write!(line, " ({count} times)");
    }
    // Names and reasons come from other programs.
    escape_control(&line).into_owned()
}

#[cfg(test)]
mod tests;
