//! Subsets, split, routes, mirror and failover of an upstream: what they mean, and what is wrong with them.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{sync::Arc, time::Duration};

use common::problems;
use outrigger_config::{
    Environment, Failover, FailoverTarget, Glob, HeaderEdits, LoadedConfig, Mirror, OnEmpty, Overrides,
    PathMatch, RouteTarget, Secret, SplitEntry, SplitTarget, Sticky, SubsetFilter, TrafficRules, ValueMatch,
    ValueTest, ZoneRouting, ZoneSource, load, render,
};
use proptest::prelude::*;

fn loaded(text: &str) -> LoadedConfig {
    load(Some(("o.yaml", text)), &Environment::default(), &Overrides::default())
        .unwrap_or_else(|problems| panic!("{problems}\nin:\n{text}"))
}

/// The rules of the first upstream, which is read again from what `/config` shows; that hides the values that routes set.
fn rules(text: &str) -> TrafficRules {
    let first = loaded(text);
    let page = render(&first.config, &first.origins);
    let mut shown = first.config.clone();
    let routes = shown.upstreams.iter_mut().flat_map(|upstream| &mut upstream.traffic.routes);
    for (_, value) in routes.flat_map(|route| route.headers.set.iter_mut().chain(&mut route.headers.add)) {
        *value = Secret::new("(hidden)");
    }
    assert_eq!(loaded(&page).config, shown, "rendered:\n{page}");
    first.config.upstreams.into_iter().next().unwrap().traffic
}

/// The problems of the upstream `orders` with these keys, each without its place.
fn wrong(keys: &str) -> Vec<String> {
    let text = format!("upstreams: [{{service: orders, {keys}}}]\n");
    let all = problems(&text, &[], &Overrides::default());
    all.iter().map(|line| line.split_once(" upstreams[0].").unwrap().1.to_owned()).collect()
}

#[track_caller]
fn check_keys(keys: &str, expected: &str) {
    assert_eq!(wrong(keys), [expected], "for: {keys}");
}

const SUBSETS: &str = "subsets: {v1: {tags: [v1]}, v2: {meta: {version: '2.*'}}}";

