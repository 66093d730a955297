//! A small HTTP server: an instance of `orders` that can be killed.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use outrigger_registration::http_client;
use outrigger_task::essential;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// The service of the demo's instances.
pub(super) const SERVICE: &str = "orders";

/// Longest wait for the registry.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest age of a connection to an instance.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(3600);

/// Most connections to one instance.
const MAX_CONNECTIONS: usize = 1024;

/// An instance. Dropping it kills it.
#[derive(Debug)]
pub(super) struct DemoInstance {
    pub(super) id: String,
    pub(super) addr: SocketAddr,
    task: AbortOnDropHandle<()>,
}

impl DemoInstance {
    /// Starts to serve on a free port.
    pub(super) async fn start(id: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let task =
            tokio::spawn(essential("an instance of the demo", accept_connections(listener, id.into())));
        Ok(Self { id: id.to_owned(), addr, task: AbortOnDropHandle::new(task) })
    }

    /// Closes its listener and every connection at once, as a crash does. It does not deregister.
    pub(super) async fn kill(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Registers the instance, or changes its weight, over the registry's HTTP API, with a check that the
    /// registry runs.
    pub(super) async fn register(&self, registry: SocketAddr, weight: u16) -> Result<(), String> {
        let body = json!({
            "ID": self.id,
            "Name": SERVICE,
            "Address": self.addr.ip().to_string(),
            "Port": self.addr.port(),
            "Weights": {"Passing": weight, "Warning": 1},
            "Check": {
                "HTTP": format!("http://{}/healthz", self.addr),
                "Interval": "2s",
                "Timeout": "500ms",
                "Status": "passing",
                "DeregisterCriticalServiceAfter": "1m",
            },
        });
        let request = Request::put("/v1/agent/service/register")
            .header("host", registry.to_string())
            .body(Full::from(body.to_string()))
            .map_err(|error| error.to_string())?;
        let answer = http_client::exchange(registry, request, REGISTRY_TIMEOUT)
            .await
            .map_err(|error| crate::telemetry::error_chain(&error))?;
        let text = String::from_utf8_lossy(answer.body());
        if answer.status() == StatusCode::OK { Ok(()) } else { Err(format!("{}: {text}", answer.status())) }
    }
}

/// Accepts until the task is aborted, which closes the connections, too.
async fn accept_connections(listener: TcpListener, id: Arc<str>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                // Contained: a panic ends one connection.
                Ok((stream, _)) => drop(connections.spawn(serve_connection(stream, id.clone()))),
                Err(_) => sleep(Duration::from_millis(100)).await,
            },
        }
    }
}

async fn serve_connection(stream: TcpStream, id: Arc<str>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| respond(request, id.clone()));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // The end is ignored, because the demo counts on the client's side.
    let _ = timeout(MAX_CONNECTION_AGE, connection).await;
}

async fn respond(request: Request<Incoming>, id: Arc<str>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    if path != "/healthz" {
        sleep(Duration::from_micros(fastrand::u64(500..6_000))).await;
    }
    let body = format!("{}\n", json!({"service": SERVICE, "instance": &*id, "path": path}));
    let mut response = Response::new(Full::from(body));
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("application/json"));
    if let Ok(id) = http::HeaderValue::from_str(&id) {
        headers.insert("x-instance", id);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(addr: SocketAddr) -> Result<Response<Bytes>, http_client::Error> {
        let request = Request::get("/a").header("host", SERVICE).body(Full::default()).unwrap();
        http_client::exchange(addr, request, Duration::from_secs(20)).await
    }

    #[tokio::test]
    async fn an_instance_answers_with_its_id_until_it_is_killed() {
        let mut instance = DemoInstance::start("orders-1").await.unwrap();
        let answer = get(instance.addr).await.unwrap();
        assert_eq!(answer.headers()["x-instance"], "orders-1");
        instance.kill().await;
        assert!(matches!(get(instance.addr).await, Err(http_client::Error::Connect { .. })));
    }
}
