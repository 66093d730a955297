//! The app's side: the addresses that the proxy listens on, and the threads that share the connections.

pub(crate) mod accept;
pub(crate) mod end_on_panic;
pub(crate) mod set;
pub(crate) mod worker;
