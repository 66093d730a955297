//! The lines in which two texts differ, as `diff -u` shows them. Pure.

use std::fmt::Write as _;

use outrigger_config::escape_control;

/// Lines around a change that are shown.
const CONTEXT: usize = 3;

/// Most pairs of lines that are compared. Beyond, all lines between the first and the last change are shown as changed.
const MAX_PAIRS: usize = 4_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineChange {
    Kept,
    Removed,
    Added,
}

impl LineChange {
    fn sign(self) -> char {
        match self {
            Self::Kept => ' ',
            Self::Removed => '-',
            Self::Added => '+',
        }
    }
}

/// The lines with signs, in hunks with their numbers. Empty: the texts have the same lines.
pub(super) fn line_diff(before: &str, after: &str) -> String {
    let (old, new) = (lines_of(before), lines_of(after));
    let changes = changes(&old, &new);
    let mut out = String::new();
    let is_change = |n: usize| changes.get(n).is_some_and(|(change, _)| *change != LineChange::Kept);
    let mut next = 0;
    while let Some(first) = (next..changes.len()).find(|n| is_change(*n)) {
        let start = first.saturating_sub(CONTEXT).max(next);
        // A hunk goes on while the next change is near.
        let mut end = first + 1;
        while let Some(more) = (end..changes.len().min(end + 2 * CONTEXT + 1)).find(|n| is_change(*n)) {
            end = more + 1;
        }
        next = (end + CONTEXT).min(changes.len());
        write_hunk(&mut out, &changes, start, next);
    }
    out
}

fn write_hunk(out: &mut String, changes: &[(LineChange, &str)], start: usize, end: usize) {
    let (head, hunk) = (&changes[..start], &changes[start..end]);
    let count = |part: &[(LineChange, &str)], not: LineChange| part.iter().filter(|(c, _)| *c != not).count();
    let range = |not| {
        let (before, lines) = (count(head, not), count(hunk, not));
        // As `diff` has it: the first line, or the line before an empty range.
        if lines == 0 { format!("{before},0") } else { format!("{},{lines}", before + 1) }
    };
    // Writing to a string does not fail.
    let _ = writeln!(out, "@@ -{} +{} @@", range(LineChange::Added), range(LineChange::Removed));
    for (change, line) in hunk {
        let _ = writeln!(out, "{}{}", change.sign(), escape_control(line));
    }
}

/// The lines without their ends. A text without an end of its last line has a last line that says so.
fn lines_of(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.split('\n').collect();
    match lines.last() {
        Some(&"") => {
            lines.pop();
        }
        _ => lines.push("\\ no line end at the end"),
    }
    lines
}

fn changes<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(LineChange, &'a str)> {
    let same = |pair: &(&&str, &&str)| pair.0 == pair.1;
    let head = old.iter().zip(new).take_while(same).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(same).count();
    let (old_middle, new_middle) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let kept = |lines: &[&'a str]| lines.iter().map(|line| (LineChange::Kept, *line)).collect::<Vec<_>>();
    let mut out = kept(&old[..head]);
    if old_middle.len().saturating_mul(new_middle.len()) > MAX_PAIRS {
        out.extend(old_middle.iter().map(|line| (LineChange::Removed, *line)));
        out.extend(new_middle.iter().map(|line| (LineChange::Added, *line)));
    } else {
        out.extend(shortest_changes(old_middle, new_middle));
    }
    out.extend(kept(&old[old.len() - tail..]));
    out
}

/// By the longest common subsequence.
fn shortest_changes<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(LineChange, &'a str)> {
    let width = new.len() + 1;
    // The length of the longest common subsequence of `old[i..]` and `new[j..]`.
    let mut common = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i] == new[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::with_capacity(old.len() + new.len()));
    while i < old.len() || j < new.len() {
        let is_removed =
            j == new.len() || (i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1]);
        if i < old.len() && j < new.len() && old[i] == new[j] {
            out.push((LineChange::Kept, old[i]));
            (i, j) = (i + 1, j + 1);
        } else if is_removed {
            out.push((LineChange::Removed, old[i]));
            i += 1;
        } else {
            out.push((LineChange::Added, new[j]));
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_with_three_lines_around_it() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\n";
        let after = "a\nb\nc\nd\nE\nf\ng\nh\n";
        assert_eq!(line_diff(before, after), "@@ -2,7 +2,7 @@\n b\n c\n d\n-e\n+E\n f\n g\n h\n");
        assert_eq!(line_diff(before, before), "");
    }

    #[test]
    fn changes_that_are_far_apart_are_two_hunks() {
        let before: String = (1..=20).map(|n| format!("{n}\n")).collect();
        let after = before.replace("2\n3\n", "2\nx\n3\n").replace("18\n", "");
        let shown = line_diff(&before, &after);
        let heads: Vec<_> = shown.lines().filter(|line| line.starts_with("@@")).collect();
        assert_eq!(heads, ["@@ -1,5 +1,6 @@", "@@ -15,6 +16,5 @@"], "{shown}");
        assert!(shown.contains("\n+x\n") && shown.contains("\n-18\n"), "{shown}");
    }

    #[test]
    fn a_new_text_and_a_removed_one_are_all_lines() {
        assert_eq!(line_diff("", "a\nb\n"), "@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(line_diff("a\n", ""), "@@ -1,1 +0,0 @@\n-a\n");
        assert_eq!(line_diff("a", "a\n"), "@@ -1,2 +1,1 @@\n a\n-\\ no line end at the end\n");
        assert_eq!(line_diff("a\n", "a\u{1b}[31m\n"), "@@ -1,1 +1,1 @@\n-a\n+a\\u{1b}[31m\n");
    }

    #[test]
    fn large_texts_are_compared_in_bounded_time() {
        let text = |word: &str| (0..20_000).map(|n| format!("{word}{n}\n")).collect::<String>();
        let (old, new) = (text("a"), text("b"));
        let shown = line_diff(&format!("same\n{old}"), &format!("same\n{new}"));
        assert_eq!(shown.lines().count(), 1 + 1 + 40_000);
    }

    proptest::proptest! {
        #[test]
        fn the_signs_lead_from_one_text_to_the_other(before in "([abc]\n){0,30}", after in "([abc]\n){0,30}") {
            let (old, new) = (lines_of(&before), lines_of(&after));
            let changes = changes(&old, &new);
            let without = |not: LineChange| {
                changes.iter().filter(|(change, _)| *change != not).map(|(_, line)| *line).collect::<Vec<_>>()
            };
            proptest::prop_assert_eq!(without(LineChange::Added), old);
            proptest::prop_assert_eq!(without(LineChange::Removed), new);
        }
    }
}
