//! Carries a request from a listener to an endpoint and the answer back.
//!
//! | file | its story |
//! |---|---|
//! | [`proxy`](Proxy) | the handle: bind, start, look, stop |
//! | `doors`, `listener`, `worker` | addresses, sockets, and the threads they are shared out to |
//! | `serve`, `session` | one app connection: parked, with a codec, lingering, a tunnel |
//! | `forward` | **one request's walk** |
//! | `call`, `hedge` | its attempts: pick, try, try again; a second one beside a slow one |
//! | `deadline`, `pushback` | what the app and the instance say about time |
//! | `route`, `host`, `headers` | which service; what of a head travels on |
//! | `attempt` | one request on one connection |
//! | `upstream/` | clusters, endpoints, pools, and how a snapshot becomes a View |
//! | `upload`, `body` | bodies up (replayable) and down |
//! | `exchange`, `metrics`, `status` | the account, the counts, the page |
//! | `error`, `respond` | the closed list of reasons, and the one place that answers with them |
//!
//! It declines to know any registry, to read files, and to decide: that is `outrigger-policy`.

mod account;
mod attempt;
mod body;
mod call;
mod context;
mod deadline;
mod forward;
mod headers;
mod hedge;
mod host;
mod io;
mod listener;
mod metrics;
mod proxy;
mod pushback;
mod reason;
mod respond;
mod route;
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
