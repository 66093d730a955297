//! Sockets and TLS: listening sockets, connections to a peer, and one stream type for plain and
//! encrypted connections, for the proxy, the admin server and the Consul client; and the timer of a connection.
//!
//! The crate knows no HTTP and no services. It reports what failed; what a failure means for the peer
//! is the caller's decision.
//!
//! **Binding `localhost`** ([`bind_listen`]) is the same for every listener: 127.0.0.1 and ::1, with one
//! port on both. A machine without an IPv6 loopback address gets 127.0.0.1 alone. A configured port that
//! is taken on ::1 is an error. Where the system chooses the port (port 0), another port is tried, up to
//! 20 times.

mod accept;
mod address;
mod bind;
mod dial;
mod fault;
mod files;
mod inherited;
mod interfaces;
mod lookup;
#[cfg(feature = "testing")]
mod memory;
#[cfg(target_os = "linux")]
mod reserved;
mod stream;
mod timer;
pub mod tls;
mod unix;
mod virtual_stream;

pub use accept::{Acceptor, accept_queued};
pub use address::{AddressError, format_host_port, parse_ip};
pub use bind::{BACKLOG, BindError, BoundSocket, bind, bind_datagrams, bind_listen, has_address};
pub use dial::{
    DialError, DialStage, Purpose, connect, connect_to_any, connect_to_instance, first_connected,
};
pub use fault::{Fault, is_caused_by_own_shortage, is_own_shortage};
pub use files::{hold_back_files, is_held_back, leave_held_back};
pub use inherited::{Inherited, InheritedSocket, ListeningSocket};
pub use interfaces::{InterfaceAddress, has_interface, own_addresses};
pub use lookup::{Addresses, Lookups};
#[cfg(target_os = "linux")]
pub use reserved::reserve_addr;
pub use stream::{ByteCounts, Stream};
pub use timer::LazyTimer;
pub use unix::{BoundUnixSocket, SocketFile, bind_unix};
pub use virtual_stream::VirtualStream;
