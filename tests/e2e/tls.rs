//! TLS to instances: which certificates are accepted, what people are told, and that a certificate costs no request while another
//! instance can take it.

use std::{fs, time::Duration};

use outrigger_tests::{
    client::Client,
    instance::{Answer, Instance},
    load::{Load, LoadPlan},
    pattern,
    sidecar::{Services, Sidecar},
    skip::report_skipped,
    tls::{TestAuthority, TlsFront},
    tool, wait,
    wire::Framing,
};
use rcgen::{CertificateParams, SanType, date_time_ymd};
use rustls::ServerConfig;

use crate::ejection::ejected;

/// The name that is expected by default.
const NAME: &str = "orders.service.consul";

/// The upstream `orders` with these keys of `tls`.
fn settings(tls: &str) -> String {
    format!("upstreams: [{{service: orders, tls: {{{tls}}}}}]")
}

fn trusting(authority: &TestAuthority) -> String {
    format!("ca_file: {}", authority.ca_file().display())
}

fn good(authority: &TestAuthority) -> ServerConfig {
    TestAuthority::server(&authority.issue(NAME, |_| {}), None)
}

fn expired(authority: &TestAuthority) -> ServerConfig {
    let in_the_past = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(2025, 11, 1));
    };
    TestAuthority::server(&authority.issue(NAME, in_the_past), None)
}

/// Instances with these certificates, called `a`, `b`, ….
struct Fronts {
    instances: Vec<Instance>,
    fronts: Vec<TlsFront>,
}

impl Fronts {
    async fn start(configs: impl IntoIterator<Item = ServerConfig>) -> Self {
        let (mut instances, mut fronts) = (Vec::new(), Vec::new());
        for (config, name) in configs.into_iter().zip(["a", "b", "c"]) {
            let instance = Instance::start(name).await;
            fronts.push(TlsFront::start(&instance, config).await);
            instances.push(instance);
        }
        Self { instances, fronts }
    }

    fn services(&self) -> Services {
        let all = self.instances.iter().zip(&self.fronts);
        all.fold(Services::default(), |services, (instance, front)| {
            services.and_at("orders", instance.name(), front.addr, "")
        })
    }

    async fn sidecar(&self, settings: &str) -> Sidecar {
        Sidecar::start(settings, &self.services()).await
    }
}

/// Why an instance is not picked, or what is wrong with it.
fn why(sidecar: &Sidecar, id: &str) -> String {
    let all = sidecar.endpoints("orders");
    all.into_iter().find(|one| one.id == id).and_then(|one| one.why_not).unwrap_or_default()
}

fn attempts(sidecar: &Sidecar, outcome: &str) -> f64 {
    sidecar.metric("outrigger_attempts_total", &[("service", "orders"), ("outcome", outcome)])
}

#[tokio::test]
async fn requests_and_bodies_go_by_tls_on_connections_that_are_kept() {
    const LEN: u64 = 4 << 20;
    let authority = TestAuthority::new("ours");
    let all = Fronts::start([good(&authority)]).await;
    all.instances[0].set_script(|request| match request.target() {
        "/down" => Answer::pattern(LEN),
        _ => Answer::ok("got it"),
    });
    let sidecar = all.sidecar(&settings(&trusting(&authority))).await;
    let mut client = sidecar.client().await;
    for _ in 0..8 {
        assert_eq!(client.get("orders", "/").await.text(), "got it");
    }
    let down = client.get("orders", "/down").await.body;
    assert!(down.complete && down.is_pattern && down.len == LEN, "{down:?}");
    client.send(format!("POST /up HTTP/1.1\r\nHost: orders\r\nContent-Length: {LEN}\r\n\r\n")).await;
    client.send_pattern(LEN).await.unwrap();
    assert_eq!(client.response().await.status, 200);
    let up = all.instances[0].first_with_method("POST").body();
    assert!(up.complete && up.is_pattern && up.len == LEN, "{up:?}");
    assert_eq!(all.fronts[0].sessions(), (1, 0), "one connection for all");
    let expiry = |certificate| {
        let labels = [("service", "orders"), ("certificate", certificate)];
        sidecar.metric("outrigger_tls_certificate_expiry_seconds", &labels)
    };
    assert!(expiry("authority") > 0.0 && expiry("instance") > 0.0);
}

