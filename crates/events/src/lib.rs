//! Events: the last decisions of the sidecar, each with its reason, in a ring of [`CAPACITY`].
//!
//! [`Events`] is the handle that every part of the sidecar gets. [`Events::record`] takes one decision: it does no I/O, and holds a
//! lock for the time of a push. [`Events::page`] reads what is in the ring, and an [`EventReader`] follows it.
//!
//! - **Coalesced.** The same event (kind, service, instance, reason) within [`COALESCE_WITHIN`] of the first one is no new entry: the
//!   count of the first one grows.
//! - **Bounded.** The ring has a fixed number of entries, each text a longest length ([`Event`]), and there are at most
//!   [`MAX_READERS`] readers.
//! - **Ids** ([`EventId`]) only grow within a process, and begin with an epoch that no other process has. So a reader can go on where it
//!   stopped, learns how many events it has missed, and is not confused by a restart.
//!
//! This crate knows no other crate of the workspace, and no HTTP. It decides nothing: the caller records what was decided, in the
//! place where it is logged.

mod event;
mod id;
mod kind;
mod reader;
mod ring;
mod time;

pub use event::{Event, EventFilter, RecordedEvent};
pub use id::{EventId, NotAnEventId};
pub use kind::{EventKind, UnknownKind};
pub use reader::{Delivery, EventReader, MAX_READERS, ReadFrom, TooManyReaders};
pub use ring::{CAPACITY, COALESCE_WITHIN, EventPage, Events};

#[cfg(test)]
mod tests;
