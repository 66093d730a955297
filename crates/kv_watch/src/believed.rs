//! Which entries count, and when they are applied. Pure: `now` is an argument.
//!
//! An entry that is new or has changed counts at once. It is applied at once when nothing was applied within
//! [`GATHER`]; else at the end of that time, with whatever else has changed by then.
//!
//! An entry that is gone counts for [`DOUBT`] more, because a program that replaces a value may delete it first, and
//! git2consul deletes a whole tree and writes it again. When more than half of the entries are gone, the time
//! begins again with each entry that is written, for [`LONGEST_DOUBT`] at most.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// Shortest time between two applications.
pub const GATHER: Duration = Duration::from_millis(100);
/// How long an entry that is gone still counts.
pub const DOUBT: Duration = Duration::from_secs(1);
/// The same for a tree that is being written again.
const LONGEST_DOUBT: Duration = Duration::from_secs(30);

/// Entries by their names, which are the caller's.
pub type Entries<T> = BTreeMap<String, T>;

/// What the registry's answers say.
#[derive(Debug)]
pub(crate) struct BelievedEntries<T> {
    /// Those that count.
    entries: Entries<T>,
    /// Those of the last answer. `None`: there was none yet.
    seen: Option<Entries<T>>,
    /// Since when each entry that counts is gone.
    gone_since: BTreeMap<String, Instant>,
    mass_loss: Option<TreeLoss>,
    /// The last question was answered: what is missing is gone.
    answers: bool,
    is_changed: bool,
    /// Nothing is applied before.
    gathered_at: Instant,
}

/// More than half of the entries went at once.
#[derive(Debug, Clone, Copy)]
struct TreeLoss {
    since: Instant,
    /// When an entry was written last.
    written: Instant,
}

impl<T: Clone + PartialEq> BelievedEntries<T> {
    /// `stored`: those of the run before, which count until the first answer. They are applied already.
    pub(crate) fn new(stored: Entries<T>, now: Instant) -> Self {
        Self {
            entries: stored,
            seen: None,
            gone_since: BTreeMap::new(),
            mass_loss: None,
            answers: false,
            is_changed: false,
            gathered_at: now,
        }
    }

    /// The entries that count.
    pub(crate) fn entries(&self) -> &Entries<T> {
        &self.entries
    }

    /// Those of the last answer.
    pub(crate) fn seen(&self) -> Option<&Entries<T>> {
        self.seen.as_ref()
    }

    /// Whether some entry that counts is gone.
    pub(crate) fn is_doubtful(&self) -> bool {
        !self.gone_since.is_empty()
    }

    /// The registry has these entries. Returns whether they differ from those of the answer before.
    pub(crate) fn on_answer(&mut self, answer: Entries<T>, now: Instant) -> bool {
        self.answers = true;
        let is_new = self.seen.as_ref() != Some(&answer);
        let known =
            |(name, entry): (&String, &T)| self.seen.as_ref().and_then(|seen| seen.get(name)) == Some(entry);
        let is_written = !answer.iter().all(known);
        for (name, entry) in &answer {
            self.gone_since.remove(name);
            if self.entries.get(name) != Some(entry) {
                self.entries.insert(name.clone(), entry.clone());
                self.is_changed = true;
            }
        }
        for name in self.entries.keys().filter(|name| !answer.contains_key(*name)) {
            self.gone_since.entry(name.clone()).or_insert(now);
        }
        if self.gone_since.is_empty() {
            self.mass_loss = None;
        } else if let Some(loss) = &mut self.mass_loss {
            loss.written = if is_written { now } else { loss.written };
        } else if self.gone_since.len() * 2 > self.entries.len() {
            self.mass_loss = Some(TreeLoss { since: now, written: now });
        }
        self.seen = Some(answer);
        is_new
    }

    /// The question failed: it is not known what the registry has.
    pub(crate) fn on_failure(&mut self) {
        self.answers = false;
    }

