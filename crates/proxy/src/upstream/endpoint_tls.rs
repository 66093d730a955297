//! TLS to one instance: its sessions, how the last handshake ended, and what that says beside the other instances.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use outrigger_net::{
    Stream,
    tls::{ClientTls, TlsConnectError, TlsFault, TlsSessions, describe_failure, describe_refusal},
};
use parking_lot::Mutex;
use tokio::net::TcpStream;

/// TLS to one instance.
#[derive(Debug)]
pub(crate) struct EndpointTls {
    client: Arc<ClientTls>,
    /// The label of the cluster.
    service: Arc<str>,
    sessions: TlsSessions,
    /// A [`TlsHealth`] in one word. It is read and written by each attempt.
    health: AtomicU64,
    /// The files by which the last connection was made.
    generation: AtomicU64,
    /// Until when the certificate of the instance holds, in seconds since 1970; 0: none was seen.
    not_after: AtomicI64,
    /// Why TLS fails, as a sentence, while it does.
    failure: Mutex<Option<Arc<str>>>,
}

/// How TLS to an instance is, with the files of one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsHealth {
    /// No connection was made, or no response came.
    Unknown,
    /// A response came.
    Works { generation: u64 },
    /// It fails, by a fault of this kind.
    Fails { generation: u64, kind: u8 },
}

/// TLS to an instance cannot be used.
#[derive(Debug)]
pub(crate) struct TlsRefusal {
    /// A sentence.
    pub(crate) detail: String,
    /// A fault of the settings, of the certificate, or of the protocol; not the end of a connection.
    pub(crate) is_fault: bool,
}

/// The number of the files of this side, which cannot be used.
const OWN_FILES: u8 = 1;

impl TlsHealth {
    fn pack(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Works { generation } => (generation << 8) | 1,
            Self::Fails { generation, kind } => (generation << 8) | (u64::from(kind) + 2),
        }
    }

    fn unpack(word: u64) -> Self {
        let generation = word >> 8;
        match word & 0xff {
            0 => Self::Unknown,
            1 => Self::Works { generation },
            kind => Self::Fails { generation, kind: u8::try_from(kind - 2).unwrap_or_default() },
        }
    }
}

impl EndpointTls {
    pub(crate) fn new(client: Arc<ClientTls>, service: &Arc<str>) -> Self {
        Self {
            client,
            service: service.clone(),
            sessions: TlsSessions::default(),
            health: AtomicU64::new(TlsHealth::Unknown.pack()),
            generation: AtomicU64::new(0),
            not_after: AtomicI64::new(0),
            failure: Mutex::default(),
        }
    }

    /// Whether it is of these settings.
    pub(crate) fn is_of(&self, client: &Arc<ClientTls>) -> bool {
        Arc::ptr_eq(&self.client, client)
    }

    pub(crate) fn health(&self) -> TlsHealth {
        TlsHealth::unpack(self.health.load(Relaxed))
    }

