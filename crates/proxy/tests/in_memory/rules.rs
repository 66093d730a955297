//! Traffic rules: which instance a request goes to, and how the head differs that it gets.

use std::{sync::Arc, time::Duration};

use outrigger_config::{
    Config, Glob, HeaderEdits, OnEmpty, PathMatch, Pattern, Policy, Route, RouteMatch, RouteTarget, Secret,
    Split, SplitEntry, SplitTarget, Sticky, Subset, ValueMatch, ValueTest,
};

use crate::path::{CAPACITY, Path};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// The subset of the instance `orders-N`, and one without an instance.
fn subset(name: &str, instance: &str) -> Subset {
    let meta = vec![("instance".to_owned(), Glob(instance.into()))];
    Subset { meta, ..Subset::of_all(name) }
}

fn set_rules(config: &mut Config, split: Option<Split>, routes: Vec<Route>) {
    let traffic = &mut config.upstreams[0].traffic;
    traffic.subsets = vec![subset("v1", "1"), subset("v2", "2*"), subset("none", "3")];
    (traffic.split, traffic.routes) = (split, routes);
}

fn split(entries: &[(&str, u32)], sticky: Option<Sticky>) -> Split {
    let entry = |(name, weight): &(&str, u32)| SplitEntry {
        to: SplitTarget::Subset((*name).into()),
        weight: *weight,
    };
    Split { entries: entries.iter().map(entry).collect(), sticky }
}

fn route(matcher: RouteMatch, to: &str) -> Route {
    Route {
        matcher,
        to: RouteTarget::Subset(to.into()),
        on_empty: OnEmpty::Fail,
        policy: None,
        rewrite_prefix: None,
        headers: HeaderEdits::default(),
        tuning: None,
        number: None,
    }
}

fn value(test: ValueTest) -> ValueMatch {
    ValueMatch { test, negated: false }
}

fn exact(text: &str) -> ValueMatch {
    value(ValueTest::Exact(text.to_owned()))
}

fn header(name: &str, value: ValueMatch) -> RouteMatch {
    RouteMatch { headers: vec![(name.to_owned(), value)], ..RouteMatch::default() }
}

fn pattern(text: &str) -> Pattern {
    let regex = regex::bytes::Regex::new(&format!("^(?:{text})$")).unwrap();
    Pattern { text: text.into(), regex }
}

/// Sends a request, answers it at the instance, and returns the number of the instance and the head that it got. `Err`: what the
/// sidecar answered itself.
async fn send(path: &mut Path, head: &str) -> Result<(usize, String), String> {
    let mut app = path.connect();
    app.say(format!("{head}\r\n\r\n"));
    path.settle().await;
    for instance in &mut path.instances {
        instance.got.clear();
    }
    let Some(at) = path.used().first().copied() else {
        app.read();
        return Err(app.got.escape_ascii().to_string());
    };
    path.instances[at].read();
    let got = String::from_utf8(std::mem::take(&mut path.instances[at].got)).unwrap();
    path.instances[at].say(OK);
    path.settle().await;
    app.read();
    assert!(app.got.starts_with(b"HTTP/1.1 200"), "{}", app.got.escape_ascii());
    app.close();
    path.settle().await;
    Ok((at % 2 + 1, got))
}

async fn instance_of(path: &mut Path, head: &str) -> usize {
    send(path, head).await.unwrap().0
}

const GET: &str = "GET / HTTP/1.1\r\nHost: orders";

#[tokio::test(start_paused = true)]
async fn a_split_gives_each_subset_its_share_exactly() {
    let rules = split(&[("v1", 300), ("v2", 100)], None);
    let mut path = Path::new(1, CAPACITY, |config| set_rules(config, Some(rules), Vec::new())).await;
    let mut counts = [0; 3];
    for _ in 0..40 {
        counts[instance_of(&mut path, GET).await] += 1;
    }
    assert_eq!(counts, [0, 30, 10]);
}

#[tokio::test(start_paused = true)]
async fn the_share_of_an_empty_subset_goes_to_the_others_and_to_none_else() {
    let rules = split(&[("none", 900), ("v2", 100)], None);
    let mut path = Path::new(1, CAPACITY, |config| set_rules(config, Some(rules), Vec::new())).await;
    for _ in 0..10 {
        assert_eq!(instance_of(&mut path, GET).await, 2);
    }
    let rules = split(&[("none", 100)], None);
    let mut path = Path::new(1, CAPACITY, |config| set_rules(config, Some(rules), Vec::new())).await;
    let refused = send(&mut path, GET).await.unwrap_err();
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("x-outrigger-error: subset_empty"), "{refused}");
    assert!(refused.contains("0 in the subset none, none usable"), "{refused}");
    assert_eq!(path.reasons().into_keys().collect::<Vec<_>>(), ["subset_empty"]);
}

