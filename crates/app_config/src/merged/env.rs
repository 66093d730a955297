//! The configuration as lines `NAME=value`.
//!
//! Names are those that Spring looks for: `my.main-project.hosts[0].name` is `MY_MAINPROJECT_HOSTS_0_NAME`.
//!
//! A value that has only letters, digits and some signs is written as it is. Another one is in single quotes; where it has a single
//! quote or a backslash, in double quotes with a backslash before `"`, `\`, `` ` `` and `$`. A POSIX shell and systemd's
//! `EnvironmentFile` read both in the same way. `docker --env-file` knows no quotes: it is written for with [`EnvQuoting::Never`].

use std::collections::{BTreeMap, btree_map::Entry};

use super::{
    merge::ConfigView,
    path::{PathSegment, PropertyPath},
    property::{MergedProperty, ProblemReason, ViewProblem},
};

/// Which values have quotes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EnvQuoting {
    /// Those that a shell would change. The default.
    #[default]
    WhereNeeded,
    /// None, for `docker --env-file`. A value with a line break cannot be written.
    Never,
}

impl ConfigView {
    /// A line for each property in the order of the variables, without empty objects, and the properties that are not there. Of two with one
    /// variable the more specific one is there.
    pub fn to_env(&self, quoting: EnvQuoting) -> (String, Vec<ViewProblem>) {
        let mut problems = Vec::new();
        let mut lines: BTreeMap<String, (&MergedProperty, String)> = BTreeMap::new();
        let mut by_rank: Vec<_> = self.properties.iter().collect();
        by_rank.sort_by_key(|property| property.rank);
        for property in by_rank {
            let Some(value) = property.value.as_text() else { continue };
            let mut refuse = |reason, detail| problems.push(problem_of(property, reason, detail));
            let Some(name) = env_name(&property.name) else {
                let detail = format!("{:?} has no letter or digit for the name of a variable", property.name);
                refuse(ProblemReason::NotInFormat, detail);
                continue;
            };
            let Some(value) = quote(&value, quoting) else {
                let detail = match quoting {
                    EnvQuoting::WhereNeeded => format!("the value of {} has a zero byte", property.name),
                    EnvQuoting::Never => {
                        format!("the value of {} has a line break or a zero byte", property.name)
                    }
                };
                refuse(ProblemReason::NotInFormat, detail);
                continue;
            };
            match lines.entry(name) {
                Entry::Vacant(vacant) => {
                    vacant.insert((property, value));
                }
                Entry::Occupied(taken) => {
                    let first = &taken.get().0.name;
                    let detail = format!("{} and {first} are both {}", property.name, taken.key());
                    refuse(ProblemReason::NameTaken, detail);
                }
            }
        }
        let text = lines.into_iter().map(|(name, (_, value))| format!("{name}={value}\n")).collect();
        (text, problems)
    }
}

fn problem_of(property: &MergedProperty, reason: ProblemReason, detail: String) -> ViewProblem {
    let (key, index) = (property.origin.key.clone(), property.origin.index);
    ViewProblem { key, index, reason, detail, in_effect: None }
}

/// In upper case, `_` between the parts and for signs, without dashes. `None`: nothing is left.
fn env_name(name: &str) -> Option<String> {
    let path = PropertyPath::of(name);
    let part = |segment: &PathSegment| match segment {
        PathSegment::Index(index) => index.to_string(),
        PathSegment::Name(name) => {
            let without_dashes = name.chars().filter(|c| *c != '-');
            without_dashes
                .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
                .collect()
        }
    };
    let name = path.segments().iter().map(part).collect::<Vec<_>>().join("_");
    // A variable does not begin with a digit.
    let digit = if name.starts_with(|c: char| c.is_ascii_digit()) { "_" } else { "" };
    name.contains(|c: char| c.is_ascii_alphanumeric()).then(|| format!("{digit}{name}"))
}

