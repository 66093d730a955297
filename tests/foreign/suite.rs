//! What a suite is.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;

/// Where a suite runs: a column of its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    /// The dev registry.
    Dev,
    /// The real Consul.
    Consul,
    /// The key-value reads of a sidecar before the dev registry; all else goes to the dev registry.
    Sidecar,
    /// The same before the real Consul.
    SidecarConsul,
}

impl Side {
    /// All, by the names of columns.
    pub(crate) const ALL: [Self; 4] = [Self::Dev, Self::Consul, Self::Sidecar, Self::SidecarConsul];

    /// Its name in a list.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Consul => "consul",
            Self::Sidecar => "sidecar",
            Self::SidecarConsul => "sidecar-consul",
        }
    }

    /// Whether it needs the real Consul.
    pub(crate) fn is_consul(self) -> bool {
        matches!(self, Self::Consul | Self::SidecarConsul)
    }

    /// Whether the reads go to a sidecar.
    pub(crate) fn is_sidecar(self) -> bool {
        matches!(self, Self::Sidecar | Self::SidecarConsul)
    }
}

/// A program of others, with the tests that it reports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suite {
    /// Its name, and that of its list.
    pub(crate) name: &'static str,
    /// What it is, for `--list`.
    pub(crate) about: &'static str,
    /// The argument of `tests/tools/foreign.sh` that finds or installs its program.
    pub(crate) tool: &'static str,
    /// The arguments of the program.
    pub(crate) arguments: fn() -> Vec<PathBuf>,
    /// `dns.answer` of the sidecar.
    pub(crate) dns_answer: &'static str,
    /// It is the program that starts a registry, one for each test.
    pub(crate) starts_registries: bool,
    /// Whether the real Consul is quick enough for each run.
    pub(crate) quick_on_consul: bool,
    /// The longest time on one side.
    pub(crate) limit: Duration,
}

/// A file of `tests/foreign`.
pub(crate) fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("foreign").join(path)
}
