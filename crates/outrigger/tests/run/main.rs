//! `outrigger run -- app` as a user starts it: the real binary, a real app, real signals.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod activation;
mod admin;
mod app;
mod ends;
mod files;
mod group;
mod harness;
mod network;
mod order;
mod replace;
mod route_only;
mod services;
mod signals;
mod token;
