//! Every page, without a socket.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, http::Request};
use http_body_util::BodyExt;
use outrigger_config::{Drain, Listen, Propagation};
use outrigger_discovery::{InstanceCounts, Knowledge, WatchReason};
use outrigger_proxy::EndpointStatus;
use outrigger_registration::{Lifecycle, PropagationMonitor};
use outrigger_registry::{InstanceId, Query};
use serde_json::Value;
use tower::ServiceExt;

use super::*;

mod explain;

fn suspects() -> Arc<[InstanceId]> {
    Arc::from([InstanceId { datacenter: "dc1".into(), node: "n".into(), id: "orders-3".into() }])
}

/// Fixed services, and a fixed result of a reload.
#[derive(Debug)]
struct TestBackend(ReloadResult);

impl AdminBackend for TestBackend {
    fn own_names(&self) -> Vec<String> {
        vec!["sidecar".to_owned()]
    }

    fn files(&self) -> Vec<FileSummary> {
        Vec::new()
    }

    fn explain(&self, request: &ExplainRequest) -> Result<Explanation, ExplainError> {
        let reason = "has no host";
        if request.url.is_empty() {
            return Err(ExplainError::Url { url: String::new(), reason });
        }
        let mut explanation = Explanation::default();
        explanation.request.method.clone_from(&request.method);
        explanation.request.target.clone_from(&request.url);
        Ok(explanation)
    }

    fn locks(&self) -> Option<LocksOverview> {
        let held = outrigger_locks::HeldHere {
            name: outrigger_locks::LockName::parse("jobs").unwrap(),
            limit: 3,
            token: 41,
            session: "s".into(),
            held_for: Duration::from_millis(1200),
            certain_for: Duration::from_secs(9),
            lease: None,
        };
        let (held, max_held, max_waiters) = (vec![held], 256, 1024);
        Some(LocksOverview { held, max_held, max_waiters, ..LocksOverview::default() })
    }

    fn restart(&self) -> Option<RestartSummary> {
        None
    }

    fn clusters(&self) -> Vec<ClusterStatus> {
        let endpoint = |id: &str, usable: bool| EndpointStatus {
            id: id.into(),
            node: "n1".into(),
            same_as: None,
            address: "127.0.0.1:9001".into(),
            status: if usable { "passing" } else { "critical" },
            usable,
            why_not: (!usable).then(|| "its check is critical".into()),
            suspect: false,
            trust: "trusted",
            ejected: None,
            weight: 3,
            in_flight: 1,
            connections: 2,
            idle: 1,
            picks: 40,
            failures: 1,
        };
        vec![ClusterStatus {
            service: "orders".into(),
            datacenter: None,
            tags: vec!["v2".into()],
            declared: true,
            balance: "weighted",
            address: outrigger_config::AddressKind::Auto,
            answered: true,
            version: 4,
            breaker: "closed",
            breaker_trips: 3,
            retry_budget: 12,
            requests: 80,
            retries: 2,
            beside_stalled: 1,
            failures: 0,
            subsets: vec![outrigger_proxy::SubsetStatus {
                name: "v2".into(),
                instances: 2,
                usable: 1,
                breaker: "closed",
                breaker_trips: 0,
                responses: vec![("2xx", 60), ("5xx", 7)],
            }],
            chain: None,
            failover: Some(outrigger_proxy::FailoverStatus {
                active: true,
                active_subsets: vec![],
                targets: vec![outrigger_proxy::FailoverTargetStatus {
                    service: "orders@dc2".into(),
                    usable: 2,
                    attempts: 7,
                    is_own_datacenter: false,
                }],
            }),
            endpoints: vec![
                endpoint("dc1/n/orders-1", true),
                endpoint("dc1/n/orders-2", false),
                EndpointStatus {
                    suspect: true,
                    trust: "probation",
                    why_not: Some("ejected 3s ago, the next request decides; suspect".into()),
                    ejected: Some(outrigger_proxy::EjectedStatus {
                        why: "unreachable",
                        ago: Duration::from_millis(3_200),
                        tried_in: Duration::ZERO,
                    }),
                    ..endpoint("dc1/n/orders-3", true)
                },
            ],
        }]
    }