    /// Why TLS fails, as a sentence. `None`: it does not, as far as it is known.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        self.failure.lock().clone()
    }

    /// Until when the certificate of the instance holds, in seconds since 1970. `None`: none was seen.
    pub(crate) fn not_after(&self) -> Option<i64> {
        Some(self.not_after.load(Relaxed)).filter(|time| *time != 0)
    }

    /// Makes a session over `socket`. The caller bounds the time. `alpn`: the one protocol that is offered; `None`: those of the settings.
    pub(crate) async fn connect(
        &self,
        socket: TcpStream,
        addr: SocketAddr,
        alpn: Option<&[u8]>,
    ) -> Result<Stream, TlsRefusal> {
        match self.client.connect(socket, &self.sessions, "", alpn).await {
            Ok(connection) => {
                self.generation.store(connection.generation, Relaxed);
                if let Some(not_after) = connection.not_after {
                    self.not_after.store(not_after, Relaxed);
                }
                Ok(connection.stream)
            }
            Err(TlsConnectError::Files(error)) => {
                Err(self.refuse(0, Some(OWN_FILES), format!("the files of tls cannot be used: {error}")))
            }
            Err(TlsConnectError::Handshake { generation, source }) => {
                let kind = kind_of(&source);
                let detail = describe_failure(&source, &addr.to_string(), self.client.settings());
                Err(self.refuse(generation, kind, detail))
            }
        }
    }

    fn refuse(&self, generation: u64, kind: Option<u8>, detail: String) -> TlsRefusal {
        if let Some(kind) = kind {
            self.note_fails(generation, kind, &detail);
        }
        TlsRefusal { is_fault: kind.is_some(), detail }
    }

    /// Notes that the instance refused the client certificate in place of an answer (TLS 1.3), and says so. `cause`: what it sent.
    pub(crate) fn note_refused(&self, addr: SocketAddr, cause: &str) -> String {
        let detail = describe_refusal(&addr.to_string(), self.client.settings(), cause);
        self.note_fails(self.generation.load(Relaxed), kind_number(TlsFault::ClientCertificate), &detail);
        detail
    }

    fn note_fails(&self, generation: u64, kind: u8, detail: &str) {
        self.health.store(TlsHealth::Fails { generation, kind }.pack(), Relaxed);
        let mut failure = self.failure.lock();
        if failure.as_deref() != Some(detail) {
            tracing::warn!(service = %self.service, reason = detail, "TLS to an instance fails");
            *failure = Some(detail.into());
        }
    }

    /// Notes that the instance has answered by a connection.
    #[inline]
    pub(crate) fn note_works(&self) {
        let works = TlsHealth::Works { generation: self.generation.load(Relaxed) }.pack();
        if self.health.load(Relaxed) != works {
            self.health.store(works, Relaxed);
            self.failure.lock().take();
        }
    }
}

/// Whether a fault of the instance with `own` health is one of this side's settings, as far as the `others` of the service tell: each one
/// fails alike, or is not known. A working one, or one that fails in another way, is evidence against the instance.
pub(crate) fn fails_alike(own: TlsHealth, others: impl IntoIterator<Item = TlsHealth>) -> bool {
    let TlsHealth::Fails { generation, kind } = own else { return false };
    others.into_iter().all(|other| match other {
        TlsHealth::Unknown => true,
        TlsHealth::Works { generation: other } => other != generation,
        TlsHealth::Fails { generation: other, kind: other_kind } => other != generation || other_kind == kind,
    })
}

fn kind_of(error: &io::Error) -> Option<u8> {
    TlsFault::of(error).map(kind_number)
}

fn kind_number(fault: TlsFault) -> u8 {
    match fault {
        TlsFault::UnknownIssuer => 2,
        TlsFault::WrongName => 3,
        TlsFault::NotAllowed => 4,
        TlsFault::OutOfTime => 5,
        TlsFault::UnfitCertificate => 6,
        TlsFault::NotTls => 7,
        TlsFault::ClientCertificate => 8,
        TlsFault::NothingInCommon => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_of_the_settings_when_no_instance_works_and_all_that_are_known_fail_alike() {
        let works = |generation| TlsHealth::Works { generation };
        let fails = |generation, kind| TlsHealth::Fails { generation, kind };
        for (others, expected) in [
            (&[][..], true),
            (&[TlsHealth::Unknown, TlsHealth::Unknown], true),
            (&[fails(3, 5), TlsHealth::Unknown], true),
            (&[fails(3, 5), works(3)], false),
            (&[fails(3, 4), fails(3, 5)], false),
            // With other files it worked, or failed otherwise.
            (&[works(2), fails(2, 4)], true),
        ] {
            assert_eq!(fails_alike(fails(3, 5), others.iter().copied()), expected, "{others:?}");
        }
        assert!(!fails_alike(works(3), [fails(3, 5)]), "it works");
    }

    #[test]
    fn the_health_fits_in_one_word() {
        let failing = TlsHealth::Fails { generation: 70_000, kind: 9 };
        for health in [TlsHealth::Unknown, TlsHealth::Works { generation: 1 }, failing] {
            assert_eq!(TlsHealth::unpack(health.pack()), health);
        }
    }
}
