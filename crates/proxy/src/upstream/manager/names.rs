//! The clusters by their names, as requests find them.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use crate::upstream::cluster::{Cluster, ClusterKey};

/// Clusters by name.
#[derive(Debug, Default)]
pub(super) struct NameIndex {
    /// By the service name alone: the usual request needs no key.
    pub(super) plain: HashMap<Box<[u8]>, Arc<Cluster>, BuildHasherDefault<NameHasher>>,
    /// By service, datacenter and tags; and those of services that have the name of the sidecar itself, which no Host means.
    pub(super) narrowed: HashMap<ClusterKey, Arc<Cluster>>,
}

/// FNV-1a (Fowler, Noll, Vo), which costs least for names of a few bytes. The names are those of clusters that are open, and
/// settings bound their number, so that colliding names cannot slow requests down.
#[derive(Debug, Clone, Copy)]
pub(super) struct NameHasher(u64);

impl Default for NameHasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_usize(&mut self, _: usize) {
        // The length of a slice adds nothing to a hash of all of its bytes.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