#[tokio::test]
async fn a_new_connection_resumes_the_session_of_its_instance() {
    let authority = TestAuthority::new("ours");
    let all = Fronts::start([good(&authority), good(&authority)]).await;
    let text = format!("{}\ndefaults: {{pool: {{idle_timeout: 0s}}}}", settings(&trusting(&authority)));
    let sidecar = all.sidecar(&text).await;
    for _ in 0..8 {
        assert_eq!(sidecar.get("orders", "/").await.status, 200);
    }
    assert_eq!([all.fronts[0].sessions(), all.fronts[1].sessions()], [(4, 3), (4, 3)]);
}

#[tokio::test]
async fn each_fault_of_the_only_instance_is_told_in_a_sentence_and_ejects_nothing() {
    let (ours, other) = (TestAuthority::new("ours"), TestAuthority::new("other"));
    let spiffe = "spiffe://example.org/svc/orders";
    let with_uri = |params: &mut CertificateParams| {
        params.subject_alt_names.push(SanType::URI(spiffe.try_into().unwrap()));
    };
    let (cert, key) = other.issue("caller", |_| {});
    let certificate = format!(
        "cert_file: {}, key_file: {}",
        other.file("cert.pem", &cert).display(),
        other.file("key.pem", &key).display()
    );
    let trusting_ours = trusting(&ours);
    let asking = || TestAuthority::server(&ours.issue(NAME, |_| {}), Some(&ours));
    let rows = [
        (
            String::new(),
            good(&ours),
            "is not signed by a public authority: name its authority in tls.ca_file",
        ),
        (trusting(&other), good(&ours), "is not signed by an authority in "),
        (trusting_ours.clone(), expired(&ours), "expired on 2025-11-01"),
        (
            trusting_ours.clone(),
            TestAuthority::server(&ours.issue("other.example", |_| {}), None),
            "is for other.example, not for orders.service.consul (tls.server_name)",
        ),
        (
            format!("{trusting_ours}, sans: [\"spiffe://example.org/svc/{{service}}s\"]"),
            TestAuthority::server(&ours.issue(NAME, with_uri), None),
            "is for orders.service.consul, spiffe://example.org/svc/orders, none of which tls.sans allows",
        ),
        (trusting_ours.clone(), asking(), "wants a client certificate: set tls.cert_file and tls.key_file"),
        (
            format!("{trusting_ours}, {certificate}"),
            asking(),
            "does not accept the client certificate of tls.cert_file",
        ),
    ];
    for (tls, server, sentence) in rows {
        let all = Fronts::start([server]).await;
        let sidecar = all.sidecar(&settings(&tls)).await;
        let sentence = format!("{} {sentence}", all.fronts[0].addr);
        for method in ["GET", "POST"] {
            let request = format!("{method} / HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n");
            let refused = sidecar.exchange(request).await;
            assert_eq!((refused.status, refused.reason()), (502, "tls_failed"), "{}", refused.text());
            assert!(refused.text().contains(&sentence), "{sentence}: {}", refused.text());
        }
        assert!(why(&sidecar, "a").contains(&sentence), "{}", why(&sidecar, "a"));
        let warnings = sidecar.proxy.tls_warnings();
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(warning.starts_with("orders: TLS fails with every instance alike: "), "{warning}");
        assert!(warning.contains(&sentence), "{warning}");
        assert_eq!(ejected(&sidecar, "hard"), 0.0);
        // The first attempts of both, and two retries each.
        assert_eq!(attempts(&sidecar, "tls_failed"), 6.0);
        assert_eq!(all.instances[0].count(), 0);
    }
}

#[tokio::test]
async fn what_fits_is_accepted() {
    let (ours, other) = (TestAuthority::new("ours"), TestAuthority::new("other"));
    let (cert, key) = other.issue("caller", |_| {});
    let certificate = format!(
        "cert_file: {}, key_file: {}",
        other.file("cert.pem", &cert).display(),
        other.file("key.pem", &key).display()
    );
    let named = |name: &str| TestAuthority::server(&ours.issue(name, |_| {}), None);
    let spiffe = |params: &mut CertificateParams| {
        let uri = "spiffe://example.org/svc/orders".try_into().unwrap();
        params.subject_alt_names = vec![SanType::URI(uri)];
    };
    let trusting = trusting(&ours);
    for (tls, server, has_warning) in [
        (trusting.clone(), named(NAME), false),
        (trusting.clone(), named("*.service.consul"), false),
        (format!("{trusting}, server_name: \"{{service}}.example\""), named("orders.example"), false),
        (
            format!("{trusting}, sans: [\"spiffe://example.org/svc/{{service}}\"]"),
            TestAuthority::server(&ours.issue(NAME, spiffe), None),
            false,
        ),
        (
            format!("{trusting}, {certificate}"),
            TestAuthority::server(&ours.issue(NAME, |_| {}), Some(&other)),
            false,
        ),
        ("verify: none".to_owned(), expired(&other), true),
    ] {
        let all = Fronts::start([server]).await;
        let sidecar = all.sidecar(&settings(&tls)).await;
        let answer = sidecar.get("orders", "/").await;
        assert_eq!(answer.status, 200, "{tls}: {}", answer.text());
        let warnings = sidecar.proxy.tls_warnings();
        assert_eq!(warnings.len(), usize::from(has_warning), "{warnings:?}");
        assert!(
            warnings.iter().all(|one| one.contains("are not checked (tls.verify: none)")),
            "{warnings:?}"
        );
    }
}

