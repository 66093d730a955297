use std::collections::BTreeMap;

use tokio::time::advance;

use super::*;
use crate::{ReportedHealth, consul::testing::own_check};

const EARLIER: RunMark = RunMark { since: 1, begun: 1, random: 7 };
const LATER: RunMark = RunMark { since: u64::MAX, begun: u64::MAX, random: 7 };

/// No earlier run, and this clock.
fn claim(now: u64) -> Claim {
    Claim { since: None, now }
}

/// After the first announcement of a run; its clock shows 1000.
fn announced() -> Rivals {
    let mut rivals = Rivals::default();
    rivals.mark(&claim(1000));
    rivals
}

fn held_by(run: &str) -> AgentService {
    AgentService {
        id: "orders-1".into(),
        name: "orders".into(),
        address: Some("10.0.0.5".into()),
        port: 8080,
        tags: Vec::new(),
        meta: BTreeMap::from([(RUN_KEY.to_owned(), run.to_owned())]),
        weights: Default::default(),
        enable_tag_override: false,
        content_hash: String::new(),
    }
}

fn rival(keeps_id: bool) -> Option<Rival> {
    Some(Rival { address: "address 10.0.0.5:8080".into(), keeps_id })
}

fn check(output: &str) -> OwnCheck {
    own_check(ReportedHealth::Passing, output)
}

#[test]
fn a_mark_is_read_as_it_is_written() {
    let far = RunMark { since: 0, begun: 5, random: u32::MAX };
    for mark in [EARLIER, LATER, far, RunMark::new(&claim(1000), None)] {
        assert_eq!(RunMark::of(&held_by(&mark.to_string())), Some(mark));
    }
    for other in ["", "1", "-", "1-1", "1-1-", "-1-1", "x-1-1", "1-x-1", "1-1-x", "1.0.0", "1-1-1-1"] {
        assert_eq!(RunMark::of(&held_by(other)), None, "{other}");
    }
    assert!(RunMark::new(&claim(5), None) != RunMark::new(&claim(5), None));
    let same_time = [1, 2].map(|random| RunMark { since: 5, begun: 5, random });
    assert!(same_time[0] < same_time[1], "both processes come to the same order");
}

