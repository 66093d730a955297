//! What chains say that a Consul 1.8.7 has compiled, and some that no Consul writes.

use outrigger_config::PolicyTuning;
use serde_json::{Value, json};

use super::*;

macro_rules! recorded {
    ($name:literal) => {
        chain::parse(include_bytes!(concat!("testdata/", $name, ".json"))).unwrap()
    };
}

fn rules(chain: &Chain) -> ChainRules {
    rules_of(chain, &mut GoodFilters::new())
}

/// `id×hundredths` of each entry.
fn shares(split: &Split) -> Vec<String> {
    let one = |entry: &SplitEntry| match &entry.to {
        SplitTarget::Exact(target) => format!("{}×{}", target.place.id, entry.weight),
        other => format!("{other:?}"),
    };
    split.entries.iter().map(one).collect()
}

fn destinations(rules: &TrafficRules) -> Vec<Vec<String>> {
    let one = |route: &Route| match &route.to {
        RouteTarget::Exact(target) => vec![target.place.id.to_string()],
        RouteTarget::Split(split) => shares(split),
        other => vec![format!("{other:?}")],
    };
    rules.routes.iter().map(one).collect()
}

#[test]
fn a_service_without_entries_has_no_rules_and_states_no_protocol() {
    assert_eq!(rules(&recorded!("default")), ChainRules::default());
    let grpc = rules(&recorded!("grpc"));
    assert_eq!((&grpc.rules, grpc.protocol.as_deref()), (&TrafficRules::default(), Some("grpc")));
}

#[test]
fn a_splitter_names_subsets_by_their_filters_with_timeouts_and_failovers() {
    let read = rules(&recorded!("splitter"));
    assert_eq!((read.protocol.as_deref(), &*read.problems), (Some("http"), &[][..]));
    let split = read.rules.split.as_ref().unwrap();
    assert_eq!(shares(split), ["v1.orders.default.dc1×9050", "v2.orders.default.dc1×950"]);
    let targets = read.rules.exact_targets();
    let [one, two] = &targets[..] else { panic!("{targets:?}") };
    assert_eq!(one.connect_timeout, Some(Duration::from_secs(3)));
    let filter =
        |place: &ExactPlace| place.subset.as_ref().unwrap().filter.as_ref().unwrap().text().to_owned();
    assert_eq!(filter(&one.place), "Service.Meta.version == v1");
    assert_eq!(
        (one.place.datacenter.as_deref(), one.place.subset.as_ref().unwrap().only_passing),
        (None, false)
    );
    assert!(two.place.subset.as_ref().unwrap().only_passing);
    assert_eq!(one.failover.len(), 1);
    assert_eq!((&*one.failover[0].service, one.failover[0].datacenter.as_deref()), ("orders", Some("dc2")));
    assert_eq!(filter(&one.failover[0]), "Service.Meta.version == v1");
    assert_eq!((&*two.failover[0].service, &two.failover[0].subset), ("fallback", &None));
}

#[test]
fn a_redirect_replaces_the_target() {
    let split = rules(&recorded!("redirect")).rules.split.unwrap();
    assert_eq!(shares(&split), ["v2.orders.default.dc1×10000"]);
    let elsewhere = rules(&recorded!("elsewhere"));
    assert_eq!(elsewhere.protocol, None);
    let targets = elsewhere.rules.exact_targets();
    assert_eq!(targets[0].place.datacenter.as_deref(), Some("dc2"));
    assert_eq!(targets[0].connect_timeout, None, "5s is what Consul writes without one");
}