#[tokio::test]
async fn one_bad_certificate_of_two_costs_no_request() {
    let (ours, other) = (TestAuthority::new("ours"), TestAuthority::new("other"));
    let asking = TestAuthority::server(&ours.issue(NAME, |_| {}), Some(&other));
    for (bad, sentence) in [
        (expired(&ours), "expired on 2025-11-01"),
        (good(&other), "is not signed by an authority in"),
        // Refused by the instance in place of an answer: nothing of a POST was carried out.
        (asking, "wants a client certificate"),
    ] {
        let all = Fronts::start([good(&ours), bad]).await;
        // Each request has a connection of its own, so that each could meet the bad certificate.
        let text = format!(
            "{}\ndefaults: {{pool: {{idle_timeout: 0s}}, outlier: {{base_ejection_time: 1h, max_ejection_time: 1h}}}}",
            settings(&trusting(&ours))
        );
        let sidecar = all.sidecar(&text).await;
        let load = Load::start(sidecar.addr(), LoadPlan::get("orders").methods(&["GET", "POST"]));
        load.wait_successes(200).await;
        load.stop().await.assert_clean(200);
        assert!(attempts(&sidecar, "tls_failed") >= 1.0);
        assert_eq!(all.instances[1].count(), 0);
        wait::until_true("it is ejected", || ejected(&sidecar, "hard") == 1.0).await;
        let told = why(&sidecar, "b");
        assert!(told.starts_with("ejected ") && told.contains(sentence), "{told}");
        assert!(why(&sidecar, "a").is_empty(), "{}", why(&sidecar, "a"));
        assert!(sidecar.proxy.tls_warnings().is_empty());
    }
}

#[tokio::test]
async fn certificates_that_are_bad_alike_are_told_and_eject_nothing() {
    let ours = TestAuthority::new("ours");
    let all = Fronts::start([expired(&ours), expired(&ours), expired(&ours)]).await;
    let sidecar = all.sidecar(&settings(&trusting(&ours))).await;
    for _ in 0..20 {
        let refused = sidecar.get("orders", "/").await;
        assert_eq!((refused.status, refused.reason()), (502, "tls_failed"), "{}", refused.text());
        assert!(refused.text().contains("expired on 2025-11-01"), "{}", refused.text());
    }
    assert_eq!(ejected(&sidecar, "hard"), 0.0);
    for id in ["a", "b", "c"] {
        assert!(why(&sidecar, id).contains("TLS fails: certificate of "), "{}", why(&sidecar, id));
    }
    let warnings = sidecar.proxy.tls_warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("with every instance alike"), "{warnings:?}");
    // Renewed: no state is in the way.
    for front in &all.fronts {
        front.set(good(&ours));
    }
    for _ in 0..6 {
        assert_eq!(sidecar.get("orders", "/").await.status, 200);
    }
    assert!(sidecar.proxy.tls_warnings().is_empty() && why(&sidecar, "a").is_empty());
}

