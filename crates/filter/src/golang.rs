//! What Go's standard library does to texts, where it shows in filters and in Consul's answers.

mod number;
mod quote;
mod regexp;

pub use number::{parse_bool, parse_int, parse_uint};
pub use quote::{quote, unquote};
pub use regexp::Regexp;
