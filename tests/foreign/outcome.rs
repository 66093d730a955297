//! The lines in which a program reports its tests.
//!
//! One line on standard output for each test: `ok NAME`, `fail NAME: REASON` or `skip NAME: REASON`. A name has no white
//! space. All other lines are the program's own.

use std::collections::BTreeMap;

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It passed.
    Pass,
    /// It failed.
    Fail,
    /// The program did not run it.
    Skip,
}

impl Outcome {
    /// Its word in a list.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }

    /// The outcome with this word.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        [Self::Pass, Self::Fail, Self::Skip].into_iter().find(|outcome| outcome.as_str() == word)
    }
}

/// What a program reported: for each test its end and the reason, in the order of the names.
pub(crate) type Observed = BTreeMap<String, (Outcome, String)>;

/// Reads a program's output. A test that is reported twice has the worse end.
pub(crate) fn parse(output: &str) -> Observed {
    let mut observed = Observed::new();
    for line in output.lines() {
        let Some((word, rest)) = line.split_once(' ') else { continue };
        let outcome = match word {
            "ok" => Outcome::Pass,
            "fail" => Outcome::Fail,
            "skip" => Outcome::Skip,
            _ => continue,
        };
        let (name, reason) = match outcome {
            Outcome::Pass => (rest, ""),
            Outcome::Fail | Outcome::Skip => {
                rest.split_once(": ").unwrap_or((rest.trim_end_matches(':'), ""))
            }
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            continue;
        }
        let seen = observed.entry(name.to_owned()).or_insert((outcome, reason.to_owned()));
        if outcome == Outcome::Fail {
            *seen = (outcome, reason.to_owned());
        }
    }
    observed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_of_tests_and_no_others() {
        let observed = parse(
            "collected 3 items\nok kv::get\nfail kv::put: 405: not allowed\nskip acl::list: no ACLs\n\
             ok the registry is up\nfail empty:\n",
        );
        let expected = [
            ("acl::list", Outcome::Skip, "no ACLs"),
            ("empty", Outcome::Fail, ""),
            ("kv::get", Outcome::Pass, ""),
            ("kv::put", Outcome::Fail, "405: not allowed"),
        ];
        let found: Vec<_> =
            observed.iter().map(|(name, (end, why))| (name.as_str(), *end, why.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_failed_teardown_fails_a_test_that_passed() {
        assert_eq!(parse("ok a\nfail a: teardown\n")["a"], (Outcome::Fail, "teardown".to_owned()));
        assert_eq!(parse("fail a: first\nok a\n")["a"], (Outcome::Fail, "first".to_owned()));
    }
}
