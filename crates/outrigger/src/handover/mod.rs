//! A new process takes the place of the running one (`run --replace`), and no connection is refused: it gets the listening sockets
//! themselves, so that their queues stay.
//!
//! | module | its job |
//! |---|---|
//! | `endpoint` | the Unix socket at which the running process is found |
//! | `channel` | messages and files over it, with a time limit for each step |
//! | `message` | what is said |
//! | `give` | the running process |
//! | `take` | the new process |
//!
//! ```text
//! new process                          running process
//! Ask (version, instance)        →
//!                                ←     Sockets (…)      listening sockets; last, the endpoint itself
//! binds what else it needs,
//! learns the services
//! Ready                          →
//!                                      ends its calls for the registration
//!                                ←     Released
//! accepts, registers
//! Taken                          →
//!                                      accepts nothing more, ends with its last request
//! ```
//!
//! **When one of them ends.** The running process serves until `Taken`: an end of the new one before that, or a step that
//! takes too long, changes nothing, and the registration is taken back. An end of the running process after `Ask` leaves the sockets
//! with the new one, which goes on alone.

mod channel;
mod endpoint;
mod give;
mod message;
mod take;
#[cfg(test)]
mod tests;

pub(crate) use endpoint::{Endpoint, NoPlace, Place};
pub(crate) use give::until_taken_over;
pub(crate) use take::{Predecessor, ask};
