//! How long requests take by each load balancer while one of ten instances is ten times slower. A simulation: requests come at
//! random, each instance works at four at a time and lets the others wait, and every choice is the balancer's. No clock, no network.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::{Duration, Instant},
};

use outrigger_config::Balance;
use outrigger_policy::{Cursor, LoadBalancer, LoadMeasure, PeakEwma};

use crate::{
    Effort, Error,
    report::{Finding, Section, Table},
};

const INSTANCES: usize = 10;
/// Requests that an instance works at at once.
const SLOTS: usize = 4;
/// Mean time of a request at an instance, microseconds; the first one takes ten times as long.
const SERVICE_TIME: f64 = 10_000.0;
/// Requests in a second. The slow instance can take 40 of them, so that a tenth of the lower rate is less and of the higher rate more.
const RATES: [u32; 2] = [300, 1500];
const REQUESTS: usize = 60_000;

/// One instance. Times are microseconds.
struct SimulatedInstance {
    in_flight: usize,
    waiting: VecDeque<u64>,
    ewma: PeakEwma,
}

/// How long requests took, in milliseconds, and the share of the slow instance.
struct Simulated {
    p50: f64,
    p99: f64,
    slow_share: f64,
}

fn simulate(balance: Balance, rate: u32) -> Simulated {
    #[expect(clippy::disallowed_methods, reason = "an `Instant` has no other source; it is an origin only")]
    let origin = Instant::now();
    let at = |micros: u64| origin + Duration::from_micros(micros);
    let balancer = LoadBalancer::new(balance, &[1; INSTANCES]);
    let (cursor, mut random) = (Cursor::new(0), fastrand::Rng::with_seed(7));
    let mut exponential = |mean: f64| (-mean * (1.0 - random.f64()).ln()) as u64;
    let mut draw = fastrand::Rng::with_seed(8);
    let mut instances: Vec<_> = (0..INSTANCES)
        .map(|_| SimulatedInstance { in_flight: 0, waiting: VecDeque::new(), ewma: PeakEwma::new(origin) })
        .collect();
    // When a request ends, its instance, and when it came.
    let mut ends: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::new();
    let (mut took, mut picks, mut next) = (Vec::with_capacity(REQUESTS), [0_usize; INSTANCES], 0);
    let mean = |index: usize| if index == 0 { SERVICE_TIME * 10.0 } else { SERVICE_TIME };
    let mut sent = 0;
    while sent < REQUESTS || !ends.is_empty() {
        let is_end = match ends.peek() {
            Some(Reverse((end, ..))) => sent == REQUESTS || *end <= next,
            None => false,
        };
        if is_end {
            let Some(Reverse((now, index, came))) = ends.pop() else { break };
            let instance: &mut SimulatedInstance = &mut instances[index];
            instance.in_flight -= 1;
            instance.ewma.record(Duration::from_micros(now - came), at(now));
            took.push(now - came);
            if let Some(came) = instance.waiting.pop_front() {
                ends.push(Reverse((now + exponential(mean(index)), index, came)));
            }
            continue;
        }
        let now = next;
        let load = |index: usize, measure| match measure {
            LoadMeasure::InFlight => instances[index].in_flight as u64,
            LoadMeasure::ResponseTime => instances[index].ewma.load(instances[index].in_flight, at(now)),
        };
        let Some(index) = balancer.pick_first_by(&cursor, draw.u64(..), |_| true, load) else { break };
        let instance = &mut instances[index];
        instance.in_flight += 1;
        picks[index] += 1;
        if instance.in_flight <= SLOTS {
            ends.push(Reverse((now + exponential(mean(index)), index, now)));
        } else {
            instance.waiting.push_back(now);
        }
        sent += 1;
        next += exponential(1_000_000.0 / f64::from(rate)).max(1);
    }
    took.sort_unstable();
    let percentile = |share: f64| {
        let index = (took.len() as f64 * share) as usize;
        took.get(index.min(took.len().saturating_sub(1))).map_or(0.0, |micros| *micros as f64 / 1000.0)
    };
    let slow_share = picks[0] as f64 / REQUESTS as f64;
    Simulated { p50: percentile(0.5), p99: percentile(0.99), slow_share }
}

/// Simulates every balancer at both rates.
///
/// # Errors
/// None; the signature is that of every part.
pub fn run(_: Effort) -> Result<Section, Error> {
    let mut table = Table::new(
        "Time of a request while one of ten instances is ten times slower",
        ["requests/s", "balancer", "p50 ms", "p99 ms", "to the slow one"],
    );
    let mut worst: f64 = 0.0;
    for rate in RATES {
        let base = simulate(Balance::RoundRobin, rate);
        for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastRequest, Balance::PeakEwma] {
            let found = simulate(balance, rate);
            if matches!(balance, Balance::LeastRequest | Balance::PeakEwma) {
                worst = worst.max(found.p99 / base.p99);
            }
            table.row([
                rate.to_string(),
                balance.as_str().to_owned(),
                format!("{:.1}", found.p50),
                format!("{:.1}", found.p99),
                format!("{:.1} %", found.slow_share * 100.0),
            ]);
        }
    }
    let finding =
        Finding::below("p99 by least_request and peak_ewma, as a multiple of round_robin's", worst, "", 0.9);
    let remark = format!("{REQUESTS} requests of one sidecar; the same in each run.");
    Ok(Section::new("One slow instance").finding(finding).table(table).remark(remark))
}