#[test]
fn everything_that_is_written_is_read() {
    let rules = rules(
        r#"
upstreams:
  - service: orders
    subsets:
      v1: {tags: [v1, blue]}
      v2: {meta: {version: "2.*", zone: a}, filter: 'Service.Meta.canary == "$$true"'}
    split: [{subset: v1, weight: 95}, {service: Archive, weight: 2.5}]
    sticky: {header: X-User}
    routes:
      - match:
          path: {prefix: /reports/}
          headers: {X-Canary: "1", x-a: {present: true, not: true}, x-b: {prefix: a}, x-c: {suffix: b}, x-d: {regex: "a+|b"}}
          query: {debug: {present: false}, q: x}
          methods: [GET, POST]
        to: {subset: v2}
        on_empty: {subset: v1}
        rewrite: {prefix: /}
        headers: {set: {X-One: "1 $$ two"}, add: {x-two: "a, b"}, remove: [X-Three]}
        timeout: 60s
        retry: {max_retries: 1, budget: {ratio: 10%}}
        hedge: {percentile: 90%}
      - match: {path: {regex: "/a(/.*)?"}}
        to: {split: [{subset: v1, weight: 1}, {subset: v2, weight: 0}], sticky: {cookie: User}}
        retry: off
      - match: {path: {exact: /x}}
        to: {service: reports}
        on_empty: fail
        timeout: 7s
      - {}
    mirror: {to: {subset: v2}, share: 1%, methods: [GET, POST], credentials: keep, max_in_flight: 5, timeout: 1s}
    failover: [{datacenter: dc2}, {service: Orders-Fallback}, {service: reports, datacenter: dc3}]
    return_after: 30s
    zone: {own: a, from: [node.meta.consul-zone, service.meta.az], min_instances: 4}
  - service: reports
    timeout: 3s
    connect_timeout: 250ms
"#,
    );
    let [v1, v2] = rules.subsets.as_slice() else { panic!("{rules:?}") };
    assert_eq!((&*v1.name, v1.tags.as_slice()), ("v1", &[Arc::from("v1"), Arc::from("blue")][..]));
    let meta = [("version", "2.*"), ("zone", "a")].map(|(key, value)| (key.to_owned(), Glob(value.into())));
    assert_eq!(
        (v2.meta.as_slice(), v2.filter.as_ref().unwrap().text()),
        (&meta[..], "Service.Meta.canary == \"$true\"")
    );
    let split = rules.split.unwrap();
    let entry = |to, weight| SplitEntry { to, weight };
    let (one, two) = (SplitTarget::Subset("v1".into()), SplitTarget::Subset("v2".into()));
    let archive = SplitTarget::Service("archive".into());
    assert_eq!(split.entries, [entry(one.clone(), 9500), entry(archive, 250)]);
    assert_eq!(split.sticky, Some(Sticky::Header("x-user".into())));
    let [first, second, third, last] = rules.routes.as_slice() else { panic!("{:?}", rules.routes) };
    assert_eq!(first.matcher.path, Some(PathMatch::Prefix("/reports/".into())));
    let value = |test, negated| ValueMatch { test, negated };
    assert_eq!(first.matcher.headers[0], ("x-canary".into(), value(ValueTest::Exact("1".into()), false)));
    assert_eq!(first.matcher.headers[1], ("x-a".into(), value(ValueTest::Present, true)));
    assert_eq!(first.matcher.headers[2], ("x-b".into(), value(ValueTest::Prefix("a".into()), false)));
    assert_eq!(first.matcher.headers[3], ("x-c".into(), value(ValueTest::Suffix("b".into()), false)));
    let ValueTest::Regex(pattern) = &first.matcher.headers[4].1.test else { panic!("no regex") };
    assert!(pattern.regex.is_match(b"aaa") && pattern.regex.is_match(b"b") && !pattern.regex.is_match(b"ab"));
    assert_eq!(first.matcher.query[0], ("debug".into(), value(ValueTest::Present, true)));
    assert_eq!(first.matcher.methods, ["GET", "POST"]);
    assert_eq!(
        (&first.to, &first.on_empty),
        (&RouteTarget::Subset("v2".into()), &OnEmpty::Subset("v1".into()))
    );
    assert_eq!(first.rewrite_prefix.as_deref(), Some("/"));
    let headers = HeaderEdits {
        set: vec![("x-one".into(), Secret::new("1 $ two"))],
        add: vec![("x-two".into(), Secret::new("a, b"))],
        remove: vec!["x-three".into()],
    };
    assert_eq!(first.headers, headers);
    let policy = first.policy.as_ref().unwrap();
    assert_eq!((policy.timeout, policy.retry.max_retries), (Duration::from_secs(60), 1));
    assert!(policy.retry.budget.ratio == 0.1 && policy.hedge.is_some());
    let RouteTarget::Split(shares) = &second.to else { panic!("{:?}", second.to) };
    assert_eq!(shares.entries, [entry(one, 100), entry(two.clone(), 0)]);
    assert_eq!(shares.sticky, Some(Sticky::Cookie("User".into())));
    assert_eq!(second.policy.as_ref().unwrap().retry.max_retries, 0);
    let policy = third.policy.as_ref().unwrap();
    let of_reports = (Duration::from_secs(7), Duration::from_millis(250));
    assert_eq!((policy.timeout, policy.connect_timeout), of_reports, "over the policy of its target");
    assert_eq!((&last.to, &last.policy), (&RouteTarget::Own, &None));
    let mirror = Mirror {
        to: two,
        share: 0.01,
        methods: vec!["GET".into(), "POST".into()],
        keep_credentials: true,
        max_in_flight: 5,
        timeout: Duration::from_secs(1),
    };
    assert_eq!(rules.mirror, Some(mirror));
    let target = |service: Option<&str>, datacenter: Option<&str>| FailoverTarget {
        service: service.map(Arc::from),
        datacenter: datacenter.map(str::to_owned),
    };
    let failover = Failover {
        targets: vec![
            target(None, Some("dc2")),
            target(Some("orders-fallback"), None),
            target(Some("reports"), Some("dc3")),
        ],
        return_after: Duration::from_secs(30),
    };
    assert_eq!(rules.failover, Some(failover));
    let zone = ZoneRouting {
        own: "a".into(),
        from: vec![ZoneSource::NodeMeta("consul-zone".into()), ZoneSource::ServiceMeta("az".into())],
        min_instances: 4,
    };
    assert_eq!(rules.zone, Some(zone));
}