#[tokio::test(start_paused = true)]
async fn a_value_keeps_its_part_of_a_sticky_split() {
    for (sticky, line) in [
        (Sticky::Header("x-user".to_owned()), "X-User: NAME"),
        (Sticky::Cookie("user".to_owned()), "Cookie: other=1; user=NAME; more=2"),
    ] {
        let rules = split(&[("v1", 100), ("v2", 100)], Some(sticky));
        let mut path = Path::new(1, CAPACITY, |config| set_rules(config, Some(rules), Vec::new())).await;
        let mut counts = [0; 3];
        for user in 0..40 {
            let head = format!("{GET}\r\n{}", line.replace("NAME", &format!("u{user}")));
            let first = instance_of(&mut path, &head).await;
            assert_eq!(instance_of(&mut path, &head).await, first);
            counts[first] += 1;
        }
        assert!(counts[1] > 8 && counts[2] > 8, "{counts:?}");
        let without = [instance_of(&mut path, GET).await, instance_of(&mut path, GET).await];
        assert_ne!(without[0], without[1], "without the value each takes its turn");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_route_that_matches_takes_the_request() {
    let path_is = |path| RouteMatch { path: Some(path), ..RouteMatch::default() };
    let query =
        |name: &str, value| RouteMatch { query: vec![(name.to_owned(), value)], ..RouteMatch::default() };
    let not = |test| ValueMatch { test, negated: true };
    let regex = |text| value(ValueTest::Regex(pattern(text)));
    // What matches goes to instance 2, and all else to instance 1.
    for (matcher, hits, misses) in [
        (header("x-canary", exact("1")), vec!["/|X-Canary: 1"], vec!["/", "/|X-Canary: 12", "/|X-Canar: 1"]),
        (header("x-a", exact("1,2")), vec!["/|X-A: 1|x-a: 2", "/|x-a: 1,2"], vec!["/|x-a: 1"]),
        (header("x-a", value(ValueTest::Present)), vec!["/|x-a: "], vec!["/"]),
        (header("x-a", value(ValueTest::Prefix("ab".to_owned()))), vec!["/|x-a: abc"], vec!["/|x-a: xab"]),
        (
            header("x-a", value(ValueTest::Suffix("bc".to_owned()))),
            vec!["/|x-a: abc"],
            vec!["/|x-a: bcx", "/"],
        ),
        (header("x-a", regex("a+b")), vec!["/|x-a: aab"], vec!["/|x-a: aabb", "/|x-a: xab", "/"]),
        (header("x-a", not(ValueTest::Exact("1".to_owned()))), vec!["/", "/|x-a: 2"], vec!["/|x-a: 1"]),
        (header("x-a", not(ValueTest::Present)), vec!["/"], vec!["/|x-a: 1"]),
        (path_is(PathMatch::Exact("/a".to_owned())), vec!["/a", "/a?b"], vec!["/a/", "/A", "/%61"]),
        (path_is(PathMatch::Prefix("/a".to_owned())), vec!["/a", "/ab", "/a/b?c"], vec!["/", "/b/a", "/?/a"]),
        (path_is(PathMatch::Regex(pattern("/[0-9]+/x"))), vec!["/12/x", "/1/x?y"], vec!["/12/xy", "/a/x"]),
        (query("q", exact("1")), vec!["/?q=1", "/?a=2&q=1"], vec!["/?q=12", "/?qq=1", "/q=1", "/?a=q=1"]),
        (query("q", value(ValueTest::Present)), vec!["/?q", "/?q="], vec!["/", "/?Q"]),
    ] {
        let case = format!("{matcher:?}");
        let routes = vec![route(matcher, "v2"), route(RouteMatch::default(), "v1")];
        let mut path = Path::new(1, CAPACITY, |config| set_rules(config, None, routes)).await;
        for (requests, expected) in [(hits, 2), (misses, 1)] {
            for request in requests {
                let (target, fields) = request.split_once('|').unwrap_or((request, ""));
                let fields: String =
                    fields.split('|').filter(|one| !one.is_empty()).map(|one| format!("\r\n{one}")).collect();
                let head = format!("GET {target} HTTP/1.1\r\nHost: orders{fields}");
                assert_eq!(instance_of(&mut path, &head).await, expected, "{request} with {case}");
            }
        }
    }
    let methods = RouteMatch { methods: vec!["HEAD".to_owned(), "GET".to_owned()], ..RouteMatch::default() };
    let routes = vec![route(methods, "v2"), route(RouteMatch::default(), "v1")];
    let mut path = Path::new(1, CAPACITY, |config| set_rules(config, None, routes)).await;
    assert_eq!(instance_of(&mut path, GET).await, 2);
    assert_eq!(instance_of(&mut path, "DELETE / HTTP/1.1\r\nHost: orders").await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_empty_subset_of_a_route_fails_or_goes_where_the_route_says() {
    for (on_empty, expected) in
        [(OnEmpty::Fail, None), (OnEmpty::Any, Some([1, 2])), (OnEmpty::Subset("v2".into()), Some([2, 2]))]
    {
        let routes = vec![Route { on_empty, ..route(RouteMatch::default(), "none") }];
        let mut path = Path::new(1, CAPACITY, |config| set_rules(config, None, routes)).await;
        match expected {
            None => assert!(send(&mut path, GET).await.unwrap_err().contains("subset_empty")),
            Some(expected) => {
                let mut got = [instance_of(&mut path, GET).await, instance_of(&mut path, GET).await];
                got.sort_unstable();
                assert_eq!(got, expected);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_route_changes_target_and_fields_and_nothing_else() {
    let edits = HeaderEdits {
        set: vec![("x-set".to_owned(), Secret::new("new"))],
        add: vec![("x-add".to_owned(), Secret::new("2"))],
        remove: vec!["x-gone".to_owned(), "user-agent".to_owned()],
    };
    let prefix =
        RouteMatch { path: Some(PathMatch::Prefix("/reports/".to_owned())), ..RouteMatch::default() };
    let routes =
        vec![Route { rewrite_prefix: Some("/r/".to_owned()), headers: edits, ..route(prefix, "v2") }];
    let mut path = Path::new(1, CAPACITY, |config| set_rules(config, None, routes)).await;
    let head = "GET /reports/a%2Fb?c=/reports/ HTTP/1.1\r\nHost: orders\r\nX-Gone: 1\r\nX-Set: old\r\nx-ADD: 1\r\n\
                User-Agent: app\r\nX-Set: older\r\nX-Stays: 1";
    let (at, got) = send(&mut path, head).await.unwrap();
    let expected = "GET /r/a%2Fb?c=/reports/ HTTP/1.1\r\nHost: orders\r\nx-ADD: 1\r\nX-Stays: 1\r\nx-set: new\r\n\
                    x-add: 2\r\n\r\n";
    assert_eq!((at, got.as_str()), (2, expected));
    let other = "GET /other HTTP/1.1\r\nHost: orders\r\nX-Gone: 1";
    assert_eq!(send(&mut path, other).await.unwrap().1, format!("{other}\r\n\r\n"));
}

#[tokio::test(start_paused = true)]
async fn a_route_has_a_policy_of_its_own() {
    let policy = Policy { timeout: Duration::from_secs(2), ..Policy::default() };
    let slow = RouteMatch { path: Some(PathMatch::Exact("/slow".to_owned())), ..RouteMatch::default() };
    let routes = vec![Route { policy: Some(Arc::new(policy)), ..route(slow, "v2") }];
    for (target, seconds) in [("/slow", 2), ("/", 15)] {
        let mut path = Path::new(1, CAPACITY, |config| set_rules(config, None, routes.clone())).await;
        let mut app = path.connect();
        let begun = tokio::time::Instant::now();
        app.say(format!("POST {target} HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n"));
        app.read_until(|got| got.windows(4).any(|four| four == b"\r\n\r\n")).await;
        assert!(app.got.starts_with(b"HTTP/1.1 504"), "{}", app.got.escape_ascii());
        assert_eq!(begun.elapsed().as_secs(), seconds, "{target}");
    }
}

#[tokio::test(start_paused = true)]
async fn retries_stay_in_the_subset() {
    let rules = split(&[("v2", 100)], None);
    let mut path = Path::new(2, CAPACITY, |config| set_rules(config, Some(rules), Vec::new())).await;
    let mut app = path.connect();
    app.say(format!("{GET}\r\n\r\n"));
    path.settle().await;
    let mut tried = Vec::new();
    for _ in 0..3 {
        let mut used = path.used();
        used.retain(|at| path.instances[*at].is_readable());
        let Some(at) = used.first().copied() else { break };
        tried.push(at % 2 + 1);
        path.instances[at].read();
        path.instances[at].say("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
        path.settle().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        path.settle().await;
    }
    assert_eq!(tried, [2, 2, 2]);
}

/// The service of `to` has a split of its own, and its routes are not read.
#[tokio::test(start_paused = true)]
async fn a_route_to_another_service_uses_its_split_and_not_its_routes() {
    let set = |config: &mut Config| {
        set_rules(config, Some(split(&[("v2", 100)], None)), vec![route(RouteMatch::default(), "v1")]);
        let mut web = config.upstreams[0].clone();
        web.service = "web".to_owned();
        let to = RouteTarget::Service("orders".into());
        web.traffic.routes = vec![Route { to, ..route(RouteMatch::default(), "v1") }];
        config.upstreams.push(web);
    };
    let mut path = Path::new(1, CAPACITY, set).await;
    let (at, got) = send(&mut path, "GET / HTTP/1.1\r\nHost: web").await.unwrap();
    assert_eq!(
        (at % 2, got.as_str()),
        (0, "GET / HTTP/1.1\r\nHost: web\r\n\r\n"),
        "the Host goes on as it is"
    );
    assert_eq!(instance_of(&mut path, GET).await, 1);
}
