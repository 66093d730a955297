//! A request over a connection that is kept alive allocates nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use outrigger_guard::path::{PathCost, Scenario, run};

/// The allocator of the released binary, which counts what each thread allocates.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn carry(scenario: &Scenario) -> PathCost {
    let cost = run(scenario, 320, 3_200).unwrap();
    assert_eq!(cost.requests, 3_200);
    cost
}

#[test]
fn the_usual_request_allocates_nothing() {
    for connections in [1, 16] {
        let cost = carry(&Scenario::new(connections));
        assert_eq!(cost.allocated, 0, "bytes for {} requests over {connections} connections", cost.requests);
    }
}

#[test]
fn what_a_request_allocates_is_counted() {
    // The text of the Via line is put together for each request.
    let mut scenario = Scenario::new(16);
    scenario.config.outbound.via = true;
    let cost = carry(&scenario);
    assert!(cost.allocated >= cost.requests, "{cost:?}");
}