#[test]
fn a_run_that_finds_another_one_is_the_later_one_whatever_its_clock_shows() {
    for (clock_of_first, clock_of_later) in
        [(1000, 2000), (2000, 1000), (1000, 0), (1000, 1000), (u64::MAX, 5)]
    {
        let first = RunMark::new(&claim(clock_of_first), None);
        let mut later = Rivals::default();
        assert!(later.is_of_other(Some(&held_by(&first.to_string())), &claim(clock_of_later)));
        let mark = later.mark(&claim(clock_of_later));
        // At the end of the numbers the random part decides.
        assert!(first < mark || clock_of_first == u64::MAX, "{first} {mark}");
        assert_eq!(later.mark(&claim(0)), mark, "for the whole run");
        // The first one comes back, and finds the other one.
        let kept = Claim { since: Some(first.since()), now: 0 };
        assert!(RunMark::new(&kept, Some(mark)) < mark || clock_of_first == u64::MAX);
        // A copy of its claim, as in a copied machine, does not make another process the first.
        assert!(first < RunMark::new(&kept, Some(first)) || clock_of_first == u64::MAX);
    }
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_is_not_this_runs_is_told_before_and_after_the_announcement() {
    let (other, unmarked) = (held_by("500-500-7"), AgentService { meta: BTreeMap::new(), ..held_by("") });
    let mut rivals = Rivals::default();
    for (held, claim, is_others) in [
        (None, claim(1000), false),
        (Some(&unmarked), claim(1000), false),
        (Some(&other), claim(1000), true),
        (Some(&other), Claim { since: Some(400), now: 1000 }, true),
        // An earlier run with this claim left it.
        (Some(&other), Claim { since: Some(500), now: 1000 }, false),
    ] {
        assert_eq!(rivals.is_of_other(held, &claim), is_others, "{held:?}");
        assert_eq!(rivals.is_contested(&claim), is_others, "{held:?}");
    }
    let kept = Claim { since: Some(500), now: 1000 };
    rivals.mark(&kept);
    assert!(!rivals.is_contested(&kept), "it replaced that of an earlier run");

    let mut rivals = Rivals::default();
    rivals.is_of_other(Some(&other), &claim(1000));
    let own = held_by(&rivals.mark(&claim(1000)).to_string());
    assert!(rivals.is_contested(&claim(1000)), "the other process may still run");
    assert!(rivals.is_of_other(Some(&other), &claim(1000)));
    for ours in [None, Some(&own), Some(&unmarked)] {
        assert!(!rivals.is_of_other(ours, &claim(1000)), "{ours:?}");
    }
    advance(COUNT_WINDOW).await;
    assert!(!rivals.is_contested(&claim(1000)));
    rivals.yields_to(&other);
    assert!(rivals.is_contested(&claim(1000)));
}

#[tokio::test(start_paused = true)]
async fn the_second_registration_of_another_run_is_a_conflict_and_the_later_run_yields() {
    for (other, yields) in [(EARLIER, true), (LATER, false)] {
        let (mut rivals, held) = (announced(), held_by(&other.to_string()));
        for _ in 0..5 {
            assert!(!rivals.yields_to(&held));
            assert_eq!(rivals.in_conflict(), None, "the first one may be a call that arrived late");
        }
        rivals.begin_anew();
        assert!(
            !rivals.yields_to(&held),
            "the other one has been replaced once only, and sees no conflict yet"
        );
        assert_eq!(rivals.in_conflict(), rival(yields));
        rivals.begin_anew();
        assert_eq!(rivals.yields_to(&held), yields);
        assert_eq!(rivals.in_conflict(), rival(yields));
        assert_eq!(rivals.is_yielding(), yields);
    }
    // A run that replaced the other one with its first announcement has shown itself once more.
    let (mut rivals, held) = (Rivals::default(), held_by(&EARLIER.to_string()));
    rivals.is_of_other(Some(&held), &claim(5));
    rivals.mark(&claim(5));
    rivals.begin_anew();
    assert!(!rivals.yields_to(&held));
    rivals.begin_anew();
    assert!(rivals.yields_to(&held));
}

#[tokio::test(start_paused = true)]
async fn a_run_without_a_mark_and_rare_registrations_are_no_conflict() {
    let mut rivals = announced();
    let ours = held_by(&rivals.mark(&claim(0)).to_string());
    for _ in 0..5 {
        assert!(!rivals.yields_to(&AgentService { meta: BTreeMap::new(), ..ours.clone() }));
        assert!(!rivals.yields_to(&ours));
        assert_eq!(rivals.in_conflict(), None);
    }
    for _ in 0..5 {
        rivals.begin_anew();
        assert!(!rivals.yields_to(&held_by(&EARLIER.to_string())));
        assert_eq!(rivals.in_conflict(), None);
        advance(COUNT_WINDOW).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_run_forgets_a_conflict_after_ten_minutes_without_another_registration() {
    let (mut rivals, held) = (announced(), held_by(&LATER.to_string()));
    let own = held_by(&rivals.mark(&claim(0)).to_string());
    rivals.yields_to(&held);
    rivals.begin_anew();
    rivals.yields_to(&held);
    rivals.begin_anew();
    advance(FORGET_AFTER - Duration::from_secs(1)).await;
    rivals.yields_to(&own);
    assert_eq!(rivals.in_conflict(), rival(false));
    advance(Duration::from_secs(1)).await;
    rivals.yields_to(&own);
    assert_eq!(rivals.in_conflict(), None);
}

#[tokio::test(start_paused = true)]
async fn the_later_run_yields_while_the_first_one_renews_its_check() {
    let held = held_by(&EARLIER.to_string());
    let unmarked = AgentService { meta: BTreeMap::new(), ..held.clone() };
    let newest = held_by(&LATER.to_string());
    let (renewed, expired) = (check("renewed"), check("TTL expired"));
    for (what, held, check, is_held) in [
        ("renewed", Some(&held), Some(&renewed), true),
        ("changed by another client", Some(&unmarked), Some(&renewed), true),
        ("not renewed", Some(&held), Some(&expired), false),
        ("without a check", Some(&held), None, false),
        ("deregistered", None, None, false),
        (
            "by the first one after a restart, which is later than this one",
            Some(&newest),
            Some(&renewed),
            true,
        ),
    ] {
        let mut rivals = announced();
        let first = held_by(&EARLIER.to_string());
        for _ in 0..2 {
            assert!(!rivals.yields_to(&first));
            rivals.begin_anew();
        }
        assert!(rivals.yields_to(&first));
        advance(FORGET_AFTER * 2).await;
        assert_eq!(rivals.is_held_by_other(held, check), is_held, "{what}");
        assert_eq!(rivals.is_yielding(), is_held, "{what}");
        assert_eq!(rivals.in_conflict(), rival(true).filter(|_| is_held), "{what}");
    }
}

#[test]
fn the_address_is_named_as_it_is_registered() {
    for (address, text) in [
        (Some("10.0.0.5"), "address 10.0.0.5:8080"),
        (Some("fd00::1"), "address [fd00::1]:8080"),
        (Some("web-7.internal"), "address web-7.internal:8080"),
        (Some(""), "the agent's address, port 8080"),
        (None, "the agent's address, port 8080"),
    ] {
        let held = AgentService { address: address.map(str::to_owned), ..held_by("") };
        assert_eq!(address_text(&held), text);
    }
}
