//! The pauses between queries.

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// The pauses before each query, when the registry gives `answers`, each after `took`.
fn pauses(took: Duration, answers: &[AnswerKind]) -> Vec<Duration> {
    let mut now = tokio::time::Instant::now().into_std();
    let mut limiter = RateLimiter::new(now);
    let mut pauses = Vec::new();
    for answer in answers {
        let pause = limiter.take_token(now);
        pauses.push(pause);
        now += pause + took;
        limiter.record_answer(*answer);
    }
    pauses
}

#[test]
fn two_queries_are_free_and_early_answers_double_the_pause_to_15_s() {
    let expected = [0, 0, 500, 1000, 2000, 4000, 8000, 15_000, 15_000].map(|ms| ms * MS);
    assert_eq!(pauses(Duration::ZERO, &[AnswerKind::UnchangedEarly; 9]), expected);
}

#[test]
fn changes_double_the_pause_to_1_s_once_they_are_delayed() {
    let pauses = pauses(Duration::ZERO, &[AnswerKind::Changed; 26]);
    let (free, delayed) = pauses.split_at(BURST as usize);
    assert!(free.iter().all(Duration::is_zero), "{free:?}");
    assert_eq!(delayed, [100, 200, 400, 800, 1000, 1000].map(|ms| ms * MS));
}

#[test]
fn ten_changes_a_second_are_not_delayed() {
    assert!(pauses(100 * MS, &[AnswerKind::Changed; 50]).iter().all(Duration::is_zero));
}

#[test]
fn the_time_until_the_answer_is_part_of_the_pause() {
    assert_eq!(pauses(400 * MS, &[AnswerKind::UnchangedEarly; 4])[2], Duration::ZERO);
    assert!(pauses(20_000 * MS, &[AnswerKind::UnchangedEarly; 50]).iter().all(Duration::is_zero));
}

#[test]
fn a_long_silence_fills_the_bucket_and_no_more() {
    let start = tokio::time::Instant::now().into_std();
    let mut limiter = RateLimiter::new(start);
    let later = start + Duration::from_secs(3600);
    assert!((0..BURST).all(|_| limiter.take_token(later).is_zero()));
    assert_eq!(limiter.take_token(later), CHANGED_INTERVAL);
}

#[test]
fn a_capped_interval_delays_no_longer_than_the_cap() {
    let mut now = tokio::time::Instant::now().into_std();
    let mut limiter = RateLimiter::new(now);
    for n in 0..20 {
        let pause = limiter.take_token(now);
        assert!(pause <= 4000 * MS, "{pause:?} before query {n}");
        now += pause;
        limiter.record_answer(AnswerKind::UnchangedEarly);
        limiter.cap_interval(4000 * MS);
    }
    assert_eq!(limiter.take_token(now), 4000 * MS);
}

#[test]
fn a_proper_wait_ends_the_limit() {
    let mut answers = vec![AnswerKind::UnchangedEarly; 12];
    answers.push(AnswerKind::Unchanged);
    answers.push(AnswerKind::Changed);
    let last = pauses(Duration::ZERO, &answers)[13];
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
    fn queries_beyond_the_burst_are_at_least_100_ms_apart(
        steps in prop::collection::vec((0_u32..300, 0_usize..3), 1..200),
    ) {
        let start = tokio::time::Instant::now().into_std();
        let (mut now, mut limiter) = (start, RateLimiter::new(start));
        for (n, (took, kind)) in (0_u32..).zip(steps) {
            let pause = limiter.take_token(now);
            prop_assert!(pause <= EARLY_INTERVAL_MAX, "{:?}", pause);
            now += pause;
            prop_assert!(now - start >= CHANGED_INTERVAL * (n + 1).saturating_sub(BURST), "{} queries in {:?}", n + 1, now - start);
            now += took * MS;
            limiter.record_answer([AnswerKind::Changed, AnswerKind::UnchangedEarly, AnswerKind::Unchanged][kind]);
        }
    }
}
