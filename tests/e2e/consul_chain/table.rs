//! The entries of each service, and the requests that prove them.

/// Entries of one service, and what its requests are answered by.
pub(super) struct Row {
    /// What it is about.
    pub(super) what: &'static str,
    /// Of its service-defaults.
    pub(super) protocol: &'static str,
    /// The kind of each entry without `service-`, and its keys. Without a name it is that of the service.
    pub(super) entries: &'static [(&'static str, &'static str)],
    /// Method and target, and a line for each field; and how many of them are answered by what: the first word of the body, or a status.
    pub(super) requests: &'static [(&'static str, &'static [(&'static str, usize)])],
    /// How far a count may be off.
    pub(super) slack: usize,
    /// In `/services`.
    pub(super) state: &'static str,
    /// The kinds of its problems there.
    pub(super) problems: &'static [&'static str],
}

/// The row of which the file has rules.
pub(super) const OWN_RULES: &str = "rules of the file come before entries";

/// The instances of each service of the table, in the order of its shares.
pub(super) const OWN: &[(&str, usize)] = &[("v1", 2), ("v2", 2), ("warned", 2)];
pub(super) const API: &[(&str, usize)] = &[("api", 2)];

pub(super) const ROW: Row = Row {
    what: "",
    protocol: "http",
    entries: &[],
    requests: &[],
    slack: 2,
    state: "in_effect",
    problems: &[],
};

