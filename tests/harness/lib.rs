//! The base of the end-to-end and conformance tests: real sockets, real processes, every byte in
//! the test's hand. Nothing here is shared with the code under test.
//!
//! | module | its job |
//! |---|---|
//! | [`http2`] | HTTP/2 on both sides: a client, an instance, frames written by hand |
//! | [`instance`] | an HTTP instance that answers by a script, and remembers what it saw |
//! | [`client`], [`load`] | the app: one raw connection, or steady traffic that is counted |
//! | [`wire`], [`pattern`] | HTTP/1 as bytes, read strictly; bodies of any size with known bytes |
//! | [`tcp`] | instances and clients of a protocol that is no HTTP |
//! | [`sidecar`] | the data path inside the test's process, on a file of static instances |
//! | [`process`] | the real binary, with its signals and exit codes |
//! | [`consul`], [`registry`] | real Consul agents; any agent, spoken to by HTTP |
//! | [`registry_proxy`] | stands between a sidecar and its registry, and takes the registry away |
//! | [`wait`] | waiting for a condition |
//! | [`memory`], [`usage`] | how much memory a process holds; its open files, its CPU time |
//! | [`scrape`] | a page of metrics, taken apart |
//! | [`tls`] | certificates, and TLS in front of an instance |
//! | [`skip`], [`tool`] | tests that this machine cannot run; programs that are not ours |
//!
//! A failed expectation of the harness is a panic with a text that says what was awaited.

pub mod client;
pub mod consul;
pub mod dns;
pub mod http2;
pub mod instance;
pub mod load;
pub mod memory;
pub mod pattern;
pub mod process;
pub mod registry;
pub mod registry_proxy;
pub mod scrape;
pub mod sidecar;
pub mod skip;
pub mod tcp;
pub mod tls;
pub mod tool;
pub mod usage;
pub mod wait;
pub mod wire;
