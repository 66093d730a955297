//! A registry for a test, spoken to as any client of Consul's would.
#![allow(clippy::expect_used, clippy::panic, reason = "a harness fails its test by panicking")]

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::{consul::http, instance::Instance, wait};

/// The HTTP address of a Consul agent, real or not.
#[derive(Debug, Clone, Copy)]
pub struct ConsulAgent(pub SocketAddr);

impl ConsulAgent {
    /// `GET path`, its body as JSON.
    ///
    /// # Panics
    /// No answer with 200 and JSON.
    pub async fn get(self, path: &str) -> Value {
        self.try_get(path).await.unwrap_or_else(|why| panic!("GET {path}: {why}"))
    }

    /// The index of `service`, as its watchers see it.
    ///
    /// # Panics
    /// No answer with one.
    pub async fn service_index(self, service: &str) -> u64 {
        let answer = http::get(self.0, &format!("/v1/health/service/{service}")).await.expect("an answer");
        let index = answer.headers().get("x-consul-index").and_then(|text| text.to_str().ok());
        index.and_then(|text| text.parse().ok()).expect("an index")
    }

    async fn try_get(self, path: &str) -> Result<Value, String> {
        let answer = http::get(self.0, path).await.map_err(|error| error.to_string())?;
        if answer.status() != 200 {
            return Err(format!("{} {:?}", answer.status(), answer.body()));
        }
        serde_json::from_slice(answer.body()).map_err(|error| error.to_string())
    }

    /// `PUT path`.
    ///
    /// # Panics
    /// No answer with 200.
    pub async fn put(self, path: &str, body: &Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer =
            http::put(self.0, path, &body).await.unwrap_or_else(|error| panic!("PUT {path}: {error}"));
        assert_eq!(answer.status(), 200, "PUT {path}: {:?}", answer.body());
    }

    /// Registers an instance of `service` without a check: passing.
    pub async fn register(self, service: &str, instance: &Instance) {
        let (name, addr) = (instance.name(), instance.addr());
        self.put(
            "/v1/agent/service/register",
            &json!({"Name": service, "ID": name, "Address": addr.ip().to_string(), "Port": addr.port()}),
        )
        .await;
    }

    /// Takes an instance away.
    pub async fn deregister(self, id: &str) {
        self.put(&format!("/v1/agent/service/deregister/{id}"), &Value::Null).await;
    }

    /// The ids and worst statuses of `service`, as the catalog knows them.
    pub async fn health(self, service: &str) -> Vec<(String, String)> {
        let Ok(Value::Array(entries)) = self.try_get(&format!("/v1/health/service/{service}")).await else {
            return Vec::new();
        };
        entries
            .iter()
            .map(|entry| (text_of(&entry["Service"]["ID"]), worst_status(&entry["Checks"])))
            .collect()
    }

    /// Waits until `service` has exactly these ids and statuses.
    pub async fn wait_health(self, service: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(id, status)| ((*id).into(), (*status).into())).collect();
        wait::until(&format!("{service} is {expected:?} in the registry"), wait::TIMEOUT, async || {
            let mut health = self.health(service).await;
            health.sort();
            health == expected
        })
        .await;
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn worst_status(checks: &Value) -> String {
    let statuses: Vec<_> =
        checks.as_array().into_iter().flatten().map(|check| text_of(&check["Status"])).collect();
    let found =
        ["critical", "warning", "passing"].into_iter().find(|status| statuses.iter().any(|s| s == status));
    found.unwrap_or("passing").to_owned()
}
