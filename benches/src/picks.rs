//! How long choosing an instance takes.
//!
//! `outrigger_policy` alone, called as the proxy calls it: one random number, one read of the flag of
//! the chosen endpoint. The endpoints are substitutes of the real size, each in its own allocation, so
//! that with 10,000 of them the read misses the processor's cache as it does in a proxy.

use std::{
    hint::black_box,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use outrigger_config::Balance;
use outrigger_policy::{Cursor, LoadBalancer};

use crate::{
    Effort, Error,
    clock::{Elapsed, Stopwatch},
    report::{Finding, Section, Table},
    stats::Samples,
};

const SIZES: [usize; 3] = [3, 100, 10_000];
const THREADS: [usize; 2] = [1, 2];
/// Nanoseconds.
const TARGET: f64 = 60.0;

/// About as large as the proxy's endpoint.
#[derive(Debug)]
struct Endpoint {
    retired: AtomicBool,
    _rest: [u64; 48],
}

/// What a pick needs from the View and the cluster.
#[derive(Debug)]
struct PickBench {
    balancer: LoadBalancer,
    cursor: Cursor,
    endpoints: Box<[Arc<Endpoint>]>,
}

impl PickBench {
    fn new(balance: Balance, size: usize) -> Self {
        // Ten different weights, so that the weighted table is longer than the list of endpoints.
        let weights: Vec<u32> = (1..=10).cycle().take(size).collect();
        let endpoint = || Arc::new(Endpoint { retired: AtomicBool::new(false), _rest: [0; 48] });
        Self {
            balancer: LoadBalancer::new(balance, &weights),
            cursor: Cursor::new(fastrand::u64(..)),
            endpoints: (0..size).map(|_| endpoint()).collect(),
        }
    }

    fn pick(&self) -> Option<usize> {
        let random = fastrand::u64(..);
        self.balancer.pick_first(&self.cursor, random, |at| !self.endpoints[at].retired.load(Relaxed))
    }

    fn picks(&self, count: u32) -> Elapsed {
        let start = Stopwatch::start();
        for _ in 0..count {
            black_box(black_box(self).pick());
        }
        start.elapsed()
    }

    /// One round of `threads` threads at once, which share one cursor.
    fn round(&self, threads: usize, count: u32) -> PickRound {
        let barrier = Barrier::new(threads);
        let took: Vec<Elapsed> = thread::scope(|scope| {
            let run = || {
                barrier.wait();
                self.picks(count)
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
            running.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        let cpu: f64 = took.iter().map(|took| took.cpu.as_secs_f64()).sum();
        let wall = took.iter().map(|took| took.wall.as_secs_f64()).fold(0.0, f64::max);
        PickRound { nanos: cpu * 1e9 / f64::from(count) / threads as f64, cores: cpu / wall }
    }
}

/// What a round of picks took.
#[derive(Debug, Clone, Copy)]
struct PickRound {
    /// Processor time per pick, the mean of the threads.
    nanos: f64,
    /// Cores that the threads had at once, on average.
    cores: f64,
}

/// Measures every balancer at every size, with one thread and with two.
///
/// # Errors
/// None; the signature is that of every part.
pub fn run(effort: Effort) -> Result<Section, Error> {
    let (rounds, count) = (effort.choose(11, 3), effort.choose(3_000_000, 50_000));
    let mut table = Table::new(
        "Nanoseconds of processor time per pick, median (least to greatest)",
        ["balancer", "instances", "1 thread", "2 threads on one cursor"],
    );
    let mut worst: f64 = 0.0;
    let mut cores = Vec::new();
    for balance in Balance::ALL {
        for size in SIZES {
            let bench = PickBench::new(balance, size);
            let measured = THREADS.map(|threads| {
                bench.round(threads, count); // warm-up
                let all: Vec<PickRound> = (0..rounds).map(|_| bench.round(threads, count)).collect();
                cores.extend(all.iter().filter(|_| threads > 1).map(|round| round.cores));
                Samples::new(all.iter().map(|round| round.nanos))
            });
            worst = measured.iter().map(Samples::median).fold(worst, f64::max);
            let [one, two] = measured.map(|samples| samples.spread());
            table.row([balance.to_string(), size.to_string(), one, two]);
        }
    }
    let finding = Finding::below("a pick, the slowest of the medians below", worst, "ns", TARGET);
    let cores = Samples::new(cores).spread();
    let remark =
        format!("{rounds} rounds of {count} picks per thread; the two threads had {cores} cores at once.");
    Ok(Section::new("Picks").finding(finding).table(table).remark(remark))
}
