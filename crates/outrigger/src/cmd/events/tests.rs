use clap::Parser;
use serde_json::json;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: EventsArguments,
}

fn parse(line: &str) -> Result<EventsArguments, String> {
    let words = ["events"].into_iter().chain(line.split_whitespace());
    Line::try_parse_from(words).map(|line| line.arguments).map_err(|error| error.to_string())
}

#[test]
fn the_flags_become_the_query() {
    for (line, path) in [
        ("", "/events"),
        ("-f", "/events"),
        ("--service a&b", "/events?service=a%26b"),
        ("--kind instance_left --kind registry_lost", "/events?kind=instance_left,registry_lost"),
        ("--limit 5 --service orders", "/events?service=orders&limit=5"),
    ] {
        assert_eq!(parse(line).unwrap().path(), path);
    }
    let error = parse("--kind registry_los").unwrap_err();
    assert!(error.contains("instance_joined, instance_left") && error.contains("registry_lost"), "{error}");
}

#[test]
fn an_event_is_one_line_whatever_its_texts_hold() {
    let time = "2026-11-29T21:50:29.123Z";
    for (event, line) in [
        (
            json!({"id": "e-1", "time": time, "kind": "registry_lost", "reason": "refused", "count": 1}),
            "2026-11-29T21:50:29.123Z  registry_lost        -  -  refused",
        ),
        (
            json!({"time": time, "kind": "instance_joined", "service": "orders", "instance": "a", "node": "n1",
                   "reason": "passing", "count": 3}),
            "2026-11-29T21:50:29.123Z  instance_joined      orders  a on n1  passing (3 times)",
        ),
        (
            json!({"time": time, "kind": "x", "reason": "a\nb\u{1b}[2K", "count": 1}),
            "2026-11-29T21:50:29.123Z  x                    -  -  a\\nb\\u{1b}[2K",
        ),
    ] {
        assert_eq!(describe_event(&event), line);
    }
}

#[test]
fn each_type_of_message_has_its_line_and_an_unknown_one_has_none() {
    let told = |kind: &str, data: &str, json| {
        describe_message(&Message { kind: kind.into(), data: data.into() }, json)
    };
    assert_eq!(told("", r#"{"kind":"x"}"#, true).unwrap(), r#"{"kind":"x"}"#);
    assert_eq!(told("lost", r#"{"lost":3}"#, true).unwrap(), r#"{"lost":3}"#);
    assert!(told("lost", r#"{"lost":3}"#, false).unwrap().starts_with("-- 3 events were lost"));
    assert!(told("lost", r#"{"lost":null}"#, false).unwrap().contains("another process"));
    assert!(told("repeated", r#"{"count":2}"#, false).unwrap().ends_with("(2 times) (so far)"));
    assert_eq!(told("later", "{}", false), None);
    assert_eq!(told("", "no JSON", false), None);
}

#[tokio::test]
async fn a_sidecar_that_never_answered_is_not_waited_for() {
    let sidecar = AdminClient::at(outrigger_net::reserve_addr());
    let arguments = EventsArguments { sidecar, ..parse("-f").unwrap() };
    let failure = run(arguments).await.unwrap_err().to_string();
    assert!(failure.contains("no sidecar answers"), "{failure}");
}
