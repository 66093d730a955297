//! A table of states after failures, for all clusters of one, two and three endpoints.

use outrigger_policy::{Outcome, outlier_detection::EjectionCounts};

use super::{BAD, GOOD, Rig, describe};

/// For each endpoint, from the left: `-` nothing, `s` five 503 in a row, `h` a refused connection, `x` not
/// eligible. And its state then: `T` healthy, `E`jected, `P`anic.
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
    // An endpoint that is not eligible counts for nothing.
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

/// A cluster after the failures of a row.
fn cluster_after(marks: &str) -> Rig {
    let mut rig = Rig::new(marks.len());
    let eligible: Vec<bool> = marks.chars().map(|mark| mark != 'x').collect();
    rig.update_view(&eligible);
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
fn every_row_of_the_table_holds() {
    for (marks, states) in TABLE {
        let rig = cluster_after(marks);
        assert_eq!(rig.states(), *states, "after {marks}");
        let usable: String = rig.stats.iter().map(|one| if one.admits(false) { 'u' } else { '-' }).collect();
        assert_eq!(usable, states.replace(['T', 'P'], "u").replace('E', "-"), "after {marks}");
        let eligible = |letter: char| {
            let both = marks.chars().zip(states.chars());
            both.filter(|(mark, states)| *mark != 'x' && *states == letter).count()
        };
        let counts = EjectionCounts {
            healthy: eligible('T'),
            ejected: eligible('E') + eligible('P'),
            probation: 0,
            panic: states.contains('P'),
        };
        assert_eq!(rig.detector.counts(), counts, "after {marks}");
    }
}

#[test]
fn panic_mode_ends_with_the_first_success() {
    for (marks, states) in TABLE.iter().filter(|(_, states)| states.contains('P')) {
        let panicked: Vec<usize> = states.match_indices('P').map(|(at, _)| at).collect();
        for well in panicked.clone() {
            let expected = |at: usize| match (at == well, panicked.contains(&at)) {
                (true, _) | (_, false) => 'T',
                (false, true) => 'E',
            };
            let expected: String = (0..states.len()).map(expected).collect();
            let mut rig = cluster_after(marks);
            assert_eq!(describe(&rig.request(well, GOOD)), ["returned by request", "panic false"]);
            assert_eq!(rig.states(), expected, "after {marks} and a request that {well} answered");
            let mut rig = cluster_after(marks);
            assert_eq!(describe(&rig.report_probe(well, true)), ["returned by probe", "panic false"]);
            assert_eq!(rig.states(), expected, "after {marks} and a connection that {well} accepted");
        }
    }
}

#[test]
fn in_panic_mode_failures_change_nothing() {
    let mut rig = cluster_after("shh");
    for at in 0..3 {
        for outcome in [BAD, Outcome::ConnectTimeout, Outcome::ConnectRefused, Outcome::Resource] {
            assert!(rig.requests(at, 10, outcome).is_empty(), "{at} {outcome:?}");
        }
    }
    assert_eq!(rig.states(), "PPP");
}

#[test]
fn the_last_healthy_endpoint_leaves_and_another_one_becomes_eligible() {
    let mut rig = cluster_after("h--");
    assert_eq!(rig.states(), "ETT");
    assert_eq!(describe(&rig.update_view(&[true, false, false])), ["panic true"]);
    assert_eq!(rig.states(), "PTT");
    assert_eq!(describe(&rig.update_view(&[true, true, false])), ["panic false"]);
    assert_eq!(rig.states(), "ETT");
    assert!(rig.update_view(&[false, false, false]).is_empty());
}

#[test]
fn states_survive_an_update_and_a_new_endpoint_is_healthy() {
    let mut rig = cluster_after("h--");
    rig.update_view(&[false, true, true]);
    rig.update_view(&[true, true, true]);
    assert_eq!(rig.states(), "ETT");
    let fresh = Rig::new(1).stats.remove(0);
    rig.stats[0] = fresh;
    rig.update_view(&[true, true, true]);
    assert_eq!(rig.states(), "TTT");
}

#[test]
fn while_the_old_view_is_still_there_an_update_ejects_no_endpoint() {
    // The only eligible endpoint is replaced by another one.
    let mut rig = cluster_after("hx");
    assert_eq!(rig.states(), "PT");
    assert!(rig.set_members(&[false, true]).is_empty());
    assert_eq!(rig.states(), "PT");
    // Nor does a report about the other endpoint.
    rig.request(0, Outcome::ConnectRefused);
    rig.request(1, Outcome::ConnectTimeout);
    assert_eq!(rig.states(), "PT");
    assert_eq!(describe(&rig.detector.advance(rig.now, false).events), ["panic false"]);
    assert_eq!(rig.states(), "ET");
    // In the other direction panic mode begins before the new View is there.
    let mut rig = cluster_after("h-");
    assert_eq!(describe(&rig.set_members(&[true, false])), ["panic true"]);
    assert_eq!(rig.states(), "PT");
}
