//! Stops sending to a service that cannot be used, and finds out when it can be used again.
//!
//! **Purpose.** While every instance of a service fails, each request costs the app a whole time-out,
//! and costs the service a part of what it needs to recover. The breaker refuses such a request at once.
//! It counts *requests*, by the result that the app sees, not attempts: a failure that a retry repaired
//! is none, and the load balancer and outlier detection avoid a single bad instance.
//!
//! **States.** The breaker opens when at least `min_requests` ended in the window and `failure_ratio` of
//! them failed, or after `consecutive_failures`. After `open_for` up to `probes` requests pass at once; as
//! many successes close the breaker and clear the window, one failure opens it for twice as long, at most
//! `max_open_for`. Only a failure can open it.
//!
//! **Epochs.** Each change of state starts an epoch, and a [`Permit`] remembers the epoch of its
//! admission. The result of a request from an earlier epoch says nothing about the service now, and is
//! dropped. A probe's slot becomes free with its result, with [`Verdict::Ignore`](crate::Verdict::Ignore)
//! and with the drop of its permit.
//!
//! **Slow probes.** A probe may be a slow upload or a long poll, and have no result for minutes. So its slot
//! passes on to the next request after one second, then after two, up to 16 s. The breaker closes or opens
//! with the first result of any probe of this half-open period; the results of the others then belong to an
//! earlier epoch. Beside a success, with `probes` above 1, the failure of a probe that has lost its slot is
//! dropped.
//!
//! **Cost.** While closed: one load per admission and one compare-and-swap per end. Epoch and state share
//! one word for that reason; a lock guards everything else. That leaves one race: a thread that passes the
//! epoch check and then stops for a whole open period counts its result in the new window, one count among
//! `min_requests`.
//!
//! **Numbers.** Window, ratio and count are those of Hystrix (10 s, 50 %, 20 requests). The open time
//! grows as in linkerd2's failure accrual (from 1 s, doubling; there to 60 s, here to 30 s, because a
//! probe is one request).
//!
//! The module knows no endpoints, counts no attempts and starts no timers: an open breaker becomes
//! half-open at the first admission after its time, or when a caller reports a reason not to wait.

mod breaker;
mod phase;
mod slots;

pub use breaker::{Breaker, BreakerChange, BreakerOpen, Permit};
pub use phase::BreakerState;
