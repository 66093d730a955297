//! The registration's life against an agent of the tests' own, on a paused clock.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use outrigger_config::Weights;
use outrigger_registry::{Answer, Error, Held};
use tokio::{sync::Notify, time::Instant};

use super::{
    super::{callers::Callers, leave},
    *,
};

/// What was asked of the agent, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Register,
    Deregister,
    Report(ReportedHealth, String),
}

#[derive(Debug, Default)]
struct Agent {
    held: Option<Held>,
    registers: u64,
    calls: Vec<(Instant, Call)>,
    /// These calls, in order, never answer.
    stalls: VecDeque<&'static str>,
    /// These calls fail with a broken connection while this is set.
    down: bool,
    /// Every call is answered so.
    refuses: Option<(u16, &'static str)>,
    /// Checks of an earlier registration.
    left: usize,
}

/// An agent that answers at once unless told otherwise, and whose `held` blocks on the hash.
#[derive(Debug, Default)]
struct Fake {
    agent: Mutex<Agent>,
    changed: Notify,
}

impl Fake {
    fn agent(&self) -> MutexGuard<'_, Agent> {
        self.agent.lock().unwrap()
    }

    /// Counts the call, and stalls for ever when it is its turn to.
    async fn called(&self, name: &'static str, call: Option<Call>) -> Result<(), Error> {
        let stall = {
            let mut agent = self.agent();
            if let Some(call) = call {
                agent.calls.push((Instant::now(), call));
            }
            let stall = agent.stalls.front() == Some(&name);
            if stall {
                agent.stalls.pop_front();
            } else if agent.down {
                return Err(Error::Connect {
                    address: "agent".into(),
                    source: std::io::ErrorKind::ConnectionRefused.into(),
                });
            } else if let Some((status, text)) = agent.refuses {
                let (request, text) = (name.to_owned(), text.to_owned());
                return Err(Error::Refused { request, status, text, hint: None });
            }
            stall
        };
        if stall {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Agent)) {
        change(&mut self.agent());
        self.changed.notify_waiters();
    }

    fn forget(&self) {
        self.change(|agent| agent.held = None);
    }

    fn times(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Instant> {
        self.agent().calls.iter().filter(|(_, call)| wanted(call)).map(|(at, _)| *at).collect()
    }

    fn registers(&self) -> usize {
        self.times(|call| *call == Call::Register).len()
    }
}

fn reports(call: &Call) -> bool {
    matches!(call, Call::Report(..))
}

impl Registrar for Fake {
    fn register<'a>(&'a self, wanted: &'a Registration) -> Answer<'a, ()> {
        Box::pin(async move {
            self.called("register", Some(Call::Register)).await?;
            self.change(|agent| {
                agent.registers += 1;
                agent.held = Some(Held {
                    id: wanted.id.clone(),
                    name: wanted.name.clone(),
                    address: wanted.address.clone(),
                    port: wanted.port.into(),
                    tags: wanted.tags.clone(),
                    meta: wanted.meta.clone(),
                    weights: wanted.weights,
                    hash: format!("h{}", agent.registers),
                });
            });
            Ok(())
        })
    }

    fn remove_other_checks<'a>(&'a self, _id: &'a str) -> Answer<'a, usize> {
        Box::pin(async move {
            self.called("tidy", None).await?;
            Ok(std::mem::take(&mut self.agent().left))
        })
    }

    fn deregister<'a>(&'a self, _id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.called("deregister", Some(Call::Deregister)).await?;
            self.forget();
            Ok(())
        })
    }

    fn report<'a>(&'a self, id: &'a str, health: ReportedHealth, output: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.called("report", Some(Call::Report(health, output.to_owned()))).await?;
            match self.agent().held {
                Some(_) => Ok(()),
                None => Err(Error::Refused {
                    request: "PUT /check".into(),
                    status: 500,
                    text: format!("CheckID {id:?} does not have associated TTL"),
                    hint: None,
                }),
            }
        })
    }

    fn maintenance<'a>(&'a self, _id: &'a str, _on: bool, _reason: &'a str) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn held<'a>(&'a self, _id: &'a str, hash: Option<&'a str>, wait: Duration) -> Answer<'a, Option<Held>> {
        Box::pin(async move {
            let until = Instant::now() + wait;
            loop {
                let changed = self.changed.notified();
                self.called("held", None).await?;
                let held = self.agent().held.clone();
                if held.as_ref().map(|held| &*held.hash) != hash || Instant::now() >= until {
                    return Ok(held);
                }
                let _ = tokio::time::timeout_at(until, changed).await;
            }
        })
    }

    fn all_held(&self) -> Answer<'_, Vec<Held>> {
        Box::pin(async { Ok(self.agent().held.clone().into_iter().collect()) })
    }
}

