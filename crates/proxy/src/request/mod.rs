//! What the sidecar reads from a request and from its response, and the account that it keeps of the request.

pub(crate) mod account;
pub(crate) mod deadline;
pub(crate) mod pushback;
pub(crate) mod route;
