//! Cells that workers count in: each worker has a block of its own, and a scrape sums the blocks.
//!
//! Only its worker writes to a block. A worker on a thread of its own adds by a load and a store, without a locked
//! instruction: its connections are tasks that only its thread runs and drops. A worker on the caller's runtime may be moved
//! between threads, so that it adds atomically. What other threads count too (open connections, the load of an endpoint) is
//! not in a block. Debug builds check that one thread alone writes.
//!
//! Any thread reads. A cell never goes backwards for its reader, unless it is a gauge; two cells are read one after the other.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
#[cfg(debug_assertions)]
use std::{
    sync::OnceLock,
    thread::{self, ThreadId},
};

use outrigger_policy::{Outcome, retry::GiveUp};
use parking_lot::Mutex;

use crate::{
    metrics::labels::{HedgeResult, PoolEvent, Rejected, SecondAttempt, TcpResult, Tolerated},
    reason::Reason,
};

/// A counter or a gauge.
#[derive(Debug, Default)]
pub(crate) struct Cell(AtomicU64);

impl Cell {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The cells of one worker. No two blocks share a cache line, nor a pair of lines that is fetched at once.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Block<T> {
    cells: T,
    /// One thread alone runs the worker.
    has_own_thread: bool,
    #[cfg(debug_assertions)]
    writer: OnceLock<ThreadId>,
}

impl<T> Deref for Block<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.cells
    }
}

impl<T> Block<T> {
    /// Adds to one of the block's cells.
    fn add(&self, cell: &Cell, count: u64) {
        if !self.has_own_thread {
            cell.0.fetch_add(count, Relaxed);
            return;
        }
        #[cfg(debug_assertions)]
        {
            let this = thread::current().id();
            assert_eq!(*self.writer.get_or_init(|| this), this, "another thread writes to a worker's cells");
        }
        cell.0.store(cell.get().wrapping_add(count), Relaxed);
    }

    /// Adds one to one of the block's cells.
    pub(crate) fn inc(&self, cell: &Cell) {
        self.add(cell, 1);
    }

    /// Takes one from one of the block's gauges.
    pub(crate) fn dec(&self, gauge: &Cell) {
        self.add(gauge, 1_u64.wrapping_neg());
    }
}

/// A block for each worker.
#[derive(Debug)]
pub(crate) struct PerWorker<T>(Box<[Block<T>]>);

impl<T: Default> PerWorker<T> {
    /// Blocks for workers on `threads` threads of their own, or with 0 for one on the caller's runtime.
    pub(crate) fn new(threads: usize) -> Self {
        let block = || Block { has_own_thread: threads > 0, ..Block::default() };
        Self((0..threads.max(1)).map(|_| block()).collect())
    }
}

impl<T> PerWorker<T> {
    /// The block of a worker, for that worker alone.
    pub(crate) fn at(&self, worker: usize) -> &Block<T> {
        &self.0[worker]
    }

    /// The sum of one cell of each block.
    pub(crate) fn sum(&self, cell: impl Fn(&T) -> &Cell) -> u64 {
        self.0.iter().fold(0, |sum, block| sum.wrapping_add(cell(block).get()))
    }
}

/// What a worker counts for no service.
#[derive(Debug)]
pub(crate) struct WorkerCells {
    /// Requests and tunnels under way.
    pub(crate) in_flight: Cell,
    /// App connections with a codec.
    pub(crate) active: Cell,
    /// App connections that wait, without a codec, for a first byte.
    pub(crate) parked: Cell,
    pub(super) refused: [Cell; Reason::ALL.len()],
}

#[cfg(any(test, feature = "testing"))]
impl WorkerCells {
    pub(crate) fn refusals(&self, reason: Reason) -> &Cell {
        &self.refused[reason as usize]
    }
}

impl Default for WorkerCells {
    fn default() -> Self {
        let refused = [const { Cell::new() }; _];
        Self { in_flight: Cell::new(), active: Cell::new(), parked: Cell::new(), refused }
    }
}

impl Block<WorkerCells> {
    /// Counts a request or connection that was refused before its service was found.
    pub(crate) fn record_refusal(&self, reason: Reason) {
        self.inc(&self.refused[reason as usize]);
    }