#[test]
fn a_router_has_routes_in_order_and_its_last_one_is_the_split() {
    let read = rules(&recorded!("router"));
    assert_eq!(read.problems, []);
    let split = [
        "v1.orders.default.dc1×5430".to_owned(),
        "v2.orders.default.dc1×570".to_owned(),
        "web.default.dc1×4000".to_owned(),
    ];
    assert_eq!(shares(read.rules.split.as_ref().unwrap()), split);
    assert_eq!(
        destinations(&read.rules),
        [
            vec!["reports.default.dc1".to_owned()],
            vec!["admin.default.dc1".to_owned()],
            vec!["v2.orders.default.dc1".to_owned()],
            split.to_vec(),
            split.to_vec(),
        ]
    );
    let routes = &read.rules.routes;
    let first = &routes[0];
    let exact = |text: &str, negated| ValueMatch { test: ValueTest::Exact(text.to_owned()), negated };
    assert_eq!(first.matcher.path, Some(PathMatch::Exact("/exact".to_owned())));
    assert_eq!(first.matcher.methods, ["GET", "HEAD"]);
    assert_eq!(first.matcher.headers[0], ("x-a".to_owned(), exact("1", false)));
    assert_eq!(
        first.matcher.headers[1],
        ("x-b".to_owned(), ValueMatch { test: ValueTest::Present, negated: true })
    );
    assert!(matches!(&first.matcher.headers[2].1.test, ValueTest::Regex(regex) if &*regex.text == "a.*"));
    assert_eq!(first.matcher.query.len(), 3);
    assert_eq!(first.matcher.query[2], ("s".to_owned(), exact("z", false)));
    assert_eq!(first.rewrite_prefix.as_deref(), Some("/new"));
    assert_eq!(
        first.tuning.as_deref(),
        Some(&PolicyTuning {
            timeout: Some(Duration::from_secs(7)),
            max_retries: Some(3),
            statuses: Some(vec![503, 504])
        })
    );
    assert!(matches!(&routes[2].matcher.path, Some(PathMatch::Regex(_))));
    assert_eq!(routes[3].matcher.headers[0].1.test, ValueTest::Prefix("p".to_owned()));
    assert_eq!(routes[3].matcher.headers[1].1.test, ValueTest::Suffix("s".to_owned()));
    assert_eq!(
        routes[4].tuning.as_deref(),
        Some(&PolicyTuning { max_retries: Some(2), ..PolicyTuning::default() })
    );
}

#[test]
fn a_route_without_a_match_takes_every_request() {
    let read = rules(&recorded!("odd"));
    assert_eq!(read.rules.routes.len(), 3);
    assert_eq!(read.rules.routes[1].matcher, RouteMatch::default());
    assert_eq!(read.rules.routes[2].matcher, RouteMatch::default());
    assert_eq!(read.rules.split, None, "what is left goes to any instance");
}

#[test]
fn a_wrong_filter_keeps_the_last_good_one_and_else_has_no_instance() {
    let mut chain = recorded!("failover");
    let read = rules(&chain);
    let kinds: Vec<_> = read.problems.iter().map(|one| one.kind).collect();
    assert_eq!(kinds, [ChainProblemKind::Filter]);
    assert!(read.problems[0].text.contains("the subset bad of sub"), "{}", read.problems[0].text);
    let filter_of = |read: &ChainRules, id: &str| {
        let targets = read.rules.exact_targets();
        let target = targets.iter().find(|target| &*target.place.id == id).unwrap();
        target.place.subset.as_ref().unwrap().filter.as_ref().unwrap().text().to_owned()
    };
    assert_eq!(filter_of(&read, "bad.sub.default.dc1"), NOTHING);
    let split = read.rules.split.as_ref().unwrap();
    assert_eq!(shares(split)[1], "bad.sub.default.dc1×3333");
    let both: Vec<_> = read.rules.exact_targets()[0].failover.iter().map(|one| one.id.to_string()).collect();
    assert_eq!(both, ["v1.orders.default.dc2", "v1.orders.default.dc3"]);

    let mut good = GoodFilters::new();
    let id = "bad.sub.default.dc1";
    let wrong = std::mem::replace(
        &mut chain.targets.get_mut(id).unwrap().subset.filter,
        "Service.Meta.version == v9".to_owned(),
    );
    assert_eq!(rules_of(&chain, &mut good).problems, []);
    for wrong in [&*wrong, "Service.Color == x"] {
        chain.targets.get_mut(id).unwrap().subset.filter = wrong.to_owned();
        let read = rules_of(&chain, &mut good);
        assert_eq!(read.problems.len(), 1);
        assert_eq!(filter_of(&read, id), "Service.Meta.version == v9");
    }
}

fn edited(edit: impl Fn(&mut Value)) -> ChainRules {
    let mut answer: Value = serde_json::from_slice(include_bytes!("testdata/router.json")).unwrap();
    edit(&mut answer["Chain"]);
    rules(&chain::parse(answer.to_string().as_bytes()).unwrap())
}

#[test]
fn a_route_with_an_unknown_part_of_its_match_never_matches_and_is_named() {
    let definition = "/Nodes/router:web.default/Routes/0/Definition";
    for (at, edit, why) in [
        ("/Match", json!({"GRPC": {"Service": "x"}}), "Match.GRPC is not known"),
        ("/Match/HTTP", json!({"CaseInsensitive": true}), "Match.HTTP.CaseInsensitive is not known"),
        ("/Match/HTTP/Header/0", json!({"Contains": "x"}), "Match.HTTP.Header.Contains is not known"),
        ("/Match/HTTP/QueryParam/0", json!({"Prefix2": "x"}), "Match.HTTP.QueryParam.Prefix2 is not known"),
        ("/Match/HTTP", json!({"PathPrefix": "/x"}), "it has several paths"),
        ("/Match/HTTP/Header/2", json!({"Regex": "("}), "is no regular expression"),
        ("/Match/HTTP/QueryParam/0", json!({"Present": false}), "says not what its value has to be"),
    ] {
        let read = edited(|chain| {
            let place = chain.pointer_mut(&format!("{definition}{at}")).unwrap().as_object_mut().unwrap();
            place.extend(edit.as_object().unwrap().clone());
        });
        assert_eq!(read.rules.routes.len(), 4, "{why}");
        let [problem] = &read.problems[..] else { panic!("{:?}", read.problems) };
        assert_eq!(problem.kind, ChainProblemKind::Route);
        assert!(
            problem.text.starts_with("routes[0] never matches") && problem.text.contains(why),
            "{problem:?}"
        );
    }
}

