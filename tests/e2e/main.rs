//! The guarantees of Outrigger, tested from the app's side of the socket: one module per guarantee.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod app;
mod balancing;
mod bodies;
mod breaker;
mod browser;
mod bulkhead;
mod chaos;
mod cluster;
mod deadlines;
mod demo;
mod drain;
mod ejection;
mod empty_list;
mod errors;
mod file_registry;
mod framing;
mod headers;
mod hedging;
mod keepalive;
mod lifecycle;
mod limits;
mod outage;
mod path_form;
mod read_ahead;
mod registration;
mod reload;
mod reload_listeners;
mod reload_process;
mod restart;
mod retries;
mod routing;
mod slow_probes;
mod streams_cut;
mod upgrade;
mod workers;
