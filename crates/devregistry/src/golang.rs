//! What Go's standard library does to texts, where it shows in Consul's answers.

mod number;
mod quote;
pub(crate) mod regexp;

pub(crate) use number::{parse_bool, parse_int, parse_uint};
pub(crate) use quote::{quote, unquote};
