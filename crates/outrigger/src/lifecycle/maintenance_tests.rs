//! Orders against an agent of the tests' own, on a paused clock.

use std::sync::Mutex;

use outrigger_registry::{Answer, Held, Registration, ReportedHealth};
use tokio::time::{Instant, sleep};

use super::*;

/// How the agent takes an order.
#[derive(Debug, Clone, Copy)]
enum Mood {
    /// After this long.
    Takes(Duration),
    Refuses,
    Stalls,
}

#[derive(Debug)]
struct Agent {
    mood: Mutex<Mood>,
    /// What it was told, in the order in which it took it: on, and why.
    told: Mutex<Vec<(bool, String)>>,
}

impl Registrar for Agent {
    fn register<'a>(&'a self, _: &'a Registration) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn remove_other_checks<'a>(&'a self, _: &'a str) -> Answer<'a, usize> {
        Box::pin(async { Ok(0) })
    }
    fn deregister<'a>(&'a self, _: &'a str) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn report<'a>(&'a self, _: &'a str, _: ReportedHealth, _: &'a str) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn maintenance<'a>(&'a self, id: &'a str, on: bool, reason: &'a str) -> Answer<'a, ()> {
        assert_eq!(id, "orders-1");
        let mood = *self.mood.lock().unwrap();
        Box::pin(async move {
            match mood {
                Mood::Takes(after) => sleep(after).await,
                Mood::Stalls => std::future::pending().await,
                Mood::Refuses => {
                    let (request, text) = ("PUT /maintenance".to_owned(), "Permission denied".to_owned());
                    return Err(Error::Refused { request, status: 403, text, hint: None });
                }
            }
            self.told.lock().unwrap().push((on, reason.to_owned()));
            Ok(())
        })
    }
    fn held<'a>(&'a self, _: &'a str, _: Option<&'a str>, _: Duration) -> Answer<'a, Option<Held>> {
        Box::pin(std::future::pending())
    }
    fn all_held(&self) -> Answer<'_, Vec<Held>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// Where orders are given, about an app whose registration was sent.
fn office(mood: Mood) -> (Arc<Agent>, Office) {
    let agent = Arc::new(Agent { mood: Mutex::new(mood), told: Mutex::default() });
    let board = Board::new(Phase::AwaitingApp, "orders-1");
    board.asked();
    board.enter(Phase::Registered);
    (agent.clone(), Office { registrar: agent, board })
}

const AT_ONCE: Mood = Mood::Takes(Duration::ZERO);

fn told(agent: &Agent) -> Vec<(bool, String)> {
    agent.told.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn an_order_is_carried_out_and_ended() {
    let (agent, office) = office(AT_ONCE);
    office.order(Some("disk".into())).await.unwrap();
    assert_eq!(office.board.now().maintenance.as_deref(), Some("disk"));
    office.order(None).await.unwrap();
    assert_eq!(told(&agent), [(true, "disk".into()), (false, String::new())]);
    assert_eq!(office.board.now().maintenance, None);
}

#[tokio::test(start_paused = true)]
async fn before_there_is_a_registration_an_order_is_noted_and_carried_out_with_it() {
    let agent = Arc::new(Agent { mood: Mutex::new(AT_ONCE), told: Mutex::default() });
    let board = Board::new(Phase::AwaitingApp, "orders-1");
    let office = Office { registrar: agent.clone(), board: board.clone() };
    office.order(Some("disk".into())).await.unwrap();
    assert_eq!(told(&agent), []);
    restore(&*agent, "orders-1", &board).await.unwrap();
    assert_eq!(told(&agent), [(true, "disk".into())]);
}

#[tokio::test(start_paused = true)]
async fn without_an_order_of_ours_a_registration_ends_nobodys() {
    let (agent, office) = office(AT_ONCE);
    restore(&*agent, "orders-1", &office.board).await.unwrap();
    assert_eq!(told(&agent), []);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_confirmed_is_said_in_time_and_holds_for_the_next_registration() {
    for (mood, why) in [(Mood::Refuses, "Permission denied"), (Mood::Stalls, "no answer within 8s")] {
        let (_, office) = office(mood);
        let from = Instant::now();
        let refused = office.order(Some("disk".into())).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
        assert!(from.elapsed() <= CALL, "{:?}", from.elapsed());
        assert_eq!(office.board.now().maintenance.as_deref(), Some("disk"));
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_orders_at_once_the_later_one_holds_at_the_registry() {
    let (agent, office) = office(Mood::Takes(Duration::from_secs(2)));
    let later = async {
        sleep(Duration::from_secs(1)).await;
        // Overtakes the one that is under way.
        *agent.mood.lock().unwrap() = AT_ONCE;
        office.order(None).await
    };
    let (first, second) = tokio::join!(office.order(Some("disk".into())), later);
    assert_eq!((first, second), (Ok(()), Ok(())));
    assert_eq!(told(&agent).last(), Some(&(false, String::new())), "{:?}", told(&agent));
}

#[tokio::test(start_paused = true)]
async fn an_app_that_has_left_takes_no_orders() {
    let (agent, office) = office(AT_ONCE);
    office.board.enter(Phase::Left);
    assert_eq!(office.order(Some("disk".into())).await, Err(Refused::Leaving));
    assert_eq!(told(&agent), []);
}
