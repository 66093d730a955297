//! TLS as a client: to the agent of the registry, and to the instances of services.
//!
//! [`ClientTls`] has the settings of one kind of peer, and reads their files again when they change, so that rotated certificates
//! need no restart. TLS 1.2 is the lowest version; no data is sent before the handshake is over.

mod certificate;
mod client;
mod fault;
mod verifier;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use outrigger_config::{SmallFile, Tls};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

pub use certificate::CertificateFacts;
pub use client::{CertificateTimes, ClientTls, TlsConnectError, TlsConnection, TlsSessions};
pub use fault::{TlsFault, describe_failure, describe_refusal};
use verifier::Verifier;

/// Largest file that is read: a bundle of every public root has a quarter of it.
const MAX_FILE_BYTES: usize = 1 << 20;

/// TLS settings that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}{reason}", path.as_ref().map(|path| format!("{}: ", path.display())).unwrap_or_default())]
pub struct TlsError {
    /// The file that is wrong; `None`: it is not a file that is wrong.
    pub path: Option<PathBuf>,
    /// What is wrong with it.
    pub reason: String,
}

/// The content of every file that a [`Tls`] names.
#[derive(Debug)]
struct TlsFiles {
    ca: Option<Vec<u8>>,
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl TlsFiles {
    /// Reads them. Blocks the thread.
    ///
    /// # Errors
    /// When a file cannot be read, is no regular file, or has more than 1 MiB.
    fn read_blocking(tls: &Tls) -> Result<Self, TlsError> {
        let read = |path: Option<&Path>| {
            let read = |path| SmallFile::read(path, MAX_FILE_BYTES).map(|read| read.bytes);
            path.map(|path| read(path).map_err(|error| invalid(Some(path), &error))).transpose()
        };
        Ok(Self {
            ca: read(tls.ca_file.as_deref())?,
            cert: read(tls.cert_file.as_deref())?,
            key: read(tls.key_file.as_deref())?,
        })
    }
}

/// The settings of a TLS client. Without a CA file the roots of the Mozilla programme are used.
///
/// # Errors
/// When a file holds no certificate or no key, or certificate and key do not belong together.
fn client_config(tls: &Tls, files: &TlsFiles, alpn: &[Vec<u8>]) -> Result<ClientConfig, TlsError> {
    // Given explicitly: the process-wide default depends on which library sets it first.
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Verifier::new(tls, roots(tls, files.ca.as_deref())?, algorithms);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(None, &error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(tls.cert_file.as_deref(), cert)?;
            let key_file = tls.key_file.as_deref();
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|error| invalid(key_file, &format_args!("no private key in it: {error}")))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| invalid(key_file, &error))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.to_vec();
    Ok(config)
}

/// The name that the server's certificate must carry: the configured one, else `host`.
///
/// # Errors
/// When it is no name of a server.
pub fn server_name(tls: &Tls, host: &str) -> Result<ServerName<'static>, TlsError> {
    // The zone of a link-local address is no part of a name.
    let name = tls.server_name.as_deref().unwrap_or(host.split('%').next().unwrap_or(host));
    ServerName::try_from(name.to_owned())
        .map_err(|error| invalid(None, &format_args!("{name:?} is no name of a server: {error}")))
}

fn roots(tls: &Tls, ca: Option<&[u8]>) -> Result<RootCertStore, TlsError> {
    let Some(pem) = ca else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let path = tls.ca_file.as_deref();
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots.add(certificate).map_err(|error| invalid(path, &error))?;
    }
    Ok(roots)
}

fn certificates(path: Option<&Path>, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| invalid(path, &format_args!("no PEM certificates: {error}")))?;
    if chain.is_empty() {
        return Err(invalid(path, &"no PEM certificate in it"));
    }
    Ok(chain)
}

fn invalid(path: Option<&Path>, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError { path: path.map(Path::to_path_buf), reason: reason.to_string() }
}
