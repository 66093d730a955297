//! The tasks behind the checks: one runs what is due in the store, one owns the probes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use outrigger_task::essential;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    shared_store::{SharedStore, now},
    store::Probe,
};

mod probe;

/// Runs what is due in the store, when it is due.
pub(crate) async fn run_clock(store: Arc<SharedStore>) {
    let mut changes = store.subscribe();
    loop {
        let due = store.read(|state| state.next_tick());
        // With nothing due, only a change makes something due.
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

/// Runs one task for every probe of the store.
pub(crate) async fn run_probes(store: Arc<SharedStore>) {
    let mut changes = store.subscribe();
    let mut tasks = JoinSet::new();
    // By check: the generation and the task of its probe.
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
                (
                    generation,
                    tasks.spawn(essential(
                        format!("the check {id}"),
                        probe_forever(Arc::clone(&store), id, generation, probe),
                    )),
                )
            });
        }
        tokio::select! {
            () = store.stopping.cancelled() => break,
            // Only aborted tasks end.
            Some(_) = tasks.join_next() => {}
            changed = changes.changed() => if changed.is_err() { break },
        }
    }
    tasks.shutdown().await;
}

/// The first probe runs at a random moment of the first interval, so that many probes do not run at once.
async fn probe_forever(store: Arc<SharedStore>, id: String, generation: u64, probe: Probe) {
    let mut pause: Duration = probe.interval.mul_f64(fastrand::f64());
    loop {
        sleep(pause).await;
        let (status, output) = probe::run_probe(&probe).await;
        let ended = now();
        store.write(|state, _| state.record_probe(&id, generation, status, output, ended));
        pause = probe.interval;
    }
}
