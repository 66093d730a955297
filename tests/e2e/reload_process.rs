//! A process reloads its settings on SIGHUP, by its admin side, and by the command line. It applies the whole file or
//! nothing.

use std::net::SocketAddr;

use outrigger::{App, reload::ReloadError};
use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::{
    client,
    consul::{self, Consul},
    instance::{Answer, Instance},
    load::{Load, LoadPlan},
    process::{self, Process},
    registry::ConsulAgent,
    wait,
};
use serde_json::{Value, json};

use crate::app;

const HASH: &str = "outrigger_config_hash";
const SUCCESSFUL: &str = "outrigger_config_last_reload_successful";

/// A process that routes `orders` to one instance from a file of static instances.
struct ReloadSetup {
    process: Process,
    instances: tempfile::TempDir,
}

impl ReloadSetup {
    async fn new(instance: &Instance, settings: &str) -> Self {
        let instances = tempfile::tempdir().unwrap();
        let text = format!("services: {{orders: [\"{}\"]}}", instance.addr());
        std::fs::write(instances.path().join("services.yaml"), text).unwrap();
        let process = Process::run(&Self::text(&instances, settings)).await;
        process.wait_ready().await;
        Self { process, instances }
    }

    fn text(instances: &tempfile::TempDir, settings: &str) -> String {
        let file = instances.path().join("services.yaml").display().to_string();
        format!("registry: {{file: {file:?}}}\n{settings}\n")
    }

    fn write(&self, settings: &str) {
        self.process.write_settings(&Self::text(&self.instances, settings));
    }

    /// Writes these settings and reloads them. Returns the status and the answer.
    async fn reload(&self, settings: &str) -> (u16, Value) {
        self.write(settings);
        let answer = self.process.admin_post("/reload").await;
        (answer.status, answer.json())
    }
}

#[tokio::test]
async fn the_reloads_answer_the_page_the_metrics_and_the_log_list_the_changes() {
    let instance = Instance::start("a").await;
    let setup = ReloadSetup::new(&instance, "").await;
    let before = setup.process.metric(HASH).await;
    let started = setup.process.metric("outrigger_config_last_reload_success_timestamp_seconds").await;
    assert!(started > 1.7e9, "{started}");
    let (status, answer) = setup.reload("defaults: {timeout: 7s}\nlog: {level: debug}").await;
    assert_eq!((status, &answer["applied"]), (200, &json!(true)));
    assert_eq!(answer["changed"], json!(["defaults.timeout: 15s → 7s", "log.level: info → debug"]));
    assert_eq!(answer["needs_restart"], json!([]));
    assert!(setup.process.admin_get("/config").await.text().contains("timeout: 7s  # "));
    let hash = setup.process.metric(HASH).await;
    assert!(hash != before && answer["config_hash"].as_f64() == Some(hash), "{hash}");
    assert_eq!(setup.process.metric("outrigger_config_reloads_total{result=\"applied\"}").await, 1.0);
    let log = setup.process.log();
    assert!(log.contains("\"change\":\"defaults.timeout: 15s → 7s\""), "{log}");
    // Lines of level debug are logged now; then the first settings apply again.
    wait::until_true("a debug line", || setup.process.log().contains("\"level\":\"DEBUG\"")).await;
    assert_eq!(setup.reload("").await.0, 200);
    assert_eq!(setup.process.metric(HASH).await, before);
    assert_eq!(setup.reload("").await.1["changed"], json!([]));
}

#[tokio::test]
async fn sighup_reloads_the_file_while_requests_go_on() {
    let instance = Instance::start("a").await;
    let setup = ReloadSetup::new(&instance, "").await;
    let load = Load::start(setup.process.outbound(), LoadPlan::get("orders").methods(&["GET", "POST"]));
    load.wait_successes(50).await;
    for (n, timeout) in ["3s", "4s", "5s"].into_iter().enumerate() {
        setup.write(&format!("defaults: {{timeout: {timeout}, balance: random}}"));
        setup.process.signal("HUP");
        wait::until("the file is applied", wait::TIMEOUT, async || {
            let applied = setup.process.metric("outrigger_config_reloads_total{result=\"applied\"}").await;
            applied == (n + 1) as f64
        })
        .await;
        assert!(setup.process.admin_get("/config").await.text().contains(&format!("timeout: {timeout}  # ")));
        load.wait_successes(50).await;
    }
    load.stop().await.assert_clean(200);
}

