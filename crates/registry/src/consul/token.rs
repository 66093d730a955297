//! The ACL token that goes with every request. A token file is read again when it changes, and other settings may
//! replace the source.
//!
//! A file that is missing or bad at start is an error. When it goes missing later, or is empty while a
//! process writes it, the last good token stays in use: a request without a token would be answered with an
//! empty list where ACLs filter, and the list would be taken for the truth.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use http::HeaderValue;
use outrigger_config::{FileVersion, SmallFile, Token};
use outrigger_net::is_own_shortage;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::Error;

/// Largest token file, bytes.
const MAX_FILE_BYTES: usize = 4096;

/// The token of the requests that begin now.
pub(super) struct CurrentToken {
    // Locked for a copy or a replacement, never over an await.
    source: Mutex<Arc<TokenSource>>,
    /// A number that rises with every new token.
    rotations: watch::Sender<u64>,
}

impl CurrentToken {
    pub(super) fn new(source: TokenSource) -> Self {
        Self { source: Mutex::new(Arc::new(source)), rotations: watch::Sender::new(0) }
    }

    /// The value of `X-Consul-Token`; none where no token is set, or an empty one.
    pub(super) async fn header(&self) -> Option<HeaderValue> {
        let source = self.source.lock().clone();
        match &*source {
            TokenSource::None => None,
            TokenSource::Fixed(value) => Some(value.clone()),
            TokenSource::File(file) => Some(file.header(&self.rotations).await),
        }
    }

    /// Replaces the source: that is a new token.
    pub(super) fn replace(&self, source: TokenSource) {
        *self.source.lock() = Arc::new(source);
        self.rotations.send_modify(|rotations| *rotations += 1);
    }

    /// A number that rises with every new token.
    pub(super) fn watch_rotations(&self) -> watch::Receiver<u64> {
        self.rotations.subscribe()
    }

    /// Whether a token is configured.
    pub(super) fn is_set(&self) -> bool {
        !matches!(**self.source.lock(), TokenSource::None)
    }
}

/// The source of the token.
pub(super) enum TokenSource {
    /// No token is sent.
    None,
    /// A fixed token.
    Fixed(HeaderValue),
    /// The content of a file.
    File(TokenFile),
}

/// A token file, and its content when it was last good.
pub(super) struct TokenFile {
    path: PathBuf,
    // Locked for a check and a replacement, never over an await.
    loaded: Mutex<LoadedToken>,
}

struct LoadedToken {
    stamp: FileVersion,
    value: HeaderValue,
    /// The file has become unusable since, and a warning was logged.
    failing: bool,
}

impl TokenSource {
    /// Checks a token; reads the file, if the token is in one.
    pub(super) fn new(token: Option<&Token>) -> Result<Self, Error> {
        match token {
            None => Ok(Self::None),
            Some(Token::Value(secret)) => {
                let value = token_header(secret.reveal()).map_err(|reason| Error::File {
                    path: "the token of the environment".into(),
                    reason: reason.into(),
                })?;
                Ok(value.map_or(Self::None, Self::Fixed))
            }
            Some(Token::File(path)) => TokenFile::open(path).map(Self::File),
        }
    }
}

impl TokenFile {
    /// Reads the file at start, where a wrong path is an error.
    fn open(path: &Path) -> Result<Self, Error> {
        let (stamp, value) = read_token(path).map_err(|reason| Error::File {
            path: path.display().to_string(),
            reason: format!("{reason}; the token's file must be there at start and at a reload"),
        })?;
        let loaded = LoadedToken { stamp, value, failing: false };
        Ok(Self { path: path.to_owned(), loaded: Mutex::new(loaded) })
    }

    async fn header(&self, rotations: &watch::Sender<u64>) -> HeaderValue {
        let news = self.read_if_changed().await;
        self.adopt(news, rotations)
    }

    /// Takes over what was read, if it is good. Returns the token to send.
    fn adopt(
        &self,
        news: io::Result<Option<(FileVersion, HeaderValue)>>,
        rotations: &watch::Sender<u64>,
    ) -> HeaderValue {
        let mut read = self.loaded.lock();
        match news {
            Ok(None) => {}
            Ok(Some((stamp, value))) => {
                if std::mem::take(&mut read.failing) {
                    info!(path = %self.path.display(), "the token file can be read again");
                }
                if read.value != value {
                    info!(path = %self.path.display(), "the token file holds another token");
                    rotations.send_modify(|rotations| *rotations += 1);
                }
                // After a write during the read the version is the older one: the next request reads the file
                // again.
                (read.stamp, read.value) = (stamp, value);
            }
            // No fault of the file: the next request reads it again.
            Err(error) if is_own_shortage(&error) => {
                let path = self.path.display();
                debug!(%path, %error, "the token file cannot be read now, keeping the last token");
            }
            Err(error) if !std::mem::replace(&mut read.failing, true) => {
                let path = self.path.display();
                warn!(%path, reason = %error, "the token file cannot be used any more, keeping the last token");
            }
            Err(_) => {}
        }
        read.value.clone()
    }

    /// The content of the file, if the file may have changed.
    async fn read_if_changed(&self) -> io::Result<Option<(FileVersion, HeaderValue)>> {
        let metadata = tokio::fs::metadata(&self.path).await?;
        {
            let read = self.loaded.lock();
            if read.stamp == FileVersion::from(&metadata) && !read.failing {
                return Ok(None);
            }
        }
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || read_token(&path)).await;
        // The reader cannot fail, except at the end of the process.
        read.unwrap_or_else(|error| Err(io::Error::other(error))).map(Some)
    }
}

/// The token in the file, and the version that the file had before it was read.
fn read_token(path: &Path) -> io::Result<(FileVersion, HeaderValue)> {
    let (text, metadata) = SmallFile::read_text(path, MAX_FILE_BYTES)?;
    Ok((FileVersion::from(&metadata), parse_token(&text).map_err(io::Error::other)?))
}

fn parse_token(text: &str) -> Result<HeaderValue, &'static str> {
    token_header(text)?.ok_or("it is empty")
}

fn token_header(text: &str) -> Result<Option<HeaderValue>, &'static str> {
    let token = text.trim();
    if token.is_empty() {
        return Ok(None);
    }
    let mut value =
        HeaderValue::from_str(token).map_err(|_| "a token is one line of visible ASCII characters")?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_lack_of_files_or_memory_is_no_fault_of_the_token_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "good").unwrap();
        let (file, rotations) = (TokenFile::open(&path).unwrap(), watch::Sender::new(0));
        for (errno, failing) in
            [(Errno::MFILE, false), (Errno::NFILE, false), (Errno::NOMEM, false), (Errno::ACCESS, true)]
        {
            assert_eq!(file.adopt(Err(errno.into()), &rotations), "good");
            assert_eq!(file.loaded.lock().failing, failing, "{errno:?}");
        }
        assert_eq!(file.adopt(read_token(&path).map(Some), &rotations), "good");
        assert!(!file.loaded.lock().failing);
    }
}
