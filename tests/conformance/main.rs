//! One list of cases against two registries: the real Consul 1.8.7, and the dev registry.
//!
//! Every case is a list of requests. The answers of Consul are in `recorded/`; values that differ at each run
//! (indexes, UUIDs, ports) are masked. Both registries must give exactly the recorded answers. So the dev registry is
//! compared with Consul also on a machine without Consul, and a wrong recording is found on a machine with Consul.
//! Where the dev registry differs on purpose, the step gives the reason; the differences are printed, and a difference
//! that no longer exists must be removed from the list.
//!
//! After a change of the cases: `OUTRIGGER_RECORD=1 cargo test -p outrigger-tests --test
//! conformance consul_itself`, and read the diff. `OUTRIGGER_CASES=TEXT` runs only the cases with this text in their name.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what went wrong")]

mod case;
mod cases;
mod client;
mod mask;
mod run;
mod shape;
mod target;

use outrigger_tests::consul;
use target::Target;

#[tokio::test]
async fn the_dev_registry_answers_as_consul_was_recorded() {
    run::run_all(Target::dev).await;
}

#[tokio::test]
async fn consul_itself_answers_as_it_was_recorded() {
    if consul::available("conformance against the real Consul") {
        run::run_all(Target::consul).await;
    }
}

#[tokio::test]
async fn our_client_runs_a_whole_lifecycle_on_the_dev_registry() {
    client::run_lifecycle(&Target::dev().await).await;
}

#[tokio::test]
async fn our_client_runs_a_whole_lifecycle_on_consul() {
    if consul::available("our client against the real Consul") {
        client::run_lifecycle(&Target::consul().await).await;
    }
}

#[tokio::test]
async fn an_app_is_kept_announced_at_the_dev_registry() {
    client::keep_announced(&Target::dev().await).await;
}

#[tokio::test]
async fn an_app_is_kept_announced_at_consul() {
    if consul::available("the five verbs of a registrar, on the real Consul") {
        client::keep_announced(&Target::consul().await).await;
    }
}

#[tokio::test]
async fn a_correction_does_not_end_maintenance_on_the_dev_registry() {
    client::correct_in_maintenance(&Target::dev().await).await;
}

#[tokio::test]
async fn a_correction_does_not_end_maintenance_on_consul() {
    if consul::available("a correction in maintenance mode, on the real Consul") {
        client::correct_in_maintenance(&Target::consul().await).await;
    }
}

#[tokio::test]
async fn a_removal_raises_the_index_of_the_dev_registry() {
    client::a_removal_raises_the_index(&Target::dev().await).await;
}

#[tokio::test]
async fn a_removal_raises_the_index_of_consul() {
    if consul::available("a removal raises the index, on the real Consul") {
        client::a_removal_raises_the_index(&Target::consul().await).await;
    }
}
