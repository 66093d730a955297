//! Judges the certificate of a server.

use std::{fmt, sync::Arc};

use outrigger_config::{Tls, TlsVerify};
use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::certificate::CertificateFacts;

/// Verifies as the settings say. The signatures of the handshake are verified always.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) roots: RootCertStore,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) sans: Vec<String>,
    pub(super) verify: TlsVerify,
}

/// The certificate has none of the names that are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoAllowedName {
    /// Those that it has.
    pub(super) presented: Vec<String>,
}

impl fmt::Display for NoAllowedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "none of its names is allowed: {}", self.presented.join(", "))
    }
}

impl std::error::Error for NoAllowedName {}

impl Verifier {
    pub(super) fn new(tls: &Tls, roots: RootCertStore, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { roots, algorithms, sans: tls.sans.clone(), verify: tls.verify }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.verify == TlsVerify::None {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let Self { roots, algorithms, .. } = self;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms.all)?;
        if self.sans.is_empty() {
            verify_server_name(&parsed, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let presented = CertificateFacts::of(end_entity).map(|facts| facts.names).unwrap_or_default();
        if presented.iter().any(|name| self.sans.contains(name)) {
            return Ok(ServerCertVerified::assertion());
        }
        let other = OtherError(Arc::new(NoAllowedName { presented }));
        Err(CertificateError::Other(other).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