/// A router with one route to `api`.
macro_rules! to_api {
    ($what:literal, $http:literal, $($requests:tt)*) => {
        Row {
            what: $what,
            entries: &[("router", concat!(r#"{"Routes": [{"Match": {"HTTP": "#, $http, r#"}, "Destination": {"Service": "api"}}]}"#))],
            requests: &[$($requests)*],
            ..ROW
        }
    };
}

/// Resolvers with the subsets `one`, `two`, `three` and `none`, beside other keys.
macro_rules! with_subsets {
    ($more:literal) => {
        concat!(
            r#"{"Subsets": {"one": {"Filter": "Service.Meta.version == 1"}, "two": {"Filter": "Service.Meta.version == 2"},"#,
            r#""three": {"Filter": "Service.Meta.version == 3"}, "none": {"Filter": "Service.Meta.version == 9"}}"#,
            $more,
            "}"
        )
    };
}

/// A route that sets something, to a service.
macro_rules! route {
    ($http:literal, $destination:literal) => {
        concat!(r#"{"Routes": [{"Match": {"HTTP": "#, $http, r#"}, "Destination": "#, $destination, "}]}")
    };
}

pub(super) const ROWS: &[Row] = &[
    Row { what: "no entries but a protocol", requests: &[("GET /", OWN)], state: "default", ..ROW },
    Row { what: "protocol tcp", protocol: "tcp", requests: &[("GET /", OWN)], state: "default", ..ROW },
    Row { what: "protocol http2", protocol: "http2", requests: &[("GET /", OWN)], state: "default", ..ROW },
    Row { what: "protocol grpc", protocol: "grpc", requests: &[("GET /", OWN)], state: "default", ..ROW },
    // Paths.
    to_api!(
        "PathExact",
        r#"{"PathExact": "/a"}"#,
        ("GET /a", API),
        ("GET /a?x=1", API),
        ("GET /ab", OWN),
        ("GET /", OWN)
    ),
    to_api!("PathPrefix", r#"{"PathPrefix": "/a"}"#, ("GET /a", API), ("GET /ab/c", API), ("GET /b/a", OWN)),
    to_api!(
        "PathRegex, the whole path",
        r#"{"PathRegex": "/a/[0-9]+"}"#,
        ("GET /a/12", API),
        ("GET /a/12?x", API),
        ("GET /a/12/b", OWN),
        ("GET /x/a/12", OWN)
    ),
    // Headers.
    to_api!(
        "Header Exact",
        r#"{"Header": [{"Name": "x-a", "Exact": "1"}]}"#,
        ("GET /\nX-A: 1", API),
        ("GET /\nX-A: 12", OWN),
        ("GET /", OWN)
    ),
    to_api!(
        "Header Present",
        r#"{"Header": [{"Name": "x-a", "Present": true}]}"#,
        ("GET /\nx-a: ", API),
        ("GET /\nx-a: q", API),
        ("GET /\nx-ab: q", OWN)
    ),
    to_api!(
        "Header Prefix",
        r#"{"Header": [{"Name": "x-a", "Prefix": "be"}]}"#,
        ("GET /\nx-a: beta", API),
        ("GET /\nx-a: abe", OWN)
    ),
    to_api!(
        "Header Suffix",
        r#"{"Header": [{"Name": "x-a", "Suffix": "ta"}]}"#,
        ("GET /\nx-a: beta", API),
        ("GET /\nx-a: tab", OWN)
    ),
    to_api!(
        "Header Regex, the whole value",
        r#"{"Header": [{"Name": "x-a", "Regex": "b|be.a"}]}"#,
        ("GET /\nx-a: beta", API),
        ("GET /\nx-a: b", API),
        ("GET /\nx-a: betas", OWN)
    ),
    to_api!(
        "a name of a header in capitals",
        r#"{"Header": [{"Name": "X-UPPER", "Exact": "1"}]}"#,
        ("GET /\nx-upper: 1", API),
        ("GET /\nX-Upper: 2", OWN)
    ),
    to_api!(
        "Header Exact, inverted",
        r#"{"Header": [{"Name": "x-a", "Exact": "1", "Invert": true}]}"#,
        ("GET /", OWN),
        ("GET /\nx-a: 2", API),
        ("GET /\nx-a: 1", OWN)
    ),
    to_api!(
        "Header Present, inverted",
        r#"{"Header": [{"Name": "x-a", "Present": true, "Invert": true}]}"#,
        ("GET /", API),
        ("GET /\nx-a: 1", OWN)
    ),
    to_api!(
        "Header Prefix, inverted",
        r#"{"Header": [{"Name": "x-a", "Prefix": "be", "Invert": true}]}"#,
        ("GET /\nx-a: a", API),
        ("GET /\nx-a: beta", OWN)
    ),
    to_api!(
        "Header Regex, inverted",
        r#"{"Header": [{"Name": "x-a", "Regex": "[0-9]+", "Invert": true}]}"#,
        ("GET /\nx-a: a1", API),
        ("GET /\nx-a: 11", OWN)
    ),
    to_api!(
        "two headers, both have to match",
        r#"{"Header": [{"Name": "x-a", "Exact": "1"}, {"Name": "x-b", "Present": true}]}"#,
        ("GET /\nx-a: 1\nx-b: 1", API),
        ("GET /\nx-a: 1", OWN),
        ("GET /\nx-b: 1", OWN)
    ),
    // The query.
    to_api!(
        "QueryParam Exact",
        r#"{"QueryParam": [{"Name": "q", "Exact": "1"}]}"#,
        ("GET /?q=1", API),
        ("GET /?a=2&q=1", API),
        ("GET /?q=12", OWN),
        ("GET /", OWN)
    ),
    to_api!(
        "QueryParam Present",
        r#"{"QueryParam": [{"Name": "q", "Present": true}]}"#,
        ("GET /?q", API),
        ("GET /?q=7", API),
        ("GET /?qq=7", OWN)
    ),
    to_api!(
        "QueryParam Regex, the whole value",
        r#"{"QueryParam": [{"Name": "q", "Regex": "[a-c]+"}]}"#,
        ("GET /?q=abc", API),
        ("GET /?q=abcd", OWN)
    ),
    to_api!(
        "two parameters, both have to match",
        r#"{"QueryParam": [{"Name": "q", "Exact": "1"}, {"Name": "r", "Present": true}]}"#,
        ("GET /?q=1&r", API),
        ("GET /?q=1", OWN)
    ),
    // Methods.
    to_api!(
        "Methods",
        r#"{"Methods": ["PUT", "DELETE"]}"#,
        ("PUT /", API),
        ("DELETE /", API),
        ("GET /", OWN)
    ),
    to_api!(
        "path, header, parameter and method",
        r#"{"PathPrefix": "/a", "Methods": ["GET"], "Header": [{"Name": "x-a", "Exact": "1"}], "QueryParam": [{"Name": "q", "Present": true}]}"#,
        ("GET /a?q\nx-a: 1", API),
        ("PUT /a?q\nx-a: 1", OWN),
        ("GET /a\nx-a: 1", OWN),
        ("GET /b?q\nx-a: 1", OWN),
        ("GET /a?q", OWN)
    ),
    // Routes.
    Row {
        what: "the first route that matches takes the request",
        entries: &[(
            "router",
            r#"{"Routes": [{"Match": {"HTTP": {"PathPrefix": "/a/b"}}, "Destination": {"Service": "echo"}},
            {"Match": {"HTTP": {"PathPrefix": "/a"}}, "Destination": {"Service": "api"}},
            {"Match": {"HTTP": {"PathPrefix": "/a/c"}}, "Destination": {"Service": "echo"}}]}"#,
        )],
        requests: &[("GET /a/b", &[("/a/b", 1)]), ("GET /a/c", API), ("GET /b", OWN)],
        ..ROW
    },
    Row {
        what: "a route without a match",
        entries: &[("router", r#"{"Routes": [{"Destination": {"Service": "api"}}]}"#)],
        requests: &[("GET /", API), ("GET /x", API)],
        ..ROW
    },
    Row {
        what: "a route to a subset",
        entries: &[
            ("resolver", with_subsets!("")),
            ("router", route!(r#"{"PathPrefix": "/two"}"#, r#"{"ServiceSubset": "two"}"#)),
        ],
        requests: &[("GET /two", &[("v2", 3)]), ("GET /", OWN)],
        ..ROW
    },
    Row {
        what: "a route to a subset of another service",
        entries: &[
            (
                "resolver",
                r#"{"Name": "other", "Subsets": {"one": {"Filter": "Service.Meta.version == 1"}, "two": {"Filter": "Service.Meta.version == 2"}}}"#,
            ),
            ("router", route!(r#"{"PathPrefix": "/o"}"#, r#"{"Service": "other", "ServiceSubset": "two"}"#)),
        ],
        requests: &[("GET /o", &[("o2", 3)]), ("GET /", OWN)],
        ..ROW
    },
    Row {
        what: "PrefixRewrite of a prefix",
        entries: &[(
            "router",
            route!(r#"{"PathPrefix": "/old/"}"#, r#"{"Service": "echo", "PrefixRewrite": "/new/"}"#),
        )],
        requests: &[("GET /old/a?x=/old/", &[("/new/a?x=/old/", 1)]), ("GET /old", OWN)],
        ..ROW
    },
    Row {
        what: "PrefixRewrite of a whole path",
        entries: &[(
            "router",
            route!(r#"{"PathExact": "/old"}"#, r#"{"Service": "echo", "PrefixRewrite": "/new"}"#),
        )],
        requests: &[("GET /old?x", &[("/new?x", 1)]), ("GET /old/a", OWN)],
        ..ROW
    },
    Row {
        what: "RequestTimeout",
        entries: &[(
            "router",
            route!(r#"{"PathPrefix": "/s"}"#, r#"{"Service": "slow", "RequestTimeout": "150ms"}"#),
        )],
        requests: &[("GET /s", &[("504 timeout", 1)]), ("GET /", OWN)],
        ..ROW
    },
    Row {
        what: "a RequestTimeout that is long enough",
        entries: &[(
            "router",
            route!(r#"{"PathPrefix": "/s"}"#, r#"{"Service": "slow", "RequestTimeout": "5s"}"#),
        )],
        requests: &[("GET /s", &[("slow", 1)])],
        ..ROW
    },
    Row {
        what: "RetryOnStatusCodes",
        entries: &[(
            "router",
            route!(
                r#"{"PathPrefix": "/"}"#,
                r#"{"Service": "flaky", "NumRetries": 2, "RetryOnStatusCodes": [500]}"#
            ),
        )],
        requests: &[("GET /500/a", &[("flaky", 1)]), ("GET /503/a", &[("503", 1)])],
        slack: 0,
        ..ROW
    },
    Row {
        what: "RetryOnConnectFailure alone retries no status",
        entries: &[(
            "router",
            route!(
                r#"{"PathPrefix": "/"}"#,
                r#"{"Service": "flaky", "NumRetries": 2, "RetryOnConnectFailure": true}"#
            ),
        )],
        requests: &[
            ("GET /500/b", &[("500", 1)]),
            ("GET /503/b", &[("503", 1)]),
            ("GET /503/b", &[("flaky", 1)]),
        ],
        slack: 0,
        ..ROW
    },
    Row {
        what: "NumRetries alone keeps the statuses of the sidecar",
        entries: &[("router", route!(r#"{"PathPrefix": "/"}"#, r#"{"Service": "flaky", "NumRetries": 1}"#))],
        requests: &[("GET /503/c", &[("flaky", 1)]), ("GET /500/c", &[("500", 1)])],
        slack: 0,
        ..ROW
    },
    // Splits.
    Row {
        what: "a split of two subsets",
        entries: &[
            ("resolver", with_subsets!("")),
            (
                "splitter",
                r#"{"Splits": [{"Weight": 90, "ServiceSubset": "one"}, {"Weight": 10, "ServiceSubset": "two"}]}"#,
            ),
        ],
        requests: &[("GET /", &[("v1", 90), ("v2", 10)])],
        slack: 0,
        ..ROW
    },
    Row {
        what: "a split of three",
        entries: &[
            ("resolver", with_subsets!("")),
            (
                "splitter",
                r#"{"Splits": [{"Weight": 50, "ServiceSubset": "one"}, {"Weight": 25, "ServiceSubset": "two"}, {"Weight": 25, "Service": "api"}]}"#,
            ),
        ],
        requests: &[("GET /", &[("v1", 20), ("v2", 10), ("api", 10)])],
        slack: 0,
        ..ROW
    },
    Row {
        what: "weights with decimals",
        entries: &[
            ("resolver", with_subsets!("")),
            (
                "splitter",
                r#"{"Splits": [{"Weight": 99.5, "ServiceSubset": "one"}, {"Weight": 0.5, "ServiceSubset": "two"}]}"#,
            ),
        ],
        requests: &[("GET /", &[("v1", 199), ("v2", 1)])],
        slack: 0,
        ..ROW
    },
    Row {
        what: "a weight of 0",
        entries: &[
            ("resolver", with_subsets!("")),
            (
                "splitter",
                r#"{"Splits": [{"Weight": 0, "ServiceSubset": "one"}, {"Weight": 100, "ServiceSubset": "two"}]}"#,
            ),
        ],
        requests: &[("GET /", &[("v2", 10)])],
        slack: 0,
        ..ROW
    },
    Row {
        what: "splitters of splitters",
        entries: &[
            (
                "splitter",
                r#"{"Name": "mid", "Splits": [{"Weight": 50, "Service": "api"}, {"Weight": 50, "Service": "echo"}]}"#,
            ),
            (
                "splitter",
                r#"{"Splits": [{"Weight": 80, "Service": "mid"}, {"Weight": 20, "Service": "slow"}]}"#,
            ),
        ],
        requests: &[("GET /e", &[("api", 4), ("/e", 4), ("slow", 2)])],
        slack: 0,
        ..ROW
    },
    Row {
        what: "the share of an empty subset goes to the others",
        entries: &[
            ("resolver", with_subsets!("")),
            (
                "splitter",
                r#"{"Splits": [{"Weight": 50, "ServiceSubset": "one"}, {"Weight": 50, "ServiceSubset": "none"}]}"#,
            ),
        ],
        requests: &[("GET /", &[("v1", 10)])],
        slack: 0,
        ..ROW
    },
    Row {
        what: "a route before a split",
        entries: &[
            ("resolver", with_subsets!("")),
            (
                "splitter",
                r#"{"Splits": [{"Weight": 50, "ServiceSubset": "one"}, {"Weight": 50, "ServiceSubset": "two"}]}"#,
            ),
            ("router", route!(r#"{"PathPrefix": "/a"}"#, r#"{"Service": "api"}"#)),
        ],
        requests: &[("GET /a", API), ("GET /", &[("v1", 5), ("v2", 5)])],
        slack: 0,
        ..ROW
    },
    Row {
        what: "a route to the split",
        entries: &[
            ("resolver", with_subsets!("")),
            (
                "splitter",
                r#"{"Splits": [{"Weight": 50, "ServiceSubset": "one"}, {"Weight": 50, "ServiceSubset": "two"}]}"#,
            ),
            ("router", route!(r#"{"PathPrefix": "/a"}"#, r#"{"RequestTimeout": "9s"}"#)),
        ],
        requests: &[("GET /a", &[("v1", 5), ("v2", 5)])],
        slack: 0,
        ..ROW
    },
    // Subsets.
    Row {
        what: "DefaultSubset",
        entries: &[("resolver", with_subsets!(r#", "DefaultSubset": "two""#))],
        requests: &[("GET /", &[("v2", 5)])],
        ..ROW
    },
    Row {
        what: "a subset keeps instances with a warning",
        entries: &[("resolver", with_subsets!(r#", "DefaultSubset": "three""#))],
        requests: &[("GET /", &[("warned", 3)])],
        ..ROW
    },
    Row {
        what: "OnlyPassing",
        entries: &[(
            "resolver",
            r#"{"Subsets": {"all": {"Filter": "Service.Meta.version != 2", "OnlyPassing": true}}, "DefaultSubset": "all"}"#,
        )],
        requests: &[("GET /", &[("v1", 5)])],
        ..ROW
    },
    Row {
        what: "a filter over tags",
        entries: &[(
            "resolver",
            r#"{"Subsets": {"tagged": {"Filter": "\"t2\" in Service.Tags"}}, "DefaultSubset": "tagged"}"#,
        )],
        requests: &[("GET /", &[("v2", 5)])],
        ..ROW
    },
    Row {
        what: "a filter with or, not and matches",
        entries: &[(
            "resolver",
            r#"{"Subsets": {"some": {"Filter": "Service.Meta.version matches `^[13]$` and not (Service.Meta.version == 1 or \"x\" in Service.Tags)"}}, "DefaultSubset": "some"}"#,
        )],
        requests: &[("GET /", &[("warned", 3)])],
        ..ROW
    },
    Row {
        what: "a filter over the node",
        entries: &[(
            "resolver",
            r#"{"Subsets": {"here": {"Filter": "Node.Datacenter == dc1 and Service.Meta.version == 1"}}, "DefaultSubset": "here"}"#,
        )],
        requests: &[("GET /", &[("v1", 5)])],
        ..ROW
    },
    Row {
        what: "an empty subset",
        entries: &[("resolver", with_subsets!(r#", "DefaultSubset": "none""#))],
        requests: &[("GET /", &[("503 subset_empty", 2)])],
        slack: 0,
        ..ROW
    },
    Row {
        what: "a filter that was never right",
        entries: &[(
            "resolver",
            r#"{"Subsets": {"bad": {"Filter": "Service.Meta.version = 1"}}, "DefaultSubset": "bad"}"#,
        )],
        requests: &[("GET /", &[("503 subset_empty", 2)])],
        slack: 0,
        problems: &["filter"],
        ..ROW
    },
    Row {
        what: "ConnectTimeout",
        entries: &[("resolver", r#"{"ConnectTimeout": "250ms"}"#)],
        requests: &[("GET /", OWN)],
        ..ROW
    },
    // Redirects.
    Row {
        what: "a redirect to a service",
        entries: &[("resolver", r#"{"Redirect": {"Service": "api"}}"#)],
        requests: &[("GET /", API)],
        ..ROW
    },
    Row {
        what: "a redirect to a subset",
        entries: &[("resolver", r#"{"Redirect": {"Service": "other", "ServiceSubset": "one"}}"#)],
        requests: &[("GET /", &[("o1", 4)])],
        ..ROW
    },
    Row {
        what: "a redirect to a datacenter",
        entries: &[("resolver", r#"{"Redirect": {"Datacenter": "dc2"}}"#)],
        requests: &[("GET /", &[("elsewhere", 4)])],
        ..ROW
    },
    Row {
        what: "a redirect to a service in a datacenter",
        entries: &[("resolver", r#"{"Redirect": {"Service": "api", "Datacenter": "dc2"}}"#)],
        requests: &[("GET /", &[("elsewhere", 4)])],
        ..ROW
    },
    // Failover.
    Row {
        what: "a failover to a service",
        entries: &[(
            "resolver",
            with_subsets!(r#", "DefaultSubset": "none", "Failover": {"*": {"Service": "api"}}"#),
        )],
        requests: &[("GET /", API)],
        ..ROW
    },
    Row {
        what: "a failover to a subset of another service",
        entries: &[(
            "resolver",
            with_subsets!(
                r#", "DefaultSubset": "none", "Failover": {"none": {"Service": "other", "ServiceSubset": "two"}}"#
            ),
        )],
        requests: &[("GET /", &[("o2", 4)])],
        ..ROW
    },
    Row {
        what: "a failover to a subset of the service",
        entries: &[(
            "resolver",
            with_subsets!(r#", "DefaultSubset": "none", "Failover": {"none": {"ServiceSubset": "two"}}"#),
        )],
        requests: &[("GET /", &[("v2", 4)])],
        ..ROW
    },
    Row {
        what: "a failover to the subset in a datacenter",
        entries: &[(
            "resolver",
            r#"{"Subsets": {"gone": {"Filter": "Service.Meta.version == 1 and Service.Tags is empty"}}, "DefaultSubset": "gone", "Failover": {"*": {"Datacenters": ["dc2"]}}}"#,
        )],
        requests: &[("GET /", &[("elsewhere", 4)])],
        ..ROW
    },
    Row {
        what: "a failover that is not needed",
        entries: &[(
            "resolver",
            with_subsets!(r#", "DefaultSubset": "one", "Failover": {"*": {"Service": "api"}}"#),
        )],
        requests: &[("GET /", &[("v1", 6)])],
        slack: 0,
        ..ROW
    },
    Row {
        what: OWN_RULES,
        entries: &[("resolver", r#"{"Redirect": {"Service": "api"}}"#)],
        requests: &[("GET /", &[("v1", 4)])],
        state: "ignored",
        ..ROW
    },
];
