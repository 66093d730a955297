//! Tests of the harness itself.

use super::*;

#[tokio::test]
async fn a_server_keeps_its_registrations_over_a_restart_and_forgets_them_when_wiped() {
    if !available("a server keeps its registrations over a restart") {
        return;
    }
    let mut consul = Consul::server().await.unwrap();
    let registered =
        http::put(consul.http_addr(), "/v1/agent/service/register", r#"{"Name":"kept"}"#).await.unwrap();
    assert_eq!(registered.status(), 200);

    consul.stop().await.unwrap();
    assert!(!consul.is_running());
    assert!(http::get(consul.http_addr(), "/v1/agent/services").await.is_err());
    consul.start().await.unwrap();
    let services = http::get(consul.http_addr(), "/v1/agent/services").await.unwrap();
    assert!(services.body().starts_with(br#"{"kept":"#), "{services:?}");

    consul.wipe().await.unwrap();
    consul.start().await.unwrap();
    let services = http::get(consul.http_addr(), "/v1/agent/services").await.unwrap();
    assert_eq!(services.body(), "{}");
}

#[tokio::test]
async fn a_dropped_agent_ends() {
    if !available("a dropped agent ends") {
        return;
    }
    let consul = Consul::dev().await.unwrap();
    let (addr, dir) = (consul.http_addr(), consul.dir.path().to_owned());
    drop(consul);
    assert!(http::get(addr, "/v1/status/leader").await.is_err());
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_cluster_elects_another_leader_and_takes_the_killed_one_back() {
    if !available("a cluster elects another leader") {
        return;
    }
    let mut cluster = ConsulCluster::start_three().await.unwrap();
    let killed = cluster.kill_leader().await.unwrap();
    let next = cluster.leader().await.unwrap();
    assert_ne!(killed, next);
    cluster.server(killed).start().await.unwrap();
    assert!((0..3).all(|index| cluster.server(index).is_running()));
}
