//! Which keys the app may read. Pure.
//!
//! An entry is a prefix of the settings ([`prefix_covers`]). A read of one key needs an entry that names it. A read of all keys that begin
//! with a text needs an entry that names every one of them, up to the word that the text cuts: `config/orders` may be asked for where
//! `config/orders/` is allowed, and the answer is without `config/orders-secret`. A shorter text is refused, because an answer
//! without most of its keys would look complete.

use outrigger_config::{Config, prefix_covers};

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReadScope {
    /// One key.
    Key(String),
    /// Every key that begins with this text.
    Prefix(String),
}

impl ReadScope {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Key(text) | Self::Prefix(text) => text,
        }
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Prefix(prefix) => key.starts_with(prefix),
        }
    }
}

/// What `/v1/kv/` serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedKeys {
    entries: Vec<String>,
    /// The settings of the sidecar itself.
    never: Option<String>,
}

impl AllowedKeys {
    /// What these settings allow.
    pub fn of(config: &Config) -> Self {
        Self { entries: config.api.config.allowed(), never: config.dynamic_config.prefix.clone() }
    }

    /// The entry by which this may be read.
    pub(crate) fn entry_of(&self, scope: &ReadScope) -> Option<&str> {
        let is_of = |entry: &&String| match scope {
            ReadScope::Key(key) => prefix_covers(entry, key),
            ReadScope::Prefix(prefix) => {
                prefix_covers(entry, prefix) || entry.strip_suffix('/') == Some(prefix)
            }
        };
        let found = self.entries.iter().find(is_of).map(String::as_str);
        found.filter(|_| !self.is_never(scope.text()))
    }

    /// Whether this key may be in an answer.
    pub(crate) fn is_served(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| prefix_covers(entry, key)) && !self.is_never(key)
    }

    /// The settings forbid it too; this holds whatever they are.
    fn is_never(&self, key: &str) -> bool {
        self.never.as_ref().is_some_and(|never| prefix_covers(never, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(entries: &[&str]) -> AllowedKeys {
        AllowedKeys {
            entries: entries.iter().map(|one| one.to_string()).collect(),
            never: Some("own".into()),
        }
    }

    #[test]
    fn only_what_an_entry_names_is_read() {
        let settings = allowed(&["config/orders/", "tls/orders.pem", "shared", "own/", "config/o"]);
        for (key, expected) in [
            ("config/orders/db/url", true),
            ("config/orders/", true),
            ("config/orders", false),
            ("config/orders-secret", false),
            ("config/order", false),
            ("config/o", true),
            ("config/o/p", true),
            ("CONFIG/orders/db", false),
            ("config/orders/../../own/settings", true),
            ("tls/orders.pem", true),
            ("tls/orders.pem2", false),
            ("shared/a", true),
            ("own/settings/defaults", false),
            ("own", false),
            ("", false),
        ] {
            let found = settings.entry_of(&ReadScope::Key(key.into()));
            assert_eq!((found.is_some(), settings.is_served(key)), (expected, expected), "{key}");
        }
    }

    #[test]
    fn all_keys_that_begin_with_a_text_need_an_entry_that_names_them() {
        let settings = allowed(&["config/orders/", "shared"]);
        for (prefix, expected) in [
            ("config/orders/", Some("config/orders/")),
            ("config/orders/db", Some("config/orders/")),
            ("config/orders", Some("config/orders/")),
            ("config/order", None),
            ("config/orders-secret", None),
            ("config/", None),
            ("", None),
            ("shared", Some("shared")),
            ("shared/", Some("shared")),
            ("share", None),
            ("shared-2", None),
        ] {
            assert_eq!(settings.entry_of(&ReadScope::Prefix(prefix.into())), expected, "{prefix}");
        }
    }

    #[test]
    fn without_an_entry_nothing_is_read() {
        assert_eq!(allowed(&[]).entry_of(&ReadScope::Key("a".into())), None);
        assert_eq!(allowed(&[]).entry_of(&ReadScope::Prefix(String::new())), None);
    }
}