    /// Counts in `gauge` for as long as the guard lives.
    pub(crate) fn gauge_guard<'a>(&'a self, gauge: &'a Cell) -> GaugeGuard<'a> {
        self.inc(gauge);
        GaugeGuard { cells: self, gauge }
    }
}

/// Counts in a gauge for as long as it lives.
pub(crate) struct GaugeGuard<'a> {
    cells: &'a Block<WorkerCells>,
    gauge: &'a Cell,
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.cells.dec(self.gauge);
    }
}

/// The upper bounds of the duration's buckets, in nanoseconds: from the response of a loopback instance to the default
/// timeout.
pub(super) const BOUNDS: [u64; 14] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    15_000_000_000,
];

/// The same of the connections of TCP listeners: from a health probe to a pool that keeps its connections for a day.
pub(super) const TCP_BOUNDS: [u64; 8] = [
    10_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
    60_000_000_000,
    600_000_000_000,
    3_600_000_000_000,
    86_400_000_000_000,
];

/// How many statuses have a cell.
const COMMON_CODES: usize = 66;

/// The cell of a status that servers use; the others have a map.
fn common_code(status: u16) -> Option<usize> {
    let at = match status {
        200..=207 => status - 200,
        100..=103 => 8 + status - 100,
        300..=308 => 12 + status - 300,
        400..=431 => 21 + status - 400,
        499 => 53,
        500..=511 => 54 + status - 500,
        _ => return None,
    };
    Some(at.into())
}

/// What a worker counts for a service.
#[derive(Debug)]
pub(crate) struct ServiceCells {
    /// Requests and tunnels under way.
    pub(crate) in_flight: Cell,
    /// In nanoseconds. The sum of all workers passes the greatest value after 584 years of requests and tunnels, and begins
    /// at 0 again, as at a restart.
    pub(super) duration_sum: Cell,
    /// Requests within each of [`BOUNDS`] and not in an earlier one; the last: longer than all.
    pub(super) duration_buckets: [Cell; BOUNDS.len() + 1],
    common_codes: [Cell; COMMON_CODES],
    other_codes: Mutex<BTreeMap<u16, u64>>,
    pub(super) attempts: [Cell; Outcome::LABELS.len()],
    pub(super) pool: [Cell; PoolEvent::LABELS.len()],
    pub(super) errors: [Cell; Reason::ALL.len()],
    /// Failed attempts that were not repeated.
    pub(super) gave_up: [Cell; GiveUp::ALL.len()],
    pub(super) hedges: [Cell; HedgeResult::LABELS.len()],
    pub(super) stalled: [Cell; HedgeResult::LABELS.len()],
    pub(super) shed: [Cell; Rejected::LABELS.len()],
    pub(super) tolerated: [Cell; Tolerated::LABELS.len()],
    /// Retries.
    pub(crate) retried: Cell,
    /// Requests that were sent again after a keep-alive race.
    pub(crate) raced: Cell,
    /// Connections of TCP listeners that have an instance.
    pub(crate) tcp_open: Cell,
    pub(super) tcp_ended: [Cell; TcpResult::LABELS.len()],
    /// Bytes that instances and the app have taken.
    pub(super) tcp_bytes: [Cell; 2],
    /// The same of tunnels.
    pub(super) tunnel_bytes: [Cell; 2],
    /// In nanoseconds.
    pub(super) tcp_duration_sum: Cell,
    /// Connections within each of [`TCP_BOUNDS`] and not in an earlier one; the last: longer than all.
    pub(super) tcp_duration_buckets: [Cell; TCP_BOUNDS.len() + 1],
}

impl Default for ServiceCells {
    fn default() -> Self {
        Self {
            in_flight: Cell::new(),
            duration_sum: Cell::new(),
            duration_buckets: [const { Cell::new() }; _],
            common_codes: [const { Cell::new() }; _],
            other_codes: Mutex::default(),
            attempts: [const { Cell::new() }; _],
            pool: Default::default(),
            errors: [const { Cell::new() }; _],
            gave_up: Default::default(),
            hedges: Default::default(),
            stalled: Default::default(),
            shed: Default::default(),
            tolerated: Default::default(),
            retried: Cell::new(),
            raced: Cell::new(),
            tcp_open: Cell::new(),
            tcp_ended: Default::default(),
            tcp_bytes: Default::default(),
            tunnel_bytes: Default::default(),
            tcp_duration_sum: Cell::new(),
            tcp_duration_buckets: Default::default(),
        }
    }
}

