//! The loads, and what of a run can be measured alone.

use clap::{ValueEnum, builder::PossibleValue};

use crate::Effort;

/// A kind of traffic, measured by its processor time per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// Answers of 1 KiB.
    Get1k,
    /// Answers of 16 KiB.
    Get16k,
    /// Answers of 1 MiB.
    Get1m,
    /// A new connection for every request.
    Connect,
    /// The same request rate through every proxy.
    Steady,
    /// Uploads of 64 KiB.
    Post64k,
    /// Uploads of 16 MiB.
    Post16m,
}

/// The servers of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BackendGroup {
    /// nginx: answers of fixed lengths.
    Answers,
    /// The bench: reads bodies to their end.
    Uploads,
}

/// How long a load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoadLength {
    Seconds(u64),
    /// So that no request is cut at the end, which matters where a second has only a few requests.
    Requests(u64),
}

/// How a load generator makes a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoadShape {
    /// In tables.
    pub(super) title: &'static str,
    pub(super) group: BackendGroup,
    pub(super) path: &'static str,
    /// Connections of the app; each sends its next request when it has the response.
    pub(super) connections: usize,
    /// Bytes of the request's body; a request with a body is a POST.
    pub(super) body: usize,
    /// Each request has its own connection.
    pub(super) close: bool,
    /// Requests per second, all connections together. Absent: as many as the connections carry.
    pub(super) rate: Option<usize>,
}

impl Load {
    /// In the order in which a turn runs them: those with the same servers are neighbours.
    pub const ALL: [Self; 7] =
        [Self::Get1k, Self::Get16k, Self::Get1m, Self::Connect, Self::Steady, Self::Post64k, Self::Post16m];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get1k => "get-1k",
            Self::Get16k => "get-16k",
            Self::Get1m => "get-1m",
            Self::Connect => "connect",
            Self::Steady => "steady",
            Self::Post64k => "post-64k",
            Self::Post16m => "post-16m",
        }
    }

    /// The processor time has a resolution of 10 ms: a load that does not use a whole core takes longer.
    pub(super) fn length(self, effort: Effort) -> LoadLength {
        match self {
            Self::Steady => LoadLength::Seconds(effort.choose(3, 2)),
            Self::Post16m => LoadLength::Requests(effort.choose(200, 48)),
            _ => LoadLength::Seconds(effort.choose(3, 1)),
        }
    }

    pub(super) fn shape(self) -> LoadShape {
        let get = LoadShape {
            title: "",
            group: BackendGroup::Answers,
            path: "/",
            connections: 64,
            body: 0,
            close: false,
            rate: None,
        };
        let post = LoadShape { group: BackendGroup::Uploads, ..get };
        match self {
            Self::Get1k => LoadShape { title: "GET 1 KiB, 64 connections", ..get },
            Self::Get16k => LoadShape { title: "GET 16 KiB, 64 connections", path: "/16k", ..get },
            Self::Get1m => {
                LoadShape { title: "GET 1 MiB, 16 connections", path: "/1m", connections: 16, ..get }
            }
            Self::Connect => LoadShape {
                title: "GET 1 KiB, a connection per request, 32 at once",
                connections: 32,
                close: true,
                ..get
            },
            // Every proxy here can carry this rate on one core.
            Self::Steady => LoadShape {
                title: "GET 1 KiB, 8000 requests/s, 32 connections",
                connections: 32,
                rate: Some(8000),
                ..get
            },
            Self::Post64k => {
                LoadShape { title: "POST 64 KiB, 32 connections", connections: 32, body: 64 << 10, ..post }
            }
            Self::Post16m => {
                LoadShape { title: "POST 16 MiB, 4 connections", connections: 4, body: 16 << 20, ..post }
            }
        }
    }
}

/// What of the peers' part can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Processor time per request of one load.
    Cost(Load),
    /// Memory when idle, and per idle connection.
    Memory,
    /// Instructions in user space per request.
    Instructions,
    /// System calls per request.
    Syscalls,
}

impl Figure {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 10] = [
        Self::Cost(Load::Get1k),
        Self::Cost(Load::Get16k),
        Self::Cost(Load::Get1m),
        Self::Cost(Load::Connect),
        Self::Cost(Load::Steady),
        Self::Cost(Load::Post64k),
        Self::Cost(Load::Post16m),
        Self::Memory,
        Self::Instructions,
        Self::Syscalls,
    ];
}

impl ValueEnum for Figure {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Cost(load) => PossibleValue::new(load.name()).help(load.shape().title),
            Self::Memory => PossibleValue::new("memory").help("Memory when idle, and per idle connection"),
            Self::Instructions => PossibleValue::new("instructions").help("Instructions per request"),
            Self::Syscalls => PossibleValue::new("syscalls").help("System calls per request"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_is_a_figure() {
        let costs: Vec<Load> = Figure::ALL
            .into_iter()
            .filter_map(|figure| match figure {
                Figure::Cost(load) => Some(load),
                _ => None,
            })
            .collect();
        assert_eq!(costs, Load::ALL);
    }
}
