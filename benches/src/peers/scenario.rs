//! What every proxy is measured with.

/// The service's name, which every request carries as its Host.
pub(super) const SERVICE: &str = "orders";
/// Bytes of every response's body.
pub(super) const BODY: usize = 1024;
