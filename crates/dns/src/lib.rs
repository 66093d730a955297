//! The names of services by DNS, for programs on this machine.
//!
//! ```text
//! server     the listener: bound, moved, handed over, stopped; a thread of its own
//! udp tcp    messages in and out, with their limits
//! resolver   one message → its answer, at once or after a bounded wait
//!   question   bytes → one question, or why there is none           pure
//!   names      the services that were asked about, each followed
//!   zone       what a name of the domain stands for → records       pure
//!   reply      records → bytes                                      pure
//!   forward    what other servers are asked
//! ```
//!
//! The grammar of the names is that of `outrigger_registry::name`, which hosts of requests have as well. The codec is hickory-proto; its
//! server is not used, because what is answered where the registry is away, what is cut, and what is refused is decided here.
//!
//! What it declines to do: it keeps no answer of another server, it signs and validates nothing (DNSSEC), it transfers no zone, and it answers
//! this machine alone.

mod forward;
mod metrics;
mod names;
mod question;
mod reply;
mod resolver;
mod server;
mod settings;
mod tcp;
mod udp;
mod zone;

pub use server::{BoundDns, DNS_LISTEN, DnsChange, DnsServer};

/// Decoders of what comes from outside, for the fuzz target (feature `testing`).
#[cfg(feature = "testing")]
pub mod decoders {
    use crate::{forward::ForeignAnswer, question::Question};

    /// Reads an input of the fuzz target: a length, so many bytes of a question, and then a message, which is read as one of a
    /// client, and as the answer of another server to that question.
    ///
    /// # Panics
    /// An answer for the client is too long, or has another id.
    pub fn read_input(input: &[u8]) {
        let Some((length, rest)) = input.split_first() else { return };
        let (asked, bytes) = rest.split_at_checked(usize::from(*length)).unwrap_or((rest, rest));
        let _ = Question::read(bytes);
        let Ok(question) = Question::read(asked) else { return };
        let id = bytes.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
        if let Some(answer) = ForeignAnswer::read(bytes, id, &question.query) {
            let limit = question.max_datagram();
            let for_client = answer.for_client(&question, limit);
            assert!(for_client.len() <= limit && for_client.get(..2) == Some(&question.id.to_be_bytes()));
        }
    }
}
