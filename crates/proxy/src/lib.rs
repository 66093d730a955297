//! Carries a request from a listener to an endpoint, and the response back.
//!
//! | module | what it does |
//! |---|---|
//! | [`proxy`](Proxy) | the handle: bind, start, reload, status, shut down |
//! | `context`, `reason`, `host` | what all connections share; why the sidecar responds itself; names of services |
//! | `metrics/`, `status` | counts for scrapes; the state of clusters for the status pages |
//! | `listener/` | the addresses, the acceptors, and the worker threads that own the connections |
//! | `serve`, `session`, `timer`, `io`, `tunnel` | one app connection: idle, with a codec, lingering, a tunnel |
//! | `forward` | **one request from its head to its response** |
//! | `request/` | which service a request is for, its deadline, its account |
//! | `headers`, `respond` | the fields that are forwarded; the sidecar's own responses |
//! | `call`, `hedge`, `attempt` | the attempts of a request, a second one beside a slow one, one on one connection |
//! | `upload`, `body` | request bodies, which can be sent again, and response bodies |
//! | `upstream/` | clusters, endpoints and connection pools, and how a snapshot becomes a `View` |
//!
//! It knows no registry, reads no file and decides nothing: decisions are made in `outrigger-policy`.

mod attempt;
mod body;
mod call;
mod context;
mod forward;
mod headers;
mod hedge;
mod host;
mod io;
mod listener;
mod metrics;
mod proxy;
mod reason;
mod request;
mod respond;
mod serve;
mod session;
mod status;
mod timer;
mod tunnel;
mod upload;
mod upstream;

pub use proxy::{PreparedSettings, Proxy, ShutdownReport, StartError, Workers};
pub use reason::Reason;
pub use status::{ClusterStatus, EjectedStatus, EndpointStatus};
