//! Who may be chosen after what, for clusters of one, two and three endpoints, one by one.

use outrigger_policy::{Outcome, outlier::Counts};

use super::{BAD, GOOD, Rig, words};

/// For each endpoint, judged from the left: `-` nothing, `s` five 503 in a row, `h` a refused
/// connection, `x` not listed. And what each shows then: `T`rusted, `E`jected, `P`anic.
const TABLE: &[(&str, &str)] = &[
    ("-", "T"),
    ("s", "T"), // the only one is never out for its answers
    ("h", "P"),
    ("--", "TT"),
    ("s-", "ET"),
    ("-s", "TE"),
    ("h-", "ET"),
    ("-h", "TE"),
    ("ss", "ET"), // half of two is one
    ("hs", "ET"), // half of the one that accepts connections is none
    ("sh", "PP"), // there is no cap for what cannot be reached
    ("hh", "PP"),
    ("---", "TTT"),
    ("s--", "ETT"),
    ("-s-", "TET"),
    ("--s", "TTE"),
    ("h--", "ETT"),
    ("-h-", "TET"),
    ("--h", "TTE"),
    ("ss-", "ETT"), // half of three is one
    ("s-s", "ETT"),
    ("-ss", "TET"),
    ("sh-", "EET"),
    ("s-h", "ETE"),
    ("-sh", "TEE"),
    ("hs-", "EET"),
    ("h-s", "ETE"),
    ("-hs", "TEE"),
    ("hh-", "EET"),
    ("h-h", "ETE"),
    ("-hh", "TEE"),
    ("sss", "ETT"),
    ("ssh", "ETE"),
    ("shs", "EET"),
    ("hss", "EET"),
    ("hhs", "EET"),
    ("hsh", "PPP"),
    ("shh", "PPP"),
    ("hhh", "PPP"),
    // One that the registry does not let be chosen counts for nothing.
    ("x", "T"),
    ("x-", "TT"),
    ("xs", "TT"),
    ("xh", "TP"),
    ("xs-", "TET"),
    ("xss", "TET"),
    ("xhs", "TET"),
    ("xsh", "TPP"),
    ("xxs", "TTT"),
    ("xxh", "TTP"),
];

/// A cluster to which the marks of a row have happened.
fn after(marks: &str) -> Rig {
    let mut rig = Rig::new(marks.len());
    let listed: Vec<bool> = marks.chars().map(|mark| mark != 'x').collect();
    rig.list(&listed);
    for (at, mark) in marks.chars().enumerate() {
        match mark {
            's' => drop(rig.requests(at, 5, BAD)),
            'h' => drop(rig.request(at, Outcome::ConnectRefused)),
            _ => {}
        }
    }
    rig
}

#[test]
fn the_table_has_every_combination_of_up_to_three() {
    let whole = TABLE.iter().filter(|(marks, _)| !marks.contains('x'));
    let mut rows: Vec<&str> = whole.map(|(marks, _)| *marks).collect();
    rows.sort_unstable();
    rows.dedup();
    assert_eq!(rows.len(), 3 + 9 + 27);
}

#[test]
fn who_may_be_chosen_after_what() {
    for (marks, shown) in TABLE {
        let rig = after(marks);
        assert_eq!(rig.shown(), *shown, "after {marks}");
        let usable: String =
            rig.records.iter().map(|one| if one.admits(false) { 'u' } else { '-' }).collect();
        assert_eq!(usable, shown.replace(['T', 'P'], "u").replace('E', "-"), "after {marks}");
        let listed = |letter: char| {
            let both = marks.chars().zip(shown.chars());
            both.filter(|(mark, shown)| *mark != 'x' && *shown == letter).count()
        };
        let counts = Counts {
            trusted: listed('T'),
            ejected: listed('E') + listed('P'),
            probation: 0,
            panic: shown.contains('P'),
        };
        assert_eq!(rig.judge.counts(), counts, "after {marks}");
    }
}

#[test]
fn panic_ends_with_the_first_that_is_well() {
    for (marks, shown) in TABLE.iter().filter(|(_, shown)| shown.contains('P')) {
        let panicked: Vec<usize> = shown.match_indices('P').map(|(at, _)| at).collect();
        for well in panicked.clone() {
            let expected = |at: usize| match (at == well, panicked.contains(&at)) {
                (true, _) | (_, false) => 'T',
                (false, true) => 'E',
            };
            let expected: String = (0..shown.len()).map(expected).collect();
            let mut rig = after(marks);
            assert_eq!(words(&rig.request(well, GOOD)), ["returned by request", "panic false"]);
            assert_eq!(rig.shown(), expected, "after {marks} and a request that {well} answered");
            let mut rig = after(marks);
            assert_eq!(words(&rig.probed(well, true)), ["returned by probe", "panic false"]);
            assert_eq!(rig.shown(), expected, "after {marks} and a connection that {well} accepted");
        }
    }
}

#[test]
fn in_panic_failures_change_nothing() {
    let mut rig = after("shh");
    for at in 0..3 {
        for outcome in [BAD, Outcome::ConnectTimeout, Outcome::ConnectRefused, Outcome::Resource] {
            assert!(rig.requests(at, 10, outcome).is_empty(), "{at} {outcome:?}");
        }
    }
    assert_eq!(rig.shown(), "PPP");
}

#[test]
fn the_registry_takes_the_last_trusted_one_and_brings_another() {
    let mut rig = after("h--");
    assert_eq!(rig.shown(), "ETT");
    assert_eq!(words(&rig.list(&[true, false, false])), ["panic true"]);
    assert_eq!(rig.shown(), "PTT");
    assert_eq!(words(&rig.list(&[true, true, false])), ["panic false"]);
    assert_eq!(rig.shown(), "ETT");
    assert!(rig.list(&[false, false, false]).is_empty());
}

#[test]
fn trust_survives_an_update_and_a_new_life_begins_without_a_past() {
    let mut rig = after("h--");
    rig.list(&[false, true, true]);
    rig.list(&[true, true, true]);
    assert_eq!(rig.shown(), "ETT");
    let fresh = Rig::new(1).records.remove(0);
    rig.records[0] = fresh;
    rig.list(&[true, true, true]);
    assert_eq!(rig.shown(), "TTT");
}

#[test]
fn while_the_old_view_is_still_there_an_update_takes_nobody_away() {
    // The only one there was gives way to another.
    let mut rig = after("hx");
    assert_eq!(rig.shown(), "PT");
    assert!(rig.follow(&[false, true]).is_empty());
    assert_eq!(rig.shown(), "PT");
    // Not even by somebody else's evidence.
    rig.request(0, Outcome::ConnectRefused);
    rig.request(1, Outcome::ConnectTimeout);
    assert_eq!(rig.shown(), "PT");
    assert_eq!(words(&rig.judge.due(rig.now, false).events), ["panic false"]);
    assert_eq!(rig.shown(), "ET");
    // The other way round it is panic before the new View is there.
    let mut rig = after("h-");
    assert_eq!(words(&rig.follow(&[true, false])), ["panic true"]);
    assert_eq!(rig.shown(), "PT");
}
