//! The registries under test, and the small servers that their checks ask.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::consul::{Consul, http};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

/// Both call their node so.
const NODE: &str = "lab1";

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

    /// `{http}`, `{open}` and `{closed}` in a request become the addresses of the checked servers.
    pub(crate) fn fill_addresses(&self, text: &str) -> String {
        let CheckTargets { http, open, closed, .. } = &self.check_targets;
        text.replace("{http}", &http.to_string())
            .replace("{open}", &open.to_string())
            .replace("{closed}", &closed.to_string())
    }

    /// What differs from run to run in this target's answers.
    pub(crate) fn variable_parts(&self) -> Vec<(String, &'static str)> {
        let CheckTargets { http, open, closed, .. } = &self.check_targets;
        let server = match &self.registry {
            TargetRegistry::Dev(_) => "8300".to_owned(),
            TargetRegistry::Consul(consul) => consul.rpc_addr().port().to_string(),
        };
        vec![
            (http.to_string(), "{http}"),
            (open.to_string(), "{open}"),
            (closed.to_string(), "{closed}"),
            (server, "<server-port>"),
        ]
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
        assert_eq!(list("/v1/agent/services").await, [""; 0]);
    }
}

/// Percent-escapes all but letters, digits, `-` and `_`.
fn escape(id: &str) -> String {
    id.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// What checks ask: an HTTP server whose path is the status that it answers, an open port and a
/// closed one.
struct CheckTargets {
    http: SocketAddr,
    open: SocketAddr,
    closed: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl CheckTargets {
    async fn start() -> Self {
        let http = TcpListener::bind(localhost()).await.unwrap();
        let open = TcpListener::bind(localhost()).await.unwrap();
        let closed = TcpListener::bind(localhost()).await.unwrap();
        Self {
            http: http.local_addr().unwrap(),
            open: open.local_addr().unwrap(),
            closed: closed.local_addr().unwrap(),
            tasks: [
                tokio::spawn(answer_status(http)),
                tokio::spawn(async move { while open.accept().await.is_ok() {} }),
            ],
        }
    }
}

impl Drop for CheckTargets {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// `GET /503` is answered 503, with `said METHOD` as the body. One at a time: checks are few.
async fn answer_status(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut head = vec![0; 4096];
        let read = stream.read(&mut head).await.unwrap_or(0);
        let head = String::from_utf8_lossy(&head[..read]).into_owned();
        let mut words = head.split_whitespace();
        let method = words.next().unwrap_or_default();
        let status = words.next().unwrap_or_default().trim_start_matches('/').to_owned();
        let body = if status == "204" { String::new() } else { format!("said {method}") };
        let length =
            if status == "204" { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let reason = if status == "200" { "All Well" } else { "Not So" };
        let answer = format!("HTTP/1.1 {status} {reason}\r\n{length}Connection: close\r\n\r\n{body}");
        // A checker that has gone needs no answer.
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

fn localhost() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}