#[tokio::test]
async fn an_ejected_instance_returns_with_a_good_certificate_and_not_before() {
    let ours = TestAuthority::new("ours");
    let all = Fronts::start([good(&ours), expired(&ours)]).await;
    let text = format!(
        "{}\ndefaults: {{outlier: {{base_ejection_time: 20ms, max_ejection_time: 50ms}}}}",
        settings(&trusting(&ours))
    );
    let sidecar = all.sidecar(&text).await;
    let mut client = sidecar.client().await;
    wait::until("it is ejected", wait::TIMEOUT, async || {
        assert_eq!(client.get("orders", "/").await.status, 200);
        ejected(&sidecar, "hard") == 1.0
    })
    .await;
    // Probes make a handshake: one that only connects would put the instance on probation, and a request would find out.
    let before = attempts(&sidecar, "tls_failed");
    let until = tokio::time::Instant::now() + Duration::from_millis(500);
    while tokio::time::Instant::now() < until {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    assert_eq!(attempts(&sidecar, "tls_failed"), before);
    all.fronts[1].set(good(&ours));
    wait::until("it is chosen again", wait::TIMEOUT, async || {
        assert_eq!(client.get("orders", "/").await.status, 200);
        all.instances[1].count() > 0
    })
    .await;
}

#[tokio::test]
async fn files_are_rotated_under_load_without_a_failed_request() {
    let old = TestAuthority::new("old");
    let new = TestAuthority::with("new", |params| params.not_after = date_time_ymd(4090, 1, 1));
    let ca_file = old.ca_file();
    let (cert, key) = old.issue("caller", |_| {});
    let (cert_file, key_file) = (old.file("cert.pem", &cert), old.file("key.pem", &key));
    let tls = format!(
        "ca_file: {}, cert_file: {}, key_file: {}",
        ca_file.display(),
        cert_file.display(),
        key_file.display()
    );
    let server = |of: &TestAuthority, callers: &TestAuthority| {
        TestAuthority::server(&of.issue(NAME, |_| {}), Some(callers))
    };
    let all = Fronts::start([server(&old, &old), server(&old, &old)]).await;
    let text = format!("{}\ndefaults: {{pool: {{idle_timeout: 0s}}}}", settings(&tls));
    let sidecar = all.sidecar(&text).await;
    let load = Load::start(sidecar.addr(), LoadPlan::get("orders").methods(&["GET", "POST"]));
    load.wait_successes(50).await;
    // Both authorities, as a rotation does it; then what is signed by the new one; then the new one alone.
    fs::write(&ca_file, format!("{}{}", old.pem(), new.pem())).unwrap();
    let labels = [("service", "orders"), ("certificate", "authority")];
    let is_new = |seconds: f64| seconds > 60e9;
    wait::until_true("the new authority is read", || {
        is_new(sidecar.metric("outrigger_tls_certificate_expiry_seconds", &labels))
    })
    .await;
    // Broken meanwhile: nothing changes, and it is told.
    fs::write(&cert_file, "no certificate").unwrap();
    wait::until_true("the broken file is told", || {
        sidecar.proxy.tls_warnings().iter().any(|one| one.contains("cert.pem: no PEM certificate"))
    })
    .await;
    load.wait_successes(50).await;
    fs::write(&cert_file, &cert).unwrap();
    wait::until_true("the file is good again", || sidecar.proxy.tls_warnings().is_empty()).await;
    for front in &all.fronts {
        front.set(server(&new, &old));
        load.wait_successes(50).await;
    }
    fs::write(&ca_file, new.pem()).unwrap();
    load.wait_successes(100).await;
    load.stop().await.assert_clean(250);
    assert_eq!(ejected(&sidecar, "hard"), 0.0);
}

#[tokio::test]
async fn an_upgraded_connection_goes_by_tls_and_each_direction_ends_by_itself() {
    const UPGRADE: &str =
        "GET /chat HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    const LEN: usize = 8 << 20;
    let ours = TestAuthority::new("ours");
    let all = Fronts::start([good(&ours)]).await;
    all.instances[0].set_script(|request| match request.target() {
        "/chat" => Answer::upgrade("websocket"),
        _ => Answer::raw(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nbye",
        )
        .then_half_close(),
    });
    let sidecar = all.sidecar(&settings(&trusting(&ours))).await;
    let mut client = sidecar.client().await;
    client.send(UPGRADE).await;
    assert_eq!(client.head().await.unwrap().split_start_line().1, "101");
    let Client { wire } = client;
    let (mut read, mut write) = wire.stream.into_split();
    let writer = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut write, &pattern::bytes(LEN)).await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut write).await.unwrap();
        write
    });
    let mut back = Vec::new();
    wait::within("the echo", tokio::io::AsyncReadExt::read_to_end(&mut read, &mut back)).await.unwrap();
    writer.await.unwrap();
    assert!(back == pattern::bytes(LEN), "{} bytes came back", back.len());

    let mut client = sidecar.client().await;
    client.send(UPGRADE.replace("/chat", "/bye")).await;
    assert_eq!(client.head().await.unwrap().split_start_line().1, "101");
    let rest = parking_lot::Mutex::default();
    wait::within("the instance's end", client.wire.read_body(Framing::UntilClose, &rest)).await.unwrap();
    assert_eq!(rest.into_inner().text(), "bye");
    client.send("after its end").await;
    drop(client);
    wait::until_true("it arrives", || {
        all.instances[0].seen().last().is_some_and(|seen| seen.body().text() == "after its end")
    })
    .await;
}

