//! temp
mod http_client;
mod lifecycle;
pub mod telemetry;
