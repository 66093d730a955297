//! One request: what is read from its head, its attempts, its response, and the account that is kept of it.

pub(crate) mod admission;
pub(crate) mod app;
pub(crate) mod applied;
pub(crate) mod attempt;
pub(crate) mod attempts;
pub(crate) mod browser;
pub(crate) mod call;
pub(crate) mod connect;
pub(crate) mod explain;
pub(crate) mod fields;
pub(crate) mod grpc;
pub(crate) mod handle;
pub(crate) mod matching;
pub(crate) mod mirror;
pub(crate) mod path_form;
pub(crate) mod pushback;
pub(crate) mod reject;
pub(crate) mod route;
pub(crate) mod rules;
pub(crate) mod upgrade;
