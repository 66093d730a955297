//! The list of a suite, and its comparison with what was observed.
//!
//! ```text
//! # a comment
//! dev   consul
//! pass  pass    kv::get
//! fail  pass    acl::list    # ACLs are not part of the dev registry
//! ```
//!
//! The first line names the sides. Each test has a line: `pass`, `fail` or `skip` for each side, its name, and behind `#` the
//! reason, without which no line with `fail` or `skip` is accepted.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    outcome::{Observed, Outcome},
    suite::Side,
};

/// A list.
#[derive(Debug, Default)]
pub(crate) struct ExpectedList {
    comments: Vec<String>,
    sides: Vec<Side>,
    tests: BTreeMap<String, ExpectedTest>,
}

/// A line of a list.
#[derive(Debug, Clone, Default)]
struct ExpectedTest {
    /// For each side of the list; `None`: not observed yet.
    ends: Vec<Option<Outcome>>,
    reason: String,
}

/// The result of a comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// Tests that ended as listed, known failures among them.
    pub(crate) matched: usize,
    /// Tests that the program skipped, as listed.
    pub(crate) skipped: usize,
    /// For each test that did not, a sentence.
    pub(crate) differences: Vec<String>,
}

impl ExpectedList {
    /// Reads a list.
    ///
    /// # Errors
    /// The line that is not understood, or has no reason.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut list = Self::default();
        for (at, line) in text.lines().enumerate() {
            let refuse = |why: &str| format!("line {}: {why}: {line}", at + 1);
            if line.starts_with('#') || line.trim().is_empty() {
                list.comments.push(line.to_owned());
                continue;
            }
            let (line_of_test, reason) = line.split_once('#').unwrap_or((line, ""));
            let mut words = line_of_test.split_whitespace();
            if list.sides.is_empty() {
                list.sides = words
                    .map(|word| Side::ALL.into_iter().find(|side| side.as_str() == word))
                    .collect::<Option<_>>()
                    .ok_or_else(|| refuse("names a side that does not exist"))?;
                continue;
            }
            let mut ends = Vec::new();
            for side in &list.sides {
                let word = words.next().unwrap_or_default();
                let end = match word {
                    "-" => None,
                    word => Some(Outcome::from_word(word).ok_or_else(|| {
                        refuse(&format!("needs `pass`, `fail`, `skip` or `-` for {}", side.as_str()))
                    })?),
                };
                ends.push(end);
            }
            let (Some(name), None) = (words.next(), words.next()) else {
                return Err(refuse("needs one name"));
            };
            let reason = reason.trim().to_owned();
            if reason.is_empty() && ends.iter().any(|end| end.is_some_and(|end| end != Outcome::Pass)) {
                return Err(refuse("needs the reason, behind `#`"));
            }
            if list.tests.insert(name.to_owned(), ExpectedTest { ends, reason }).is_some() {
                return Err(refuse("is listed twice"));
            }
        }
        Ok(list)
    }

    /// Whether it has a column for `side`.
    pub(crate) fn has(&self, side: Side) -> bool {
        self.sides.contains(&side)
    }

    /// The number of tests on `side`.
    pub(crate) fn count(&self, side: Side) -> usize {
        self.column(side).count()
    }

    /// The tests of `side` and their ends.
    fn column(&self, side: Side) -> impl Iterator<Item = (&str, Outcome, &str)> {
        let at = self.sides.iter().position(|one| *one == side);
        self.tests.iter().filter_map(move |(name, test)| {
            let end = (*test.ends.get(at?)?)?;
            Some((name.as_str(), end, test.reason.as_str()))
        })
    }

    /// The number of known failures on `side`.
    pub(crate) fn known_failures(&self, side: Side) -> usize {
        self.column(side).filter(|(_, end, _)| *end == Outcome::Fail).count()
    }

    /// Compares the column of `side` with what was observed there.
    pub(crate) fn compare(&self, side: Side, observed: &Observed) -> Comparison {
        let mut result = Comparison::default();
        let listed: BTreeMap<&str, (Outcome, &str)> =
            self.column(side).map(|(name, end, why)| (name, (end, why))).collect();
        for (name, (end, why)) in &listed {
            match observed.get(*name) {
                None => result.differences.push(format!("{name} is listed and did not run")),
                Some((seen, _)) if seen == end && *end == Outcome::Skip => result.skipped += 1,
                Some((seen, _)) if seen == end => result.matched += 1,
                Some((Outcome::Pass, _)) => result.differences.push(format!(
                    "{name} passes and is listed as `{}` ({why}): list it as `pass`",
                    end.as_str()
                )),
                Some((seen, reported)) => result.differences.push(format!(
                    "{name} is listed as `{}` and ends with `{}`: {reported}",
                    end.as_str(),
                    seen.as_str()
                )),
            }
        }
        let unlisted = observed.iter().filter(|(name, _)| !listed.contains_key(name.as_str()));
        result.differences.extend(unlisted.map(|(name, (seen, why))| {
            format!("{name} is not listed and ends with `{}`: {why}", seen.as_str())
        }));
        result
    }

    /// Replaces the column of `side` by what was observed. Reasons stay; a line without one gets the reported one.
    pub(crate) fn record(&mut self, side: Side, observed: &Observed) {
        let Some(at) = self.sides.iter().position(|one| *one == side) else { return };
        for test in self.tests.values_mut() {
            test.ends[at] = None;
        }
        let width = self.sides.len();
        for (name, (end, why)) in observed {
            let test = self.tests.entry(name.clone()).or_default();
            test.ends.resize(width, None);
            test.ends[at] = Some(*end);
            if test.reason.is_empty() && *end != Outcome::Pass {
                test.reason = why.split_whitespace().collect::<Vec<_>>().join(" ").replace('#', "");
            }
        }
        self.tests.retain(|_, test| test.ends.iter().any(Option::is_some));
    }
}

