use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// The pauses of a watch of which each question is answered after `took`, bringing `brought`.
fn pauses(took: Duration, brought: &[AnswerKind]) -> Vec<Duration> {
    let mut now = tokio::time::Instant::now().into_std();
    let mut pacer = RateLimiter::new(now);
    let mut pauses = Vec::new();
    for brought in brought {
        let pause = pacer.take_token(now);
        pauses.push(pause);
        now += pause + took;
        pacer.record_answer(*brought);
    }
    pauses
}

#[test]
fn two_questions_are_free_and_nothings_double_to_15_s() {
    let expected = [0, 0, 500, 1000, 2000, 4000, 8000, 15_000, 15_000].map(|ms| ms * MS);
    assert_eq!(pauses(Duration::ZERO, &[AnswerKind::UnchangedEarly; 9]), expected);
}

#[test]
fn changes_double_to_1_s_once_they_are_held_up() {
    let pauses = pauses(Duration::ZERO, &[AnswerKind::Changed; 26]);
    let (free, held_up) = pauses.split_at(BURST as usize);
    assert!(free.iter().all(Duration::is_zero), "{free:?}");
    assert_eq!(held_up, [100, 200, 400, 800, 1000, 1000].map(|ms| ms * MS));
}

#[test]
fn ten_changes_a_second_are_not_held_up() {
    assert!(pauses(100 * MS, &[AnswerKind::Changed; 50]).iter().all(Duration::is_zero));
}

#[test]
fn the_time_of_the_answer_counts_towards_the_pause() {
    assert_eq!(pauses(400 * MS, &[AnswerKind::UnchangedEarly; 4])[2], Duration::ZERO);
    assert!(pauses(20_000 * MS, &[AnswerKind::UnchangedEarly; 50]).iter().all(Duration::is_zero));
}

#[test]
fn a_long_silence_saves_up_a_full_bucket_and_no_more() {
    let start = tokio::time::Instant::now().into_std();
    let mut pacer = RateLimiter::new(start);
    let later = start + Duration::from_secs(3600);
    assert!((0..BURST).all(|_| pacer.take_token(later).is_zero()));
    assert_eq!(pacer.take_token(later), CHANGED_INTERVAL);
}

#[test]
fn whoever_is_in_a_hurry_is_held_up_for_no_longer_than_said() {
    let mut now = tokio::time::Instant::now().into_std();
    let mut pacer = RateLimiter::new(now);
    for n in 0..20 {
        let pause = pacer.take_token(now);
        assert!(pause <= 4000 * MS, "{pause:?} before question {n}");
        now += pause;
        pacer.record_answer(AnswerKind::UnchangedEarly);
        pacer.cap_interval(4000 * MS);
    }
    assert_eq!(pacer.take_token(now), 4000 * MS);
}

#[test]
fn a_proper_wait_lifts_the_limit() {
    let mut brought = vec![AnswerKind::UnchangedEarly; 12];
    brought.push(AnswerKind::Unchanged);
    brought.push(AnswerKind::Changed);
    let last = pauses(Duration::ZERO, &brought)[13];
    assert!(last <= CHANGED_INTERVAL, "{last:?}");
}

#[test]
fn an_answer_is_early_before_half_its_wait_and_never_after_900_ms() {
    let cases = [
        (0, 45_000, AnswerKind::UnchangedEarly),
        (899, 45_000, AnswerKind::UnchangedEarly),
        (900, 45_000, AnswerKind::Unchanged),
        (499, 1000, AnswerKind::UnchangedEarly),
        (500, 1000, AnswerKind::Unchanged),
    ];
    for (took, wait, expected) in cases {
        assert_eq!(AnswerKind::of(false, took * MS, wait * MS), expected, "{took} of {wait} ms");
        assert_eq!(AnswerKind::of(true, took * MS, wait * MS), AnswerKind::Changed);
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_bucket_is_free_and_the_rest_at_least_100_ms_apart(
        steps in prop::collection::vec((0_u32..300, 0_usize..3), 1..200),
    ) {
        let start = tokio::time::Instant::now().into_std();
        let (mut now, mut pacer) = (start, RateLimiter::new(start));
        for (n, (took, brought)) in (0_u32..).zip(steps) {
            let pause = pacer.take_token(now);
            prop_assert!(pause <= EARLY_INTERVAL_MAX, "{:?}", pause);
            now += pause;
            prop_assert!(now - start >= CHANGED_INTERVAL * (n + 1).saturating_sub(BURST), "{} questions in {:?}", n + 1, now - start);
            now += took * MS;
            pacer.record_answer([AnswerKind::Changed, AnswerKind::UnchangedEarly, AnswerKind::Unchanged][brought]);
        }
    }
}
