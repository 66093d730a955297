//! The registry over real sockets.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Longest wait for anything that must happen.
const TEST_TIMEOUT: Duration = Duration::from_secs(10);

async fn registry(options: DevRegistryOptions) -> DevRegistry {
    DevRegistry::bind(SocketAddr::from(([127, 0, 0, 1], 0)), options).await.unwrap()
}

async fn send(addr: SocketAddr, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn read_answer(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset counts as the end.
    let _ = timeout(TEST_TIMEOUT, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn request(addr: SocketAddr, method: &str, path: &str, body: &str) -> String {
    read_answer(send(addr, method, path, body).await).await
}

/// Sends a blocking query, and returns when it blocks.
async fn start_blocking_query(registry: &DevRegistry) -> TcpStream {
    let addr = registry.addr();
    let stream = send(addr, "GET", "/v1/health/service/a?index=1000000&wait=5m", "").await;
    let taken = async {
        while registry.context.blocking_slots.available_permits()
            == registry.context.options.max_blocking_queries
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TEST_TIMEOUT, taken).await.unwrap();
    stream
}

#[tokio::test]
async fn a_shutdown_answers_blocked_queries_and_ends_every_task() {
    let registry = registry(DevRegistryOptions::default()).await;
    let addr = registry.addr();
    let blocked = start_blocking_query(&registry).await;
    timeout(TEST_TIMEOUT, registry.shutdown()).await.unwrap();
    let answer = read_answer(blocked).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("[]"), "{answer}");
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_registry_that_leaves_answers_blocked_queries_and_takes_no_more_connections() {
    let registry = registry(DevRegistryOptions::default()).await;
    let addr = registry.addr();
    let blocked = start_blocking_query(&registry).await;
    let left = request(addr, "PUT", "/v1/agent/leave", "").await;
    assert!(left.starts_with("HTTP/1.1 200 OK") && left.ends_with("\r\n\r\n"), "{left}");
    timeout(TEST_TIMEOUT, registry.left()).await.unwrap();
    let answer = read_answer(blocked).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("[]"), "{answer}");
    let refused = async {
        while TcpStream::connect(addr).await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TEST_TIMEOUT, refused).await.unwrap();
    timeout(TEST_TIMEOUT, registry.shutdown()).await.unwrap();
}

/// As Consul, which reads the payload only where its length is declared.
#[tokio::test]
async fn an_event_has_a_payload_of_declared_length_only() {
    let registry = registry(DevRegistryOptions::default()).await;
    let mut stream = TcpStream::connect(registry.addr()).await.unwrap();
    let chunked = "PUT /v1/event/fire/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
                   1\r\nx\r\n0\r\n\r\n";
    stream.write_all(chunked.as_bytes()).await.unwrap();
    let answer = read_answer(stream).await;
    assert!(answer.contains(r#""Payload":null"#), "{answer}");
    let answer = request(registry.addr(), "PUT", "/v1/event/fire/a", "x").await;
    assert!(answer.contains(r#""Payload":"eA==""#), "{answer}");
    registry.shutdown().await;
}

#[tokio::test]
async fn a_dropped_registry_closes_connections_without_an_answer() {
    let registry = registry(DevRegistryOptions::default()).await;
    let blocked = start_blocking_query(&registry).await;
    drop(registry);
    assert_eq!(read_answer(blocked).await, "");
}

#[tokio::test]
async fn a_client_with_too_many_connections_has_the_next_one_closed() {
    let registry =
        registry(DevRegistryOptions { http_max_conns_per_client: 2, ..DevRegistryOptions::default() }).await;
    let addr = registry.addr();
    let first = start_blocking_query(&registry).await;
    let second = TcpStream::connect(addr).await.unwrap();
    let third = TcpStream::connect(addr).await.unwrap();
    assert_eq!(read_answer(third).await, "");
    drop(second);
    let again = async {
        while request(addr, "GET", "/v1/status/leader", "").await.is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TEST_TIMEOUT, again).await.unwrap();
    drop(first);
    registry.shutdown().await;
}

#[tokio::test]
async fn blocking_queries_above_the_limit_are_refused() {
    let registry =
        registry(DevRegistryOptions { max_blocking_queries: 1, ..DevRegistryOptions::default() }).await;
    let _first = start_blocking_query(&registry).await;
    let second = request(registry.addr(), "GET", "/v1/health/service/a?index=1000000", "").await;
    assert!(second.starts_with("HTTP/1.1 503 "), "{second}");
    registry.shutdown().await;
}

#[tokio::test]
async fn a_large_body_and_an_unsupported_endpoint_are_refused_with_a_text() {
    let registry = registry(DevRegistryOptions::default()).await;
    let addr = registry.addr();
    let large = request(addr, "PUT", "/v1/agent/service/register", &" ".repeat(512 * 1024 + 1)).await;
    assert!(
        large.starts_with("HTTP/1.1 413 ") && large.contains("The dev registry reads bodies of"),
        "{large}"
    );
    let absent = request(addr, "GET", "/v1/query", "").await;
    assert!(absent.starts_with("HTTP/1.1 501 "), "{absent}");
    assert!(absent.ends_with("The dev registry has no prepared queries"), "{absent}");
    registry.shutdown().await;
}

#[tokio::test]
async fn a_service_that_stays_critical_is_removed_and_its_watchers_are_woken() {
    let interval = Duration::from_millis(20);
    let options = DevRegistryOptions {
        check_deregister_interval_min: interval,
        check_reap_interval: interval,
        ..DevRegistryOptions::default()
    };
    let registry = registry(options).await;
    let addr = registry.addr();
    let body = r#"{"Name":"a","Check":{"TTL":"20ms","DeregisterCriticalServiceAfter":"20ms"}}"#;
    let registered = request(addr, "PUT", "/v1/agent/service/register", body).await;
    assert!(registered.starts_with("HTTP/1.1 200 "), "{registered}");
    let gone = async {
        let mut index = 1;
        loop {
            let path = format!("/v1/health/service/a?index={index}&wait=5s");
            let seen = request(addr, "GET", &path, "").await;
            if seen.ends_with("[]") {
                return;
            }
            let shown = seen.split("X-Consul-Index: ").nth(1).and_then(|rest| rest.split('\r').next());
            index = shown.unwrap().parse::<u64>().unwrap();
        }
    };
    timeout(TEST_TIMEOUT, gone).await.unwrap();
    registry.shutdown().await;
}