#[test]
fn defaults_are_those_of_the_model() {
    let rules = rules(&format!("upstreams: [{{service: a, {SUBSETS}, mirror: {{to: {{service: b}}}}}}]"));
    assert_eq!(rules.mirror, Some(Mirror::to(SplitTarget::Service("b".into()))));
    assert_eq!((rules.split, rules.routes, rules.failover), (None, Vec::new(), None));
    let rules = self::rules("upstreams: [{service: a, failover: [{datacenter: dc2}]}]");
    assert_eq!(rules.failover.unwrap().return_after, Duration::from_secs(10));
    let rules = self::rules("upstreams: [{service: a, failover: []}]");
    assert_eq!(rules.failover, None);
}

#[test]
fn a_zone_says_what_is_wrong() {
    let rules = self::rules("upstreams: [{service: a, zone: {own: west}}]");
    let zone = rules.zone.unwrap();
    let from: Vec<_> = zone.from.iter().map(ToString::to_string).collect();
    assert_eq!((zone.min_instances, from.join(" ")), (6, "service.meta.zone node.meta.zone".to_owned()));
    check_keys("zone: {}", "zone.own: is missing; add the zone of this sidecar: own: ${ZONE}");
    check_keys(
        "zone: {own: ''}",
        "zone.own: \"\" is no zone; write the zone as it is in the registry, at most 128 bytes",
    );
    check_keys(
        "zone: {own: a, from: [zone]}",
        "zone.from: \"zone\" is no place of a zone; write service.meta.KEY or node.meta.KEY",
    );
    check_keys("zone: {own: a, from: []}", "zone.from: names no place; name one, or remove the key");
}

#[test]
fn a_failover_says_what_is_wrong() {
    check_keys("failover: [{}]", "failover[0]: says nothing; write datacenter, service or both");
    check_keys(
        "failover: [{service: Orders}]",
        "failover[0].service: \"Orders\" is the upstream itself; leave the target out, or name a subset",
    );
    check_keys(
        "failover: [{datacenter: dc2}, {datacenter: dc2}]",
        "failover[1]: is the target of an entry before; remove it",
    );
    let many: Vec<_> = (0..9).map(|n| format!("{{service: s{n}}}")).collect();
    check_keys(
        &format!("failover: [{}]", many.join(", ")),
        "failover: has 9 targets, more than 8; remove some",
    );
    check_keys(
        "failover: [{service: b}], return_after: 2h",
        "return_after: \"2h\" is out of range; allowed: 0s to 1h",
    );
    let text =
        "upstreams: [{service: a, failover: [{service: b}]}, {service: b, failover: [{service: a}]}]\n";
    assert_eq!(
        problems(text, &[], &Overrides::default()),
        [
            "o.yaml:1:36 upstreams[0].failover: requests would go around: a → b → a; leave one of these services out of the other's failover"
        ]
    );
    // One by a split and one by a failover is no circle: a failover ends at the instances of its target.
    loaded(
        "upstreams: [{service: a, split: [{service: b, weight: 1}]}, {service: b, failover: [{service: a}]}]\n",
    );
}

