//! The instances of a service in memory, each with its coordinator, on a paused clock. An app takes a second to end and to start, and is
//! healthy a second later, unless it has read a content that makes it ill.

use std::sync::Weak;

use outrigger_events::EventFilter;
use parking_lot::Mutex;
use tokio::{task::AbortHandle, time::timeout};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// What all instances share.
#[derive(Default)]
struct World {
    state: Mutex<WorldState>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct WorldState {
    /// The instances that hold a slot.
    holders: Vec<usize>,
    is_registry_away: bool,
    /// The versions of the files that make an app ill, or end it.
    ill: Vec<u64>,
    ending: Vec<u64>,
    /// The instances that callers do not use.
    out: Vec<usize>,
    most_out: usize,
    lost: Vec<usize>,
}

impl World {
    fn change<T>(&self, change: impl FnOnce(&mut WorldState) -> T) -> T {
        let result = {
            let mut state = self.state.lock();
            let result = change(&mut state);
            state.most_out = state.most_out.max(state.out.len());
            result
        };
        self.changed.send_modify(|changes| *changes += 1);
        result
    }

    async fn until(&self, is: impl Fn(&WorldState) -> bool) {
        let mut changed = self.changed.subscribe();
        while !is(&self.state.lock()) {
            let _ = changed.changed().await;
        }
    }
}

struct Slot {
    id: usize,
    world: Arc<World>,
}

impl RestartSlot for Slot {
    fn is_certain(&self) -> bool {
        !self.world.state.lock().lost.contains(&self.id)
    }

    async fn lost(&mut self) -> String {
        let id = self.id;
        self.world.until(|state| state.lost.contains(&id)).await;
        "a test".to_owned()
    }

    async fn give_back(self) {}
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.world.change(|state| {
            state.holders.retain(|id| *id != self.id);
            state.lost.retain(|id| *id != self.id);
        });
    }
}

#[derive(Clone)]
struct TestTarget {
    id: usize,
    world: Arc<World>,
    app: Arc<AppControl>,
    leaves: CancellationToken,
}

impl RestartTarget for TestTarget {
    type Slot = Slot;

    async fn acquire(&self, at_once: u32, wait: Duration) -> Result<Slot, SlotError> {
        let taken = async {
            loop {
                self.world
                    .until(|state| !state.is_registry_away && state.holders.len() < at_once as usize)
                    .await;
                let is_mine = self.world.change(|state| {
                    let is_free = state.holders.len() < at_once as usize;
                    if is_free {
                        state.holders.push(self.id);
                    }
                    is_free
                });
                if is_mine {
                    return Slot { id: self.id, world: self.world.clone() };
                }
            }
        };
        let why = || match self.world.state.lock().is_registry_away {
            true => SlotError::NotNow("the registry does not answer".into()),
            false => SlotError::NotNow("others restart".into()),
        };
        timeout(wait, taken).await.map_err(|_| why())
    }

    fn skip_token(&self) -> CancellationToken {
        CancellationToken::new()
    }

    async fn take_out(&self, skip_waits: CancellationToken) {
        self.world.change(|state| {
            if !state.out.contains(&self.id) {
                state.out.push(self.id);
            }
        });
        tokio::select! {
            () = sleep(2 * SECOND) => {}
            () = skip_waits.cancelled() => {}
        }
    }

    fn put_back(&self) {}

    async fn serving(&self, _: Instant) {
        let read = self.app.now().has_read;
        self.world.until(|state| !state.ill.contains(&read)).await;
        sleep(SECOND).await;
        self.world.change(|state| state.out.retain(|id| *id != self.id));
    }

    fn service(&self) -> Option<String> {
        Some("orders".into())
    }

    async fn leaving(&self) {
        self.leaves.cancelled().await;
    }
}

