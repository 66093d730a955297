//! One kind of peer that is connected to with TLS: its settings, its files as they were read last, and the sessions with each
//! peer.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use outrigger_config::{FileVersion, Tls, TlsVerify};
use rustls::{CertificateError, ClientConfig, HandshakeKind, client::Resumption};
use rustls_pki_types::UnixTime;
use tokio::{net::TcpStream, time::Instant};
use tracing::{info, warn};

use super::{CertificateFacts, TlsError, TlsFiles, certificates, client_config, invalid, server_name};
use crate::stream::Stream;

/// Sessions that are kept of one peer.
const SESSIONS: usize = 8;

/// TLS to one kind of peer. The files are read before the first connection, and again when they have changed. What cannot be used is
/// named, and the files of before stay in use.
#[derive(Debug)]
pub struct ClientTls {
    settings: Tls,
    /// The protocols that are offered (ALPN), the preferred one first. Empty: the peer is not asked.
    alpn: Vec<Vec<u8>>,
    check_interval: Duration,
    /// Locked for a look or a replacement, never over an await.
    files: Mutex<FilesState>,
}

/// What is known of the files.
#[derive(Debug, Default)]
struct FilesState {
    loaded: Option<Arc<Loaded>>,
    /// Of each file when it was read last.
    versions: Vec<Option<FileVersion>>,
    checked_at: Option<Instant>,
    problem: Option<String>,
}

/// The files of one moment.
#[derive(Debug)]
struct Loaded {
    generation: u64,
    config: ClientConfig,
    times: CertificateTimes,
}

/// Until when certificates of files hold, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CertificateTimes {
    /// Of the authorities in `ca_file`, the last end.
    pub authority: Option<i64>,
    /// The first one of `cert_file`.
    pub client: Option<i64>,
}

/// The sessions with one peer, for a shorter handshake. They are of the files of one moment: a session is resumed without the
/// certificate, and other files may not accept it.
#[derive(Debug, Default)]
pub struct TlsSessions(Mutex<Option<(u64, Arc<ClientConfig>)>>);

