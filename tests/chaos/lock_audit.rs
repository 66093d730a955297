//! Whether a lock ever had more holders than it may have, judged from what its holders were told.
//!
//! A hold begins when the app reads that it holds the lock, and ends when the app reads that the lock is lost, or concludes it, or
//! just before it sends the release. All times are of one monotonic clock, of the process in which all apps run.

use std::{collections::BTreeMap, time::Duration};

/// How a hold ended, in the view of its app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HoldEnd {
    /// The app gave the lock back.
    Released,
    /// The sidecar told the loss, with this reason.
    Told(String),
    /// The connection to the sidecar ended.
    Cut,
    /// The sidecar sent nothing for too long.
    Silent,
    /// The lease was not renewed within its time.
    LeaseOver,
}

impl HoldEnd {
    pub(crate) fn is_loss(&self) -> bool {
        *self != Self::Released
    }

    /// `lost: REASON`, `cut`, `silent`, `lease over` or `released`.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Released => "released".to_owned(),
            Self::Told(reason) => format!("lost: {reason}"),
            Self::Cut => "cut".to_owned(),
            Self::Silent => "silent".to_owned(),
            Self::LeaseOver => "lease over".to_owned(),
        }
    }
}

/// One hold of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockHold {
    pub(crate) holder: String,
    /// The fencing token; a client of another kind has none.
    pub(crate) token: Option<u64>,
    /// When it was asked for.
    pub(crate) asked: Duration,
    /// When the app was told that it holds the lock.
    pub(crate) acquired: Duration,
    /// When and how it ended. `None`: it is held.
    pub(crate) ended: Option<(Duration, HoldEnd)>,
    /// The last renewal of a lease that was confirmed.
    pub(crate) renewed: Option<Duration>,
}

impl LockHold {
    fn ends_at(&self) -> Duration {
        self.ended.as_ref().map_or(Duration::MAX, |(at, _)| *at)
    }

    fn describe(&self) -> String {
        let token = self.token.map_or_else(|| "without a token".to_owned(), |token| format!("token {token}"));
        let end = match &self.ended {
            Some((at, how)) => format!("{:.3} s ({})", at.as_secs_f64(), how.name()),
            None => "now".to_owned(),
        };
        format!("{} ({token}) from {:.3} s to {end}", self.holder, self.acquired.as_secs_f64())
    }
}

/// What is wrong with these holds of one lock that may have `limit` holders. Empty: nothing.
pub(crate) fn audit_holds(holds: &[LockHold], limit: usize) -> Vec<String> {
    let mut breaches = find_overlaps(holds, limit);
    breaches.extend(if limit == 1 { check_tokens_of_mutex(holds) } else { check_tokens_of_semaphore(holds) });
    breaches
}

/// The shortest time from a loss until the next hold began. `None`: no hold followed a loss.
pub(crate) fn shortest_after_loss(holds: &[LockHold]) -> Option<Duration> {
    let losses = holds.iter().filter_map(|hold| hold.ended.as_ref()).filter(|(_, how)| how.is_loss());
    let until_next = |lost: &Duration| {
        let later = holds.iter().map(|hold| hold.acquired).filter(|acquired| acquired >= lost);
        later.min().map(|next| next - *lost)
    };
    losses.filter_map(|(at, _)| until_next(at)).min()
}

fn find_overlaps(holds: &[LockHold], limit: usize) -> Vec<String> {
    let mut in_order: Vec<_> = holds.iter().collect();
    in_order.sort_by_key(|hold| hold.acquired);
    let mut held: Vec<&LockHold> = Vec::new();
    let mut breaches = Vec::new();
    for hold in in_order {
        held.retain(|other| other.ends_at() > hold.acquired);
        held.push(hold);
        if held.len() > limit {
            let all: Vec<_> = held.iter().map(|one| one.describe()).collect();
            breaches.push(format!("{} holders where {limit} may be: {}", held.len(), all.join(", ")));
        }
    }
    breaches
}

/// Each holder's token is higher than all before. The same holder may get the same lease again.
fn check_tokens_of_mutex(holds: &[LockHold]) -> Vec<String> {
    let mut in_order: Vec<_> = holds.iter().filter_map(|hold| Some((hold, hold.token?))).collect();
    in_order.sort_by_key(|(hold, _)| hold.acquired);
    let mut breaches = Vec::new();
    let mut highest: Option<(&LockHold, u64)> = None;
    for (hold, token) in in_order {
        match highest {
            Some((before, top)) if token < top || (token == top && before.holder != hold.holder) => {
                breaches.push(format!(
                    "the token did not grow: {} after {}",
                    hold.describe(),
                    before.describe()
                ));
            }
            _ => highest = Some((hold, token)),
        }
    }
    breaches
}

