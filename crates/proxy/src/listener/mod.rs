//! The app's side: the addresses that the proxy listens on, and the threads that share the connections.

pub(crate) mod own;
pub(crate) mod set;
pub(crate) mod worker;
