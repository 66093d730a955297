//! The ACL token that goes with every request. A token file is read again when it changes.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use http::HeaderValue;
use outrigger_config::Token;

use crate::{Error, stamp::Stamp};

/// A token file longer than this is not a token.
const MAX_FILE: u64 = 4096;

/// Where the header's value comes from.
pub(super) enum Source {
    /// No token is sent.
    None,
    /// Always this one.
    Fixed(HeaderValue),
    /// What the file holds.
    File(TokenFile),
}

/// A token file, and what it held when it was last read.
pub(super) struct TokenFile {
    path: PathBuf,
    // Held for a look and a replacement, never over an await.
    read: Mutex<Option<(Stamp, Option<HeaderValue>)>>,
}

impl Source {
    /// Checks a token given by value. A file is read with the first request.
    pub(super) fn new(token: Option<&Token>) -> Result<Self, Error> {
        match token {
            None => Ok(Self::None),
            Some(Token::Value(secret)) => {
                let value = header(secret.reveal()).map_err(|reason| Error::File {
                    path: "the token of the environment".into(),
                    reason: reason.into(),
                })?;
                Ok(value.map_or(Self::None, Self::Fixed))
            }
            Some(Token::File(path)) => {
                Ok(Self::File(TokenFile { path: path.clone(), read: Mutex::new(None) }))
            }
        }
    }

    /// The value of `X-Consul-Token`; none where no token is set, or an empty one.
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, Error> {
        match self {
            Self::None => Ok(None),
            Self::Fixed(value) => Ok(Some(value.clone())),
            Self::File(file) => file.header().await,
        }
    }

    /// Whether a token is configured.
    pub(super) fn is_set(&self) -> bool {
        !matches!(self, Self::None)
    }
}

impl TokenFile {
    async fn header(&self) -> Result<Option<HeaderValue>, Error> {
        let metadata =
            tokio::fs::metadata(&self.path).await.map_err(|error| self.unusable(error.to_string()))?;
        let stamp = Stamp::from(&metadata);
        if let Some((last, value)) = &*self.read.lock().unwrap_or_else(PoisonError::into_inner)
            && *last == stamp
        {
            return Ok(value.clone());
        }
        if metadata.len() > MAX_FILE {
            return Err(self.unusable(format!("{} bytes are no token", metadata.len())));
        }
        let text =
            tokio::fs::read_to_string(&self.path).await.map_err(|error| self.unusable(error.to_string()))?;
        let value = header(&text).map_err(|reason| self.unusable(reason.into()))?;
        // A write between the two looks leaves the older stamp: the next request reads again.
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some((stamp, value.clone()));
        Ok(value)
    }

    fn unusable(&self, reason: String) -> Error {
        unusable(&self.path, reason)
    }
}

fn unusable(path: &Path, reason: String) -> Error {
    Error::File { path: path.display().to_string(), reason }
}

fn header(text: &str) -> Result<Option<HeaderValue>, &'static str> {
    let token = text.trim();
    if token.is_empty() {
        return Ok(None);
    }
    let mut value =
        HeaderValue::from_str(token).map_err(|_| "a token is one line of visible ASCII characters")?;
    value.set_sensitive(true);
    Ok(Some(value))
}