/// No token is given to two holders, and what is asked for later than another was told has a higher one.
fn check_tokens_of_semaphore(holds: &[LockHold]) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut by_token: BTreeMap<u64, &LockHold> = BTreeMap::new();
    for hold in holds {
        let Some(token) = hold.token else { continue };
        match by_token.get(&token) {
            Some(other) if other.holder != hold.holder => {
                breaches.push(format!("one token for two: {} and {}", other.describe(), hold.describe()));
            }
            _ => _ = by_token.insert(token, hold),
        }
    }
    // From the highest token down: the earliest moment at which a higher token was told.
    let mut told_first: Option<&LockHold> = None;
    for hold in by_token.values().rev() {
        if let Some(higher) = told_first.filter(|higher| higher.acquired < hold.asked) {
            breaches.push(format!("the token did not grow: {} after {}", hold.describe(), higher.describe()));
        }
        if told_first.is_none_or(|first| hold.acquired < first.acquired) {
            told_first = Some(hold);
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Asked for 5 ms before it was acquired.
    fn hold(holder: &str, token: u64, from: u64, to: Option<u64>) -> LockHold {
        LockHold {
            holder: holder.to_owned(),
            token: (token > 0).then_some(token),
            asked: ms(from.saturating_sub(5)),
            acquired: ms(from),
            ended: to.map(|to| (ms(to), HoldEnd::Released)),
            renewed: None,
        }
    }

    fn breaches(holds: &[LockHold], limit: usize) -> usize {
        audit_holds(holds, limit).len()
    }

    #[test]
    fn holds_that_follow_each_other_are_fine() {
        let holds = [
            hold("b", 7, 30, Some(40)),
            hold("a", 5, 10, Some(30)),
            hold("consul lock", 0, 40, Some(50)),
            hold("c", 9, 50, None),
        ];
        assert_eq!(audit_holds(&holds, 1), [""; 0]);
    }

    #[test]
    fn two_at_once_are_found_however_short() {
        assert_eq!(breaches(&[hold("a", 5, 10, Some(31)), hold("b", 7, 30, Some(40))], 1), 1);
        // One without a token, one within another, one that never ended.
        assert_eq!(breaches(&[hold("a", 5, 10, Some(60)), hold("consul lock", 0, 30, Some(40))], 1), 1);
        assert_eq!(breaches(&[hold("a", 5, 10, None), hold("b", 7, 1000, Some(1001))], 1), 1);
        let text = audit_holds(&[hold("a", 5, 10, None), hold("b", 7, 30, None)], 1).remove(0);
        assert_eq!(
            text,
            "2 holders where 1 may be: a (token 5) from 0.010 s to now, b (token 7) from 0.030 s to now"
        );
    }

    #[test]
    fn a_loss_that_is_told_after_the_next_acquisition_is_found() {
        let mut late = hold("a", 5, 10, None);
        late.ended = Some((ms(101), HoldEnd::Told("session_expired".to_owned())));
        let next = hold("b", 7, 100, Some(200));
        assert_eq!(breaches(&[late.clone(), next.clone()], 1), 1);
        late.ended = Some((ms(60), HoldEnd::Silent));
        assert_eq!(breaches(&[late.clone(), next.clone()], 1), 0);
        assert_eq!(shortest_after_loss(&[late, next.clone()]), Some(ms(40)));
        assert_eq!(shortest_after_loss(&[next]), None, "a release is no loss");
    }

    #[test]
    fn one_more_than_the_limit_of_a_semaphore_is_found() {
        let three = [hold("a", 1, 10, Some(100)), hold("b", 2, 20, Some(100)), hold("c", 3, 30, Some(100))];
        assert_eq!(breaches(&three, 3), 0);
        let four = [&three[..], &[hold("d", 4, 99, Some(120))]].concat();
        assert_eq!(breaches(&four, 3), 1);
        let later = [&three[..], &[hold("d", 4, 100, Some(120))]].concat();
        assert_eq!(breaches(&later, 3), 0);
    }

    #[test]
    fn a_token_that_does_not_grow_is_found() {
        for (second, count) in [(6, 0), (5, 1), (4, 1)] {
            let holds = [hold("a", 5, 10, Some(20)), hold("b", second, 30, Some(40))];
            assert_eq!(breaches(&holds, 1), count, "{second}");
        }
        let again = [hold("a", 5, 10, Some(20)), hold("a", 5, 30, Some(40))];
        assert_eq!(breaches(&again, 1), 0, "the same lease once more");
        // Past a hold without a token.
        let holds = [hold("a", 5, 10, Some(20)), hold("x", 0, 20, Some(30)), hold("b", 4, 30, Some(40))];
        assert_eq!(breaches(&holds, 1), 1);
    }

    #[test]
    fn tokens_of_a_semaphore_may_be_told_out_of_order_only_while_both_were_asked_for() {
        let same = [hold("a", 5, 10, Some(20)), hold("b", 5, 12, Some(20))];
        assert_eq!(breaches(&same, 3), 1);
        let crossed = [hold("a", 6, 10, Some(20)), hold("b", 5, 12, Some(20))];
        assert_eq!(breaches(&crossed, 3), 0);
        let fallen = [hold("a", 6, 10, Some(20)), hold("b", 5, 40, Some(50))];
        assert_eq!(breaches(&fallen, 3), 1);
    }
}
