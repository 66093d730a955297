//! Other settings after a reload: endpoints keep their states.

use super::*;

impl Rig {
    /// What a cluster's one writer does after a reload.
    fn apply_settings(&mut self, settings: Option<&OutlierDetection>) -> Vec<Event> {
        self.settings = settings.map(|settings| &*Box::leak(Box::new(*settings)));
        self.update_view(&vec![true; self.stats.len()])
    }
}

#[test]
fn an_ejected_endpoint_keeps_its_ejection_time() {
    let mut rig = Rig::new(3);
    rig.requests(1, 5, BAD);
    assert_eq!(rig.stats[1].ejection_state(), EjectionState::Ejected);
    let events = rig.apply_settings(Some(&OutlierDetection {
        base_ejection_time: 100 * SECOND,
        max_ejection_time: 100 * SECOND,
        ..Default::default()
    }));
    assert!(events.is_empty(), "{events:?}");
    assert_eq!(rig.stats[1].ejection_state(), EjectionState::Ejected);
    rig.now += SECOND;
    rig.detector.advance(rig.now, false);
    rig.report_probe(1, true);
    assert_eq!(rig.stats[1].ejection_state(), EjectionState::Probation);
}

#[test]
fn a_row_that_has_begun_ends_at_the_new_limit() {
    let mut rig = Rig::new(3);
    rig.requests(0, 2, BAD);
    rig.apply_settings(Some(&OutlierDetection { consecutive_failures: Some(3), ..Default::default() }));
    rig.request(0, BAD);
    assert_eq!(rig.stats[0].ejection_state(), EjectionState::Ejected);
    rig.apply_settings(Some(&OutlierDetection {
        consecutive_failures: None,
        success_rate: None,
        ..Default::default()
    }));
    rig.requests(1, 40, BAD);
    assert_eq!(rig.stats[1].ejection_state(), EjectionState::Healthy);
}

#[test]
fn turned_off_every_endpoint_is_healthy_and_turned_on_again_counts_begin_empty() {
    let mut rig = Rig::new(2);
    let refused = Outcome::ConnectRefused;
    rig.request(0, refused);
    rig.request(1, refused);
    assert_eq!((rig.stats[0].ejection_state(), rig.detector.counts().panic), (EjectionState::Panic, true));
    let events = rig.apply_settings(None);
    assert!(matches!(events[..], [EjectionEvent::Panic(false)]), "{events:?}");
    rig.requests(0, 50, BAD);
    assert!(rig.stats.iter().all(|record| record.ejection_state() == EjectionState::Healthy));
    rig.apply_settings(Some(&OutlierDetection::default()));
    rig.requests(0, 5, BAD);
    assert_eq!(
        (rig.stats[0].ejection_state(), rig.stats[1].ejection_state()),
        (EjectionState::Ejected, EjectionState::Healthy)
    );
}