    fn services(&self) -> Vec<ServiceStatus> {
        ["payments", "orders", "search"]
            .map(|service| ServiceStatus {
                query: Query::new(service, None),
                reason: WatchReason::OnDemand,
                followers: 1,
                knowledge: if service == "search" { Knowledge::Remembered } else { Knowledge::Answered },
                version: 4,
                instances: InstanceCounts { passing: 1, critical: 1, ..InstanceCounts::default() },
                learned_ago: Some(Duration::from_secs(7)),
                confirmed_ago: Some(Duration::from_secs(2)),
                index: 99,
                error: (service == "orders").then(|| "connect to 10.9.9.9:8500: refused".to_owned()),
                failures: u32::from(service == "orders"),
                known_leader: service == "orders",
                suspects: if service == "orders" { suspects() } else { Arc::from([]) },
                presumed_gone: (service == "payments").then_some((2, Duration::from_millis(3_000))),
                empty_hint: (service == "payments").then_some("the token may lack node:read"),
            })
            .into()
    }

    fn registry_contact(&self) -> RegistryContact {
        RegistryContact::default()
    }

    fn lost_network(&self) -> Option<String> {
        None
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    fn in_flight(&self) -> usize {
        7
    }

    fn config(&self) -> Arc<str> {
        "outbound:\n  listen: localhost:7070  # default\n".into()
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadResult> + Send>> {
        let outcome = self.0.clone();
        Box::pin(async move { outcome })
    }
}

struct TestAdmin {
    life: Lifecycle,
    main: Router,
    metrics_only: Router,
}

fn admin() -> TestAdmin {
    admin_with(Err(ReloadError::NoFile))
}

fn admin_with(outcome: ReloadResult) -> TestAdmin {
    let settings = Drain { propagation: Propagation::Fixed(Duration::from_secs(2)), ..Drain::default() };
    let life =
        Lifecycle::start(std::future::pending(), PropagationMonitor::new(settings, None), Default::default());
    life.apply_settings(None, settings);
    let metrics = crate::telemetry::new_metrics_registry().unwrap();
    life.register_metrics(&metrics).unwrap();
    let pages = AdminState {
        lifecycle: life.handle().clone(),
        metrics,
        events: Default::default(),
        backend: Arc::new(TestBackend(outcome)),
    };
    let main = admin_router(pages.clone(), Listen::localhost(7079).host);
    TestAdmin { life, main, metrics_only: metrics_router(pages) }
}

async fn send(router: &Router, line: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let (method, path) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let answer = router.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

const LOCAL: (&str, &str) = ("host", "localhost:7079");
const CHANGE: (&str, &str) = ("x-outrigger-admin", "1");

#[tokio::test]
async fn every_page_that_the_index_links_exists() {
    let admin = admin();
    let (status, index) = send(&admin.main, "GET /", &[LOCAL]).await;
    assert_eq!(status, 200);
    let links: Vec<_> = index.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(links.len(), 10);
    for link in links {
        let (status, _) = send(&admin.main, &format!("GET {link}"), &[LOCAL]).await;
        assert!(status == 200 || link == "/readyz", "{link} answered {status}");
    }
}

#[tokio::test]
async fn the_page_of_locks_has_a_row_for_each_name_and_limit() {
    let (status, page) = send(&admin().main, "GET /locks", &[LOCAL]).await;
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(
        (status, &page["held"], &page["max_held"], &page["waiting"]),
        (200, &1.into(), &256.into(), &0.into())
    );
    let row = &page["locks"][0];
    assert_eq!((&row["name"], &row["kind"], &row["limit"]), (&"jobs".into(), &"semaphore".into(), &3.into()));
    let hold = serde_json::json!({"by": "connection", "token": 41, "session": "s", "held_ms": 1200, "certain_ms": 9000});
    assert_eq!(row["held_here"][0], hold, "{page}");
}

#[tokio::test]
async fn the_names_of_the_settings_are_those_of_the_admin_side_too() {
    let admin = admin();
    for (host, expected) in [("sidecar:7079", 200), ("other:7079", 403)] {
        assert_eq!(send(&admin.main, "GET /services", &[("host", host)]).await.0, expected, "{host}");
    }
}

#[tokio::test]
async fn the_network_listener_has_metrics_and_health_alone_under_any_name() {
    let admin = admin();
    for (page, expected) in [
        ("/metrics", 200),
        ("/healthz", 200),
        ("/readyz", 503),
        ("/services", 404),
        ("/config", 404),
        ("/events", 404),
        ("/", 404),
    ] {
        let (status, _) =
            send(&admin.metrics_only, &format!("GET {page}"), &[("host", "10.0.0.5:9100")]).await;
        assert_eq!(status, expected, "{page}");
    }
    assert_eq!(send(&admin.metrics_only, "POST /drain", &[LOCAL, CHANGE]).await.0, 404);
}

#[tokio::test]
async fn the_texts_of_errors_are_for_the_local_side_alone() {
    let admin = admin();
    let (status, local) = send(&admin.main, "GET /readyz", &[LOCAL]).await;
    assert!(local.contains("10.9.9.9:8500"), "{local}");
    let (network_status, network) = send(&admin.metrics_only, "GET /readyz", &[("host", "pod")]).await;
    assert_eq!(network_status, status);
    assert!(!network.contains("10.9.9.9"), "{network}");
    assert!(
        network.contains("the registry answers for others and not for it: see /readyz of the admin side"),
        "{network}"
    );
}

#[tokio::test]
async fn foreign_hosts_are_refused_on_every_page_with_a_sentence() {
    let admin = admin();
    for page in ["/", "/metrics", "/services", "/config", "/readyz", "/drain", "/nothing"] {
        let (status, text) = send(&admin.main, &format!("GET {page}"), &[("host", "rebound.example")]).await;
        assert_eq!(status, 403, "{page}");
        assert!(text.contains("Host header"), "{text}");
    }
}

#[tokio::test]
async fn not_ready_names_what_is_missing_and_ready_is_200() {
    tokio::time::pause();
    let admin = admin();
    let (status, body) = send(&admin.main, "GET /readyz", &[LOCAL]).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 503);
    assert_eq!(body["state"], "learning");
    assert!(body["missing"][0].as_str().unwrap().contains("declared service"), "{body}");

    admin.life.handle().wait_for_state(|state| state.is_ready()).await;
    let (status, body) = send(&admin.main, "GET /readyz", &[LOCAL]).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["ready"]), (200, &Value::Bool(true)));
    assert_eq!(body["registrations"], serde_json::json!([]));
    assert_eq!(body["registry"]["answered"], false);
    assert_eq!(body["registry"]["remembered"][0]["service"], "search");
}