#[tokio::test]
async fn a_body_until_the_close_ends_with_the_word_of_tls_only() {
    let ours = TestAuthority::new("ours");
    for truncates in [false, true] {
        let all = Fronts::start([good(&ours)]).await;
        all.instances[0].set_script(|_| Answer::raw("HTTP/1.1 200 OK\r\n\r\npart").then_close());
        if truncates {
            all.fronts[0].truncate();
        }
        let sidecar = all.sidecar(&settings(&trusting(&ours))).await;
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        let answer = client.try_response_to("GET").await;
        let is_whole = answer.as_ref().is_ok_and(|answer| answer.body.complete && answer.text() == "part");
        assert_eq!(is_whole, !truncates, "{answer:?}");
    }
}

#[tokio::test]
async fn the_settings_and_the_port_must_fit_together() {
    let ours = TestAuthority::new("ours");
    // TLS where the port speaks plain HTTP, and its server waits for the end of a head.
    let plain = Instance::start("a").await;
    let text = format!("{}\ndefaults: {{connect_timeout: 100ms}}", settings(&trusting(&ours)));
    let sidecar = Sidecar::start(&text, &Services::of("orders", &[&plain])).await;
    let refused = sidecar.get("orders", "/").await;
    assert_eq!(refused.reason(), "connect_timeout", "{}", refused.text());
    assert!(refused.text().contains("does it speak TLS on this port?"), "{}", refused.text());
    // Plain HTTP where the port speaks TLS; then with TLS, by a reload.
    let all = Fronts::start([good(&ours)]).await;
    let sidecar = all.sidecar("upstreams: [{service: orders}]").await;
    let refused = sidecar.get("orders", "/").await;
    assert_eq!(refused.reason(), "bad_response", "{}", refused.text());
    assert!(refused.text().contains("set tls for the upstream"), "{}", refused.text());
    sidecar.apply_settings(&settings(&trusting(&ours))).await;
    assert_eq!(sidecar.get("orders", "/").await.status, 200);
    sidecar.apply_settings("upstreams: [{service: orders}]").await;
    assert_eq!(sidecar.get("orders", "/").await.reason(), "bad_response");
}

