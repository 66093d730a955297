//! The HTTP/1 codec of the data path: bytes in, bytes out. No I/O, no clock, no runtime.
//!
//! Its purpose is exactness: a head is kept as the bytes that were received, with spans into them, so that the case, the
//! order and the values of fields reach the other side unchanged. The `http` types are not used, because they cannot
//! express opaque targets and lose the case of names.
//!
//! | module | what |
//! |---|---|
//! | [`inbox`] | bytes that were read and not yet consumed |
//! | [`outbox`] | bytes that are to be written |
//! | [`head`] | a head: start line, fields, spans |
//! | [`name`] | the field names that matter to a proxy |
//! | [`parser`] | inbox → head, incrementally; `line`: the grammar of one line; `scan`: search for bytes |
//! | [`framing`] | head → how the body ends |
//! | [`body`] | inbox → pieces of a body |
//! | [`writer`] | head with changes → outbox; chunks |
//! | [`refusal`] | why a message is refused |
//!
//! Rules come from RFC 9110 and RFC 9112; where nginx or HAProxy are more tolerant and services depend on it, the tolerant
//! rule is named at its place.

pub mod body;
pub mod framing;
pub mod head;
pub mod inbox;
mod line;
pub mod name;
pub mod outbox;
pub mod parser;
pub mod refusal;
mod scan;
pub mod writer;

pub use body::{BodyDecoder, Piece};
pub use framing::{Framing, ResponseFraming, request_framing, response_framing};
pub use head::{Field, Head, Span, StartLine};
pub use inbox::Inbox;
pub use line::HeadLimits;
pub use name::{Name, NameSet};
pub use outbox::Outbox;
pub use parser::{HeadKind, HeadParser};
pub use refusal::{Refusal, RefusalKind};
pub use writer::Edits;
