//! Names of services and tags: what is refused, with the exact text of each problem.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::problems;
use outrigger_config::Overrides;

fn check(text: &str, expected: &[&str]) {
    assert_eq!(problems(text, &[], &Overrides::default()), expected, "for:\n{text}");
}

#[test]
fn a_name_of_a_service_holds_what_a_host_and_a_path_can() {
    check("service: {name: _Billing.V2_x, port: 1}\nupstreams: [{service: a.b.C_d}, {service: a.b}]\n", &[]);
    check(
        "upstreams: [{service: a..b}, {service: a/b}]\n",
        &[
            "o.yaml:1:23 upstreams[0].service: \"a..b\" cannot be a service's name; 1 to 128 letters, digits, -, _ and dots; at least 1 and at most 63 bytes between two dots",
            "o.yaml:1:40 upstreams[1].service: \"a/b\" cannot be a service's name; 1 to 128 letters, digits, -, _ and dots; at least 1 and at most 63 bytes between two dots",
        ],
    );
    check(
        "upstreams: [{service: 10.0.0.5}]\n",
        &[
            "o.yaml:1:23 upstreams[0].service: \"10.0.0.5\" is an address, and no service's name; name the service as the registry lists it",
        ],
    );
    check(
        "upstreams: [{service: a.b}, {service: A.B}]\n",
        &[
            "o.yaml:1:39 upstreams[1].service: A.B is declared twice, first as upstreams[0]; merge the two, or tell them apart by tags or datacenter",
        ],
    );
}

#[test]
fn an_empty_tag_is_refused_wherever_it_is_written() {
    let what = "\"\" cannot be a tag; 1 to 255 bytes, no control characters, no space at the ends";
    check("service: {name: a, port: 1, tags: [b, '']}\n", &[&format!("o.yaml:1:39 service.tags: {what}")]);
    let place = "o.yaml:1:33 upstreams[0].tags";
    check("upstreams: [{service: a, tags: ['']}]\n", &[&format!("{place}: {what}")]);
    let service = "service: {name: a, port: 1}\n";
    for text in [",", "a,,b", ",a", "a, ,b", " "] {
        let expected = [format!("OUTRIGGER_TAGS: {what}")];
        assert_eq!(
            problems(service, &[("OUTRIGGER_TAGS", text)], &Overrides::default()),
            expected,
            "{text:?}"
        );
    }
    for tags in [vec![""], vec!["a", ""], vec!["", "a"], vec![" "]] {
        let flags =
            Overrides { tags: tags.iter().map(ToString::to_string).collect(), ..Overrides::default() };
        assert_eq!(problems(service, &[], &flags), [format!("--tag: {what}")], "{tags:?}");
    }
}

#[test]
fn a_declared_service_has_no_name_that_a_host_reads_otherwise() {
    check(
        "upstreams: [{service: v2.orders.service.consul}, {service: orders.service.dc2.consul}]\n",
        &[
            "o.yaml:1:23 upstreams[0].service: \"v2.orders.service.consul\" is the name of a service in full, as in a Host; write orders; tags and datacenter are keys of their own",
            "o.yaml:1:60 upstreams[1].service: \"orders.service.dc2.consul\" is the name of a service in full, as in a Host; write orders; tags and datacenter are keys of their own",
        ],
    );
    let registry = "registry: {consul: {domain: corp.example}}\n";
    check(
        &format!("{registry}service: {{name: A.Service.Corp.Example, port: 1}}\n"),
        &[
            "o.yaml:2:17 service.name: \"A.Service.Corp.Example\" is the name of a service in full, as in a Host; write a; tags and datacenter are keys of their own",
        ],
    );
    check(
        &format!(
            "{registry}upstreams: [{{service: a.service.consul}}, {{service: a.servicex.corp.example}}]\n"
        ),
        &[],
    );
    check(
        "outbound: {names: [sidecar, Billing.V2]}\nservice: {name: sidecar, port: 1}\nupstreams: [{service: billing.V2}]\n",
        &[
            "o.yaml:3:23 upstreams[0].service: \"billing.V2\" is in outbound.names, as a name of this sidecar; remove one of them",
        ],
    );
}

#[test]
fn hosts_of_the_sidecar_and_the_domain_are_names() {
    check(
        "outbound: {names: ['http://a', 'a:80', '*']}\n",
        &[
            "o.yaml:1:20 outbound.names: \"http://a\" is not a host; write a name or an address without a port, as sidecar or host.docker.internal",
            "o.yaml:1:32 outbound.names: \"a:80\" is not a host; write a name or an address without a port, as sidecar or host.docker.internal",
            "o.yaml:1:40 outbound.names: \"*\" is not a host; write a name or an address without a port, as sidecar or host.docker.internal",
        ],
    );
    check(
        "registry: {consul: {domain: .consul}}\n",
        &[
            "o.yaml:1:29 registry.consul.domain: \".consul\" is not a domain; write the domain of the agent, as consul or corp.example",
        ],
    );
}
