//! TLS as a client, against a server of the same library: each row makes its own certificates.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{fs, future::Future, io, path::PathBuf, sync::Arc, time::Duration};

use outrigger_config::{Tls, TlsVerify};
use outrigger_net::{
    bind, connect,
    tls::{ClientTls, TlsConnectError, TlsFault, TlsSessions, describe_failure},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd};
use rustls::{RootCertStore, ServerConfig, crypto::ring, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const LONG: Duration = Duration::from_secs(20);
const NAME: &str = "orders.service.consul";

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("in time")
}

/// An authority, with a folder for files.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, folder: tempfile::tempdir().unwrap() }
    }

    /// A certificate and its key, in PEM.
    fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut params);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Settings that trust it.
    fn tls(&self) -> Tls {
        let ca_file = Some(self.file("ca.pem", &self.issuer.pem()));
        Tls { ca_file, server_name: Some(NAME.into()), ..Tls::default() }
    }

    fn tls_with_certificate(&self, from: &Self) -> Tls {
        let (cert, key) = from.issue("caller", |_| {});
        Tls {
            cert_file: Some(from.file("cert.pem", &cert)),
            key_file: Some(from.file("key.pem", &key)),
            ..self.tls()
        }
    }

    /// A server with this certificate. `asks`: it wants a certificate of the authority.
    fn server(&self, (cert, key): &(String, String), asks: bool) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asks {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let provider = Arc::new(ring::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
    }
}

/// A server that answers each byte with one.
fn serve(config: ServerConfig) -> (std::net::SocketAddr, JoinHandle<()>) {
    let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = TcpListener::from_std(bound.socket).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let task = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(socket).await else { return };
                echo(&mut stream).await;
            });
        }
    });
    (bound.addr, task)
}

