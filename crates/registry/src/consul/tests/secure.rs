//! TLS towards the agent.

use std::{fs, path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{RootCertStore, ServerConfig, crypto::ring, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;

use super::{
    scripted_agent::{AgentAction, health_response},
    *,
};

/// An authority and a folder for its files.
struct CertificateAuthority {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl CertificateAuthority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), issuer }
    }

    /// A certificate for `name` and its key, as PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Accepts connections as `name`; requires a client certificate of this authority if `ask` is true.
    fn acceptor(&self, name: &str, ask: bool) -> TlsAcceptor {
        let (cert, key) = self.issue(name);
        self.acceptor_with(&cert, &key, ask)
    }

    fn acceptor_with(&self, cert: &str, key: &str, ask: bool) -> TlsAcceptor {
        let provider = Arc::new(ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.unwrap();
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let builder = if ask {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
    }

    /// An agent with a certificate for `name`.
    async fn agent(&self, name: &str, ask: bool) -> ScriptedAgent {
        ScriptedAgent::start_with_tls(Some(self.acceptor(name, ask)), |_, _| {
            AgentAction::Send(health_response("5", "[]"))
        })
        .await
    }

    /// Settings that trust this authority.
    fn tls(&self) -> config::Tls {
        config::Tls { ca_file: Some(self.file("ca.pem", &self.issuer.pem())), ..config::Tls::default() }
    }

    /// The same settings with a client certificate.
    fn tls_with_certificate(&self) -> config::Tls {
        let (cert, key) = self.issue("sidecar");
        config::Tls {
            cert_file: Some(self.file("cert.pem", &cert)),
            key_file: Some(self.file("key.pem", &key)),
            ..self.tls()
        }
    }
}

fn client_with_tls(agent: &ScriptedAgent, tls: config::Tls) -> Result<Consul, Error> {
    let plain = settings(agent);
    Consul::new(&config::ConsulSettings {
        address: config::ConsulAddress { tls: true, ..plain.address },
        tls,
        ..plain
    })
}

async fn watch_error(agent: &ScriptedAgent, tls: config::Tls) -> String {
    let error = watch(&client_with_tls(agent, tls).unwrap(), 0).await.unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{}: {error}: {source}", error.label())
}

#[tokio::test]
async fn an_agent_of_a_trusted_authority_is_accepted() {
    let authority = CertificateAuthority::new();
    let agent = authority.agent("127.0.0.1", false).await;
    let consul = client_with_tls(&agent, authority.tls()).unwrap();
    assert_eq!(watch(&consul, 0).await.unwrap().cursor, Cursor::at(5));
    watch(&consul, 0).await.unwrap();
    assert_eq!(agent.connections(), 1, "used again");
}

#[tokio::test]
async fn an_agent_of_another_authority_is_refused() {
    let authority = CertificateAuthority::new();
    let agent = authority.agent("127.0.0.1", false).await;
    let told = watch_error(&agent, CertificateAuthority::new().tls()).await;
    assert!(told.starts_with("connect:") && told.contains("invalid peer certificate"), "{told}");
    assert!(told.contains("CONSUL_CACERT or registry.consul.tls.ca_file"), "{told}");
    let told = watch_error(&agent, config::Tls::default()).await;
    assert!(told.contains("UnknownIssuer"), "the built-in roots do not know it either: {told}");
    assert!(agent.requests().is_empty());
}

#[tokio::test]
async fn the_name_in_the_certificate_must_be_the_expected_one() {
    let authority = CertificateAuthority::new();
    let agent = authority.agent("server.dc1.consul", false).await;
    let told = watch_error(&agent, authority.tls()).await;
    assert!(told.starts_with("connect:") && told.contains("not valid for name"), "{told}");
    assert!(told.contains("CONSUL_TLS_SERVER_NAME or registry.consul.tls.server_name"), "{told}");
    let tls = config::Tls { server_name: Some("server.dc1.consul".into()), ..authority.tls() };
    watch(&client_with_tls(&agent, tls).unwrap(), 0).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_none_of_a_server_is_refused_with_what_to_do() {
    // As `openssl req -x509` makes it: an authority's own certificate.
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let cert = params.self_signed(&key).unwrap().pem();
    let authority = CertificateAuthority::new();
    let acceptor = authority.acceptor_with(&cert, &key.serialize_pem(), false);
    let agent = ScriptedAgent::start_with_tls(Some(acceptor), |_, _| AgentAction::Hang).await;
    let trusting = config::Tls { ca_file: Some(authority.file("own.pem", &cert)), ..config::Tls::default() };
    for tls in [trusting, config::Tls::default()] {
        let told = watch_error(&agent, tls).await;
        assert!(told.contains("certificate for a server") && told.contains("CONSUL_CACERT"), "{told}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_sent_where_the_agent_requires_one() {
    let authority = CertificateAuthority::new();
    let agent = authority.agent("127.0.0.1", true).await;
    watch(&client_with_tls(&agent, authority.tls_with_certificate()).unwrap(), 0).await.unwrap();
    // With TLS 1.3 the refusal comes after the handshake, in place of the answer.
    let told = watch_error(&agent, authority.tls()).await;
    assert!(told.starts_with("exchange:") || told.starts_with("connect:"), "{told}");
    assert!(told.contains("CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY"), "{told}");
    assert_eq!(agent.requests().len(), 1);
}

#[tokio::test]
async fn an_agent_that_speaks_plain_http_is_asked_with_http() {
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        let agent = ScriptedAgent::answering_anything(answer).await;
        let told = watch_error(&agent, config::Tls::default()).await;
        assert!(told.starts_with("connect:") && told.contains("write http:// in the address"), "{told}");
        assert_names_each_address_setting(&told);
    }
    // A server that waits for the end of a request's head.
    let agent = ScriptedAgent::start(|_, _| AgentAction::Hang).await;
    let told = watch_error(&agent, config::Tls::default()).await;
    assert!(told.contains("no TLS handshake") && told.contains("write http:// in"), "{told}");
}

#[tokio::test]
async fn an_agent_that_speaks_tls_is_asked_with_https() {
    // From Go's server, from one that answers with an alert, and from one that closes the connection.
    let go = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    for answer in [&go[..], b"\x15\x03\x03\x00\x02\x02\x32", b""] {
        let agent = ScriptedAgent::start(|_, _| AgentAction::SendAndClose(answer.to_vec())).await;
        let error = watch(&client(&agent), 0).await.unwrap_err();
        let told = outrigger_config::error_chain(&error);
        assert!(told.contains("write https:// in the address") && told.contains("CONSUL_CACERT"), "{told}");
        assert_names_each_address_setting(&told);
    }
}

/// Only the one that is in use has an effect, so each is named.
fn assert_names_each_address_setting(told: &str) {
    for setting in ["--consul", "OUTRIGGER_CONSUL", "CONSUL_HTTP_ADDR", "registry.consul.address"] {
        assert!(told.contains(setting), "{setting}: {told}");
    }
    assert!(!told.contains("CONSUL_HTTP_SSL"), "it counts only for an address without a scheme: {told}");
}

#[tokio::test]
async fn the_cause_of_a_broken_exchange_is_said_once() {
    // An alert, which is no HTTP.
    let answer = b"\x15\x03\x03\x00\x02\x02\x32".to_vec();
    let agent = ScriptedAgent::start(move |_, _| AgentAction::SendAndClose(answer.clone())).await;
    let told = outrigger_config::error_chain(&watch(&client(&agent), 0).await.unwrap_err());
    let (causes, hint) = told.split_once("; ").expect("a hint");
    assert!(hint.ends_with("registry.consul.tls.ca_file"), "nothing follows the hint: {told}");
    let cause = causes.rsplit(": ").next().unwrap();
    assert_eq!(told.matches(cause).count(), 1, "{cause:?} in {told}");
}

#[tokio::test]
async fn rotated_files_are_used_for_the_next_connection() {
    let (old, new) = (CertificateAuthority::new(), CertificateAuthority::new());
    let tls = old.tls();
    let agent = new.agent("127.0.0.1", false).await;
    let consul = client_with_tls(&agent, tls.clone()).unwrap();
    assert_eq!(watch(&consul, 0).await.unwrap_err().label(), "connect");
    fs::write(tls.ca_file.unwrap(), new.issuer.pem()).unwrap();
    watch(&consul, 0).await.unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_an_error_at_start() {
    let authority = CertificateAuthority::new();
    let agent = authority.agent("127.0.0.1", false).await;
    let good = authority.tls_with_certificate();
    let bad = authority.file("bad.pem", "not PEM\n");
    let missing = authority.dir.path().join("missing.pem");
    for tls in [
        config::Tls { ca_file: Some(bad.clone()), ..good.clone() },
        config::Tls { ca_file: Some(missing.clone()), ..good.clone() },
        config::Tls { cert_file: Some(bad.clone()), ..good.clone() },
        config::Tls { key_file: Some(bad.clone()), ..good.clone() },
        config::Tls { key_file: Some(missing.clone()), ..good.clone() },
        config::Tls { server_name: Some("not a name".into()), ..good.clone() },
    ] {
        let error = client_with_tls(&agent, tls.clone()).unwrap_err();
        assert_eq!(error.label(), "file", "{tls:?}: {error}");
    }
    // A key of another certificate.
    let (_, key) = authority.issue("other");
    let tls = config::Tls { key_file: Some(authority.file("other.pem", &key)), ..good };
    assert_eq!(client_with_tls(&agent, tls).unwrap_err().label(), "file");
}
