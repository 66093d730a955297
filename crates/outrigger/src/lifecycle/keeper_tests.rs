//! The registration's renewals and its end, against an agent of the tests' own.

use outrigger_registry::ReportedHealth;
use tokio::time::Instant;

use super::{
    super::{callers::Callers, fake::*},
    *,
};

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
            _ => None,
        })
        .collect();
    assert_eq!(outputs.len(), 1, "{outputs:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stalling_call_of_another_kind_delays_no_renewal() {
    let life = live(PASSING);
    life.until(|agent| agent.calls.len() >= 2).await;
    // The look stalls for ever, and so does the registration that follows a wiped agent.
    life.fake.change(|agent| {
        agent.stalls = ["held", "register", "register"].into();
        agent.wipe();
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
async fn leaving_reports_critical_then_deregisters_and_nothing_follows() {
    let life = live(PASSING);
    sleep(Duration::from_secs(15)).await;
    let before = life.fake.agent().calls.len();
    assert!(leave(life.keeper, &life.board).await);
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
    assert!(!leave(life.keeper, &life.board).await);
    assert_eq!(life.fake.agent().calls, []);
}

#[tokio::test(start_paused = true)]
async fn leaving_is_bounded_whatever_the_agent_does() {
    let stalled = live(PASSING);
    sleep(Duration::from_secs(15)).await;
    stalled.fake.agent().stalls = ["report", "deregister", "deregister", "deregister"].into();
    let from = Instant::now();
    assert!(leave(stalled.keeper, &stalled.board).await);
    // As without a leader: both are sent, and neither is answered.
    assert_eq!(from.elapsed().as_secs(), 6);
    assert_eq!(stalled.fake.times(|call| *call == Call::Deregister).len(), 1);

    let slow = live(PASSING);
    sleep(Duration::from_secs(15)).await;
    slow.fake.agent().stalls = ["deregister", "deregister"].into();
    let from = Instant::now();
    assert!(leave(slow.keeper, &slow.board).await);
    assert_eq!(from.elapsed().as_secs(), 8, "one that takes reports gets its time");

    let down = live(PASSING);
    sleep(Duration::from_secs(15)).await;
    down.fake.agent().down = true;
    let from = Instant::now();
    assert!(leave(down.keeper, &down.board).await);
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
    assert!(leave(life.keeper, &life.board).await);
    assert_eq!(from.elapsed().as_secs(), 14, "8 for the registration, 3 and 3 for what takes it back");
    assert_eq!(life.fake.times(|call| *call == Call::Deregister).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn with_a_new_token_or_an_agent_that_has_just_lost_it_it_registers_once_more_before_it_leaves() {
    for happens in [Fake::rotate, Fake::forget] {
        let life = live(PASSING);
        sleep(Duration::from_secs(15)).await;
        let before = life.fake.agent().calls.len();
        happens(&life.fake);
        assert!(leave(life.keeper, &life.board).await);
        let calls: Vec<_> = life.fake.agent().calls[before..].iter().map(|(_, call)| call.clone()).collect();
        let critical = Call::Report(ReportedHealth::Critical, report::OUTPUT.into());
        assert_eq!(calls, [critical.clone(), Call::Register, critical, Call::Deregister]);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_registry_leaving_takes_the_time_of_the_blind_and_not_that_of_the_failures_too() {
    type Fault = fn(&mut Agent);
    let down: Fault = |agent| agent.down = true;
    let stalls: Fault = |agent| agent.stalls = ["report", "deregister"].into();
    // An agent takes a report before it has noticed that there is no leader.
    let stalls_then: Fault = |agent| agent.stalls = ["deregister"].into();
    // One that stalls takes two time-outs of 3 s.
    for (fault, seconds) in [(down, 5), (stalls, 6), (stalls_then, 5)] {
        let life = live(PASSING);
        sleep(Duration::from_secs(15)).await;
        life.fake.change(fault);
        let mut callers = Callers::blind_for(Duration::from_secs(5));
        let from = Instant::now();
        let drain = super::super::drain::Drain::new();
        super::super::leave::run(life.keeper, &mut callers, &drain, &CancellationToken::new()).await;
        assert_eq!(from.elapsed().as_secs(), seconds, "{:?}", from.elapsed());
    }
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
