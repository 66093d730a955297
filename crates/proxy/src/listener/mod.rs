//! The app's side: which addresses are listened on, and the threads that share the connections.

pub(crate) mod accept;
pub(crate) mod kind;
pub(crate) mod set;
pub(crate) mod worker;