/// A new connection.
#[derive(Debug)]
pub struct TlsConnection {
    /// The encrypted stream.
    pub stream: Stream,
    /// Which of the states of the files made it: counted up with each change.
    pub generation: u64,
    /// Until when the certificate of the peer holds, in seconds since 1970.
    pub not_after: Option<i64>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum TlsConnectError {
    /// The files of this side cannot be used, and never could since the start.
    #[error(transparent)]
    Files(#[from] TlsError),
    /// The handshake failed.
    #[error("{source}")]
    Handshake {
        /// As of [`TlsConnection`].
        generation: u64,
        /// What failed.
        source: io::Error,
    },
}

impl ClientTls {
    /// How long files of instances are used before it is looked whether they have changed.
    const CHECK_INTERVAL: Duration = Duration::from_secs(1);

    /// TLS with these settings. Reads no file.
    pub fn new(settings: Tls, alpn: Vec<Vec<u8>>) -> Self {
        let files = Mutex::default();
        Self { settings, alpn, check_interval: Self::CHECK_INTERVAL, files }
    }

    /// The same, for a peer with few connections: each one looks whether the files have changed.
    pub fn checked_always(self) -> Self {
        Self { check_interval: Duration::ZERO, ..self }
    }

    /// The settings.
    pub fn settings(&self) -> &Tls {
        &self.settings
    }

    /// The protocols that are offered.
    pub fn alpn(&self) -> &[Vec<u8>] {
        &self.alpn
    }

    /// What is wrong with the files as they are now, while those of before are used.
    pub fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    /// Until when the certificates in the files hold that are in use.
    pub fn times(&self) -> CertificateTimes {
        self.lock().loaded.as_ref().map(|loaded| loaded.times).unwrap_or_default()
    }

    /// Reads the files, and checks the name of the server, which is `host` where the settings have none. Blocks the thread; for the
    /// start of the process.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn check_blocking(&self, host: &str) -> Result<(), TlsError> {
        server_name(&self.settings, host)?;
        Loaded::read_blocking(&self.settings, &self.alpn, 0).map(drop)
    }

    /// Makes a session over `stream`. `host` is the name that the certificate must have where the settings have none. `alpn`: the one
    /// protocol that is offered; `None`: those that this was made with. The caller bounds the time.
    ///
    /// # Errors
    /// When the files cannot be used, or the handshake fails.
    pub async fn connect(
        &self,
        stream: TcpStream,
        sessions: &TlsSessions,
        host: &str,
        alpn: Option<&[u8]>,
    ) -> Result<TlsConnection, TlsConnectError> {
        let loaded = self.loaded().await?;
        let name = server_name(&self.settings, host)?;
        let generation = loaded.generation;
        let failed = |source| TlsConnectError::Handshake { generation, source };
        let stream =
            Stream::connect_tls(stream, sessions.config(&loaded), name, alpn).await.map_err(failed)?;
        let session = stream.tls_session();
        let certificate = session.and_then(|session| session.peer_certificates()?.first());
        let facts = certificate.and_then(|certificate| CertificateFacts::of(certificate));
        // The peer shows no certificate when it resumes a session, and that of the session may have expired since.
        let is_resumed = session.is_some_and(|one| one.handshake_kind() == Some(HandshakeKind::Resumed));
        if let (true, TlsVerify::Ca, Some(facts)) = (is_resumed, self.settings.verify, &facts) {
            let now = UnixTime::now();
            if facts.is_expired(now) {
                sessions.forget();
                let not_after = Duration::from_secs(facts.not_after.max(0).cast_unsigned());
                let not_after = UnixTime::since_unix_epoch(not_after);
                let expired = CertificateError::ExpiredContext { time: now, not_after };
                return Err(failed(io::Error::other(rustls::Error::from(expired))));
            }
        }
        Ok(TlsConnection { generation, not_after: facts.map(|facts| facts.not_after), stream })
    }

    /// The files, read again if they have changed.
    async fn loaded(&self) -> Result<Arc<Loaded>, TlsError> {
        let now = Instant::now();
        let (before, versions) = {
            let mut files = self.lock();
            let is_fresh = files.checked_at.is_some_and(|at| now - at < self.check_interval);
            if let (Some(loaded), true) = (&files.loaded, is_fresh || self.paths().next().is_none()) {
                return Ok(loaded.clone());
            }
            files.checked_at = Some(now);
            (files.loaded.clone(), files.versions.clone())
        };
        let (settings, alpn) = (self.settings.clone(), self.alpn.clone());
        let generation = before.as_ref().map_or(0, |before| before.generation) + 1;
        let known = before.is_some().then_some(versions);
        let read = tokio::task::spawn_blocking(move || {
            // Before the files are read: what changes meanwhile is seen at the next look.
            let versions = file_versions(&settings);
            let is_same = known.is_some_and(|known| known == versions);
            (!is_same).then(|| (versions, Loaded::read_blocking(&settings, &alpn, generation)))
        });
        let read = read.await.unwrap_or_else(|error| Some((Vec::new(), Err(invalid(None, &error)))));
        let mut files = self.lock();
        match (read, before) {
            (None, Some(before)) => Ok(before),
            (None, None) => Err(invalid(None, &"the files were not read")),
            (Some((versions, Ok(loaded))), before) => {
                if before.is_some() {
                    info!(files = self.file_list(), "new TLS files are used for new connections");
                }
                let loaded = Arc::new(loaded);
                (files.versions, files.problem) = (versions, None);
                files.loaded = Some(loaded.clone());
                Ok(loaded)
            }
            (Some((versions, Err(error))), Some(before)) => {
                let problem = error.to_string();
                warn!(problem, "changed TLS files cannot be used: those of before stay in use");
                (files.versions, files.problem) = (versions, Some(problem));
                Ok(before)
            }
            (Some((_, Err(error))), None) => {
                files.problem = Some(error.to_string());
                Err(error)
            }
        }
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        paths(&self.settings)
    }

    fn file_list(&self) -> String {
        self.paths().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    fn lock(&self) -> MutexGuard<'_, FilesState> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn paths(tls: &Tls) -> impl Iterator<Item = &Path> {
    [&tls.ca_file, &tls.cert_file, &tls.key_file].into_iter().filter_map(|path| path.as_deref())
}

fn file_versions(tls: &Tls) -> Vec<Option<FileVersion>> {
    let version = |path| std::fs::metadata(path).ok().as_ref().map(FileVersion::from);
    paths(tls).map(version).collect()
}

impl Loaded {
    fn read_blocking(tls: &Tls, alpn: &[Vec<u8>], generation: u64) -> Result<Self, TlsError> {
        let files = TlsFiles::read_blocking(tls)?;
        let config = client_config(tls, &files, alpn)?;
        let not_after = |path: Option<&Path>, pem: &Option<Vec<u8>>| -> Result<Vec<i64>, TlsError> {
            let Some(pem) = pem else { return Ok(Vec::new()) };
            let all = certificates(path, pem)?;
            Ok(all.iter().filter_map(|one| Some(CertificateFacts::of(one)?.not_after)).collect())
        };
        let times = CertificateTimes {
            authority: not_after(tls.ca_file.as_deref(), &files.ca)?.into_iter().max(),
            client: not_after(tls.cert_file.as_deref(), &files.cert)?.into_iter().next(),
        };
        Ok(Self { generation, config, times })
    }
}

impl TlsSessions {
    /// The settings with the sessions of this peer.
    fn config(&self, loaded: &Loaded) -> Arc<ClientConfig> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((generation, config)) if *generation == loaded.generation => config.clone(),
            _ => {
                let mut config = loaded.config.clone();
                config.resumption = Resumption::in_memory_sessions(SESSIONS);
                let config = Arc::new(config);
                *kept = Some((loaded.generation, config.clone()));
                config
            }
        }
    }

    /// Forgets the sessions: the next handshake is a whole one.
    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