#[test]
fn an_inverted_value_has_to_be_there_as_in_envoy() {
    let read = edited(|chain| {
        let matcher = &mut chain["Nodes"]["router:web.default"]["Routes"][0]["Definition"]["Match"]["HTTP"];
        matcher["Header"] = json!([
            {"Name": "X-A", "Exact": "1", "Invert": true},
            {"Name": "x-b", "Present": true, "Invert": true},
        ]);
    });
    let present = |negated| ValueMatch { test: ValueTest::Present, negated };
    let exact = ValueMatch { test: ValueTest::Exact("1".to_owned()), negated: true };
    assert_eq!(
        read.rules.routes[0].matcher.headers,
        [("x-a".to_owned(), present(false)), ("x-a".to_owned(), exact), ("x-b".to_owned(), present(true))]
    );
}

#[test]
fn a_pseudo_header_of_http2_is_a_part_of_match_that_is_not_known() {
    let read = edited(|chain| {
        chain["Nodes"]["router:web.default"]["Routes"][0]["Definition"]["Match"]["HTTP"]["Header"] =
            json!([{"Name": ":Authority", "Exact": "web"}]);
    });
    let kinds: Vec<_> = read.problems.iter().map(|problem| problem.kind).collect();
    assert_eq!(kinds, [ChainProblemKind::Route], "{:?}", read.problems);
}

#[test]
fn other_unknown_fields_have_no_effect_and_unset_ones_say_nothing() {
    let all = rules(&recorded!("router"));
    let read = edited(|chain| {
        chain["Nodes"]["router:web.default"]["Routes"][0]["Definition"]["Match"]["HTTP"]["CaseInsensitive"] =
            json!(false);
        chain["Nodes"]["router:web.default"]["Routes"][0]["Definition"]["Destination"]["IdleTimeout"] =
            json!("3s");
        chain["Nodes"]["resolver:web.default.dc1"]["Resolver"]["LoadBalancer"] = json!({"Policy": "maglev"});
        chain["Nodes"]["splitter:web.default"]["Splits"][0]["RequestHeaders"] = json!({"Set": {"a": "b"}});
        chain["New"] = json!(1);
    });
    assert_eq!(read.rules, all.rules);
    let mut texts: Vec<_> = read.problems.iter().map(|one| one.text.as_str()).collect();
    texts.sort_unstable();
    assert_eq!(
        texts,
        [
            "routes[0].Destination: IdleTimeout is not known, and has no effect",
            "the resolver resolver:web.default.dc1: LoadBalancer is not known, and has no effect",
            "the splitter splitter:web.default: RequestHeaders is not known, and has no effect",
        ]
    );
    assert!(read.problems.iter().all(|one| one.kind == ChainProblemKind::UnknownField));
}

#[test]
fn nodes_that_are_missing_or_go_in_a_circle_are_named_or_end() {
    let read = edited(|chain| {
        chain["Nodes"].as_object_mut().unwrap().remove("resolver:admin.default.dc1");
    });
    assert_eq!(read.rules.routes.len(), 4);
    assert!(read.problems.iter().any(|one| one.kind == ChainProblemKind::Broken), "{:?}", read.problems);
    let read = edited(|chain| {
        chain["Nodes"]["splitter:web.default"]["Splits"][2]["NextNode"] = json!("splitter:web.default");
    });
    assert_eq!(read.rules.split.unwrap().entries.len(), 2);
    assert_eq!(rules(&Chain::default()), ChainRules::default());
}

#[test]
fn durations_of_go() {
    for (text, millis) in
        [("15s", 15_000), ("1m30s", 90_000), ("500ms", 500), ("1.5s", 1500), ("1h0m0s", 3_600_000)]
    {
        assert_eq!(go_duration(text), Some(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "5", "s", "-1s", "1x", "1s2"] {
        assert_eq!(go_duration(text), None, "{text}");
    }
}