/// An instance of the service: its app, its coordinator.
struct Instance {
    id: usize,
    world: Weak<World>,
    app: Arc<AppControl>,
    requests: RestartRequests,
    status: watch::Receiver<RestartStatus>,
    events: Events,
    leaves: CancellationToken,
    terms: RestartTerms,
    /// How often the app was asked to end.
    replaced: Arc<Mutex<u64>>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Instance {
    fn start(world: &Arc<World>, id: usize, terms: RestartTerms) -> Self {
        let app = Arc::<AppControl>::default();
        let requests = RestartRequests::default();
        let (status, shown) = watch::channel(RestartStatus::default());
        let (events, leaves) = (Events::default(), CancellationToken::new());
        let target = TestTarget { id, world: world.clone(), app: app.clone(), leaves: leaves.clone() };
        let coordinator = RestartCoordinator {
            target,
            requests: requests.clone(),
            app: app.clone(),
            status,
            events: events.clone(),
            count: Box::new(|_| {}),
        };
        let replaced = Arc::<Mutex<u64>>::default();
        app.note_start(1, app.files_version());
        let supervisor = supervise(app.clone(), world.clone(), replaced.clone());
        let tasks =
            vec![tokio::spawn(coordinator.run()).abort_handle(), tokio::spawn(supervisor).abort_handle()];
        let world = Arc::downgrade(world);
        Self { id, world, app, requests, status: shown, events, leaves, terms, replaced, tasks }
    }

    /// A file has another content. Returns its version.
    fn change(&self) -> u64 {
        let version = self.app.note_file_change();
        self.requests.add("/run/app.yaml".into(), self.terms, version);
        version
    }

    fn replaced(&self) -> u64 {
        *self.replaced.lock()
    }

    fn state(&self) -> RestartState {
        self.status.borrow().state
    }

    fn holds_slot(&self) -> bool {
        self.world.upgrade().unwrap().state.lock().holders.contains(&self.id)
    }

    async fn until(&self, state: RestartState) {
        let reached = self.status.clone().wait_for(|now| now.state == state).await.is_ok();
        assert!(reached);
    }

    fn events(&self) -> Vec<String> {
        let all = self.events.page(&EventFilter::default(), None, usize::MAX).events;
        all.iter().map(|one| format!("{}: {}", one.kind(), one.reason())).collect()
    }
}

/// Runs an app as the supervisor of processes does.
async fn supervise(app: Arc<AppControl>, world: Arc<World>, replaced: Arc<Mutex<u64>>) {
    let mut requests = app.requests().unwrap();
    let mut pid = 1;
    loop {
        let read = app.now().has_read;
        let ends = async {
            let is_ending = world.state.lock().ending.contains(&read);
            match is_ending {
                true => sleep(SECOND / 2).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            request = requests.recv() => {
                let Some(AppRequest::Replace { starts }) = request else { panic!("{request:?}") };
                if starts != app.now().starts {
                    continue;
                }
                *replaced.lock() += 1;
                if app.now().pid.is_some() {
                    sleep(SECOND).await;
                    app.note_end();
                }
            }
            () = ends => {
                app.note_end();
                assert!(app.is_replaceable(), "the sidecar would end with its app");
                sleep(3 * SECOND).await;
            }
        }
        pid += 1;
        app.note_start(pid, app.files_version());
    }
}

fn terms(at_once: u32, min_interval: Duration) -> RestartTerms {
    RestartTerms { at_once, min_interval }
}

fn fleet(world: &Arc<World>, size: usize, at_once: u32) -> Vec<Instance> {
    (0..size).map(|id| Instance::start(world, id, terms(at_once, 10 * SECOND))).collect()
}

fn change_all(fleet: &[Instance]) {
    for one in fleet {
        one.change();
    }
}

async fn in_time(what: &str, reached: impl Future<Output = ()>) {
    assert!(timeout(30 * MINUTE, reached).await.is_ok(), "{what}");
}

#[tokio::test(start_paused = true)]
async fn a_change_restarts_every_instance_once_and_never_more_than_at_once() {
    for at_once in [1, 2] {
        let world = Arc::<World>::default();
        let fleet = fleet(&world, 5, at_once);
        change_all(&fleet);
        let all = async {
            while !fleet.iter().all(|one| one.replaced() == 1 && one.state() == RestartState::Idle) {
                sleep(SECOND / 10).await;
            }
        };
        in_time("all restart", all).await;
        sleep(10 * MINUTE).await;
        assert_eq!(fleet.iter().map(Instance::replaced).collect::<Vec<_>>(), [1; 5]);
        let state = world.state.lock();
        assert_eq!((state.most_out, state.out.len(), state.holders.len()), (at_once as usize, 0, 0));
        assert!(fleet.iter().all(|one| !one.app.is_replaceable()));
        let events = fleet[0].events();
        let own: Vec<_> = events.iter().filter(|line| !line.starts_with("restart_waits")).collect();
        assert_eq!(
            own,
            ["restart_began: for /run/app.yaml", "restart_ended: the app is healthy and registered"]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_content_that_makes_the_app_ill_stops_after_at_once_instances_and_the_next_one_heals_them() {
    for (at_once, ends) in [(1, false), (2, false), (1, true), (2, true)] {
        let world = Arc::<World>::default();
        let fleet = fleet(&world, 5, at_once);
        world.change(|state| if ends { &mut state.ending } else { &mut state.ill }.push(1));
        if ends {
            world.change(|state| state.ill.push(1));
        }
        change_all(&fleet);
        sleep(60 * MINUTE).await;
        let restarted: Vec<_> = fleet.iter().filter(|one| one.replaced() > 0).collect();
        assert_eq!(restarted.len(), at_once as usize, "ends {ends}");
        for one in restarted {
            assert_eq!((one.state(), one.holds_slot()), (RestartState::Held, true));
            assert!(one.events().iter().any(|line| line.starts_with("restart_held")), "{:?}", one.events());
        }
        assert_eq!(world.state.lock().most_out, at_once as usize);

        // The next content is good: the ill instances restart at once, then the others.
        let from = Instant::now();
        change_all(&fleet);
        let healed = async {
            while !fleet.iter().all(|one| one.app.now().has_read == 2 && one.state() == RestartState::Idle) {
                sleep(SECOND / 10).await;
            }
        };
        in_time("all are healed", healed).await;
        assert!(from.elapsed() < 2 * MINUTE, "{:?}", from.elapsed());
        assert_eq!(world.state.lock().most_out, at_once as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn changes_during_the_wait_lead_to_one_restart_with_the_last_content() {
    let world = Arc::<World>::default();
    let one = Instance::start(&world, 1, terms(1, 10 * SECOND));
    world.change(|state| state.holders.push(99));
    let mut last = 0;
    for _ in 0..20 {
        last = one.change();
        sleep(3 * SECOND).await;
    }
    assert_eq!((one.state(), one.replaced()), (RestartState::Waiting, 0));
    assert_eq!(one.status.borrow().why, "others restart");
    world.change(|state| state.holders.clear());
    in_time("it restarts", one.until(RestartState::Starting)).await;
    in_time("it is healthy", one.until(RestartState::Idle)).await;
    sleep(10 * MINUTE).await;
    assert_eq!((one.replaced(), one.app.now().has_read), (1, last));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_the_starting_app_may_not_have_read_restarts_it_again_after_min_interval() {
    let world = Arc::<World>::default();
    let one = Instance::start(&world, 1, terms(1, MINUTE));
    one.change();
    in_time("it was started", one.until(RestartState::Starting)).await;
    let started = Instant::now();
    one.change();
    in_time("it pauses", one.until(RestartState::Pausing)).await;
    assert!(!one.holds_slot(), "others may restart meanwhile");
    in_time("it restarts again", one.until(RestartState::Leaving)).await;
    let after = started.elapsed();
    assert!(after >= MINUTE && after < MINUTE + SECOND, "{after:?}");
    in_time("it is healthy", one.until(RestartState::Idle)).await;
    assert_eq!(one.replaced(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_the_registry_nothing_restarts_and_the_reason_is_told_once() {
    let world = Arc::<World>::default();
    let one = Instance::start(&world, 1, terms(1, SECOND));
    world.change(|state| state.is_registry_away = true);
    one.change();
    sleep(3 * SECOND).await;
    let told = ["restart_waits: /run/app.yaml: the registry does not answer"];
    assert_eq!(one.events(), told, "it is told soon");
    sleep(10 * MINUTE).await;
    assert_eq!((one.state(), one.replaced()), (RestartState::Waiting, 0));
    assert_eq!(one.events(), told);
    world.change(|state| state.is_registry_away = false);
    in_time("it restarts", one.until(RestartState::Starting)).await;
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_started_for_another_reason_meanwhile_is_not_restarted() {
    let world = Arc::<World>::default();
    let one = Instance::start(&world, 1, terms(1, SECOND));
    world.change(|state| state.holders.push(99));
    one.change();
    in_time("it waits", one.until(RestartState::Waiting)).await;
    one.app.note_end();
    one.app.note_start(7, one.app.files_version());
    in_time("it waits no more", one.until(RestartState::Idle)).await;
    world.change(|state| state.holders.clear());
    sleep(10 * MINUTE).await;
    assert_eq!(one.replaced(), 0);
    // Also where a slot becomes free in that moment.
    for _ in 0..20 {
        let world = Arc::<World>::default();
        let one = Instance::start(&world, 1, terms(1, SECOND));
        world.change(|state| state.holders.push(99));
        one.change();
        in_time("it waits", one.until(RestartState::Waiting)).await;
        world.change(|state| state.holders.clear());
        one.app.note_end();
        one.app.note_start(7, one.app.files_version());
        sleep(MINUTE).await;
        assert_eq!((one.replaced(), one.holds_slot()), (0, false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_lost_before_the_app_is_stopped_calls_the_restart_off() {
    let world = Arc::<World>::default();
    let one = Instance::start(&world, 1, terms(1, SECOND));
    one.change();
    in_time("callers leave", one.until(RestartState::Leaving)).await;
    world.change(|state| {
        state.lost.push(1);
        state.is_registry_away = true;
    });
    in_time("it waits again", one.until(RestartState::Waiting)).await;
    sleep(MINUTE).await;
    assert_eq!((one.replaced(), one.app.is_replaceable()), (0, false));
    assert_eq!(one.events()[1], "restart_waits: called off: the slot is lost");
    world.change(|state| state.is_registry_away = false);
    in_time("it restarts", one.until(RestartState::Starting)).await;
    assert_eq!(one.replaced(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_ill_instance_that_has_lost_its_slot_takes_one_again() {
    let world = Arc::<World>::default();
    let one = Instance::start(&world, 1, terms(1, SECOND));
    world.change(|state| state.ill.push(1));
    one.change();
    in_time("it is ill", one.until(RestartState::Held)).await;
    world.change(|state| {
        state.lost.push(1);
        state.is_registry_away = true;
    });
    sleep(MINUTE).await;
    assert!(!one.holds_slot());
    // Not without a slot.
    one.change();
    sleep(MINUTE).await;
    assert_eq!((one.state(), one.replaced()), (RestartState::Held, 1));
    world.change(|state| state.is_registry_away = false);
    in_time("it is healthy", one.until(RestartState::Idle)).await;
    assert_eq!(one.replaced(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_ill_app_that_becomes_healthy_gives_the_slot_back() {
    let world = Arc::<World>::default();
    let one = Instance::start(&world, 1, terms(1, SECOND));
    world.change(|state| state.ill.push(1));
    one.change();
    in_time("it is ill", one.until(RestartState::Held)).await;
    sleep(10 * MINUTE).await;
    assert!(one.holds_slot());
    world.change(|state| state.ill.clear());
    in_time("it is healthy", one.until(RestartState::Idle)).await;
    assert!(!one.holds_slot() && !one.app.is_replaceable());
    assert_eq!(one.replaced(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_ends_while_callers_leave_is_not_waited_for_and_started_again() {
    let world = Arc::<World>::default();
    let one = Instance::start(&world, 1, terms(1, SECOND));
    one.change();
    in_time("callers leave", one.until(RestartState::Leaving)).await;
    let from = Instant::now();
    assert!(one.app.is_replaceable());
    one.app.note_end();
    in_time("it starts", one.until(RestartState::Starting)).await;
    assert!(from.elapsed() <= SECOND, "{:?}", from.elapsed());
    in_time("it is healthy", one.until(RestartState::Idle)).await;
    assert!(!one.events().iter().any(|line| line.starts_with("restart_held")), "{:?}", one.events());
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_leaves_gives_its_slot_back_and_restarts_nothing() {
    let world = Arc::<World>::default();
    world.change(|state| state.ill.push(1));
    let (waits, held) =
        (Instance::start(&world, 1, terms(1, SECOND)), Instance::start(&world, 2, terms(1, SECOND)));
    held.change();
    in_time("one is ill", held.until(RestartState::Held)).await;
    waits.change();
    in_time("one waits", waits.until(RestartState::Waiting)).await;
    waits.leaves.cancel();
    sleep(SECOND).await;
    held.leaves.cancel();
    sleep(MINUTE).await;
    assert!(!held.holds_slot() && !held.app.is_replaceable());
    assert_eq!((waits.replaced(), held.replaced()), (0, 1));
    held.change();
    sleep(MINUTE).await;
    assert_eq!(held.replaced(), 1);
}

#[tokio::test(start_paused = true)]
async fn settings_that_ask_for_no_restart_any_more_end_the_wait() {
    let world = Arc::<World>::default();
    let one = Instance::start(&world, 1, terms(1, SECOND));
    world.change(|state| state.holders.push(99));
    one.change();
    in_time("it waits", one.until(RestartState::Waiting)).await;
    one.requests.retain(|_| false);
    in_time("it waits no more", one.until(RestartState::Idle)).await;
}

#[test]
fn the_strictest_terms_of_several_files_hold() {
    let requests = RestartRequests::default();
    assert!(requests.outstanding(0).is_none());
    requests.add("/b".into(), terms(3, SECOND), 1);
    requests.add("/a".into(), terms(2, MINUTE), 2);
    let all = requests.outstanding(0).unwrap();
    assert_eq!((all.terms, &*all.paths), (terms(2, MINUTE), "/a, /b"));
    // The app has read the first change.
    let rest = requests.outstanding(1).unwrap();
    assert_eq!((rest.terms, &*rest.paths), (terms(2, MINUTE), "/a"));
    assert!(requests.outstanding(2).is_none());
}
