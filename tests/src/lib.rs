//! What the end-to-end and conformance tests stand on: real sockets, real processes, every byte in
//! the test's hand. Nothing here is shared with the code under test.
//!
//! | module | its job |
//! |---|---|
//! | [`instance`] | an HTTP instance that answers by a script, and remembers what it saw |
//! | [`client`], [`load`] | the app: one raw connection, or steady traffic that is counted |
//! | [`wire`], [`pattern`] | HTTP/1 as bytes, read strictly; bodies of any size whose bytes are known |
//! | [`sidecar`] | the data path inside the test's process, on a file of static instances |
//! | [`consul`] | real Consul agents |
//! | [`wait`], [`memory`] | waiting for a condition; how much memory a process holds |
//! | [`skip`] | tests that this machine cannot run |
//!
//! A failed expectation of the harness is a panic with a text that says what was awaited.

pub mod client;
pub mod consul;
pub mod instance;
pub mod load;
pub mod memory;
pub mod pattern;
pub mod sidecar;
pub mod skip;
pub mod wait;
pub mod wire;
