//! The admin side: metrics, health, what is known and why, the drain and the maintenance page.
//!
//! | module | its job |
//! |---|---|
//! | `server` | listeners, connections and their limits, a graceful stop |
//! | `guard` | who may ask: a browser can reach localhost, so local is not trusted |
//! | `routes` | each page |
//! | `services` | `/services`, as JSON and as text |
//! | `status` | `/readyz`, `/maintenance` and `/drain` |
//! | `heard` | what `/readyz` says of the registry |
//!
//! It decides nothing and changes nothing, except that `POST /drain` begins the drain and
//! `POST /maintenance` gives an order.

mod guard;
mod heard;
mod routes;
mod server;
mod services;
mod status;

pub(crate) use guard::{AllowedHosts, CHANGE_HEADER};
pub(crate) use routes::{AdminBackend, AdminState, admin_router, metrics_router};
pub(crate) use server::{AdminServer, BoundListeners};