#[tokio::test]
async fn a_bad_file_is_refused_as_a_whole_with_all_its_problems() {
    let instance = Instance::start("a").await;
    let setup = ReloadSetup::new(&instance, "defaults: {timeout: 9s}").await;
    let (hash, page) = (setup.process.metric(HASH).await, setup.process.admin_get("/config").await.text());
    let bad =
        "defaults: {timeout: 5s, balance: round-robin}\nupstreams: [{service: orders, timeout: 2}]\nadmn: {}";
    let (status, answer) = setup.reload(bad).await;
    assert_eq!((status, &answer["applied"]), (422, &json!(false)));
    let problems = answer["problems"].as_array().unwrap();
    let all = ["2:34 defaults.balance", "3:40 upstreams[0].timeout", "4:1 admn"];
    assert_eq!(problems.len(), all.len(), "{problems:#?}");
    for part in all {
        assert!(problems.iter().any(|one| one.as_str().unwrap().contains(part)), "{part} in {problems:#?}");
    }
    let is_unchanged = async || {
        setup.process.metric(HASH).await == hash && setup.process.admin_get("/config").await.text() == page
    };
    assert!(is_unchanged().await);
    assert_eq!(setup.process.metric(SUCCESSFUL).await, 0.0);
    // The command line prints the same problems.
    let admin = setup.process.admin().to_string();
    let output = process::run_outrigger(&["reload", "--admin", &admin]).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(all.iter().all(|part| text.contains(part)), "{text}");
    // A signal has the same result.
    setup.process.signal("HUP");
    wait::until("the file is refused", wait::TIMEOUT, async || {
        setup.process.metric("outrigger_config_reloads_total{result=\"refused\"}").await == 3.0
    })
    .await;
    assert!(is_unchanged().await);
    assert_eq!(client::get(setup.process.outbound(), "orders", "/").await.status, 200);

    // An empty file: a program may be about to rewrite it.
    setup.process.empty_settings();
    let output = process::run_outrigger(&["reload", "--admin", &admin]).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && text.contains("sets nothing any more"), "{text}");
    assert!(is_unchanged().await);

    setup.write("defaults: {timeout: 8s}");
    let output = process::run_outrigger(&["reload", "--admin", &admin]).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "defaults.timeout: 9s → 8s\n");
    assert_eq!(setup.process.metric(SUCCESSFUL).await, 1.0);
}

#[tokio::test]
async fn old_names_are_in_the_answer_to_a_reload_also_beside_problems() {
    let instance = Instance::start("a").await;
    let setup = ReloadSetup::new(&instance, "").await;
    let old = "drain: {blind: 2s}";
    let (status, answer) = setup.reload(old).await;
    let warnings = |answer: &serde_json::Value| answer["warnings"].to_string();
    assert_eq!((status, &answer["applied"]), (200, &json!(true)));
    assert!(warnings(&answer).contains("drain.unobserved_wait"), "{answer}");
    let (status, answer) = setup.reload(&format!("{old}\nworkers: many")).await;
    assert_eq!(status, 422);
    assert!(warnings(&answer).contains("drain.unobserved_wait"), "{answer}");
    let admin = format!("http://{}", setup.process.admin());
    let output = process::run_outrigger(&["reload", "--admin", &admin]).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && text.contains("workers"), "{text}");
    let warned = text.lines().any(|line| line.starts_with("warning: ") && line.contains("unobserved_wait"));
    assert!(warned, "{text}");
    setup.write(old);
    let output = process::run_outrigger(&["reload", "--admin", &admin]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.contains("warning: ") && text.contains("unobserved_wait"),
        "{text}"
    );
}

