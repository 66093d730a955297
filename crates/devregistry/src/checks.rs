//! The tasks behind the checks: one that lets time pass for the store, one that owns the probes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    shared_store::{SharedStore, now},
    store::Probe,
};

mod probe;

/// Lets the store do what is due, when it is due.
pub(crate) async fn run_clock(store: Arc<SharedStore>) {
    let mut changes = store.subscribe();
    loop {
        let due = store.read(|state| state.next_tick());
        // With nothing due, only a change can bring something.
        let due = due.map(Instant::from_std);
        tokio::select! {
            () = store.stopping.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                store.write(|state, now| state.tick(now));
            }
        }
    }
}

/// Runs a task for every probe that the store wants, and no other.
pub(crate) async fn run_probes(store: Arc<SharedStore>) {
    let mut changes = store.subscribe();
    let mut tasks = JoinSet::new();
    // By check: its generation, and its task.
    let mut running: HashMap<String, (u64, AbortHandle)> = HashMap::new();
    loop {
        let wanted: HashMap<String, (u64, Probe)> = store.read(|state| {
            state
                .probes()
                .map(|(id, generation, probe)| (id.to_owned(), (generation, probe.clone())))
                .collect()
        });
        running.retain(|id, (generation, task)| {
            let stays = wanted.get(id).is_some_and(|(wanted, _)| wanted == generation);
            if !stays {
                task.abort();
            }
            stays
        });
        for (id, (generation, probe)) in wanted {
            running.entry(id.clone()).or_insert_with(|| {
                (generation, tasks.spawn(probe_forever(Arc::clone(&store), id, generation, probe)))
            });
        }
        tokio::select! {
            () = store.stopping.cancelled() => break,
            // Ended ones are the aborted ones.
            Some(_) = tasks.join_next() => {}
            changed = changes.changed() => if changed.is_err() { break },
        }
    }
    tasks.shutdown().await;
}

/// The first probe comes at a random moment of the first interval, so that many do not come at once.
async fn probe_forever(store: Arc<SharedStore>, id: String, generation: u64, probe: Probe) {
    let mut pause: Duration = probe.interval.mul_f64(fastrand::f64());
    loop {
        sleep(pause).await;
        let (status, output) = probe::run_probe(&probe).await;
        let asked = now();
        store.write(|state, _| state.record_probe(&id, generation, status, output, asked));
        pause = probe.interval;
    }
}
