//! The admin side: pages for metrics, health, services, events, settings, maintenance, reload and drain.
//!
//! | module | its job |
//! |---|---|
//! | `server` | listeners, connections and their limits, a graceful stop |
//! | `activity` | what a connection does: which one is closed for another, and when |
//! | `guard` | which requests are refused: a browser can reach localhost, so a local request is not trusted |
//! | `host_field` | reads the field `Host` |
//! | `routes` | which path shows which page |
//! | `pages` | what each page shows |
//! | `scrape` | the text of `/metrics` |
//!
//! Three pages change something: `POST /drain` begins the drain, `POST /maintenance` orders
//! maintenance, `POST /reload` orders a reload.

mod activity;
mod guard;
mod host_field;
mod pages;
mod routes;
mod scrape;
mod server;

pub(crate) use activity::ConnectionControl;
pub(crate) use guard::{AllowedHosts, CHANGE_HEADER, OwnNames};
pub(crate) use host_field::single_host;
pub(crate) use routes::{AdminBackend, AdminState, admin_router, metrics_router};
pub(crate) use server::{AdminServer, AdminThread, BoundListeners, ServerLimits};
