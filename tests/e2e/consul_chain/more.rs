//! More of the table: entries together.

use super::table::{API, OWN, ROW, Row};

pub(super) const ROWS: &[Row] = &[
    Row {
        what: "several headers, some inverted, and methods",
        entries: &[(
            "router",
            r#"{"Routes": [{"Match": {"HTTP": {"PathPrefix": "/m", "Methods": ["GET", "PUT"], "Header": [
                {"Name": "x-a", "Exact": "1", "Invert": true}, {"Name": "x-b", "Prefix": "p", "Invert": true},
                {"Name": "x-c", "Present": true}, {"Name": "x-d", "Present": true, "Invert": true}]}},
                "Destination": {"Service": "api"}}]}"#,
        )],
        requests: &[
            ("GET /m\nx-a: 2\nx-b: q\nx-c: 1", API),
            ("PUT /mm\nx-a: 2\nx-b: q\nx-c:", API),
            ("POST /m\nx-a: 2\nx-b: q\nx-c: 1", OWN),
            ("GET /m\nx-a: 1\nx-b: q\nx-c: 1", OWN),
            ("GET /m\nx-a: 2\nx-b: pq\nx-c: 1", OWN),
            ("GET /m\nx-a: 2\nx-b: q", OWN),
            ("GET /m\nx-a: 2\nx-b: q\nx-c: 1\nx-d: 1", OWN),
            ("GET /m\nx-b: q\nx-c: 1", OWN),
        ],
        ..ROW
    },
    Row {
        what: "a route to a service that is not registered",
        entries: &[(
            "router",
            r#"{"Routes": [{"Match": {"HTTP": {"PathPrefix": "/none"}}, "Destination": {"Service": "none"}}]}"#,
        )],
        requests: &[("GET /none", &[("404 unknown_service", 2)]), ("GET /", OWN)],
        ..ROW
    },
    Row {
        what: "a redirect to a service that is redirected",
        entries: &[("resolver", r#"{"Redirect": {"Service": "moved"}}"#)],
        requests: &[("GET /", API)],
        ..ROW
    },
    Row {
        what: "a route to a service with a router and a splitter: its splitter counts",
        entries: &[(
            "router",
            r#"{"Routes": [{"Match": {"HTTP": {"PathPrefix": "/p"}}, "Destination": {"Service": "parted"}}]}"#,
        )],
        requests: &[("GET /p", &[("o1", 2), ("o2", 2)]), ("GET /", OWN)],
        slack: 1,
        ..ROW
    },
    Row {
        what: "a failover past a datacenter that is not there",
        entries: &[(
            "resolver",
            r#"{"Subsets": {"none": {"Filter": "Service.Meta.version == 9"}}, "DefaultSubset": "none", "Failover": {"*": {"Service": "api", "Datacenters": ["dc9", "dc2"]}}}"#,
        )],
        requests: &[("GET /", &[("elsewhere", 4)])],
        ..ROW
    },
    Row {
        what: "a filter that Consul evaluates",
        entries: &[(
            "resolver",
            r#"{"Subsets": {"some": {"Filter": "Service.EnableTagOverride == false and Service.Meta.version == 2"}}, "DefaultSubset": "some"}"#,
        )],
        requests: &[("GET /", &[("v2", 4)])],
        slack: 0,
        ..ROW
    },
];