/// nginx with this certificate and these lines in its `server`. `None`: this machine has none. Ends with the test.
async fn nginx(
    authority: &TestAuthority,
    listen: &str,
    lines: &str,
) -> Option<(std::net::SocketAddr, tokio::process::Child)> {
    let program = match tool::find("nginx.sh", &[]) {
        Ok(program) => program,
        Err(missing) => {
            report_skipped("nginx_serves_by_tls", &missing.to_string());
            return None;
        }
    };
    let (cert, key) = authority.issue(NAME, |_| {});
    let (cert, key) = (authority.file("nginx.pem", &cert), authority.file("nginx.key", &key));
    let folder = cert.parent().unwrap().to_owned();
    let at = folder.display();
    // An address of its own, so that no other test has the port.
    let addr = std::net::SocketAddr::from(([127, 78, fastrand::u8(..), fastrand::u8(1..255)], 8443));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {at}/{name};\n"))
        .collect();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/errors;\nevents {{}}\nhttp {{\n{temporary}access_log off;\n\
         server {{\nlisten {addr} ssl {listen};\nssl_certificate {};\nssl_certificate_key {};\n{lines}\n\
         location / {{ return 200 \"$ssl_protocol $ssl_session_reused $ssl_server_name $ssl_client_verify\"; }}\n}}\n}}\n",
        cert.display(),
        key.display()
    );
    let file = authority.file("nginx.conf", &text);
    let mut command = tokio::process::Command::new(program);
    command.arg("-p").arg(&folder).arg("-e").arg(folder.join("errors")).arg("-c").arg(&file);
    let child = command.kill_on_drop(true).spawn().unwrap();
    wait::until("nginx listens", wait::TIMEOUT, async || tokio::net::TcpStream::connect(addr).await.is_ok())
        .await;
    Some((addr, child))
}

#[tokio::test]
async fn nginx_serves_by_tls() {
    let ours = TestAuthority::new("ours");
    let (cert, key) = ours.issue("caller", |_| {});
    let with_certificate = format!(
        "{}, cert_file: {}, key_file: {}",
        trusting(&ours),
        ours.file("cert.pem", &cert).display(),
        ours.file("key.pem", &key).display()
    );
    let verifies = format!("ssl_verify_client on; ssl_client_certificate {};", ours.ca_file().display());
    let cache = "ssl_session_cache builtin; ssl_session_tickets on;";
    for (tls, lines, expected) in [
        (trusting(&ours), format!("{cache} ssl_protocols TLSv1.2;"), "TLSv1.2 r orders.service.consul NONE"),
        (trusting(&ours), format!("{cache} ssl_protocols TLSv1.3;"), "TLSv1.3 r orders.service.consul NONE"),
        (
            with_certificate,
            format!("{cache} ssl_protocols TLSv1.3; {verifies}"),
            "TLSv1.3 r orders.service.consul SUCCESS",
        ),
    ] {
        let Some((addr, _child)) = nginx(&ours, "", &lines).await else { return };
        let services = Services::default().and_at("orders", "a", addr, "");
        let text = format!("{}\ndefaults: {{pool: {{idle_timeout: 0s}}}}", settings(&tls));
        let sidecar = Sidecar::start(&text, &services).await;
        let first = sidecar.get("orders", "/").await;
        assert_eq!((first.status, first.text().replace(" . ", " r ").as_str()), (200, expected), "{lines}");
        let second = sidecar.get("orders", "/").await;
        assert_eq!(second.text(), expected, "the session is resumed: {lines}");
    }
    // nginx answers a request without the certificate that it wants by itself; the app gets that.
    let Some((addr, _child)) = nginx(&ours, "", &verifies).await else { return };
    let services = Services::default().and_at("orders", "a", addr, "");
    let refused = Sidecar::start(&settings(&trusting(&ours)), &services).await.get("orders", "/").await;
    assert!(
        refused.status == 400 && refused.text().contains("No required SSL certificate"),
        "{}",
        refused.text()
    );
}

#[tokio::test]
async fn an_instance_that_chooses_http_2_in_the_handshake_is_called_by_it() {
    let ours = TestAuthority::new("ours");
    let Some((addr, _child)) = nginx(&ours, "http2", "add_header x-protocol $server_protocol;").await else {
        return;
    };
    let services = Services::default().and_at("orders", "a", addr, "");
    for (protocol, expected) in [("auto", "HTTP/2.0"), ("http", "HTTP/1.1"), ("http2", "HTTP/2.0")] {
        let text = settings(&trusting(&ours))
            .replace("service: orders", &format!("service: orders, protocol: {protocol}"));
        let sidecar = Sidecar::start(&text, &services).await;
        for _ in 0..3 {
            let response = sidecar.get("orders", "/").await;
            let found = (response.status, response.field("x-protocol"));
            assert_eq!(found, (200, expected), "{protocol}: {}", response.text());
        }
    }
}

#[tokio::test]
async fn connections_of_bytes_go_by_tls_and_a_bad_certificate_costs_none() {
    let ours = TestAuthority::new("ours");
    let tcp = format!(
        "upstreams: [{{service: orders, protocol: tcp, listen: \"127.0.0.1:0\", tls: {{{}}}}}]",
        trusting(&ours)
    );
    let all = Fronts::start([good(&ours), expired(&ours)]).await;
    let sidecar = all.sidecar(&tcp).await;
    for _ in 0..6 {
        let mut client = Client::connect(sidecar.upstream_addr("orders")).await;
        assert_eq!(client.get("any", "/").await.instance(), "a");
    }
    assert!(attempts(&sidecar, "tls_failed") >= 1.0);
    assert!(why(&sidecar, "b").contains("expired on 2025-11-01"), "{}", why(&sidecar, "b"));
    assert_eq!(ejected(&sidecar, "hard"), 1.0);
    // Alone, it is told and not ejected, and the app's connection ends.
    let all = Fronts::start([expired(&ours)]).await;
    let sidecar = all.sidecar(&tcp).await;
    Client::connect(sidecar.upstream_addr("orders")).await.wait_closed().await;
    assert!(sidecar.proxy.tls_warnings()[0].contains("expired on 2025-11-01"));
    assert_eq!(ejected(&sidecar, "hard"), 0.0);
}