    /// The entries are to be applied again, as after other settings of the file.
    pub(crate) fn mark_changed(&mut self) {
        self.is_changed = true;
    }

    /// When to call [`BelievedEntries::take_due`] next, if no answer comes before.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let gone =
            self.gone_since.values().filter(|_| self.answers).map(|since| self.end_of_doubt(*since)).min();
        gone.into_iter().chain(self.apply_at()).min()
    }

    /// Stops to count what has been gone for long enough. Returns whether the entries are to be applied now, and then counts
    /// them as applied.
    pub(crate) fn take_due(&mut self, now: Instant) -> bool {
        if self.answers {
            let ends: Vec<_> = self
                .gone_since
                .iter()
                .map(|(name, since)| (name.clone(), self.end_of_doubt(*since)))
                .collect();
            for (name, _) in ends.into_iter().filter(|(_, end)| *end <= now) {
                self.gone_since.remove(&name);
                self.entries.remove(&name);
                self.is_changed = true;
            }
            if self.gone_since.is_empty() {
                self.mass_loss = None;
            }
        }
        let is_due = self.apply_at().is_some_and(|at| at <= now);
        if is_due {
            self.is_changed = false;
            self.gathered_at = now + GATHER;
        }
        is_due
    }

    /// `None`: nothing has changed.
    fn apply_at(&self) -> Option<Instant> {
        self.is_changed.then_some(self.gathered_at)
    }

    fn end_of_doubt(&self, since: Instant) -> Instant {
        match self.mass_loss {
            None => since + DOUBT,
            Some(loss) => (since.max(loss.written) + DOUBT).min(since.max(loss.since) + LONGEST_DOUBT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(all: &[(&str, &str)]) -> Entries<String> {
        all.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect()
    }

    /// A tree on a clock that the test sets.
    struct Clocked {
        believed: BelievedEntries<String>,
        start: Instant,
    }

    impl Clocked {
        fn new(stored: &[(&str, &str)]) -> Self {
            let start = Instant::now();
            Self { believed: BelievedEntries::new(entries(stored), start), start }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn answer(&mut self, ms: u64, all: &[(&str, &str)]) {
            self.believed.on_answer(entries(all), self.at(ms));
        }

        /// What is applied at this time: the names and texts. `None`: nothing is due.
        fn applied(&mut self, ms: u64) -> Option<String> {
            let now = self.at(ms);
            self.believed.take_due(now).then(|| self.counted())
        }

        fn counted(&self) -> String {
            let text = |(name, value): (&String, &String)| format!("{name}={value}");
            self.believed.entries().iter().map(text).collect::<Vec<_>>().join(" ")
        }

        fn due_at(&self) -> Option<u128> {
            self.believed.next_due().map(|at| at.duration_since(self.start).as_millis())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_change_is_applied_at_once_and_later_ones_are_gathered() {
        let mut tree = Clocked::new(&[]);
        tree.answer(0, &[]);
        assert_eq!(tree.applied(0), None);
        tree.answer(5, &[("a", "1")]);
        assert_eq!(tree.applied(5).as_deref(), Some("a=1"));
        for (at, value) in [(10, "2"), (50, "3"), (104, "4")] {
            tree.answer(at, &[("a", value)]);
            assert_eq!(tree.applied(at), None, "{at} ms");
            assert_eq!(tree.due_at(), Some(105));
        }
        assert_eq!(tree.applied(105).as_deref(), Some("a=4"));
        assert_eq!((tree.applied(300), tree.due_at()), (None, None));
        tree.answer(400, &[("a", "5")]);
        assert_eq!(tree.applied(400).as_deref(), Some("a=5"), "after 100 ms of quiet at once");
        tree.answer(1_000, &[("a", "5")]);
        assert_eq!(tree.applied(1_000), None, "an equal answer changes nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_is_gone_counts_for_a_second_more() {
        let all = [("a", "1"), ("b", "1"), ("c", "1")];
        let mut tree = Clocked::new(&all);
        tree.answer(0, &all);
        tree.answer(1_000, &[("a", "1"), ("c", "1")]);
        assert_eq!((tree.applied(1_000), tree.due_at()), (None, Some(2_000)));
        // Another entry does not begin the second anew.
        tree.answer(1_900, &[("a", "2"), ("c", "1")]);
        assert_eq!(tree.applied(1_900).as_deref(), Some("a=2 b=1 c=1"));
        assert_eq!(tree.applied(1_999), None);
        assert_eq!(tree.applied(2_000).as_deref(), Some("a=2 c=1"));
        // It is written again within the second.
        tree.answer(3_000, &[("c", "1")]);
        tree.answer(3_900, &[("a", "2"), ("c", "1")]);
        assert_eq!((tree.applied(9_000), tree.due_at()), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tree_that_is_deleted_and_written_again_changes_nothing() {
        let all = [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")];
        let mut tree = Clocked::new(&all);
        tree.answer(0, &all);
        tree.answer(1_000, &[]);
        for (n, at) in [(1, 1_900), (2, 2_800), (3, 3_700)] {
            tree.answer(at, &all[..n]);
            assert_eq!(tree.applied(at + 899), None, "{at} ms: {}", tree.counted());
        }
        tree.answer(4_600, &all);
        assert_eq!((tree.applied(9_000), tree.due_at()), (None, None));
        assert_eq!(tree.counted(), "a=1 b=1 c=1 d=1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_tree_that_stays_away_is_believed_after_a_second_without_a_write() {
        let all = [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")];
        let mut tree = Clocked::new(&all);
        tree.answer(0, &all);
        tree.answer(1_000, &[]);
        tree.answer(1_500, &[("a", "2")]);
        assert_eq!(tree.applied(1_500).as_deref(), Some("a=2 b=1 c=1 d=1"), "what is written counts at once");
        assert_eq!((tree.applied(2_499), tree.due_at()), (None, Some(2_500)));
        assert_eq!(tree.applied(2_500).as_deref(), Some("a=2"));
        // Writes without an end do not keep the rest for ever.
        let mut tree = Clocked::new(&all);
        tree.answer(0, &all);
        for n in 0..40_u64 {
            tree.answer(1_000 + n * 900, &[("a", &n.to_string())]);
            tree.applied(1_000 + n * 900);
        }
        assert_eq!(tree.counted(), "a=39");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_believed_to_be_gone_while_the_registry_does_not_answer() {
        let all = [("a", "1"), ("b", "1"), ("c", "1")];
        let mut tree = Clocked::new(&all);
        tree.answer(0, &all);
        tree.answer(1_000, &all[..2]);
        tree.believed.on_failure();
        assert_eq!((tree.applied(60_000), tree.due_at()), (None, None));
        tree.answer(60_000, &all[..2]);
        assert_eq!(tree.applied(60_000).as_deref(), Some("a=1 b=1"));
        tree.believed.on_failure();
        tree.answer(70_000, &all);
        assert_eq!(tree.applied(70_000).as_deref(), Some("a=1 b=1 c=1"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_entries_of_the_run_before_count_until_the_registry_has_answered() {
        let mut tree = Clocked::new(&[("a", "1"), ("b", "1"), ("c", "1")]);
        assert_eq!((tree.applied(0), tree.counted().as_str()), (None, "a=1 b=1 c=1"));
        tree.answer(100, &[("a", "2"), ("b", "1")]);
        assert_eq!(tree.applied(100).as_deref(), Some("a=2 b=1 c=1"));
        assert_eq!(tree.applied(1_100).as_deref(), Some("a=2 b=1"));
        tree.believed.mark_changed();
        assert_eq!(tree.applied(5_000).as_deref(), Some("a=2 b=1"), "other settings of the file");
    }
}
