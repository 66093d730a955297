//! TLS towards the agent. Certificate files are read again for every new connection, so that rotated
//! ones are taken up without a restart.

use std::{io, path::Path, sync::Arc};

use outrigger_config::Tls;
use rustls::{ClientConfig, RootCertStore, client::WebPkiServerVerifier, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

use crate::Error;

/// The bytes of every file that [`Tls`] names.
pub(super) struct TlsFiles {
    ca: Option<Vec<u8>>,
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl TlsFiles {
    /// Reads them.
    pub(super) async fn read(tls: &Tls) -> Result<Self, Error> {
        async fn one(path: Option<&Path>) -> Result<Option<Vec<u8>>, Error> {
            let Some(path) = path else { return Ok(None) };
            tokio::fs::read(path).await.map(Some).map_err(|error| unreadable_file(path, &error))
        }
        Ok(Self {
            ca: one(tls.ca_file.as_deref()).await?,
            cert: one(tls.cert_file.as_deref()).await?,
            key: one(tls.key_file.as_deref()).await?,
        })
    }

    /// Reads them at start, where a wrong path should be told at once.
    pub(super) fn read_blocking(tls: &Tls) -> Result<Self, Error> {
        let one = |path: Option<&Path>| {
            path.map(|path| std::fs::read(path).map_err(|error| unreadable_file(path, &error))).transpose()
        };
        Ok(Self {
            ca: one(tls.ca_file.as_deref())?,
            cert: one(tls.cert_file.as_deref())?,
            key: one(tls.key_file.as_deref())?,
        })
    }
}

/// Makes the client's settings of what the files hold.
pub(super) fn client_config(tls: &Tls, files: &TlsFiles) -> Result<ClientConfig, Error> {
    // Given explicitly: a process-wide default would be set by whoever comes first.
    let provider = Arc::new(ring::default_provider());
    let roots = Arc::new(root_store(tls, files.ca.as_deref())?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| file_error(tls.ca_file.as_deref(), error.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| file_error(None, error.to_string()))?
        .with_webpki_verifier(verifier);
    match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let chain = parse_certificates(tls.cert_file.as_deref(), cert)?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
                file_error(tls.key_file.as_deref(), format!("no private key in it: {error}"))
            })?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| file_error(tls.key_file.as_deref(), error.to_string()))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// The name that the agent's certificate must carry.
pub(super) fn server_name(tls: &Tls, host: &str) -> Result<ServerName<'static>, Error> {
    let name = tls.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned())
        .map_err(|error| file_error(None, format!("{name:?} is no name of a server: {error}")))
}

fn root_store(tls: &Tls, ca: Option<&[u8]>) -> Result<RootCertStore, Error> {
    let Some(pem) = ca else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let mut roots = RootCertStore::empty();
    for certificate in parse_certificates(tls.ca_file.as_deref(), pem)? {
        roots.add(certificate).map_err(|error| file_error(tls.ca_file.as_deref(), error.to_string()))?;
    }
    Ok(roots)
}

fn parse_certificates(path: Option<&Path>, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| file_error(path, format!("no PEM certificates: {error}")))?;
    if chain.is_empty() {
        return Err(file_error(path, "no PEM certificate in it".into()));
    }
    Ok(chain)
}

fn unreadable_file(path: &Path, error: &io::Error) -> Error {
    file_error(Some(path), error.to_string())
}

fn file_error(path: Option<&Path>, reason: String) -> Error {
    let path = path.map_or_else(|| "registry.consul.tls".into(), |path| path.display().to_string());
    Error::File { path, reason }
}
