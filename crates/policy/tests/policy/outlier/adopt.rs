//! Settings that change under it: whoever is out stays out, whoever is trusted stays trusted.

use super::*;

impl Rig {
    /// What a cluster's one writer does when the settings are others.
    fn adopt(&mut self, settings: Option<&OutlierDetection>) -> Vec<Event> {
        let mut events = self.judge.adopt(settings);
        self.records.iter().for_each(|record| record.adopt(settings));
        events.extend(self.list(&vec![true; self.records.len()]));
        events
    }
}

#[test]
fn an_ejected_one_stays_out_for_as_long_as_was_said() {
    let mut rig = Rig::new(3);
    rig.requests(1, 5, BAD);
    assert_eq!(rig.records[1].trust(), Trust::Ejected);
    let events = rig.adopt(Some(&OutlierDetection {
        base_ejection_time: 100 * SECOND,
        max_ejection_time: 100 * SECOND,
        ..Default::default()
    }));
    assert!(events.is_empty(), "{events:?}");
    assert_eq!(rig.records[1].trust(), Trust::Ejected);
    rig.now += SECOND;
    rig.judge.due(rig.now, false);
    rig.probed(1, true);
    assert_eq!(rig.records[1].trust(), Trust::Probation);
}

#[test]
fn a_row_that_has_begun_goes_on_by_the_new_limit() {
    let mut rig = Rig::new(3);
    rig.requests(0, 2, BAD);
    rig.adopt(Some(&OutlierDetection { consecutive_failures: Some(3), ..Default::default() }));
    rig.request(0, BAD);
    assert_eq!(rig.records[0].trust(), Trust::Ejected);
    rig.adopt(Some(&OutlierDetection {
        consecutive_failures: None,
        success_rate: None,
        ..Default::default()
    }));
    rig.requests(1, 40, BAD);
    assert_eq!(rig.records[1].trust(), Trust::Trusted);
}

#[test]
fn turned_off_everybody_is_trusted_and_turned_on_again_it_judges_anew() {
    let mut rig = Rig::new(2);
    let refused = Outcome::ConnectRefused;
    rig.request(0, refused);
    rig.request(1, refused);
    assert_eq!((rig.records[0].trust(), rig.judge.counts().panic), (Trust::Panic, true));
    let events = rig.adopt(None);
    assert!(matches!(events[..], [Event::Panic(false)]), "{events:?}");
    rig.requests(0, 50, BAD);
    assert!(rig.records.iter().all(|record| record.trust() == Trust::Trusted));
    rig.adopt(Some(&OutlierDetection::default()));
    rig.requests(0, 5, BAD);
    assert_eq!((rig.records[0].trust(), rig.records[1].trust()), (Trust::Ejected, Trust::Trusted));
}
