//! The events of a sidecar: by its page, its stream and the command, in the order in which they happen.

use std::{
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::{
    instance::Instance,
    process::{self, Process},
    registry::ConsulAgent,
    registry_proxy::{RegistryMode, RegistryProxy},
    wait,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// `outrigger events -f --json`, killed when it is dropped.
struct Followed {
    child: Child,
    _folder: TempDir,
    output: PathBuf,
}

impl Followed {
    fn start(admin: SocketAddr, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("events");
        let mut command = Command::new(process::binary());
        command.args(["events", "-f", "--json", "--admin", &admin.to_string()]).args(arguments);
        command.stdin(Stdio::null()).stdout(File::create(&output).unwrap());
        Self { child: command.spawn().unwrap(), _folder: folder, output }
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.output).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until a line is `wanted`, and returns the number of lines up to it.
    async fn wait_for(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> usize {
        let mut found = None;
        wait::until_true(what, || {
            found = self.lines().iter().position(&wanted);
            found.is_some()
        })
        .await;
        found.unwrap() + 1
    }

    async fn wait_for_kind(&self, kind: &str) -> usize {
        self.wait_for(kind, |line| line["kind"] == kind).await
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn events(process: &Process, query: &str) -> Vec<Value> {
    let page = process.admin_get(&format!("/events?{query}")).await;
    assert_eq!(page.status, 200, "{}", page.text());
    page.json()["events"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_command_follows_a_sidecar_through_an_outage_and_a_restart() {
    let registry =
        DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default()).await.unwrap();
    let front = RegistryProxy::start(registry.addr()).await;
    let all = [Instance::start("a").await, Instance::start("b").await];
    let agent = ConsulAgent(registry.addr());
    agent.register("payments", &all[0]).await;
    let settings = format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\nadmin: {{listen: \"{}\"}}\nupstreams: [{{service: payments}}]",
        front.addr(),
        outrigger_net::reserve_addr(),
    );
    let mut first = Process::run(&settings).await;
    let followed = Followed::start(first.admin(), &[]);
    followed.wait_for("what was there before", |line| line["instance"] == "a").await;
    agent.register("payments", &all[1]).await;
    followed.wait_for("an instance that comes", |line| line["instance"] == "b").await;
    front.set(RegistryMode::Refuse);
    let lost = followed.wait_for_kind("registry_lost").await;
    front.set(RegistryMode::Pass);
    let back = followed.wait_for_kind("registry_back").await;
    assert!(lost < back, "{:?}", followed.lines());

    // The page and the stream have the same objects.
    let page = events(&first, "service=payments").await;
    let of_stream: Vec<_> =
        followed.lines().into_iter().filter(|line| line["service"] == "payments").collect();
    assert_eq!(
        page.iter().map(|one| &one["id"]).collect::<Vec<_>>(),
        of_stream.iter().map(|one| &one["id"]).collect::<Vec<_>>()
    );
    let printed = process::run_outrigger(&[
        "events",
        "--service",
        "payments",
        "--kind",
        "instance_joined",
        "--limit",
        "1",
        "--admin",
        &first.admin().to_string(),
    ])
    .await;
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(
        printed.lines().count() == 1 && printed.contains("  instance_joined      payments  b on "),
        "{printed}"
    );

    // Another process: its events follow after a line that says so.
    let before = followed.lines().len();
    first.signal("TERM");
    assert!(first.wait_exit(wait::TIMEOUT).await.success());
    let second = Process::run(&settings).await;
    let restarted =
        followed.wait_for("the restart", |line| line["lost"].is_null() && line["kind"].is_null()).await;
    assert!(restarted > before, "{:?}", followed.lines());
    wait::until_true("the events of the new process", || {
        followed.lines()[restarted..].iter().filter(|line| line["kind"] == "instance_joined").count() >= 2
    })
    .await;
    let lines = followed.lines();
    let epoch = |line: &Value| line["id"].as_str().map(|id| id.split_once('-').unwrap().0.to_owned());
    assert_ne!(epoch(&lines[0]), epoch(&lines[restarted]));
    assert_eq!(lines[restarted - 1], json!({"lost": null}));
    drop(second);
}
