//! The configuration files of `benches/peers`, with their words between `@` signs replaced.

use std::{fs, net::SocketAddr, path::Path};

use crate::{Error, error::doing};

/// Servers behind a proxy; every template lists this many.
pub(super) const BACKENDS: usize = 4;

/// A file of `benches/peers` that this program holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Template {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

/// The replacements of one process, `@WORD@` and its value.
#[derive(Debug, Clone)]
pub(super) struct Words(Vec<(String, String)>);

impl Words {
    /// `@DIR@`, and `@BACKEND_1@` and so on for the ports of the servers.
    pub(super) fn new(dir: &Path, backends: &[SocketAddr]) -> Self {
        let words = Self(Vec::new()).with("DIR", dir.display());
        (1..).zip(backends).fold(words, |words, (n, addr)| words.with(&format!("BACKEND_{n}"), addr.port()))
    }

    /// Adds a word.
    pub(super) fn with(mut self, word: &str, value: impl ToString) -> Self {
        self.0.push((format!("@{word}@"), value.to_string()));
        self
    }
}

impl Template {
    /// Writes the file for a process into `dir`.
    pub(super) fn write(self, dir: &Path, words: &Words) -> Result<(), Error> {
        let file = dir.join(self.name);
        fs::write(&file, self.fill(words)?).map_err(doing(format!("write {}", file.display())))
    }

    fn fill(self, words: &Words) -> Result<String, Error> {
        let text = words.0.iter().fold(self.text.to_owned(), |text, (word, value)| text.replace(word, value));
        match unknown_word(&text) {
            Some(word) => Err(Error::new(format!("find a value for {word} of benches/peers/{}", self.name))),
            None => Ok(text),
        }
    }
}

/// The first `@WORD@` that is left.
fn unknown_word(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split('@').collect();
    let is_word = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c == '_' || c.is_ascii_digit() || c.is_ascii_uppercase())
    };
    // Both neighbours of a part are an `@`, except for the first and the last part.
    let inner = parts.get(1..parts.len().saturating_sub(1)).unwrap_or_default();
    inner.iter().find(|part| is_word(part)).map(|word| format!("@{word}@"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_replaced_and_unknown_ones_reported() {
        let words = Words::new(Path::new("/run"), &["127.0.0.1:7".parse().unwrap()]).with("PORT", 80);
        let filled = |text| Template { name: "a.conf", text }.fill(&words);
        assert_eq!(filled("'@type' @DIR@/a @PORT@ @BACKEND_1@").unwrap(), "'@type' /run/a 80 7");
        let error = filled("@PORT@ @BACKEND_2@ @PORT@").unwrap_err().to_string();
        assert_eq!(error, "find a value for @BACKEND_2@ of benches/peers/a.conf");
    }
}