#[tokio::test]
async fn a_taken_address_refuses_the_whole_file() {
    let instance = Instance::start("a").await;
    let setup = ReloadSetup::new(&instance, "").await;
    let hash = setup.process.metric(HASH).await;
    let taken = outrigger_net::reserve_addr();
    let held = std::net::TcpListener::bind(taken).unwrap();
    for section in [
        format!("upstreams: [{{service: orders, listen: \"{taken}\"}}]"),
        format!("admin: {{listen: \"127.0.0.1:0\", metrics_listen: \"{taken}\"}}"),
    ] {
        let (status, answer) = setup.reload(&format!("defaults: {{timeout: 5s}}\n{section}")).await;
        assert_eq!(status, 409, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(&taken.to_string()), "{answer}");
        assert_eq!(setup.process.metric(HASH).await, hash);
    }
    drop(held);
    let settings = format!("admin: {{listen: \"127.0.0.1:0\", metrics_listen: \"{taken}\"}}");
    assert_eq!(setup.reload(&settings).await.0, 200);
    assert_eq!(client::get(taken, "x", "/healthz").await.status, 200);
    assert_eq!(setup.reload("").await.0, 200);
    assert!(tokio::net::TcpStream::connect(taken).await.is_err(), "the listener is closed again");
}

#[tokio::test]
async fn every_taken_address_of_a_file_is_named_at_once() {
    let instance = Instance::start("a").await;
    let setup = ReloadSetup::new(&instance, "").await;
    let held: Vec<_> = (0..4)
        .map(|_| {
            let addr = outrigger_net::reserve_addr();
            (addr, std::net::TcpListener::bind(addr).unwrap())
        })
        .collect();
    let [outbound, upstream, admin, metrics] = [0, 1, 2, 3].map(|n| held[n].0);
    let settings = |upstream: &str| {
        format!(
            "outbound: {{listen: \"{outbound}\"}}\nadmin: {{listen: \"{admin}\", metrics_listen: \"{metrics}\"}}\n\
             upstreams: [{{service: orders, listen: \"{upstream}\"}}]"
        )
    };
    let (status, answer) = setup.reload(&settings(&upstream.to_string())).await;
    let text = answer["error"].as_str().unwrap().to_owned();
    assert_eq!(status, 409, "{text}");
    let lines = [
        ("--metrics-listen (admin.metrics_listen)", metrics),
        ("--listen (outbound.listen)", outbound),
        ("upstreams.orders.listen", upstream),
        ("--admin-listen (admin.listen)", admin),
    ];
    for (name, addr) in lines {
        assert!(
            text.lines().any(|line| line.starts_with(&format!("{name}: listen on {addr}: "))),
            "{name} in {text}"
        );
    }
    assert_eq!(text.lines().count(), lines.len(), "{text}");
    // Both addresses of localhost.
    let port = upstream.port();
    let _v6 = std::net::TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, port)).unwrap();
    let (_, answer) = setup.reload(&settings(&format!("localhost:{port}"))).await;
    let text = answer["error"].as_str().unwrap();
    for addr in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        assert!(text.contains(&format!("upstreams.orders.listen: listen on {addr}: ")), "{text}");
    }
    // An address that this sidecar holds itself is named as such, whichever of its listeners has it.
    let own = setup.process.admin();
    let (status, answer) =
        setup.reload(&format!("upstreams: [{{service: orders, listen: \"{own}\"}}]")).await;
    let text = answer["error"].as_str().unwrap();
    assert!(status == 409 && text.contains(&format!("this sidecar listens on {own}")), "{text}");
}

