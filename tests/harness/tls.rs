//! TLS in front of an instance, with certificates that the test makes.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::instance::Instance;

/// An authority, with a folder for files.
#[derive(Debug)]
pub struct TestAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl TestAuthority {
    /// A new authority of this name.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    /// As [`TestAuthority::new`], with a certificate that `change` changes.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        Self { issuer, folder: tempfile::tempdir().expect("a folder") }
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate of this name and its key, in PEM.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        change(&mut params);
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        (signed.pem(), key.serialize_pem())
    }

    /// Writes a file into the folder of the authority.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).expect("write a file");
        path
    }

    /// The file with its own certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.file("ca.pem", &self.pem())
    }

    /// A server with this certificate. `callers`: the authority of which it wants a certificate.
    ///
    /// # Panics
    /// The certificate is none.
    pub fn server((cert, key): &(String, String), callers: Option<&Self>) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match callers {
            Some(callers) => {
                let mut roots = RootCertStore::empty();
                roots.add(callers.issuer.der().clone()).expect("an authority");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
            None => builder.with_no_client_auth(),
        };
        let chain = CertificateDer::from_pem_slice(cert.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        builder.with_single_cert(vec![chain], key).expect("a certificate with its key")
    }
}

/// A listener that ends TLS and passes the bytes to an instance. Ends when it is dropped.
#[derive(Debug)]
pub struct TlsFront {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<FrontState>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct FrontState {
    config: Mutex<Arc<ServerConfig>>,
    sessions: AtomicUsize,
    resumed: AtomicUsize,
    truncates: AtomicBool,
}

impl TlsFront {
    /// Listens in front of `instance`.
    ///
    /// # Panics
    /// No address can be had.
    pub async fn start(instance: &Instance, config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("an address");
        let shared = Arc::new(FrontState {
            config: Mutex::new(Arc::new(config)),
            sessions: AtomicUsize::new(0),
            resumed: AtomicUsize::new(0),
            truncates: AtomicBool::new(false),
        });
        let (state, to) = (shared.clone(), instance.addr());
        let task = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let state = state.clone();
                tokio::spawn(async move { state.serve(socket, to).await });
            }
        });
        Self { addr, shared, task }
    }

    /// New connections get this certificate.
    pub fn set(&self, config: ServerConfig) {
        *self.shared.config.lock() = Arc::new(config);
    }

    /// Connections end without the word of TLS that they do (`close_notify`).
    pub fn truncate(&self) {
        self.shared.truncates.store(true, Relaxed);
    }

    /// Handshakes that succeeded, and those of them that resumed a session.
    pub fn sessions(&self) -> (usize, usize) {
        (self.shared.sessions.load(Relaxed), self.shared.resumed.load(Relaxed))
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FrontState {
    async fn serve(&self, socket: TcpStream, to: SocketAddr) {
        let acceptor = TlsAcceptor::from(self.config.lock().clone());
        let Ok(mut app) = acceptor.accept(socket).await else { return };
        self.sessions.fetch_add(1, Relaxed);
        if app.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
            self.resumed.fetch_add(1, Relaxed);
        }
        let Ok(mut instance) = TcpStream::connect(to).await else { return };
        if !self.truncates.load(Relaxed) {
            // An error is the end of one of the two.
            let _ = copy_bidirectional(&mut app, &mut instance).await;
            return;
        }
        let (mut from_app, to_app) = tokio::io::split(&mut app);
        let (mut from_instance, mut to_instance) = instance.split();
        let mut to_app = to_app;
        let up = tokio::io::copy(&mut from_app, &mut to_instance);
        let down = async {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = from_instance.read(&mut buffer).await {
                if to_app.write_all(&buffer[..n]).await.is_err() || to_app.flush().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            _ = up => {}
            () = down => {}
        }
    }
}
