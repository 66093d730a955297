//! The stream type, over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    future::{Future, poll_fn},
    io::ErrorKind,
    sync::Arc,
    time::Duration,
};

use outrigger_config::Tls;
use outrigger_net::{
    Stream, bind, connect,
    tls::{ClientTls, TlsSessions},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

const LONG: Duration = Duration::from_secs(20);

/// The server's end of a connection.
trait Peer: std::fmt::Debug + AsyncRead + AsyncWrite + Unpin {}
impl<T: std::fmt::Debug + AsyncRead + AsyncWrite + Unpin> Peer for T {}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("in time")
}

/// Two ends of one TCP connection.
async fn tcp_pair() -> (TcpStream, TcpStream) {
    let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = TcpListener::from_std(bound.socket).unwrap();
    let (client, server) = tokio::join!(connect(bound.addr, LONG), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

/// A PEM certificate for the name `server`, its key, and the certificate of its authority.
fn certificate() -> (String, String, String) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(["server".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    (cert.pem(), key.serialize_pem(), issuer.pem())
}

/// Two ends of one connection, encrypted or not; `name` is the name that the client expects.
async fn try_pair(encrypted: bool, name: &str) -> std::io::Result<(Stream, Box<dyn Peer>)> {
    let (client, server) = tcp_pair().await;
    if !encrypted {
        return Ok((client.into(), Box::new(server)));
    }
    let (cert, key, ca) = certificate();
    let acceptor = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .map(|config| TlsAcceptor::from(Arc::new(config)))
        .unwrap();
    let files = tempfile::tempdir().unwrap();
    let ca_file = files.path().join("ca.pem");
    std::fs::write(&ca_file, ca).unwrap();
    let settings = Tls { ca_file: Some(ca_file), ..Tls::default() };
    let (tls, sessions) = (ClientTls::new(settings, Vec::new()), TlsSessions::default());
    let connect = tls.connect(client, &sessions, name, None);
    let (client, server) = within(async { tokio::join!(connect, acceptor.accept(server)) }).await;
    let client = client.map_err(std::io::Error::other)?;
    Ok((client.stream, Box::new(server.unwrap()) as Box<dyn Peer>))
}

async fn pair(encrypted: bool) -> (Stream, Box<dyn Peer>) {
    try_pair(encrypted, "server").await.unwrap()
}

#[tokio::test]
async fn bytes_within_the_encryption_are_counted_and_the_counts_outlive_the_stream() {
    for encrypted in [false, true] {
        let (mut client, mut server) = pair(encrypted).await;
        let counts = client.counts();
        assert_eq!((counts.written(), counts.read()), (0, 0), "encrypted: {encrypted}");
        within(client.write_all(b"question")).await.unwrap();
        within(client.flush()).await.unwrap();
        within(server.read_exact(&mut [0; 8])).await.unwrap();
        within(server.write_all(b"answer")).await.unwrap();
        within(server.flush()).await.unwrap();
        within(client.read_exact(&mut [0; 6])).await.unwrap();
        drop(client);
        assert_eq!((counts.written(), counts.read()), (8, 6), "encrypted: {encrypted}");
    }
}

#[tokio::test]
async fn an_idle_stream_is_stale_once_its_peer_has_ended_it_or_has_sent_something() {
    for (encrypted, close) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut client, mut server) = pair(encrypted).await;
        if encrypted {
            // The session tickets of TLS 1.3, which are no reason to drop the stream, are on the socket when this answer is.
            within(server.write_all(b"x")).await.unwrap();
            within(server.flush()).await.unwrap();
            within(client.read_exact(&mut [0; 1])).await.unwrap();
        }
        assert!(!client.is_stale(true), "encrypted: {encrypted}");
        if close {
            within(server.shutdown()).await.unwrap();
        } else {
            within(server.write_all(b"unasked")).await.unwrap();
            within(server.flush()).await.unwrap();
        }
        within(async {
            while !client.is_stale(true) {
                poll_fn(|cx| client.poll_read_ready(cx)).await.unwrap();
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_on_close_ends_with_an_error_at_its_peer() {
    let (mut client, mut server) = pair(false).await;
    client.reset_on_close();
    drop(client);
    let error = within(server.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    let (mut client, mut server) = pair(false).await;
    client.reset_on_close();
    client.end_on_close();
    client.write_all(b"all").await.unwrap();
    drop(client);
    let mut got = Vec::new();
    within(server.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"all");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_an_error() {
    let error = try_pair(true, "other").await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}