#[tokio::test]
async fn settings_that_need_a_restart_are_named_and_the_rest_is_applied() {
    let instance = Instance::start("a").await;
    let setup = ReloadSetup::new(&instance, "workers: 1").await;
    let new = "workers: 2\nlog: {format: text}\nstate_dir: /tmp/x\ndefaults: {timeout: 5s}";
    let (status, answer) = setup.reload(new).await;
    assert_eq!((status, &answer["changed"]), (200, &json!(["defaults.timeout: 15s → 5s"])));
    let needs_restart: Vec<_> =
        answer["needs_restart"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let [state_dir, workers] = needs_restart[..] else {
        panic!("--log-format wins over the file: {needs_restart:?}")
    };
    assert!(state_dir.starts_with("state_dir: ") && state_dir.ends_with(" → /tmp/x"), "{state_dir}");
    assert_eq!(workers, "workers: 1 → 2");
    let page = setup.process.admin_get("/config").await.text();
    assert!(
        page.contains("workers: 1  # ") && page.contains("timeout: 5s  # "),
        "the page shows the settings in use: {page}"
    );
    let log = setup.process.log();
    assert!(log.contains("needs a restart") && log.contains("workers: 1 → 2"), "{log}");
}

#[tokio::test]
async fn the_admin_side_moves_and_the_answer_comes_over_the_old_listener() {
    let instance = Instance::start("a").await;
    let setup = ReloadSetup::new(&instance, "").await;
    let (old, new) = (setup.process.admin(), outrigger_net::reserve_addr());
    let held = std::net::TcpListener::bind(new).unwrap();
    let settings = format!("admin: {{listen: \"{new}\"}}");
    let (status, answer) = setup.reload(&settings).await;
    assert_eq!(status, 409, "the address is taken: {answer}");
    assert_eq!(client::get(old, "localhost", "/healthz").await.status, 200);

    drop(held);
    let (status, answer) = setup.reload(&settings).await;
    assert_eq!((status, &answer["needs_restart"]), (200, &json!([])), "{answer}");
    assert_eq!(client::get(new, "localhost", "/config").await.status, 200);
    wait::until("the old listener is closed", wait::TIMEOUT, async || {
        tokio::net::TcpStream::connect(old).await.is_err()
    })
    .await;
}

/// Settings of a process that registers its app; `service` has further fields.
fn registered(agent: ConsulAgent, app: &Instance, service: &str) -> String {
    let port = app.addr().port();
    format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\nservice: {{port: {port}, address: 127.0.0.1, \
         health: {{http: /health, interval: 100ms, timeout: 100ms}}, {service}}}",
        agent.0
    )
}

#[tokio::test]
async fn the_registration_is_changed_in_place_without_a_gap() {
    let registry =
        DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default()).await.unwrap();
    assert_changed_in_place(ConsulAgent(registry.addr())).await;
}

#[tokio::test]
async fn the_registration_is_changed_in_place_at_a_real_agent_too() {
    if !consul::available("the registration is changed in place at a real agent") {
        return;
    }
    let consul = Consul::dev().await.expect("an agent");
    assert_changed_in_place(ConsulAgent(consul.http_addr())).await;
}

async fn assert_changed_in_place(agent: ConsulAgent) {
    let app = Instance::start("app").await;
    let process = Process::run(&registered(agent, &app, "name: orders, id: orders-1")).await;
    process.wait_ready().await;
    let (_caller, outbound) = app::start_router(agent.0, "upstreams: [{service: orders}]").await;
    let load = Load::start(outbound, LoadPlan::get("orders"));
    load.wait_successes(20).await;
    for weight in [7, 9] {
        let more = format!("name: orders, id: orders-1, tags: [v{weight}], weights: {{passing: {weight}}}");
        process.write_settings(&registered(agent, &app, &more));
        assert_eq!(process.admin_post("/reload").await.status, 200);
        wait::until("the new settings are registered", wait::TIMEOUT, async || {
            assert_eq!(agent.health("orders").await, [("orders-1".to_owned(), "passing".to_owned())]);
            let entry = agent.get("/v1/health/service/orders").await[0]["Service"].clone();
            entry["Weights"]["Passing"] == weight && entry["Tags"] == json!([format!("v{weight}")])
        })
        .await;
        load.wait_successes(20).await;
    }
    load.stop().await.assert_clean(60);
    assert_eq!(process.metric("outrigger_registrations_total{service=\"orders\"}").await, 3.0);
}