/// `None`: it cannot be written.
fn quote(value: &str, quoting: EnvQuoting) -> Option<String> {
    if value.contains('\0') {
        return None;
    }
    if quoting == EnvQuoting::Never {
        return (!value.contains(['\n', '\r'])).then(|| value.to_owned());
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+,=".contains(&byte);
    if value.bytes().all(is_plain) {
        return Some(value.to_owned());
    }
    if !value.contains(['\'', '\\']) {
        return Some(format!("'{value}'"));
    }
    let mut out = String::from("\"");
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '`' | '$') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::{process::Command, sync::Arc};

    use outrigger_registry::KvEntry;
    use proptest::prelude::*;

    use super::{
        super::{
            properties::read_properties,
            source::{BlobFormat, LastGoodDocuments, SourceProperties},
        },
        *,
    };

    fn entry(key: &str, value: &str) -> Arc<KvEntry> {
        Arc::new(KvEntry {
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
            flags: 0,
            session: None,
            lock_index: 0,
            create_index: 1,
            modify_index: 7,
        })
    }

    fn view(all: &[(&str, &str)]) -> ConfigView {
        let entries: Vec<_> = all.iter().map(|(name, value)| entry(&format!("p/{name}"), value)).collect();
        ConfigView::merge(vec![SourceProperties::of_keys("p/", &entries)])
    }

    #[test]
    fn names_are_those_that_spring_looks_for() {
        for (name, expected) in [
            ("my.main-project.name", "MY_MAINPROJECT_NAME"),
            ("my.service[0].other", "MY_SERVICE_0_OTHER"),
            ("my.list[12]", "MY_LIST_12"),
            ("level[com.example]", "LEVEL_COM_EXAMPLE"),
            ("maxPool", "MAXPOOL"),
            ("a_b", "A_B"),
            ("a..b", "A__B"),
            ("0a", "_0A"),
            ("é x", "__X"),
            ("[0]", "_0"),
        ] {
            assert_eq!(env_name(name).as_deref(), Some(expected), "{name}");
        }
        for name in ["", "-", "é", "..", "_"] {
            assert_eq!(env_name(name), None, "{name}");
        }
    }

    #[test]
    fn of_two_properties_with_one_variable_the_more_specific_one_is_there() {
        let specific = [entry("p/a.z", "1"), entry("p/b-c", "1")];
        let general = [entry("q/A_Z", "2"), entry("q/bc", "2"), entry("q/-", "3")];
        let merged = ConfigView::merge(vec![
            SourceProperties::of_keys("p/", &specific),
            SourceProperties::of_keys("q/", &general),
        ]);
        let (text, problems) = merged.to_env(EnvQuoting::default());
        assert_eq!(text, "A_Z=1\nBC=1\n");
        let problems: Vec<_> =
            problems.iter().map(|one| (one.reason.as_str(), one.key.as_str(), one.detail.as_str())).collect();
        assert_eq!(
            problems,
            [
                ("not_in_format", "q/-", "\"-\" has no letter or digit for the name of a variable"),
                ("name_taken", "q/A_Z", "A_Z and a.z are both A_Z"),
                ("name_taken", "q/bc", "bc and b-c are both BC"),
            ]
        );
    }

    #[test]
    fn values_have_quotes_where_a_shell_needs_them() {
        let all = [
            ("a", "plain-1.2/x:y@z%+,="),
            ("b", ""),
            ("c", "two words"),
            ("d", "it's"),
            ("e", "$HOME `x` \"y\" \\"),
            ("f", "a\nb"),
            ("g", "a\\b$"),
            ("h", "#x"),
            ("i", "é"),
            ("j", "a\0b"),
        ];
        let (text, problems) = view(&all).to_env(EnvQuoting::WhereNeeded);
        let expected = "A=plain-1.2/x:y@z%+,=\nB=\nC='two words'\nD=\"it's\"\nE=\"\\$HOME \\`x\\` \\\"y\\\" \\\\\"\nF='a\nb'\nG=\"a\\\\b\\$\"\nH='#x'\nI='é'\n";
        assert_eq!(text, expected);
        assert_eq!(problems.len(), 1, "{problems:?}");
        let (docker, docker_problems) = view(&all).to_env(EnvQuoting::Never);
        assert_eq!(
            docker,
            "A=plain-1.2/x:y@z%+,=\nB=\nC=two words\nD=it's\nE=$HOME `x` \"y\" \\\nG=a\\b$\nH=#x\nI=é\n"
        );
        let keys: Vec<_> = docker_problems.iter().map(|one| one.key.as_str()).collect();
        assert_eq!(keys, ["p/f", "p/j"]);
    }

    /// What `sh` has in its variables after it read the file.
    fn read_by_shell(text: &str, names: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("env");
        std::fs::write(&file, text).unwrap();
        let print: String = names.iter().map(|name| format!("printf '%s\\000' \"${name}\"; ")).collect();
        let output = Command::new("sh")
            .args(["-c", &format!(". \"$1\"; {print}"), "sh"])
            .arg(&file)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?} {text}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    /// The values of a file as systemd reads it: the states of `parse_env_file_internal` in its env-file.c.
    fn read_by_systemd(text: &str) -> Vec<String> {
        enum State {
            Name,
            BeforeValue,
            Value,
            ValueEscape,
            SingleQuoted,
            DoubleQuoted,
            DoubleQuotedEscape,
        }
        let (mut state, mut value, mut values) = (State::Name, String::new(), Vec::new());
        for c in text.chars() {
            state = match (state, c) {
                (State::Name, '=') => State::BeforeValue,
                (State::Name, _) => State::Name,
                (State::BeforeValue | State::Value, '\n') => {
                    values.push(std::mem::take(&mut value));
                    State::Name
                }
                (State::BeforeValue, '\'') => State::SingleQuoted,
                (State::BeforeValue, '"') => State::DoubleQuoted,
                (State::BeforeValue | State::Value, '\\') => State::ValueEscape,
                (State::BeforeValue, ' ' | '\t' | '\r') => State::BeforeValue,
                (State::SingleQuoted, '\'') | (State::DoubleQuoted, '"') => State::BeforeValue,
                (State::DoubleQuoted, '\\') => State::DoubleQuotedEscape,
                (State::DoubleQuotedEscape, c) => {
                    if !"\"\\`$".contains(c) {
                        value.push('\\');
                    }
                    value.push(c);
                    State::DoubleQuoted
                }
                (State::BeforeValue | State::Value | State::ValueEscape, c) => {
                    value.push(c);
                    State::Value
                }
                (quoted @ (State::SingleQuoted | State::DoubleQuoted), c) => {
                    value.push(c);
                    quoted
                }
            };
        }
        values
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn a_shell_and_systemd_read_the_values_that_were_there(
            values in proptest::collection::vec(prop_oneof!["(?s)[^\0]{0,12}", "[ab'\"\\\\$`!#~*?&;|<>(){}\n\t =-]{0,12}"], 1..24)
        ) {
            let names: Vec<_> = (0..values.len()).map(|at| format!("v{at:02}")).collect();
            let all: Vec<_> = names.iter().zip(&values).map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let (text, problems) = view(&all).to_env(EnvQuoting::WhereNeeded);
            prop_assert_eq!(&problems, &[]);
            let upper: Vec<_> = names.iter().map(|name| name.to_uppercase()).collect();
            let upper: Vec<_> = upper.iter().map(String::as_str).collect();
            prop_assert_eq!(&read_by_shell(&text, &upper), &values);
            prop_assert_eq!(&read_by_systemd(&text), &values);
        }

        #[test]
        fn java_properties_have_every_property(all in proptest::collection::btree_map("[a-z]{1,3}(\\.[a-zé =:]{1,3}){0,2}", "(?s).{0,8}", 0..6)) {
            let pairs: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let text = view(&pairs).to_properties();
            let read: BTreeMap<_, _> = read_properties(&text).unwrap().into_iter().collect();
            prop_assert_eq!(read, all);
        }
    }

    #[test]
    fn null_and_empty_lists_are_empty_text_and_empty_objects_are_left_out() {
        let document = entry("p", "n: ~\nl: []\nm: {}\nt: true\nx: 0x1F\n");
        let source =
            SourceProperties::of_blob(BlobFormat::Yaml, &document, &mut LastGoodDocuments::default());
        let merged = ConfigView::merge(vec![source]);
        assert_eq!(merged.to_properties(), "l=\nn=\nt=true\nx=0x1F\n");
        assert_eq!(merged.to_env(EnvQuoting::default()).0, "L=\nN=\nT=true\nX=0x1F\n");
    }
}
