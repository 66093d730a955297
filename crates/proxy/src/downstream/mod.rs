//! The app's connections: idle, with a request, lingering, or as a tunnel.

pub(crate) mod connection;
pub(crate) mod http1;
pub(crate) mod linger;
pub(crate) mod table;
