//! What a failed handshake says of the two sides, as a kind and as a sentence.

use std::{error::Error, io};

use outrigger_config::Tls;
use rustls::{AlertDescription as Alert, CertificateError as Certificate};

use super::{certificate::format_day, verifier::NoAllowedName};
use crate::fault::causes;

/// What a failed handshake says of the two sides. With TLS 1.3 a refusal by the peer comes after the handshake, in place of an
/// answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// The authority of the peer's certificate is not one that is trusted here.
    UnknownIssuer,
    /// The peer's certificate is for other names.
    WrongName,
    /// The peer's certificate has none of the names that are allowed.
    NotAllowed,
    /// The time of the peer's certificate is over, or has not begun.
    OutOfTime,
    /// The peer's certificate is none that a server may have: an authority's own, of version 1, for another purpose, revoked.
    UnfitCertificate,
    /// The peer does not speak TLS.
    NotTls,
    /// The peer wants a certificate of an authority that it trusts.
    ClientCertificate,
    /// The peer and this side have no version, cipher or protocol (ALPN) in common.
    NothingInCommon,
}

impl TlsFault {
    /// The fault that an error or one of its causes names. `None`: it is another one, or none of TLS.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        tls_error(error).and_then(Self::of_tls)
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
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
            rustls::Error::InvalidCertificate(Certificate::Other(other)) if other.0.is::<NoAllowedName>() => {
                Self::NotAllowed
            }
            rustls::Error::InvalidCertificate(_) => Self::UnfitCertificate,
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            rustls::Error::AlertReceived(
                Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                // Its authority has the name of one that the peer trusts, and another key.
                | Alert::DecryptError
                | Alert::AccessDenied,
            ) => Self::ClientCertificate,
            rustls::Error::AlertReceived(
                Alert::ProtocolVersion
                | Alert::HandshakeFailure
                | Alert::InsufficientSecurity
                | Alert::NoApplicationProtocol
                | Alert::UnrecognisedName,
            )
            | rustls::Error::PeerIncompatible(_)
            | rustls::Error::NoApplicationProtocol => Self::NothingInCommon,
            _ => return None,
        })
    }
}

/// The error of TLS that `error` is, or that caused it.
fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    causes(error).find_map(|error| error.downcast_ref())
}

/// What went wrong with TLS to the instance at `peer`, as a sentence for people, with the keys of its upstream.
pub fn describe_failure(error: &io::Error, peer: &str, tls: &Tls) -> String {
    let Some(cause) = tls_error(error) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                format!(
                    "{peer} closed the connection within the TLS handshake; does it speak TLS on this port?"
                )
            }
            _ => format!("TLS to {peer}: {error}"),
        };
    };
    if let rustls::Error::InvalidCertificate(certificate) = cause {
        let what = certificate_problem(certificate, tls);
        return format!("certificate of {peer} {what}");
    }
    match TlsFault::of_tls(cause) {
        Some(TlsFault::NotTls) => {
            format!(
                "{peer} does not speak TLS on this port: register its TLS port, or remove tls from the upstream"
            )
        }
        Some(TlsFault::ClientCertificate) => describe_refusal(peer, tls, &cause.to_string()),
        Some(TlsFault::NothingInCommon) => match cause {
            rustls::Error::AlertReceived(Alert::ProtocolVersion) | rustls::Error::PeerIncompatible(_) => {
                format!("{peer} speaks neither TLS 1.2 nor TLS 1.3 as it is spoken here ({cause})")
            }
            rustls::Error::AlertReceived(Alert::UnrecognisedName) => {
                let name = tls.server_name.as_deref().unwrap_or_default();
                format!("{peer} serves no {name:?}: set tls.server_name to a name that it serves")
            }
            _ => format!("{peer} has no cipher or protocol in common with this side ({cause})"),
        },
        _ => format!("TLS to {peer} failed: {cause}"),
    }
}

/// What it means that `peer` refuses the client certificate, or the lack of one. `cause`: the error.
pub fn describe_refusal(peer: &str, tls: &Tls, cause: &str) -> String {
    match &tls.cert_file {
        None => format!("{peer} wants a client certificate: set tls.cert_file and tls.key_file ({cause})"),
        Some(_) => format!("{peer} does not accept the client certificate of tls.cert_file ({cause})"),
    }
}

fn certificate_problem(problem: &Certificate, tls: &Tls) -> String {
    let day = |time: &rustls_pki_types::UnixTime| format_day(time.as_secs().cast_signed());
    match problem {
        Certificate::ExpiredContext { not_after, .. } => format!("expired on {}", day(not_after)),
        Certificate::Expired => "has expired".to_owned(),
        Certificate::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}; is the clock of this machine right?", day(not_before))
        }
        Certificate::NotValidForNameContext { presented, .. } => {
            let expected = tls.server_name.as_deref().unwrap_or_default();
            format!("is for {}, not for {expected} (tls.server_name)", list_names(presented))
        }
        Certificate::UnknownIssuer | Certificate::BadSignature => match &tls.ca_file {
            Some(file) => format!("is not signed by an authority in {} (tls.ca_file)", file.display()),
            None => "is not signed by a public authority: name its authority in tls.ca_file".to_owned(),
        },
        Certificate::Other(other) => match other.0.downcast_ref::<NoAllowedName>() {
            Some(NoAllowedName { presented }) => {
                format!("is for {}, none of which tls.sans allows", list_names(presented))
            }
            None => format!("cannot be used: {problem}"),
        },
        Certificate::Revoked => "is revoked".to_owned(),
        _ => format!("is none that a server may have ({problem})"),
    }
}

/// The names of a certificate, of which the library writes `DnsName("a")`. They are of the peer: at most four are shown.
fn list_names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inside =
            name.split_once('"').and_then(|(_, rest)| rest.rsplit_once('"')).map(|(inside, _)| inside);
        inside.unwrap_or(name).escape_default().to_string()
    };
    match presented {
        [] => "no name".to_owned(),
        names => {
            let more = if names.len() > 4 { ", …" } else { "" };
            format!("{}{more}", names.iter().take(4).map(bare).collect::<Vec<_>>().join(", "))
        }
    }
}