struct Life {
    fake: Arc<Fake>,
    health: watch::Sender<Option<ReportedHealth>>,
    board: Board,
    keeper: Keeper,
    start: Instant,
}

fn wanted() -> Registration {
    Registration {
        id: "orders-1".into(),
        name: "orders".into(),
        address: None,
        port: 8080,
        tags: vec!["v2".into()],
        meta: Default::default(),
        weights: Weights::default(),
        ttl: Duration::from_secs(30),
        deregister_after: Duration::from_secs(60),
    }
}

/// A life whose app is `health` from the start.
fn live(health: Option<ReportedHealth>) -> Life {
    let fake = Arc::new(Fake::default());
    let sender = watch::Sender::new(health);
    let board = Board::new(Phase::AwaitingApp, "orders-1");
    let probe = tokio::spawn(std::future::pending());
    let keeper = Keeper::with_health(fake.clone(), wanted(), sender.clone(), probe, board.clone());
    Life { fake, health: sender, board, keeper, start: Instant::now() }
}

impl Life {
    /// Waits on the paused clock until `is` holds; how long that took.
    async fn until(&self, is: impl Fn(&Agent) -> bool) -> Duration {
        let from = Instant::now();
        while !is(&self.fake.agent()) {
            assert!(from.elapsed() < Duration::from_secs(300), "it never came true: {:?}", self.fake.agent());
            sleep(Duration::from_millis(10)).await;
        }
        from.elapsed()
    }
}

/// The whole of leaving, with callers that hear at once. True: there was something to leave.
async fn leave(keeper: Keeper) -> bool {
    let drain = crate::lifecycle::drain::Drain::new();
    let asked = keeper.board.clone();
    leave::run(keeper, &mut Callers::fixed(Duration::ZERO), &drain, &CancellationToken::new()).await;
    asked.now().asked
}

const PASSING: Option<ReportedHealth> = Some(ReportedHealth::Passing);

#[tokio::test(start_paused = true)]
async fn the_app_is_registered_when_it_is_well_and_not_before() {
    let life = live(None);
    sleep(Duration::from_secs(60)).await;
    life.health.send_replace(Some(ReportedHealth::Critical));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(life.fake.agent().calls, []);
    assert_eq!(life.board.now().phase, Phase::AwaitingApp);

    life.health.send_replace(PASSING);
    life.until(|agent| agent.calls.len() == 2).await;
    let calls: Vec<_> = life.fake.agent().calls.iter().map(|(_, call)| call.clone()).collect();
    assert_eq!(calls, [Call::Register, Call::Report(ReportedHealth::Passing, report::OUTPUT.into())]);
    assert_eq!(life.board.now().phase, Phase::Registered);
    assert_eq!(life.board.now().told, PASSING);
}

#[tokio::test(start_paused = true)]
async fn the_ttl_is_renewed_every_ten_seconds_with_a_constant_text() {
    let life = live(PASSING);
    sleep(Duration::from_secs(3600)).await;
    let reports = life.fake.times(reports);
    assert_eq!(reports.len(), 361 - 1, "one at once, then one every 10 s");
    assert!(reports.windows(2).all(|pair| pair[1] - pair[0] <= RENEW_AND_A_TICK));
    let agent = life.fake.agent();
    let outputs: std::collections::HashSet<_> = agent
        .calls
        .iter()
        .filter_map(|(_, call)| match call {
            Call::Report(_, output) => Some(output.clone()),
            Call::Register | Call::Deregister => None,
        })
        .collect();
    assert_eq!(outputs.len(), 1, "{outputs:?}");
}