#[tokio::test]
async fn a_lost_network_is_missing_and_its_addresses_are_not_shown_to_the_network() {
    tokio::time::pause();
    let admin = admin();
    let life = admin.life.handle();
    life.wait_for_state(|state| state.is_ready()).await;
    let lost = || Some("10.9.0.1 is gone".to_owned());
    let local = Readiness::of(life, &[], &RegistryContact::default(), lost(), FilesPart::default());
    let network =
        Readiness::for_network(life, Vec::new(), RegistryContact::default(), lost(), FilesPart::default());
    for (page, expected) in [
        (local, "the network is lost: 10.9.0.1 is gone"),
        (network, "the network is lost: see /readyz of the admin side on this machine"),
    ] {
        let page = serde_json::to_value(page).unwrap();
        assert_eq!(page["ready"], false, "{page}");
        assert_eq!(page["missing"], serde_json::json!([expected]));
    }
}

#[tokio::test]
async fn a_file_for_which_the_app_waits_is_missing_and_one_that_it_was_started_without_is_shown() {
    tokio::time::pause();
    let admin = admin();
    let life = admin.life.handle();
    life.wait_for_state(|state| state.is_ready()).await;
    let file = |state, why: Option<&str>| FileSummary {
        path: "/run/app.yaml".into(),
        state,
        why: why.map(str::to_owned),
    };
    let restart = || RestartSummary { state: "waiting", why: "for orders-2 at 10.9.0.1".into() };
    let part = |files| FilesPart { files, restart: Some(restart()) };
    let contact = RegistryContact::default();
    let why = Some("no such key");
    for (files, ready, local_text, network_text) in [
        (
            vec![file("waiting", why)],
            false,
            "the file /run/app.yaml is not written yet: no such key",
            "a file of the app is not written yet: see /readyz of the admin side on this machine",
        ),
        (vec![file("missing", why), file("written", None)], true, "", ""),
    ] {
        let local = Readiness::of(life, &[], &contact, None, part(files.clone()));
        let network = Readiness::for_network(life, Vec::new(), contact.clone(), None, part(files));
        let [local, network] = [local, network].map(|page| serde_json::to_value(page).unwrap());
        for (page, text) in [(&local, local_text), (&network, network_text)] {
            assert_eq!(page["ready"], ready, "{page}");
            let expected: Vec<_> = Some(text).filter(|text| !text.is_empty()).into_iter().collect();
            assert_eq!(page["missing"], serde_json::json!(expected));
        }
        assert_eq!(local["restart"]["why"], "for orders-2 at 10.9.0.1");
        assert_eq!(local["files"][0]["why"], "no such key");
        let text = network.to_string();
        assert!(
            !text.contains("/run/app") && !text.contains("10.9.0.1") && !text.contains("no such"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn services_merge_the_watches_and_the_clusters() {
    let admin = admin();
    let (_, body) = send(&admin.main, "GET /services", &[LOCAL]).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    let names: Vec<_> = body["services"].as_array().unwrap().iter().map(|s| &s["service"]).collect();
    assert_eq!(names, ["orders", "payments", "search"]);
    let orders = &body["services"][0];
    assert_eq!(orders["calls"]["balance"], "weighted");
    assert_eq!(orders["registry"]["heard_ago_ms"], 2000);
    assert_eq!(orders["instances"][1]["why_not"], "its check is critical");
    let subset = serde_json::json!({"name": "v2", "instances": 2, "usable": 1, "breaker": "closed", "breaker_trips": 0, "responses": {"2xx": 60, "5xx": 7}});
    assert_eq!(orders["subsets"], serde_json::json!([subset]));
    assert_eq!(body["services"][1].get("subsets"), None);
    assert_eq!(body["services"][1].get("calls"), None);
    assert_eq!(orders["registry"]["suspects"][0], "orders-3");
    let suspect = &orders["instances"][2];
    assert_eq!((&suspect["suspect"], &suspect["trust"]), (&true.into(), &"probation".into()));
    let ejected = serde_json::json!({"why": "unreachable", "ago_ms": 3_200, "tried_in_ms": 0});
    assert_eq!(suspect["ejected"], ejected);
    let gone = serde_json::json!({"instances": 2, "ago_ms": 3_000});
    assert_eq!(body["services"][1]["registry"]["believed_gone"], gone);
    assert_eq!(body["services"][2]["registry"]["knowledge"], "remembered");
}

#[tokio::test]
async fn services_have_a_text_form() {
    let admin = admin();
    let by_query = send(&admin.main, "GET /services?format=text", &[LOCAL]).await.1;
    let by_header = send(&admin.main, "GET /services", &[LOCAL, ("accept", "text/plain")]).await.1;
    assert_eq!(by_query, by_header);
    for part in [
        "orders with v2: weighted",
        "\n  subset v2: 2 instances, 1 usable, breaker closed, 67 responses\n",
        "dc1/n/orders-2",
        "  not used: its check is critical",
        "         1  ejected 3s ago, the next request decides; suspect",
        "1 suspect, which the registry no longer lists, kept while it answers: orders-3",
        "2 instances were presumed gone 3s ago; they answered until then",
        "remembered from before the restart, 2s old; the registry has not answered for it since",
        "2s ago\n",
        "2s ago, and had no leader then",
        "registry: the token may lack node:read",
    ] {
        assert!(by_query.contains(part), "{part} in\n{by_query}");
    }
}

#[tokio::test]
async fn one_id_on_two_nodes_is_two_instances_of_the_text_form() {
    let backend = TestBackend(Err(ReloadError::NoFile));
    let (mut cluster, endpoint) = (backend.clusters().remove(0), backend.clusters()[0].endpoints[0].clone());
    let on = |node: &str, id: &str| EndpointStatus { id: id.into(), node: node.into(), ..endpoint.clone() };
    cluster.endpoints = vec![on("n1", "orders"), on("n1", "other"), on("n2", "orders")];
    let same = |node: &str| InstanceId { node: node.into(), ..suspects()[0].clone() };
    let watch = ServiceStatus {
        query: Query::new("orders", None),
        suspects: Arc::from([same("n1"), same("n2")]),
        ..backend.services()[0].clone()
    };
    let text = ServicesPage::merge(vec![cluster], vec![watch]).to_text();
    for part in ["  orders on n1  ", "  orders on n2  ", "  other  ", "orders-3 on n1, orders-3 on n2"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[tokio::test]
async fn text_of_the_registry_forges_no_line_of_the_text_form() {
    let hostile = "a\n  b\r\u{85}\u{1b}[2K";
    let endpoint = EndpointStatus {
        id: hostile.into(),
        why_not: Some(hostile.into()),
        usable: false,
        ..TestBackend(Err(ReloadError::NoFile)).clusters()[0].endpoints[0].clone()
    };
    let cluster = ClusterStatus {
        tags: vec!["a,b".into(), "c".into()],
        datacenter: Some(hostile.into()),
        endpoints: vec![endpoint],
        ..TestBackend(Err(ReloadError::NoFile)).clusters()[0].clone()
    };
    let watch = ServiceStatus {
        query: Query::new("orders", Some(hostile.into())),
        error: Some(hostile.into()),
        suspects: Arc::from([InstanceId { id: hostile.into(), ..suspects()[0].clone() }]),
        presumed_gone: Some((1, Duration::from_millis(2_600))),
        ..TestBackend(Err(ReloadError::NoFile)).services()[0].clone()
    };
    let text = ServicesPage::merge(vec![cluster], vec![watch]).to_text();
    assert!(text.lines().all(|line| !line.contains(outrigger_config::breaks_line)), "{text:?}");
    assert_eq!(text.lines().count(), 10, "{text}");
    assert!(
        text.contains("  failover to orders@dc2 (2 usable, 7 attempts): requests go there now"),
        "{text}"
    );
    assert!(text.contains("with \"a,b\",c"), "{text}");
    assert!(text.contains("1 instance was presumed gone 3s ago; it answered until then"), "{text}");
}

#[tokio::test]
async fn what_is_not_known_is_not_claimed() {
    let watch = ServiceStatus {
        knowledge: Knowledge::Unasked,
        confirmed_ago: None,
        empty_hint: None,
        presumed_gone: None,
        ..TestBackend(Err(ReloadError::NoFile)).services()[0].clone()
    };
    let page = ServicesPage::merge(Vec::new(), vec![watch]);
    assert_eq!(serde_json::to_value(&page).unwrap()["services"][0]["registry"]["known_leader"], Value::Null);
    let text = page.to_text();
    assert!(text.contains("has not answered for it yet") && !text.contains("no instances"), "{text}");
}

#[tokio::test]
async fn drain_needs_the_header_and_shows_when_it_is_safe_to_stop() {
    tokio::time::pause();
    let admin = admin();
    assert_eq!(send(&admin.main, "POST /drain", &[LOCAL]).await.0, 403);
    let (_, body) = send(&admin.main, "GET /drain", &[LOCAL]).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["phase"], &body["safe_to_stop"]), (&"serving".into(), &false.into()));

    for _ in 0..2 {
        assert_eq!(send(&admin.main, "POST /drain", &[LOCAL, CHANGE]).await.0, 202);
    }
    admin.life.drain().await;
    let (_, body) = send(&admin.main, "GET /drain", &[LOCAL]).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["phase"], &body["safe_to_stop"]), (&"safe".into(), &true.into()));
    assert_eq!(body["in_flight"], 7);
    assert_eq!(send(&admin.main, "GET /readyz", &[LOCAL]).await.0, 503);
    assert_eq!(send(&admin.main, "GET /healthz", &[LOCAL]).await.0, 200);
}

#[tokio::test]
async fn metrics_are_in_the_text_format() {
    let admin = admin();
    let (status, text) = send(&admin.main, "GET /metrics", &[LOCAL]).await;
    assert_eq!(status, 200);
    assert!(text.contains("# TYPE outrigger_build_info gauge"), "{text}");
    assert!(text.contains("outrigger_lifecycle_state{state=\"learning\"} 1"), "{text}");
}

#[tokio::test]
async fn wrong_methods_and_unknown_pages_are_refused() {
    let admin = admin();
    assert_eq!(send(&admin.main, "GET /nothing", &[LOCAL]).await.0, 404);
    assert_eq!(send(&admin.main, "POST /metrics", &[LOCAL, CHANGE]).await.0, 405);
}

#[tokio::test]
async fn a_reload_lists_its_changes_or_every_problem() {
    let change = |key: &str, old: &str, new: &str| outrigger_config::SettingChange {
        key: key.into(),
        old: Some(old.into()),
        new: Some(new.into()),
    };
    let applied = crate::reload::AppliedReload {
        changed: vec![change("defaults.timeout", "15s", "5s")],
        needs_restart: vec![change("workers", "1", "2")],
        warnings: Vec::new(),
        hash: 42,
    };
    let problems = vec!["a.yaml:1:2 x: is wrong".to_owned(), "a.yaml:3:4 y: is wrong".to_owned()];
    let cases: [(ReloadResult, u16, Value); 3] = [
        (
            Ok(applied),
            200,
            serde_json::json!({
                "applied": true,
                "changed": ["defaults.timeout: 15s → 5s"],
                "needs_restart": ["workers: 1 → 2"],
                "config_hash": 42,
            }),
        ),
        (
            Err(ReloadError::Problems {
                problems: problems.clone(),
                warnings: vec!["a: old name".to_owned()],
            }),
            422,
            serde_json::json!({
                "applied": false,
                "error": "the settings are wrong, going on as before",
                "problems": problems,
                "warnings": ["a: old name"],
            }),
        ),
        (
            Err(ReloadError::NoFile),
            409,
            serde_json::json!({"applied": false, "error": ReloadError::NoFile.to_string()}),
        ),
    ];
    for (outcome, status, expected) in cases {
        let admin = admin_with(outcome);
        let headers = [("host", "localhost:7079"), ("x-outrigger-admin", "1")];
        let (got, body) = send(&admin.main, "POST /reload", &headers).await;
        assert_eq!((got, serde_json::from_str::<Value>(&body).unwrap()), (status, expected));
        assert_eq!(send(&admin.main, "POST /reload", &headers[..1]).await.0, 403, "without the header");
        assert_eq!(send(&admin.metrics_only, "POST /reload", &headers).await.0, 404, "not for the network");
    }
}
