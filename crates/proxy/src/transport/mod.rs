//! Connections below the requests: buffered streams, and one exchange on a connection to an instance.

pub(crate) mod channel;
pub(crate) mod exchange;
pub(crate) mod exchange_end;
pub(crate) mod foreign;
pub(crate) mod pool;
pub(crate) mod streams;
pub(crate) mod tunnel;
pub(crate) mod upload;