impl std::fmt::Display for ExpectedList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.comments {
            writeln!(f, "{line}")?;
        }
        let padded = |words: Vec<&str>| {
            words.iter().fold(String::new(), |mut line, word| {
                // Writing into a string does not fail.
                let _ = write!(line, "{word:<8}");
                line
            })
        };
        writeln!(f, "{}", padded(self.sides.iter().map(|side| side.as_str()).collect()).trim_end())?;
        for (name, test) in &self.tests {
            let ends = test.ends.iter().map(|end| end.map_or("-", Outcome::as_str)).collect();
            let listed_reason = test.ends.iter().any(|end| end.is_some_and(|end| end != Outcome::Pass));
            let reason = if listed_reason { format!("  # {}", test.reason) } else { String::new() };
            writeln!(f, "{}{name}{reason}", padded(ends))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome;

    const LIST: &str =
        "# two sides\ndev     consul\nfail    pass    acl::list  # refused\npass    pass    kv::get\n";

    #[test]
    fn each_way_to_differ_is_a_difference() {
        let list = ExpectedList::parse(LIST).expect("a list");
        assert_eq!((list.count(Side::Dev), list.known_failures(Side::Dev)), (2, 1));

        let same = list.compare(Side::Dev, &outcome::parse("ok kv::get\nfail acl::list: 404\n"));
        assert_eq!(same, Comparison { matched: 2, ..Comparison::default() });

        for (output, expected) in [
            (
                "fail kv::get: 500\nfail acl::list: 404\n",
                "kv::get is listed as `pass` and ends with `fail`: 500",
            ),
            (
                "skip kv::get: no time\nfail acl::list: 404\n",
                "kv::get is listed as `pass` and ends with `skip`: no time",
            ),
            (
                "ok kv::get\nok acl::list\n",
                "acl::list passes and is listed as `fail` (refused): list it as `pass`",
            ),
            ("fail acl::list: 404\n", "kv::get is listed and did not run"),
            ("ok kv::get\nfail acl::list: 404\nok kv::put\n", "kv::put is not listed and ends with `pass`: "),
        ] {
            let compared = list.compare(Side::Dev, &outcome::parse(output));
            assert_eq!(compared.differences, [expected], "{output}");
        }
    }

    #[test]
    fn a_failure_without_a_reason_is_refused() {
        for (text, why) in [
            ("dev\nfail a\n", "line 2: needs the reason, behind `#`: fail a"),
            ("dev\nfails a\n", "line 2: needs `pass`, `fail`, `skip` or `-` for dev: fails a"),
            ("dev\npass a b\n", "line 2: needs one name: pass a b"),
            ("dev\npass a\npass a\n", "line 3: is listed twice: pass a"),
            ("here\npass a\n", "line 1: names a side that does not exist: here"),
        ] {
            assert_eq!(ExpectedList::parse(text).expect_err(text), why);
        }
    }

    #[test]
    fn a_recorded_list_keeps_comments_reasons_and_the_other_side() {
        let mut list = ExpectedList::parse(LIST).expect("a list");
        assert_eq!(list.to_string(), LIST);
        list.record(
            Side::Dev,
            &outcome::parse("fail kv::get: gone\nfail acl::list: another text\nok kv::put\n"),
        );
        assert_eq!(
            list.to_string(),
            "# two sides\ndev     consul\nfail    pass    acl::list  # refused\nfail    pass    kv::get  # gone\n\
             pass    -       kv::put\n"
        );
    }
}
