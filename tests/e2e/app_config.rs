//! The app's configuration, by the sidecar.

mod kv;
mod listen;