#[test]
fn a_problem_has_the_place_of_what_is_wrong() {
    let text = "upstreams:\n  - service: orders\n    subsets:\n      v1: {tags: [v1]}\n    routes:\n      - match: {path: {prefix: /a}}\n        to: {subset: v11}\n";
    assert_eq!(
        problems(text, &[], &Overrides::default()),
        [
            "o.yaml:7:22 upstreams[0].routes[0].to.subset: \"v11\" is no subset of this service; did you mean v1?"
        ]
    );
}

#[test]
fn subsets_say_what_is_wrong() {
    check_keys(
        "subsets: {V1: {tags: [a]}}",
        "subsets: \"V1\" cannot be the name of a subset; write small letters, digits, - and _, at most 63",
    );
    check_keys("subsets: {v1: {}}", "subsets.v1: has every instance; give it tags, meta or a filter");
    check_keys("subsets: {v1: {tag: [a]}}", "subsets.v1.tag: unknown key; did you mean tags?");
    check_keys("subsets: [v1]", "subsets: a list is not allowed here; write a mapping: {NAME: …}");
    check_keys(
        "subsets: {v1: {tags: [a]}, v1: {tags: [b]}}",
        "subsets.v1: is given twice, first on line 1; remove one of them",
    );
    let many: Vec<_> = (0..65).map(|n| format!("s{n}: {{tags: [a]}}")).collect();
    check_keys(
        &format!("subsets: {{{}}}", many.join(", ")),
        "subsets: has 65 subsets, more than 64; remove some",
    );
}

