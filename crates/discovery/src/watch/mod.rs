//! The loop that keeps one service current: ask the registry, judge the answer, ask again.
//!
//! - **Wait.** A blocking query waits between 2/3 and all of the registry's longest wait, so that
//!   watches that started together drift apart. The wait has a limit because some changes end no
//!   blocking query (an instance that is registered again under another name).
//! - **Full re-read** every 5 min ± 20 %, for the same reason: after such a change the answer of a
//!   blocking query is wrong, and only a query without a cursor returns the right one. After a mass
//!   loss the re-read comes after 1 s, 2 s, and then every 4 s for as long as the lost instances are
//!   kept ([`PRESUMED_GONE_TTL`](crate::suspects::PRESUMED_GONE_TTL)). The loss may have been a
//!   mistake, and the right answer may have the index of the wrong one, or a lower one: a query that
//!   waits for a higher index would miss it.
//! - **The cursor is reset** when the index went back (a query with an index from the future misses
//!   every change) and after any error (the index may belong to an earlier registry process).
//! - **On an error** the last good answer stays. The next query follows after a back-off of
//!   250 ms → 30 s with full jitter. The back-off ends after 1 s when requests of the service fail, or
//!   when the registry has answered for another service.
//! - **No leader.** From the second error in a row on, or from the first where the registry has never
//!   answered, each error that another server may not have is followed by one stale read. Each next
//!   query uses the default consistency again, because a stale watch sees changes some 75 ms later.
//! - **One service's failure** is not the registry's: a refusal (403, 500, 429), a time-out of another datacenter or a want of
//!   connections is an outage of the registry only while no other service is answered (`outage.rs`).
//! - **Suspect answers** are followed by consistent reads: `recheck.rs`.
//! - **The cached answer** from before a restart is served while the registry is silent: `cached.rs`.
//! - **Host names** that the registry lists are looked up again when their addresses refuse connections: `lookup.rs`.
//! - **Early answers** are rate limited: `rate_limiter.rs`.

mod admit;
mod cached;
mod changes;
mod contact_check;
mod context;
mod lookup;
mod outage;
mod publish;
mod rate_limiter;
mod recheck;
mod watcher;

pub(crate) use cached::FIRST_ANSWER_WAIT;
pub(crate) use contact_check::check_contact_forever;
pub(crate) use context::WatchContext;
pub(crate) use outage::OutageTracker;
pub(crate) use watcher::Watcher;
