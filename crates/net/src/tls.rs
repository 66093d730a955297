//! TLS settings from files. The files are read again for every new connection, so that rotated
//! certificates are used without a restart.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use outrigger_config::{SmallFile, Tls};
use rustls::{ClientConfig, RootCertStore, client::WebPkiServerVerifier, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

use crate::fault::causes;

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

/// What a failed handshake says of the two sides. With TLS 1.3 a refusal by the peer comes after the handshake, in place of an
/// answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// The authority of the peer's certificate is not one that is trusted here.
    UnknownIssuer,
    /// The peer's certificate is for other names.
    WrongName,
    /// The time of the peer's certificate is over, or has not begun.
    OutOfTime,
    /// The peer's certificate is none that a server may have: an authority's own, of version 1, for another purpose, revoked.
    UnfitCertificate,
    /// The peer does not speak TLS.
    NotTls,
    /// The peer wants a certificate of an authority that it trusts.
    ClientCertificate,
}

impl TlsFault {
    /// The fault that an error or one of its causes names. `None`: it is another one, or none of TLS.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        causes(error).find_map(|error| error.downcast_ref()).and_then(Self::of_tls)
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        use rustls::{AlertDescription as Alert, CertificateError as Certificate};
        Some(match error {
            // A bad signature: the authority has the name of one that is trusted, and another key.
            rustls::Error::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature) => {
                Self::UnknownIssuer
            }
            rustls::Error::InvalidCertificate(
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
            ) => Self::WrongName,
            rustls::Error::InvalidCertificate(
                Certificate::Expired
                | Certificate::ExpiredContext { .. }
                | Certificate::NotValidYet
                | Certificate::NotValidYetContext { .. },
            ) => Self::OutOfTime,
            rustls::Error::InvalidCertificate(_) => Self::UnfitCertificate,
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            rustls::Error::AlertReceived(
                Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied,
            ) => Self::ClientCertificate,
            _ => return None,
        })
    }
}

/// The content of every file that a [`Tls`] names.
#[derive(Debug)]
pub struct TlsFiles {
    ca: Option<Vec<u8>>,
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl TlsFiles {
    /// Reads them. Blocks the thread; for the start of the process.
    ///
    /// # Errors
    /// When a file cannot be read, is no regular file, or has more than 1 MiB.
    pub fn read_blocking(tls: &Tls) -> Result<Self, TlsError> {
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

    /// Reads them without blocking the thread.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub async fn read(tls: &Tls) -> Result<Self, TlsError> {
        let tls = tls.clone();
        let read = tokio::task::spawn_blocking(move || Self::read_blocking(&tls));
        read.await.unwrap_or_else(|error| Err(invalid(None, &error)))
    }
}

/// The settings of a TLS client. Without a CA file the roots of the Mozilla programme are used.
///
/// # Errors
/// When a file holds no certificate or no key, or certificate and key do not belong together.
pub fn client_config(tls: &Tls, files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    // Given explicitly: the process-wide default depends on which library sets it first.
    let provider = Arc::new(ring::default_provider());
    let roots = Arc::new(roots(tls, files.ca.as_deref())?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| invalid(tls.ca_file.as_deref(), &error))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(None, &error))?
        .with_webpki_verifier(verifier);
    let (Some(cert), Some(key)) = (&files.cert, &files.key) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(tls.cert_file.as_deref(), cert)?;
    let key_file = tls.key_file.as_deref();
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| invalid(key_file, &format_args!("no private key in it: {error}")))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| invalid(key_file, &error))
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
