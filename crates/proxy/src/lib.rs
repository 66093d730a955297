//! Carries a request from a listener to an endpoint, and the response back.
//!
//! | module | what it does |
//! |---|---|
//! | [`proxy`](Proxy) | the handle: bind, start, reload, status, shut down |
//! | `context`, `reason`, `limit`, `host` | what all connections share; why the sidecar responds itself; limits in its responses; names of services |
//! | `metrics/`, `status` | counts for scrapes; the state of clusters for the status pages |
//! | `listener/` | the addresses, the acceptors, and the worker threads that own the connections |
//! | `downstream` | one app connection: parked, active, lingering; `streams`: one of HTTP/2 |
//! | `request/` | **one request from its head to its response** (`handle`), its attempts, its account |
//! | `tcp/` | **one connection of a TCP listener**, its attempts, its account |
//! | `explain/` | what a request would meet, by the same code, without sending it |
//! | `transport/` | buffered streams, one exchange with an instance, idle connections, tunnels |
//! | `upstream/` | clusters, endpoints and attempts at them (leases), and how a snapshot becomes a `View` |
//!
//! It knows no registry, reads no file and decides nothing: decisions are made in `outrigger-policy`.

mod context;
mod downstream;
mod explain;
mod host;
mod limit;
mod listener;
mod metrics;
mod proxy;
mod reason;
mod request;
mod status;
mod streams;
mod sync;
mod tcp;
#[cfg(feature = "testing")]
pub mod testing;
mod transport;
mod upstream;

pub use explain::{
    ExplainError, ExplainRequest, ExplainedBreaker, ExplainedBulkhead, ExplainedCandidate, ExplainedChain,
    ExplainedDestination, ExplainedEntry, ExplainedFailover, ExplainedHead, ExplainedKnowledge,
    ExplainedLimits, ExplainedMirror, ExplainedName, ExplainedPick, ExplainedRefusal, ExplainedRequest,
    ExplainedRoute, ExplainedRules, ExplainedSetting, ExplainedSplit, ExplainedSubset, ExplainedTarget,
    ExplainedZone, Explanation, PassedRoute,
};
pub use host::host_of;
pub use listener::set::{ListenError, ListenErrors};
pub use outrigger_net::tls::TlsError;
pub use proxy::{PreparedSettings, Proxy, ShutdownReport, StartError, Workers};
pub use reason::Reason;
pub use status::{
    ChainProblemStatus, ChainStatus, ChainTargetStatus, ClusterStatus, EjectedStatus, EndpointStatus,
    FailoverStatus, FailoverTargetStatus, SubsetStatus,
};
pub use upstream::manager::check_tls_files;