#[tokio::test]
async fn a_reload_changes_the_health_probe() {
    let registry =
        DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default()).await.unwrap();
    let agent = ConsulAgent(registry.addr());
    let app = Instance::scripted("app", |request| match request.target() {
        "/failing" => Answer::status(503, "no"),
        _ => Answer::ok("healthy"),
    })
    .await;
    let settings = registered(agent, &app, "name: orders, id: orders-1");
    let process = Process::run(&settings).await;
    process.wait_ready().await;
    process.write_settings(&settings.replace("/health,", "/failing,"));
    assert_eq!(process.admin_post("/reload").await.status, 200);
    agent.wait_health("orders", &[("orders-1", "critical")]).await;
    process.write_settings(&settings);
    assert_eq!(process.admin_post("/reload").await.status, 200);
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    assert_eq!(
        process.metric("outrigger_registrations_total{service=\"orders\"}").await,
        1.0,
        "only the probe has changed"
    );
}

#[tokio::test]
async fn a_renamed_app_is_deregistered_first_and_a_reload_can_remove_the_registration() {
    let registry =
        DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default()).await.unwrap();
    let agent = ConsulAgent(registry.addr());
    let app = Instance::start("app").await;
    let mut process = Process::run(&registered(agent, &app, "name: orders")).await;
    process.wait_ready().await;
    let reload = async |process: &Process, settings: &str| {
        process.write_settings(settings);
        let answer = process.admin_post("/reload").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    reload(&process, &registered(agent, &app, "name: payments, id: payments-1")).await;
    agent.wait_health("payments", &[("payments-1", "passing")]).await;
    agent.wait_health("orders", &[]).await;
    assert_eq!(process.admin_get("/readyz").await.status, 200);
    // The registration is removed and then added again.
    reload(&process, &format!("registry: {{consul: {{address: \"http://{}\"}}}}", agent.0)).await;
    agent.wait_health("payments", &[]).await;
    assert_eq!(
        process.admin_post("/maintenance?enable=true").await.status,
        409,
        "without a registration there is no maintenance"
    );
    reload(&process, &registered(agent, &app, "name: payments, id: payments-2")).await;
    agent.wait_health("payments", &[("payments-2", "passing")]).await;
    // SIGTERM deregisters the current name.
    process.signal("TERM");
    agent.wait_health("payments", &[]).await;
    assert!(process.wait_exit(wait::TIMEOUT).await.success());
}

#[tokio::test]
async fn a_reload_is_refused_without_a_file_and_while_draining() {
    let refusing: SocketAddr = outrigger_tests::instance::refusing_addr();
    let (app, _) = app::start_router(refusing, "drain: {propagation: 0s}").await;
    assert_eq!(app.reload().await, Err(ReloadError::NoFile));
    let text = format!("registry: {{consul: {{address: \"http://{refusing}\"}}}}");
    app.set_reload_source(
        outrigger::reload::ConfigSource::new(move || {
            let none = outrigger_config::Environment::default();
            outrigger_config::load(Some(("test.yaml", &text)), &none, &Default::default())
        }),
        None,
    );
    wait::within("the app drains", App::drain(&app)).await;
    assert_eq!(app.reload().await, Err(ReloadError::Leaving));
    wait::within("the app stops", app.shutdown()).await;
}

#[tokio::test]
async fn no_secret_is_in_an_answer_a_page_or_a_log() {
    let registry =
        DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default()).await.unwrap();
    let settings = |variable: &str| {
        let token = format!("\"${{{variable}}}\"");
        format!(
            "state_dir: off\nregistry: {{consul: {{address: \"http://{}\", token: {token}}}}}",
            registry.addr()
        )
    };
    // Two variables that exist in every process, used as tokens.
    let process = Process::run(&settings("PATH")).await;
    process.wait_ready().await;
    process.write_settings(&settings("HOME"));
    let answer = process.admin_post("/reload").await.text();
    assert!(answer.contains("registry.consul.token: (hidden) → (hidden)"), "{answer}");
    let shown = answer + &process.admin_get("/config").await.text() + &process.log();
    assert!(!shown.contains(&std::env::var("PATH").unwrap()), "{shown}");
}
