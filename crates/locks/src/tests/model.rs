//! Three sidecars contend for one lock while their registry fails for each of them at random, on one clock.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::time::{Instant, sleep};

use super::{
    registry::{FakeRegistry, Fault},
    *,
};

/// A hold as its sidecar told it.
#[derive(Debug)]
struct Told {
    token: u64,
    /// When its end was told; absent: it is held.
    ended_at: Option<Instant>,
}

#[derive(Debug, Clone)]
enum Step {
    /// A sidecar acquires the lock and gives it back after a time.
    Work {
        sidecar: usize,
        wait: u64,
        hold: u64,
    },
    Fail {
        sidecar: usize,
        hangs: bool,
    },
    Heal {
        sidecar: usize,
    },
    Latency(u64),
    /// The registry ends every session, as when a node is lost: a sidecar that cannot ask hears nothing of it.
    Invalidate,
    Sleep(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize, 0_u64..60, 0_u64..40).prop_map(|(sidecar, wait, hold)| Step::Work { sidecar, wait, hold }),
        2 => (0..3_usize, any::<bool>()).prop_map(|(sidecar, hangs)| Step::Fail { sidecar, hangs }),
        2 => (0..3_usize).prop_map(|sidecar| Step::Heal { sidecar }),
        1 => (0_u64..4000).prop_map(Step::Latency),
        1 => Just(Step::Invalidate),
        4 => (0_u64..20_000).prop_map(Step::Sleep),
    ]
}

async fn work(manager: LockManager, wait: u64, hold: u64, told: Arc<Mutex<Vec<Told>>>) {
    let Ok(held) = manager.hold(request(s(wait))).await else { return };
    let number = {
        let mut told = told.lock();
        told.push(Told { token: held.token(), ended_at: None });
        told.len() - 1
    };
    let mut state = held.state();
    let lost = state.wait_for(|state| *state != HoldState::Held);
    let _ = tokio::time::timeout(s(hold), lost).await;
    // The app stops before it gives the lock back, or when the loss is told.
    told.lock()[number].ended_at = Some(Instant::now());
    held.release().await;
}

/// Without a lock-delay, which would hide a loss that is told late, no session is invalidated: the delay is what protects then.
async fn run(steps: Vec<Step>, lock_delay: Option<Duration>) {
    let registry = FakeRegistry::new();
    let settings = LockSettings { lock_delay, ..LockSettings::default() };
    let sidecars: Vec<_> = (0..3).map(|_| manager_with(&registry, settings.clone(), None)).collect();
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut working = tokio::task::JoinSet::new();
    for step in steps {
        match step {
            Step::Work { sidecar, wait, hold } => {
                working.spawn(work(sidecars[sidecar].clone(), wait, hold, told.clone()));
            }
            Step::Fail { sidecar, hangs } => {
                registry.fail_client(sidecar, Some(if hangs { Fault::Hangs } else { Fault::Refuses }));
            }
            Step::Heal { sidecar } => registry.fail_client(sidecar, None),
            Step::Invalidate if lock_delay == Some(Duration::ZERO) => {}
            Step::Invalidate => registry.invalidate_all(),
            Step::Latency(millis) => registry.set_latency(Duration::from_millis(millis)),
            Step::Sleep(millis) => sleep(Duration::from_millis(millis)).await,
        }
    }
    (0..3).for_each(|sidecar| registry.fail_client(sidecar, None));
    registry.set_latency(Duration::ZERO);
    let all_done = async { while working.join_next().await.is_some() {} };
    tokio::time::timeout(s(3600), all_done).await.expect("every request ends");
    // Sessions that a failed opening left end by themselves.
    sleep(s(120)).await;
    assert_eq!((registry.holders("locks/jobs").len(), registry.sessions()), (0, 0));

    let (acquired, told) = (registry.acquired(), told.lock());
    for hold in told.iter() {
        let ended_at = hold.ended_at.expect("every hold has ended");
        let next = acquired.iter().filter(|(token, _)| *token > hold.token).min();
        if let Some((token, acquired_at)) = next {
            assert!(
                ended_at <= *acquired_at,
                "token {} was held for {:?} after {token} was acquired",
                hold.token,
                ended_at - *acquired_at
            );
        }
    }
    let mut tokens: Vec<_> = told.iter().map(|hold| hold.token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), told.len(), "no token was given to two holders");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn no_two_hold_a_lock_at_once_whatever_fails(steps in prop::collection::vec(step(), 1..60)) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        for lock_delay in [Some(Duration::ZERO), None] {
            runtime.block_on(run(steps.clone(), lock_delay));
        }
    }
}