async fn echo(stream: &mut TlsStream<TcpStream>) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).await.is_ok() {
        if stream.write_all(&byte).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// One byte there and back by a new connection; an error of the handshake, or of the exchange, as its io::Error.
async fn exchange(tls: &ClientTls, sessions: &TlsSessions, addr: std::net::SocketAddr) -> io::Result<()> {
    within(async {
        let socket = connect(addr, LONG).await.unwrap();
        let mut stream = match tls.connect(socket, sessions, "", None).await {
            Ok(connection) => connection.stream,
            Err(TlsConnectError::Handshake { source, .. }) => return Err(source),
            Err(TlsConnectError::Files(error)) => return Err(io::Error::other(error)),
        };
        stream.write_all(b"x").await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await.map(drop)
    })
    .await
}

/// The fault and the sentence of one exchange; `None`: it succeeds.
async fn outcome(settings: Tls, server: ServerConfig) -> Option<(Option<TlsFault>, String)> {
    let (addr, task) = serve(server);
    let tls = ClientTls::new(settings.clone(), Vec::new());
    let result = exchange(&tls, &TlsSessions::default(), addr).await;
    task.abort();
    let error = result.err()?;
    let told = describe_failure(&error, "10.0.0.7:8443", &settings);
    Some((TlsFault::of(&error), told))
}

#[tokio::test]
async fn each_fault_has_its_kind_and_its_sentence() {
    let (ours, other) = (Authority::new(), Authority::new());
    let good = || ours.issue(NAME, |_| {});
    let spiffe = "spiffe://example.org/svc/orders";
    let with_uri = |params: &mut CertificateParams| {
        params.subject_alt_names.push(SanType::URI(spiffe.try_into().unwrap()));
    };
    let pinned = |san: &str| Tls { sans: vec![san.to_owned()], ..ours.tls() };
    let expired = || {
        ours.issue(NAME, |params| {
            (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(2025, 11, 1));
        })
    };
    let rows = [
        ("good", ours.tls(), ours.server(&good(), false), None),
        (
            "expired",
            ours.tls(),
            ours.server(&expired(), false),
            Some((TlsFault::OutOfTime, "certificate of 10.0.0.7:8443 expired on 2025-11-01")),
        ),
        (
            "not valid yet",
            ours.tls(),
            ours.server(&ours.issue(NAME, |params| params.not_before = date_time_ymd(3000, 1, 2)), false),
            Some((TlsFault::OutOfTime, "is not valid before 3000-01-02")),
        ),
        (
            "wrong name",
            ours.tls(),
            ours.server(&ours.issue("other.example", |_| {}), false),
            Some((TlsFault::WrongName, "is for other.example, not for orders.service.consul")),
        ),
        (
            "unknown authority",
            ours.tls(),
            other.server(&other.issue(NAME, |_| {}), false),
            Some((TlsFault::UnknownIssuer, "is not signed by an authority in")),
        ),
        ("pinned", pinned(spiffe), ours.server(&ours.issue("a.example", with_uri), false), None),
        (
            "pinned to another name",
            pinned("spiffe://example.org/svc/payments"),
            ours.server(&ours.issue(NAME, with_uri), false),
            Some((TlsFault::NotAllowed, "spiffe://example.org/svc/orders, none of which tls.sans allows")),
        ),
        (
            "pinned, by another authority",
            pinned(spiffe),
            other.server(&other.issue("a.example", with_uri), false),
            Some((TlsFault::UnknownIssuer, "is not signed by an authority in")),
        ),
        (
            "not verified",
            Tls { verify: TlsVerify::None, ..ours.tls() },
            other.server(&other.issue("x.example", |_| {}), false),
            None,
        ),
        ("with a client certificate", ours.tls_with_certificate(&ours), ours.server(&good(), true), None),
        (
            "without the client certificate",
            ours.tls(),
            ours.server(&good(), true),
            Some((TlsFault::ClientCertificate, "wants a client certificate: set tls.cert_file")),
        ),
        (
            "with the client certificate of another authority",
            ours.tls_with_certificate(&other),
            ours.server(&good(), true),
            Some((TlsFault::ClientCertificate, "does not accept the client certificate of tls.cert_file")),
        ),
    ];
    for (what, settings, server, expected) in rows {
        let found = outcome(settings, server).await;
        match (&found, expected) {
            (None, None) => {}
            (Some((fault, told)), Some((expected, text))) => {
                assert_eq!(*fault, Some(expected), "{what}: {told}");
                assert!(told.contains(text), "{what}: {told}");
            }
            _ => panic!("{what}: {found:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_without_tls_or_with_an_old_version_of_it_is_named() {
    let ours = Authority::new();
    for (answer, expected, text) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], Some(TlsFault::NotTls), "does not speak TLS on this port"),
        // The alert protocol_version, of a server up to TLS 1.1.
        (
            b"\x15\x03\x02\x00\x02\x02\x46",
            Some(TlsFault::NothingInCommon),
            "speaks neither TLS 1.2 nor TLS 1.3",
        ),
        // A ServerHello of TLS 1.1.
        (
            b"\x16\x03\x02\x00\x2a\x02\x00\x00\x26\x03\x02AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\x00\xc0\x13\x00",
            Some(TlsFault::NothingInCommon),
            "speaks neither TLS 1.2 nor TLS 1.3",
        ),
        // The alert no_application_protocol.
        (b"\x15\x03\x03\x00\x02\x02\x78", Some(TlsFault::NothingInCommon), "protocol in common"),
        (b"", None, "closed the connection within the TLS handshake"),
    ] {
        let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = TcpListener::from_std(bound.socket).unwrap();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.read_exact(&mut [0; 5]).await.unwrap();
            socket.write_all(answer).await.unwrap();
            // Read to the end: a close with unread bytes would reset the connection.
            let _ = socket.shutdown().await;
            let _ = socket.read_to_end(&mut Vec::new()).await;
        });
        let tls = ClientTls::new(ours.tls(), Vec::new());
        let error = exchange(&tls, &TlsSessions::default(), bound.addr).await.unwrap_err();
        let told = describe_failure(&error, "10.0.0.7:8443", &ours.tls());
        assert_eq!(TlsFault::of(&error), expected, "{told}");
        assert!(told.contains(text), "{told}");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn changed_files_are_used_by_the_next_connection_and_broken_ones_are_named() {
    let (old, new) = (Authority::new(), Authority::new());
    let settings = old.tls();
    let ca_file = settings.ca_file.clone().unwrap();
    let (by_old, task_old) = serve(old.server(&old.issue(NAME, |_| {}), false));
    let (by_new, task_new) = serve(new.server(&new.issue(NAME, |_| {}), false));
    let (tls, sessions) = (ClientTls::new(settings, Vec::new()).checked_always(), TlsSessions::default());
    exchange(&tls, &sessions, by_old).await.unwrap();
    let authority = tls.times().authority;
    assert!(authority.is_some());
    // Broken: those of before stay.
    fs::write(&ca_file, "no certificate").unwrap();
    exchange(&tls, &sessions, by_old).await.unwrap();
    let problem = tls.problem().expect("named");
    assert!(problem.contains("ca.pem") && problem.contains("no PEM certificate"), "{problem}");
    fs::remove_file(&ca_file).unwrap();
    exchange(&tls, &sessions, by_old).await.unwrap();
    // Good again, and another one: a session of before is not resumed.
    fs::write(&ca_file, new.issuer.pem()).unwrap();
    exchange(&tls, &sessions, by_new).await.unwrap();
    assert_eq!(tls.problem(), None);
    let error = exchange(&tls, &sessions, by_old).await.unwrap_err();
    assert_eq!(TlsFault::of(&error), Some(TlsFault::UnknownIssuer));
    task_old.abort();
    task_new.abort();
}

#[tokio::test]
async fn files_that_could_never_be_used_are_named() {
    let ours = Authority::new();
    let good = ours.tls_with_certificate(&ours);
    let [bad, missing] = [ours.file("bad.pem", "x"), ours.folder.path().join("missing.pem")];
    let (_, other_key) = ours.issue("other", |_| {});
    let other_key = ours.file("other-key.pem", &other_key);
    for (wrong, settings, reason) in [
        (&bad, Tls { ca_file: Some(bad.clone()), ..good.clone() }, "no PEM certificate"),
        (&missing, Tls { ca_file: Some(missing.clone()), ..good.clone() }, "No such file"),
        (&bad, Tls { cert_file: Some(bad.clone()), ..good.clone() }, "no PEM certificate"),
        (&bad, Tls { key_file: Some(bad.clone()), ..good.clone() }, "no private key"),
        (&other_key, Tls { key_file: Some(other_key.clone()), ..good.clone() }, "Mismatch"),
    ] {
        let error = ClientTls::new(settings, Vec::new()).check_blocking("").unwrap_err();
        assert_eq!(error.path.as_ref(), Some(wrong), "{error}");
        assert!(error.reason.contains(reason), "{error}");
    }
    ClientTls::new(good, Vec::new()).check_blocking("").unwrap();
    // The name is the configured one, else the host.
    let nameless = || Tls { server_name: None, ..ours.tls() };
    ClientTls::new(nameless(), Vec::new()).check_blocking("consul").unwrap();
    let error = ClientTls::new(nameless(), Vec::new()).check_blocking("not a name").unwrap_err();
    assert!(error.path.is_none() && error.reason.contains("is no name of a server"), "{error}");
}

#[tokio::test]
async fn a_session_is_resumed_and_the_protocol_that_was_chosen_is_known() {
    let ours = Authority::new();
    let mut server = ours.server(&ours.issue(NAME, |_| {}), false);
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = TcpListener::from_std(bound.socket).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let server = tokio::spawn(async move {
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            echo(&mut stream).await;
        }
        kinds
    });
    let tls = ClientTls::new(ours.tls(), vec![b"http/1.1".to_vec()]);
    let sessions = TlsSessions::default();
    for _ in 0..2 {
        let socket = connect(bound.addr, LONG).await.unwrap();
        let connection = within(tls.connect(socket, &sessions, "", None)).await.unwrap();
        assert!(connection.not_after.is_some());
        let mut stream = connection.stream;
        assert_eq!(stream.alpn(), Some(&b"http/1.1"[..]));
        let before = stream.encrypted_written().unwrap();
        within(stream.write_all(b"x")).await.unwrap();
        within(stream.flush()).await.unwrap();
        assert!(stream.encrypted_written().unwrap() > before);
        within(stream.read_exact(&mut [0])).await.unwrap();
        within(stream.shutdown()).await.unwrap();
    }
    let kinds = within(server).await.unwrap();
    assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]);
}
