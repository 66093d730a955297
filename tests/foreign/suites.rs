//! The list of all suites.

use std::{path::PathBuf, time::Duration};

use crate::suite::{Suite, file};

/// All, in the order in which they begin: the longest first, and those that wait for the same installation apart.
pub(crate) const ALL: [Suite; 12] = [
    Suite {
        name: "py-consul",
        about: "the own test suite of the Python library py-consul 1.8.0",
        tool: "py-consul",
        arguments: || vec![file("programs/py_consul.py")],
        dns_answer: "instances",
        starts_registries: true,
        quick_on_consul: false,
        limit: Duration::from_secs(600),
    },
    Suite {
        name: "node-consul-use",
        about: "each call of the npm package consul 2.0.1 that an app makes",
        tool: "node-consul",
        arguments: || vec![file("programs/node_client.js")],
        ..SHORT
    },
    Suite {
        name: "patroni",
        about: "the election of a leader by Patroni 4.0.4, without its databases",
        tool: "patroni",
        arguments: || vec![file("programs/patroni_election.py")],
        ..SHORT
    },
    Suite {
        name: "consul-commands",
        about: "the commands of the consul binary, 1.8.7",
        tool: "consul-commands",
        arguments: || vec![file("programs/consul_commands.sh")],
        ..SHORT
    },
    Suite {
        name: "dns-clients",
        about: "dig, drill, kdig, dnspython, unbound and dnsmasq on the DNS listener of a sidecar",
        tool: "dns-clients",
        arguments: || vec![file("programs/dns_clients.sh")],
        ..SHORT
    },
    Suite {
        name: "tcp-clients",
        about: "psql, pgbench, redis-cli and redis-benchmark with their servers through TCP upstreams of a sidecar",
        tool: "tcp-clients",
        arguments: || vec![file("programs/tcp_clients.sh")],
        ..SHORT
    },
    Suite {
        name: "grpc",
        about: "calls of Python's grpcio 1.85.3 as client and as instances through a sidecar",
        tool: "grpc",
        arguments: || vec![file("programs/grpc_calls.py")],
        ..SHORT
    },
    Suite {
        name: "http2-clients",
        about: "curl, nghttp and h2load with nginx through a sidecar, in every combination of HTTP/1.1 and HTTP/2",
        tool: "http2-clients",
        arguments: || vec![file("programs/http2_clients.py")],
        ..SHORT
    },
    Suite {
        name: "chromium",
        about: "what Chromium sends to a name that the DNS listener turns to the sidecar",
        tool: "chromium",
        arguments: || vec![file("programs/chromium.py")],
        dns_answer: "loopback",
        ..SHORT
    },
    Suite {
        name: "python-consul-use",
        about: "the same calls of python-consul 1.1.0",
        tool: "python-consul",
        arguments: python_client,
        ..SHORT
    },
    Suite {
        name: "python-consul2-use",
        about: "the same calls of python-consul2 0.1.5",
        tool: "python-consul2",
        arguments: python_client,
        ..SHORT
    },
    Suite {
        name: "py-consul-use",
        about: "each call of py-consul 1.8.0 that an app makes",
        tool: "py-consul",
        arguments: python_client,
        ..SHORT
    },
];

/// A program that uses one registry and takes less than a minute on each side.
const SHORT: Suite = Suite {
    name: "",
    about: "",
    tool: "",
    arguments: Vec::new,
    dns_answer: "instances",
    starts_registries: false,
    quick_on_consul: true,
    limit: Duration::from_secs(180),
};

fn python_client() -> Vec<PathBuf> {
    vec![file("programs/python_client.py")]
}