impl Block<ServiceCells> {
    /// Counts a response to the app.
    pub(crate) fn record_answer(&self, status: u16) {
        match common_code(status) {
            Some(at) => self.inc(&self.common_codes[at]),
            None => {
                let key = if (100..OTHER_CODES).contains(&status) { status } else { OTHER_CODES };
                *self.other_codes.lock().entry(key).or_default() += 1;
            }
        }
    }

    /// Counts how long a request took.
    pub(crate) fn record_duration(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|most| nanos <= *most).unwrap_or(BOUNDS.len());
        self.inc(&self.duration_buckets[bucket]);
        self.add(&self.duration_sum, nanos);
    }

    /// Counts bytes of TCP listeners that an instance and the app have taken.
    pub(crate) fn record_tcp_bytes(&self, to_instance: u64, to_app: u64) {
        self.add(&self.tcp_bytes[0], to_instance);
        self.add(&self.tcp_bytes[1], to_app);
    }

    /// Counts bytes of a tunnel. `noted`: what the instance and the app had taken when this was called before; 0 and what preceded the
    /// tunnel at first.
    pub(crate) fn note_tunnel_bytes(&self, noted: &mut (u64, u64), to_instance: u64, to_app: u64) {
        let now = (to_instance.max(noted.0), to_app.max(noted.1));
        if now != *noted {
            self.add(&self.tunnel_bytes[0], now.0 - noted.0);
            self.add(&self.tunnel_bytes[1], now.1 - noted.1);
            *noted = now;
        }
    }

    /// Counts a connection of a TCP listener that has ended.
    pub(crate) fn record_tcp_end(&self, result: TcpResult, took: Duration) {
        self.inc(&self.tcp_ended[result as usize]);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = TCP_BOUNDS.iter().position(|most| nanos <= *most).unwrap_or(TCP_BOUNDS.len());
        self.inc(&self.tcp_duration_buckets[bucket]);
        self.add(&self.tcp_duration_sum, nanos);
    }

    /// Counts a request that ended with a reason of the sidecar.
    pub(crate) fn record_error(&self, reason: Reason) {
        self.inc(&self.errors[reason as usize]);
    }

    /// Counts an attempt.
    pub(crate) fn record_attempt(&self, outcome: Outcome) {
        self.inc(&self.attempts[outcome.label_index()]);
    }

    /// Counts what became of a connection to an instance.
    pub(crate) fn record_pool_event(&self, event: PoolEvent) {
        self.inc(&self.pool[event as usize]);
    }

    /// Counts a failed attempt that was not repeated.
    pub(crate) fn record_give_up(&self, why: GiveUp) {
        self.inc(&self.gave_up[why as usize]);
    }

    /// Counts a second attempt, or that the budget allowed none.
    pub(crate) fn record_second(&self, why: SecondAttempt, result: HedgeResult) {
        let counts = match why {
            SecondAttempt::Hedge => &self.hedges,
            SecondAttempt::Stalled => &self.stalled,
        };
        self.inc(&counts[result as usize]);
    }

    /// Counts a message that was carried although the RFCs do not allow it.
    pub(crate) fn record_tolerated(&self, what: Tolerated) {
        self.inc(&self.tolerated[what as usize]);
    }

    /// Counts a request that the bulkhead rejected.
    pub(crate) fn record_rejection(&self, why: Rejected) {
        self.inc(&self.shed[why as usize]);
    }
}

/// The key of the statuses that HTTP does not define: below 100 and above 599.
const OTHER_CODES: u16 = 600;

impl PerWorker<ServiceCells> {
    /// The statuses that were counted, as labels, and how often.
    pub(super) fn codes(&self) -> Vec<(String, u64)> {
        let mut codes: BTreeMap<u16, u64> = BTreeMap::new();
        for status in 100..OTHER_CODES {
            if let Some(at) = common_code(status) {
                codes.insert(status, self.sum(|cells| &cells.common_codes[at]));
            }
        }
        for block in &self.0 {
            for (status, count) in &*block.other_codes.lock() {
                *codes.entry(*status).or_default() += count;
            }
        }
        let label = |status: u16| if status == OTHER_CODES { "other".to_owned() } else { status.to_string() };
        codes
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(status, count)| (label(status), count))
            .collect()
    }
}
