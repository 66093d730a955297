//! Which rules of the registry are honoured.

/// Which rules of the registry are honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Routing {
    /// Consul's service-resolver, service-splitter, service-router and service-defaults decide which instances a request goes to,
    /// where neither the file nor a document does. Default false.
    pub consul: bool,
}
