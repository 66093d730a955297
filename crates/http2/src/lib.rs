//! Streams of HTTP/2 as connections of HTTP/1.1.
//!
//! The data path carries messages of HTTP/1.1: one walk, one set of limits, one retry. An HTTP/2 stream joins it as a
//! [`VirtualStream`](outrigger_net::VirtualStream) that carries one request and one response: [`AppStream`] on the side of the
//! app, [`InstanceStream`] on the side of the instance. What is read from it are the bytes of an HTTP/1.1 message; what is
//! written to it becomes HEADERS, DATA and trailers. So HTTP/1.1 and HTTP/2 meet in every combination without a second walk. HAProxy
//! began in the same way in its version 1.8.
//!
//! | module | what |
//! |---|---|
//! | [`fields`] | heads and trailers of one version as those of the other: the rules of the translation |
//! | `reader` | a received message → bytes of HTTP/1.1 |
//! | `writer` | the bytes of a body of HTTP/1.1 → DATA and trailers, within flow control |
//! | [`app`] | a request of the app |
//! | [`instance`] | a request to an instance |
//! | [`server`] | a connection of the app |
//! | [`client`] | a connection to an instance, shared by requests; `shared`: what its streams share |
//! | [`websocket`] | the handshake that an Extended CONNECT does not have |
//!
//! Frames, HPACK, streams and flow control are those of the crate `h2`. What it enforces against abuse is in [`server`].
//!
//! **What HTTP/2 cannot carry** of an HTTP/1.1 message: the case of field names, the order of fields with different names (lines
//! of one name stay in order), the reason phrase, control characters in values, a target that is no valid URI, `Content-Length`
//! beside trailers. A request that cannot be expressed is refused with the byte named, before anything is sent.

pub mod app;
pub mod client;
mod fault;
pub mod fields;
pub mod instance;
mod reader;
pub mod server;
mod shared;
pub mod websocket;
mod writer;

pub use app::AppStream;
pub use fault::StreamFault;
pub use instance::InstanceStream;