#[test]
fn a_filter_that_selects_more_than_the_sidecar_knows_needs_consul() {
    for (filter, is_evaluated_here) in [
        ("Service.Meta.a == b and Checks.Status != critical", true),
        ("Service.EnableTagOverride == true", false),
        ("Checks.Output contains x or Service.Port == 1", false),
    ] {
        assert_eq!(SubsetFilter::parse(filter).unwrap().is_evaluated_here(), is_evaluated_here, "{filter}");
        let text = format!("subsets: {{a: {{filter: '{filter}'}}}}");
        let read = |registry: &str| {
            let text = format!("{registry}upstreams:\n  - service: orders\n    {text}\n");
            load(Some(("o.yaml", &text)), &Environment::default(), &Overrides::default())
        };
        assert!(read("").is_ok(), "{filter}");
        let with_file = read("registry: {file: s.yaml}\n");
        assert_eq!(with_file.is_ok(), is_evaluated_here, "{filter}");
        if let Err(problems) = with_file {
            let text = problems.to_string();
            assert!(
                text.contains("o.yaml:4") && text.contains("upstreams[0].subsets.a.filter: selects"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_filter_says_where_it_is_wrong_and_what_may_be_selected() {
    let selectable = "a subset selects what Consul lists of an instance: Service.{ID,Service,Tags,Meta,Address,Port,Weights}, Node.{Node,Address,Datacenter,Meta}, Checks, …";
    let selects = |filter: &str, column: usize, what: &str| {
        let expected =
            format!("subsets.a.filter: {filter:?} is no filter, at column {column}: {what}; {selectable}");
        check_keys(&format!("subsets: {{a: {{filter: '{filter}'}}}}"), &expected);
    };
    selects("Service.Kid == x", 1, "Selector \"Service.Kid\" is not valid");
    selects("Node.Node == x and Checks.Definition == y", 20, "Selector \"Checks.Definition\" is not valid");
    let all = wrong("subsets: {a: {filter: 'Service.ID = x'}}");
    assert!(all[0].contains("at column 12: no match found, expected: "), "{all:?}");
    let all = wrong("subsets: {a: {filter: 'Service.ID matches `[a-z]{900}[a-z]{900}`'}}");
    assert!(all[0].contains("has regular expressions of more than 64KiB"), "{all:?}");
    let all = wrong(&format!("subsets: {{a: {{filter: 'Service.ID == {}'}}}}", "x".repeat(1024)));
    assert!(all[0].contains("has 1038 bytes, more than 1KiB"), "{all:?}");
}

#[test]
fn a_split_says_what_is_wrong() {
    let check = |split: &str, expected: &str| check_keys(&format!("{SUBSETS}, split: {split}"), expected);
    check("[]", "split: has no target; write a list: split: [{subset: v1, weight: 95}, …]");
    check("[{subset: v1}]", "split[0].weight: is missing; add it");
    check("[{weight: 1}]", "split[0]: says nothing; write one of: subset, service");
    check(
        "[{subset: v1, service: a, weight: 1}]",
        "split[0]: has subset and service, and only one counts; remove one of them",
    );
    check(
        "[{subset: v3, weight: 1}]",
        "split[0].subset: \"v3\" is no subset of this service; did you mean v1?",
    );
    check(
        "[{subset: v1, weight: 0}, {subset: v2, weight: 0.0}]",
        "split: has no weight above 0; give a target a weight",
    );
    check(
        "[{subset: v1, weight: 1}, {subset: v1, weight: 2}]",
        "split[1]: is the target of an entry before; add up the weights of the two",
    );
    check(
        "[{service: Orders, weight: 1}]",
        "split[0].service: \"Orders\" is the upstream itself; leave the target out, or name a subset",
    );
    for weight in ["-1", "1.234", "1.", ".5", "95%", "1e3", "x"] {
        let hint = "write 0 to 10000, with at most two decimals";
        check(
            &format!("[{{subset: v1, weight: {weight}}}]"),
            &format!("split[0].weight: {weight:?} is not a weight; {hint}"),
        );
    }
    for weight in ["10000.01", "99999999999999999999"] {
        let hint = "write 0 to 10000, with at most two decimals";
        check(
            &format!("[{{subset: v1, weight: {weight}}}]"),
            &format!("split[0].weight: {weight:?} is out of range; {hint}"),
        );
    }
    let many: Vec<_> = (0..65).map(|n| format!("{{service: s{n}, weight: 1}}")).collect();
    check(&format!("[{}]", many.join(", ")), "split: has 65 entries, more than 64; remove some");
}

#[test]
fn a_match_says_what_is_wrong() {
    let check = |matcher: &str, expected: &str| {
        check_keys(&format!("routes: [{{match: {{{matcher}}}}}]"), &format!("routes[0].match.{expected}"));
    };
    let path = "write it as in the request: /reports/, percent-encoded, without ? and #";
    check("path: {prefix: ''}", &format!("path.prefix: \"\" is empty; {path}"));
    check(
        "path: {prefix: reports}",
        &format!("path.prefix: \"reports\" does not begin with /, as every path does; {path}"),
    );
    check("path: {exact: /a?b}", &format!("path.exact: \"/a?b\" has a character that no path has; {path}"));
    check(
        "path: {exact: /a, prefix: /b}",
        "path: has exact and prefix, and only one counts; remove one of them",
    );
    check("path: {}", "path: says nothing; write one of: exact, prefix, regex");
    check("path: {suffix: /a}", "path.suffix: unknown key; valid here: exact, prefix, regex");
    check(
        "headers: {'a b': x}",
        "headers: \"a b\" cannot be the name of a header field; write letters, digits and -",
    );
    check("headers: {a: ''}", "headers.a.exact: \"\" is empty; write present: true for any value");
    check("headers: {a: {prefix: ''}}", "headers.a.prefix: \"\" is empty; write present: true for any value");
    check(
        "headers: {a: {not: true}}",
        "headers.a: says nothing; write one of: present, exact, prefix, suffix, regex",
    );
    check(
        "headers: {a: \"x\\ty\"}",
        "headers.a.exact: \"x\u{fffd}y\" has a control character, which no value has; remove it",
    );
    check(
        "query: {'a=b': x}",
        "query: \"a=b\" cannot be the name of a parameter; write it as in the request, percent-encoded, without & and =",
    );
    check("methods: []", "methods: has no method; name one, or remove the key for every method");
    check("methods: ['G T']", "methods: \"G T\" cannot be a method; write GET, POST, …");
    check("methods: [get]", "methods: \"get\" is no method: their case counts; write GET");
}

#[test]
fn a_regular_expression_says_where_it_is_wrong_and_is_bounded() {
    let check = |regex: &str, expected: &str| {
        let all = wrong(&format!("routes: [{{match: {{path: {{regex: '{regex}'}}}}}}]"));
        assert!(all.len() == 1 && all[0].contains(expected), "{all:?}");
    };
    check("/a/(b", "is no regular expression, at column 4: unclosed group");
    check("/a)|(?:b", "is no regular expression, at column 3: unopened group");
    check("(?x)/a # b", "cannot be matched as a whole");
    check("(/a{1000}){1000}", "would take more than 128KiB");
    check(&format!("/{}", "a".repeat(1024)), "has 1025 bytes, more than 1KiB");
    check("", "is empty");
    let routes = vec!["{match: {path: {regex: /a.*}}}"; 65].join(", ");
    check_keys(
        &format!("routes: [{routes}]"),
        "routes: has 65 regular expressions, more than 64; use exact, prefix or suffix",
    );
}

#[test]
fn a_route_says_what_is_wrong() {
    let check = |route: &str, expected: &str| {
        check_keys(&format!("{SUBSETS}, routes: [{{{route}}}]"), &format!("routes[0].{expected}"));
    };
    check("to: {}", "to: says nothing; write one of: subset, service, split");
    check("to: {subset: v1, split: []}", "to: has subset and split, and only one counts; remove one of them");
    check("to: {split: []}", "to.split: has no target; write a list: split: [{subset: v1, weight: 95}, …]");
    check(
        "to: {service: orders}",
        "to.service: \"orders\" is the upstream itself; leave the target out, or name a subset",
    );
    check(
        "to: {subset: v1}, on_empty: maybe",
        "on_empty: \"maybe\" is not valid here; write fail, any or {subset: NAME}",
    );
    check(
        "to: {subset: v1}, on_empty: {subset: v1}",
        "on_empty: is the subset of the route itself; name another one, or any",
    );
    let rewrite = "rewrite: takes the place of a matched path, and the route matches none by its text; add match: {path: {prefix: …}} or {path: {exact: …}}";
    check("rewrite: {prefix: /}", rewrite);
    check("match: {path: {regex: /.*}}, rewrite: {prefix: /}", rewrite);
    check("match: {path: {prefix: /a}}, rewrite: {}", "rewrite: says nothing; write rewrite: {prefix: /}");
    check(
        "timeout: 1s, per_try_timeout: 2s",
        "per_try_timeout: 2s is above timeout (1s); at most 1s, or raise timeout",
    );
    check(
        "timeout: soon",
        "timeout: \"soon\" is not a duration; write a whole number and a unit (ms, s, m, h), as 250ms, 5s, 1m30s",
    );
    check("balance: random", "balance: unknown key; it belongs at defaults.balance or upstreams[0].balance");
    let routes = vec!["{match: {path: {prefix: /a}}}"; 257].join(", ");
    check_keys(&format!("routes: [{routes}]"), "routes: has 257 routes, more than 256; remove some");
}

#[test]
fn fields_that_frame_a_message_or_belong_to_the_sidecar_cannot_be_changed() {
    let names = "Host content-length Transfer-Encoding connection keep-alive te trailer upgrade expect \
                 proxy-connection via x-outrigger-timeout grpc-timeout";
    for name in names.split(' ') {
        let what = format!("{name:?} is written by the sidecar, and a route cannot change it; remove it");
        for edit in ["set", "add"] {
            let keys = format!("routes: [{{headers: {{{edit}: {{{name}: x}}}}}}]");
            check_keys(&keys, &format!("routes[0].headers.{edit}: {what}"));
        }
        let keys = format!("routes: [{{headers: {{remove: [{name}]}}}}]");
        check_keys(&keys, &format!("routes[0].headers.remove: {what}"));
    }
    let value = "cannot be sent in a header field; at most 4096 characters of printable ASCII, without a space at the begin or the end";
    check_keys(
        "routes: [{headers: {set: {a: \"x\\ny\"}}}]",
        &format!("routes[0].headers.set.a: the value {value}"),
    );
    check_keys(
        "routes: [{headers: {set: {a: x, A: y}}}]",
        "routes[0].headers.set: \"a\" is there twice, and names of fields have no case; remove one of them",
    );
    check_keys(
        "routes: [{match: {headers: {x-a: x, X-A: y}}}]",
        "routes[0].match.headers: \"x-a\" is there twice, and names of fields have no case; remove one of them",
    );
    check_keys(
        "routes: [{headers: {set: {a: x}, remove: [A]}}]",
        "routes[0].headers.remove: \"a\" is also set or added; set replaces a field; remove it from one of the lists",
    );
}

#[test]
fn a_mirror_says_what_is_wrong() {
    let check = |mirror: &str, expected: &str| {
        check_keys(&format!("{SUBSETS}, mirror: {{{mirror}}}"), &format!("mirror.{expected}"));
    };
    check("share: 1%", "to: is missing; add to: {subset: NAME} or to: {service: NAME}");
    check("to: {split: []}", "to.split: unknown key; it belongs at upstreams[0].split");
    check("to: {subset: v1}, share: 2", "share: \"2\" is out of range; allowed: 0 to 1");
    check(
        "to: {subset: v1}, methods: [CONNECT]",
        "methods: \"CONNECT\" has no copy: it makes a tunnel; remove it",
    );
    check("to: {subset: v1}, methods: []", "methods: has no method; name one, or remove the key");
    check(
        "to: {subset: v1}, credentials: maybe",
        "credentials: \"maybe\" is not a value of this setting; allowed: drop, keep",
    );
    check("to: {subset: v1}, max_in_flight: 0", "max_in_flight: \"0\" is out of range; allowed: 1 to 10000");
}

#[test]
fn services_that_send_requests_around_are_refused() {
    let text = "upstreams:\n  - service: orders\n    split: [{service: Reports, weight: 1}]\n  - service: reports\n    split: [{service: orders, weight: 1}]\n";
    assert_eq!(
        problems(text, &[], &Overrides::default()),
        [
            "o.yaml:3:12 upstreams[0].split: requests would go around: orders → reports → orders; leave one of these services out of the other's split"
        ]
    );
    // A route goes to the split of another service, and never to its routes.
    loaded(
        "upstreams:\n  - service: orders\n    routes: [{to: {service: reports}}]\n  - service: reports\n    routes: [{to: {service: orders}}]\n",
    );
    // Only the whole service is named by others.
    loaded(
        "upstreams:\n  - {service: orders, tags: [v2], split: [{service: reports, weight: 1}]}\n  - {service: reports, split: [{service: orders, weight: 1}]}\n",
    );
}

#[test]
fn rules_without_effect_are_warnings() {
    let warnings = |keys: &str| {
        let text = format!("upstreams: [{{service: orders, {keys}}}]");
        let warnings = loaded(&text).warnings;
        warnings
            .iter()
            .map(|line| line.to_string().split_once(" upstreams[0].").unwrap().1.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        warnings("routes: [{match: {path: {prefix: /}}, timeout: 1s}, {match: {methods: [GET]}}, {}]"),
        [
            "routes[1]: is never reached: routes[0] takes every request; put it before that one, or remove it",
            "routes[2]: is never reached: routes[0] takes every request; put it before that one, or remove it"
        ]
    );
    assert_eq!(warnings("return_after: 1s"), ["return_after: is not used: there is no failover; remove it"]);
    let own = "failover: names dc2, which is the upstream's own datacenter; remove it: no other instances are there";
    assert_eq!(warnings("datacenter: DC2, failover: [{datacenter: dc2}, {datacenter: dc3}]"), [own]);
    assert_eq!(warnings("sticky: {header: x-user}"), ["sticky: is not used: there is no split; remove it"]);
    assert_eq!(
        warnings("routes: [{to: {service: b}, on_empty: any}]"),
        ["routes[0].on_empty: is not used: the route is to no subset; remove it"]
    );
    assert_eq!(
        warnings(&format!("{SUBSETS}, routes: [{{to: {{subset: v1, sticky: {{cookie: a}}}}}}]")),
        ["routes[0].to.sticky: is not used: there is no split; remove it"]
    );
}

#[test]
fn the_rules_of_an_upstream_are_bounded() {
    let value = "x".repeat(1000);
    let routes: Vec<_> = (0..66).map(|_| format!("{{match: {{headers: {{a: {value}}}}}}}")).collect();
    let all = wrong(&format!("routes: [{}]", routes.join(", ")));
    assert!(all[0].contains("bytes, more than 64KiB; make them fewer"), "{all:?}");
}

/// What a glob means, said without looking for parts.
fn matches_naively(glob: &[u8], text: &[u8]) -> bool {
    match glob.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|n| matches_naively(rest, &text[n..])),
        Some((byte, rest)) => text.first() == Some(byte) && matches_naively(rest, &text[1..]),
    }
}

proptest! {
    #[test]
    fn a_glob_matches_as_the_naive_one_does(glob in "[ab*]{0,8}", text in "[ab]{0,10}") {
        let expected = matches_naively(glob.as_bytes(), text.as_bytes());
        prop_assert_eq!(Glob(glob.as_str().into()).matches(&text), expected, "{} on {}", glob, text);
    }

    #[test]
    fn a_glob_is_about_whole_characters(glob in "[aü日*]{0,6}", text in "[aü日]{0,8}") {
        let expected = matches_naively(glob.as_bytes(), text.as_bytes());
        prop_assert_eq!(Glob(glob.as_str().into()).matches(&text), expected);
    }

    #[test]
    fn no_value_of_a_rule_makes_loading_panic(
        key in prop::sample::select(vec!["subsets", "split", "sticky", "routes", "mirror", "failover", "return_after", "zone"]),
        value in "[a-z0-9:,.\\[\\]{}'\"()*?/ -]{0,60}",
    ) {
        let text = format!("upstreams:\n  - service: orders\n    {SUBSETS}\n    {key}: {value}\n");
        let _ = load(Some(("o.yaml", &text)), &Environment::default(), &Overrides::default());
    }

    /// Any piece of a valid rule in the place of any other.
    #[test]
    fn no_mixture_of_rules_makes_loading_panic(parts in prop::collection::vec(prop::sample::select(vec![
        "subsets", "split", "sticky", "routes", "mirror", "failover", "datacenter", "match", "to", "path", "headers", "query", "methods", "prefix",
        "regex", "subset", "service", "weight", "filter", "tags", "meta", "share", "null", "v1", "'*'", "/a", "'(a'",
        "set", "add", "remove", "on_empty", "rewrite", "retry", "timeout", "1s", "off",
        "{", "}", "[", "]", ": ", ", ", ": {", "}, ", "]}", "[{",
    ]), 0..30)) {
        let text = format!("upstreams: [{{service: orders, {}}}]", parts.concat());
        let _ = load(Some(("o.yaml", &text)), &Environment::default(), &Overrides::default());
    }
}
