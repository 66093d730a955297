//! The registries under test, and the small servers that their checks ask.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ::http::Method;
use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::{
    consul::{Consul, http},
    instance::{self, Answer, Instance, Request},
};

/// Both call their node so.
const NODE: &str = "lab1";

/// Largest value of a key, bytes.
const VALUE_MAX: usize = 512 * 1024;

/// A registry to ask.
pub(crate) struct Target {
    registry: TargetRegistry,
    check_targets: CheckTargets,
}

enum TargetRegistry {
    Dev(DevRegistry),
    Consul(Box<Consul>),
}

impl Target {
    pub(crate) async fn dev() -> Self {
        let options = DevRegistryOptions { node_name: NODE.to_owned(), ..DevRegistryOptions::default() };
        let registry = DevRegistry::bind(localhost(), options).await.unwrap();
        Self { registry: TargetRegistry::Dev(registry), check_targets: CheckTargets::start().await }
    }

    pub(crate) async fn consul() -> Self {
        let consul = Consul::server().await.unwrap();
        assert_eq!(consul.node(), NODE);
        Self {
            registry: TargetRegistry::Consul(Box::new(consul)),
            check_targets: CheckTargets::start().await,
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        match &self.registry {
            TargetRegistry::Dev(registry) => registry.addr(),
            TargetRegistry::Consul(consul) => consul.http_addr(),
        }
    }

    pub(crate) fn is_dev(&self) -> bool {
        matches!(self.registry, TargetRegistry::Dev(_))
    }

    /// `{http}`, `{open}` and `{closed}` in a request become the addresses of the checked servers, and `{too large}`
    /// a value that is a byte too large for a key.
    pub(crate) fn fill_addresses(&self, text: &str) -> String {
        let addresses = self.check_targets.addresses();
        let text = addresses.iter().fold(text.to_owned(), |text, (addr, name)| text.replace(name, addr));
        text.replace("{too large}", &"x".repeat(VALUE_MAX + 1))
    }

    /// What differs from run to run in this target's answers.
    pub(crate) fn variable_parts(&self) -> Vec<(String, &'static str)> {
        let (server, serf) = match &self.registry {
            TargetRegistry::Dev(_) => (8300, 8301),
            TargetRegistry::Consul(consul) => (consul.rpc_addr().port(), consul.serf_addr().port()),
        };
        let ports = [(server.to_string(), "<server-port>"), (serf.to_string(), "<serf-port>")];
        self.check_targets.addresses().into_iter().chain(ports).collect()
    }

    /// Removes everything that a case may have left.
    pub(crate) async fn clear(&self) {
        let addr = self.addr();
        let list = |path: &'static str| async move {
            let answer = http::get(addr, path).await.unwrap();
            let listed: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
            listed.as_object().unwrap().keys().map(|id| escape(id)).collect::<Vec<_>>()
        };
        for id in list("/v1/agent/services").await {
            http::put(addr, &format!("/v1/agent/service/deregister/{id}"), "").await.unwrap();
        }
        for id in list("/v1/agent/checks").await {
            http::put(addr, &format!("/v1/agent/check/deregister/{id}"), "").await.unwrap();
        }
        for node in ["ext1", "ext2"] {
            let body = format!(r#"{{"Node":"{node}"}}"#);
            http::put(addr, "/v1/catalog/deregister", &body).await.unwrap();
        }
        let sessions = http::get(addr, "/v1/session/list").await.unwrap();
        let sessions: serde_json::Value = serde_json::from_slice(sessions.body()).unwrap();
        for session in sessions.as_array().unwrap() {
            let id = session["ID"].as_str().unwrap();
            http::put(addr, &format!("/v1/session/destroy/{id}"), "").await.unwrap();
        }
        http::call(addr, Method::DELETE, "/v1/kv/?recurse", "").await.unwrap();
        assert_eq!(list("/v1/agent/services").await, [""; 0]);
    }
}

/// Percent-escapes all but letters, digits, `-` and `_`.
pub(crate) fn escape(id: &str) -> String {
    id.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// The targets of checks: an HTTP server that answers the status in the path, an open port and a closed one.
struct CheckTargets {
    http: Instance,
    open: Instance,
    closed: SocketAddr,
}

impl CheckTargets {
    async fn start() -> Self {
        let http = Instance::scripted("checked", answer_status).await;
        Self { http, open: Instance::start("open").await, closed: instance::refusing_addr() }
    }

    /// The addresses, and what stands for them in requests and recorded answers.
    fn addresses(&self) -> [(String, &'static str); 3] {
        [(self.http.addr(), "{http}"), (self.open.addr(), "{open}"), (self.closed, "{closed}")]
            .map(|(addr, name)| (addr.to_string(), name))
    }
}

/// `GET /503` is answered 503, with `said METHOD` as the body.
fn answer_status(request: &Request) -> Answer {
    let status = request.target().trim_start_matches('/');
    let (length, body) = match (status, request.method()) {
        ("204", _) => (String::new(), String::new()),
        (_, method) => {
            let body = format!("said {method}");
            (format!("Content-Length: {}\r\n", body.len()), body)
        }
    };
    let reason = if status == "200" { "All Well" } else { "Not So" };
    let head = format!("HTTP/1.1 {status} {reason}\r\n{length}Connection: close\r\n\r\n");
    Answer::raw(head + &body).then_close()
}

fn localhost() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}