const RENEW_AND_A_TICK: Duration = Duration::from_millis(10_010);

#[tokio::test(start_paused = true)]
async fn a_stalling_call_of_another_kind_delays_no_renewal() {
    let life = live(PASSING);
    life.until(|agent| agent.calls.len() >= 2).await;
    // The look stalls for ever, and so does the registration that follows a wiped agent.
    life.fake.change(|agent| {
        agent.stalls = ["held", "register", "register"].into();
        agent.held = None;
    });
    sleep(Duration::from_secs(120)).await;
    let reports = life.fake.times(reports);
    let longest = reports.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest <= RENEW_AND_A_TICK, "{longest:?}");
    assert!(reports.len() >= 12, "{}", reports.len());
}

#[tokio::test(start_paused = true)]
async fn a_change_of_health_is_told_at_once() {
    let life = live(PASSING);
    sleep(Duration::from_secs(15)).await;
    for health in [ReportedHealth::Critical, ReportedHealth::Warning, ReportedHealth::Passing] {
        life.health.send_replace(Some(health));
        let told = life
            .until(|agent| matches!(agent.calls.last(), Some((_, Call::Report(last, _))) if *last == health))
            .await;
        assert!(told <= Duration::from_millis(20), "{health:?} took {told:?}");
    }
    assert_eq!(life.fake.registers(), 1, "a sick app stays registered");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_health_does_not_wait_for_a_report_that_stalls() {
    let life = live(PASSING);
    sleep(Duration::from_secs(15)).await;
    life.fake.agent().stalls = ["report"].into();
    sleep(Duration::from_secs(6)).await; // the renewal at 20 s stalls
    assert!(life.fake.agent().stalls.is_empty());
    life.health.send_replace(Some(ReportedHealth::Critical));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(life.board.now().told, Some(ReportedHealth::Critical));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_forgets_gets_the_registration_again_within_seconds() {
    for health in [PASSING, Some(ReportedHealth::Critical)] {
        let life = live(PASSING);
        sleep(Duration::from_secs(100)).await;
        life.health.send_replace(health);
        for round in 2..5 {
            life.fake.forget();
            let took = life.until(|agent| agent.held.is_some()).await;
            assert!(took <= Duration::from_secs(3), "{took:?}");
            assert_eq!(life.fake.registers(), round);
            sleep(Duration::from_secs(100)).await;
            assert_eq!(life.board.now().phase, Phase::Registered);
            assert_eq!(life.board.now().told, health);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_restarted_empty_gets_it_again_soon_after_it_is_back() {
    let life = live(PASSING);
    sleep(Duration::from_secs(100)).await;
    life.fake.change(|agent| {
        agent.down = true;
        agent.held = None;
    });
    // The look that is blocked ends with its connection; here it is woken by the change above.
    sleep(Duration::from_secs(600)).await;
    assert!(life.board.now().error.is_some());
    life.fake.change(|agent| agent.down = false);
    let took = life.until(|agent| agent.held.is_some()).await;
    assert!(took <= Duration::from_secs(4), "{took:?}");
    sleep(Duration::from_secs(20)).await;
    assert_eq!(life.board.now().error, None);
}

#[tokio::test(start_paused = true)]
async fn a_refused_report_brings_the_registration_back_even_when_the_look_stalls() {
    let life = live(PASSING);
    life.until(|agent| agent.calls.len() >= 2).await;
    life.fake.change(|agent| {
        agent.stalls = ["held"].into();
        agent.held = None;
    });
    let took = life.until(|agent| agent.held.is_some()).await;
    assert!(took <= RENEW_AND_A_TICK, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rotated_token_brings_the_registration_back_within_seconds() {
    let life = live(PASSING);
    sleep(Duration::from_secs(100)).await;
    life.fake.change(|agent| {
        agent.refuses = Some((403, "ACL not found"));
        agent.held = None; // expired meanwhile, and removed
    });
    sleep(Duration::from_secs(600)).await;
    assert!(life.board.now().error.is_some_and(|error| error.contains("ACL not found")));
    let calls = life.fake.agent().calls.len();
    assert!(calls < 2_000, "{calls} calls in ten minutes");

    life.fake.change(|agent| agent.refuses = None);
    let took = life.until(|agent| agent.held.is_some()).await;
    assert!(took <= Duration::from_secs(4), "{took:?}");
    sleep(Duration::from_secs(1)).await;
    assert_eq!((life.board.now().told, life.board.now().error), (PASSING, None));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_says_nothing_of_the_registration_is_no_reason_to_register_again() {
    for refusal in [(429, "Your request is rate limited"), (500, "No cluster leader")] {
        let life = live(PASSING);
        sleep(Duration::from_secs(15)).await;
        life.fake.agent().refuses = Some(refusal);
        sleep(Duration::from_secs(300)).await;
        assert_eq!((life.fake.registers(), life.board.now().phase), (1, Phase::Registered), "{refusal:?}");
        assert!(life.board.now().error.is_some_and(|error| error.contains(refusal.1)));
        life.fake.agent().refuses = None;
        sleep(Duration::from_secs(20)).await;
        assert_eq!((life.board.now().told, life.board.now().error), (PASSING, None), "{refusal:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changed_is_corrected() {
    let life = live(PASSING);
    sleep(Duration::from_secs(100)).await;
    let changes: [fn(&mut Held); 6] = [
        |held| held.port = 1,
        |held| held.name = "other".into(),
        |held| held.tags.clear(),
        |held| held.weights.passing = 9,
        |held| held.address = Some("10.9.9.9".into()),
        |held| drop(held.meta.insert("a".into(), "b".into())),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        life.fake.change(|agent| {
            let held = agent.held.as_mut().unwrap();
            change(held);
            held.hash = format!("changed-{n}");
        });
        let took = life.until(|agent| agent.registers == n as u64 + 2).await;
        assert!(took <= Duration::from_secs(3), "change {n} took {took:?}");
        sleep(Duration::from_secs(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn checks_of_an_earlier_registration_are_removed_after_each_of_ours() {
    let life = live(PASSING);
    life.fake.agent().left = 2;
    life.until(|agent| agent.left == 0).await;
    life.fake.change(|agent| {
        agent.left = 1;
        agent.held = None;
    });
    let took = life.until(|agent| agent.left == 0).await;
    assert!(took <= Duration::from_secs(3), "{took:?}");
    assert_eq!(life.fake.registers(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stalling_clear_up_delays_neither_renewals_nor_the_next_try_for_ever() {
    let life = live(PASSING);
    life.fake.change(|agent| {
        agent.stalls = ["tidy"].into();
        agent.left = 1;
    });
    let took = life.until(|agent| agent.left == 0).await;
    assert!(took <= Duration::from_secs(60), "{took:?}");
    let reports = life.fake.times(reports);
    assert!(reports.windows(2).all(|pair| pair[1] - pair[0] <= RENEW_AND_A_TICK), "{reports:?}");
    assert_eq!(life.fake.registers(), 1, "it is no reason to register again");
}

#[tokio::test(start_paused = true)]
async fn a_quarrel_over_one_id_does_not_become_a_storm() {
    let life = live(PASSING);
    for n in 0..36_000 {
        life.fake.change(|agent| {
            if let Some(held) = &mut agent.held {
                held.port = 1;
                held.hash = format!("theirs-{n}");
            }
        });
        sleep(Duration::from_millis(100)).await;
    }
    let registers = life.fake.registers();
    assert!((10..1_000).contains(&registers), "{registers} in {:?}", life.start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn leaving_reports_critical_then_deregisters_and_nothing_follows() {
    let life = live(PASSING);
    sleep(Duration::from_secs(15)).await;
    let before = life.fake.agent().calls.len();
    assert!(leave(life.keeper).await);
    life.health.send_replace(Some(ReportedHealth::Critical));
    sleep(Duration::from_secs(300)).await;
    let calls: Vec<_> = life.fake.agent().calls[before..].iter().map(|(_, call)| call.clone()).collect();
    assert_eq!(calls, [Call::Report(ReportedHealth::Critical, report::OUTPUT.into()), Call::Deregister]);
    assert_eq!(life.board.now().phase, Phase::Left);
}

#[tokio::test(start_paused = true)]
async fn leaving_before_the_app_was_well_asks_nothing_of_the_registry() {
    let life = live(Some(ReportedHealth::Critical));
    sleep(Duration::from_secs(15)).await;
    assert!(!leave(life.keeper).await);
    assert_eq!(life.fake.agent().calls, []);
}

#[tokio::test(start_paused = true)]
async fn leaving_is_bounded_whatever_the_agent_does() {
    let stalled = live(PASSING);
    sleep(Duration::from_secs(15)).await;
    stalled.fake.agent().stalls = ["report", "deregister", "deregister", "deregister"].into();
    let from = Instant::now();
    assert!(leave(stalled.keeper).await);
    // As without a leader: both are sent, and neither is answered.
    assert_eq!(from.elapsed().as_secs(), 6);
    assert_eq!(stalled.fake.times(|call| *call == Call::Deregister).len(), 1);

    let slow = live(PASSING);
    sleep(Duration::from_secs(15)).await;
    slow.fake.agent().stalls = ["deregister", "deregister"].into();
    let from = Instant::now();
    assert!(leave(slow.keeper).await);
    assert_eq!(from.elapsed().as_secs(), 8, "one that takes reports gets its time");

    let down = live(PASSING);
    sleep(Duration::from_secs(15)).await;
    down.fake.agent().down = true;
    let from = Instant::now();
    assert!(leave(down.keeper).await);
    assert!(from.elapsed() <= Duration::from_secs(5), "{:?}", from.elapsed());
    let tries = down.fake.times(|call| *call == Call::Deregister).len();
    assert_eq!(tries, TRIES as usize);
}

#[tokio::test(start_paused = true)]
async fn a_registration_without_an_answer_is_taken_back_too() {
    let life = live(PASSING);
    life.fake.agent().stalls = ["register", "report", "deregister"].into();
    life.until(|agent| !agent.calls.is_empty()).await;
    // No answer ever comes, so it may or may not be there: it is taken back either way.
    let from = Instant::now();
    assert!(leave(life.keeper).await);
    assert_eq!(from.elapsed().as_secs(), 14, "8 for the registration, 3 and 3 for what takes it back");
    assert_eq!(life.fake.times(|call| *call == Call::Deregister).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn other_settings_are_registered_in_place_at_once_and_it_is_never_lost() {
    let mut life = live(PASSING);
    sleep(Duration::from_secs(15)).await;
    let tagged = |tag: &str| Registration { tags: vec![tag.into()], ..wanted() };
    assert!(life.keeper.is_of(&tagged("v3")) && !life.keeper.is_of(&Registration { port: 1, ..wanted() }));
    life.keeper.adopt(tagged("v3"), Health::default());
    let holds = |tag: &'static str| move |agent: &Agent| agent.held.as_ref().is_some_and(|h| h.tags == [tag]);
    assert!(life.until(holds("v3")).await <= Duration::from_millis(20));
    assert_eq!((life.fake.registers(), life.board.now().phase), (2, Phase::Registered));
    assert_eq!(life.fake.times(|call| *call == Call::Deregister), []);

    // What the agent does not compare is sent all the same.
    let slower = Registration { deregister_after: Duration::from_secs(90), ..tagged("v3") };
    life.keeper.adopt(slower.clone(), Health::default());
    life.until(|agent| agent.registers == 3).await;
    life.keeper.adopt(slower, Health::default());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(life.fake.registers(), 3, "the same settings are no news");
}

#[tokio::test(start_paused = true)]
async fn of_settings_that_change_while_the_agent_is_away_the_last_ones_are_registered() {
    let mut life = live(PASSING);
    sleep(Duration::from_secs(15)).await;
    life.fake.change(|agent| agent.down = true);
    for tag in ["v3", "v4", "v5"] {
        life.keeper.adopt(Registration { tags: vec![tag.into()], ..wanted() }, Health::default());
        sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(life.fake.agent().registers, 1);
    life.fake.change(|agent| agent.down = false);
    life.until(|agent| agent.held.as_ref().is_some_and(|held| held.tags == ["v5"])).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(life.fake.agent().registers, 2);
}
