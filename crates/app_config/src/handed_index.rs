//! The index that the readers of one text have, which never goes back for them. Pure.
//!
//! It is that of the registry while that one rises. Where it does not, because tombstones were removed or the servers were restored,
//! another content gets the next number, and an equal one keeps its number.
//!
//! The reads of one text share it: those of the key and those of all keys that begin so, whatever they ask of the freshness. Each of the two
//! has a content of its own. An answer of a server that lags is another content, so a client that has it is answered at once when it asks for
//! a fresher one.

use crate::ReadScope;

/// A larger index is not one that the registry gave.
const LARGEST_INDEX: u64 = u64::MAX / 2;

/// The last index that was given, and the contents that have it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HandedIndex {
    index: u64,
    /// Of the key.
    key: Option<u64>,
    /// Of all keys that begin with the text.
    prefix: Option<u64>,
}

impl HandedIndex {
    /// The index of an answer with this index of the registry and this content, to a client that has `sent`. The second value: it is to
    /// be answered now.
    pub(crate) fn next(&mut self, scope: &ReadScope, index: u64, content: u64, sent: u64) -> (u64, bool) {
        let before = match scope {
            ReadScope::Key(_) => self.key.replace(content),
            ReadScope::Prefix(_) => self.prefix.replace(content),
        };
        if index > self.index {
            self.index = index;
        } else if before.is_some_and(|before| before != content) {
            self.index += 1;
        }
        self.index = self.index.max(1);
        if sent > self.index && sent <= LARGEST_INDEX {
            // From an earlier run of this sidecar: what the client has is not known.
            self.index = sent;
            return (sent, true);
        }
        (self.index, sent < self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ReadScope {
        ReadScope::Key("a".into())
    }

    #[test]
    fn the_index_rises_with_the_registry_and_with_the_content_otherwise() {
        let mut handed = HandedIndex::default();
        for (index, content, sent, expected) in [
            (7, 1, 0, (7, true)),
            (7, 1, 7, (7, false)),
            (9, 1, 7, (9, true)),
            (3, 1, 9, (9, false)),
            (3, 2, 9, (10, true)),
            (4, 2, 10, (10, false)),
            (10, 3, 10, (11, true)),
            (20, 3, 11, (20, true)),
            (20, 3, 30, (30, true)),
            (20, 3, 30, (30, false)),
            (20, 3, u64::MAX, (30, false)),
        ] {
            assert_eq!(handed.next(&key(), index, content, sent), expected, "{index} {content} {sent}");
        }
        let first = HandedIndex::default().next(&key(), 0, 1, 0);
        assert_eq!(first, (1, true), "0 would mean that nothing is to be waited for");
    }

    #[test]
    fn a_key_and_the_keys_that_begin_so_have_contents_of_their_own_and_one_index() {
        let prefix = ReadScope::Prefix("a".into());
        let mut handed = HandedIndex::default();
        for (scope, index, content, sent, expected) in [
            (key(), 7, 1, 0, (7, true)),
            (prefix.clone(), 9, 2, 0, (9, true)),
            // Not 7 again.
            (key(), 7, 1, 9, (9, false)),
            (prefix.clone(), 9, 2, 9, (9, false)),
            // The key has another content at an index that is not higher.
            (key(), 8, 3, 9, (10, true)),
            (prefix, 9, 2, 9, (10, true)),
        ] {
            assert_eq!(handed.next(&scope, index, content, sent), expected, "{scope:?} {index} {content}");
        }
    }
}
