//! `${NAME}` and `${NAME:-default}` in values.
//!
//! As in a shell: the default is used when the variable is unset or empty; without a default an unset
//! variable is an error and an empty one is an empty text. `$$` is one dollar; a dollar before
//! anything but `{` or `$` stays. Keys and comments are not expanded, and a default holds no variable.

use crate::{error::InvalidValue, layers::Environment};

/// A value after its variables were replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expanded {
    pub(crate) text: String,
    /// A variable (or its default) is part of the text, so no message may show the text.
    pub(crate) from_environment: bool,
}

/// Replaces every variable.
///
/// # Errors
/// All problems of the variables.
pub(crate) fn expand(text: &str, env: &Environment) -> Result<Expanded, Vec<InvalidValue>> {
    let mut out = Expanded { text: String::with_capacity(text.len()), from_environment: false };
    let mut errors = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.text.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.text.push('$');
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('{') {
            let Some((reference, after)) = inside.split_once('}') else {
                let hint = "write ${NAME}, or $${ for a plain \"${\"";
                errors.push(InvalidValue::new("\"${\" has no closing \"}\"", hint));
                return Err(errors);
            };
            out.from_environment = true;
            match resolve(reference, env) {
                Ok(value) => out.text.push_str(&value),
                Err(error) => errors.push(error),
            }
            rest = after;
        } else {
            out.text.push('$');
        }
    }
    out.text.push_str(rest);
    if errors.is_empty() { Ok(out) } else { Err(errors) }
}

/// The value of `${reference}`.
fn resolve(reference: &str, env: &Environment) -> Result<String, InvalidValue> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !is_name(name) {
        let hint = "letters, digits and _ only, as ${NAME} or ${NAME:-default}";
        return Err(InvalidValue::new(format!("{name:?} is not a variable's name"), hint));
    }
    if default.is_some_and(|default| default.contains("${")) {
        let what = format!("the default of ${{{name}}} holds another variable");
        return Err(InvalidValue::new(what, "a default is plain text"));
    }
    match (env.get(name), default) {
        // A default is for a variable that is unset, not for one that cannot be used.
        _ if env.is_not_utf8(name) => {
            let what = format!("environment variable {name} {}", env.why_absent(name));
            Err(InvalidValue::new(what, "set it to UTF-8 text"))
        }
        (Some(""), Some(default)) | (None, Some(default)) => Ok(default.to_owned()),
        (Some(value), _) => Ok(value.to_owned()),
        (None, None) => {
            let hint = format!("set it, or give a default: ${{{name}:-value}}");
            Err(InvalidValue::new(format!("environment variable {name} {}", env.why_absent(name)), hint))
        }
    }
}

/// The variable's name when the text is one whole `${NAME}` without a default: the only form of a secret in a
/// file.
pub(crate) fn whole_variable(text: &str) -> Option<&str> {
    let name = text.strip_prefix("${")?.strip_suffix('}')?;
    is_name(name).then_some(name)
}

/// Every variable in the text.
pub(crate) fn referenced_variables(text: &str) -> impl Iterator<Item = &str> {
    text.split("${").skip(1).filter_map(|part| {
        let name = part.split(['}', ':']).next()?;
        is_name(name).then_some(name)
    })
}

/// A text that [`expand`] turns into this one.
pub(crate) fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env() -> Environment {
        [("HOST", "db-1"), ("PORT", "8080"), ("EMPTY", "")].into_iter().collect()
    }

    fn check(text: &str, expected: Result<&str, &[&str]>) {
        let got = expand(text, &env()).map(|expanded| expanded.text);
        let got = got.map_err(|errors| errors.into_iter().map(|error| error.what).collect::<Vec<_>>());
        assert_eq!(
            got.as_deref().map_err(|errors| errors.iter().map(|what| &**what).collect()),
            expected.map_err(<[_]>::to_vec),
            "for {text:?}"
        );
    }

    #[test]
    fn variables_become_their_values() {
        check("${HOST}", Ok("db-1"));
        check("http://${HOST}:${PORT}/", Ok("http://db-1:8080/"));
        check("${NOPE:-x}", Ok("x"));
        check("${NOPE:-}", Ok(""));
        check("${HOST:-x}", Ok("db-1"));
        check("${EMPTY:-x}", Ok("x"));
        check("${EMPTY}", Ok(""));
        check("${NOPE:-a:-b}", Ok("a:-b"));
    }

    #[test]
    fn two_dollars_are_one_and_a_single_dollar_stays() {
        check("$${HOST}", Ok("${HOST}"));
        check("$$$${HOST}", Ok("$${HOST}"));
        check("$$${HOST}", Ok("$db-1"));
        check("5$", Ok("5$"));
        check("$HOST", Ok("$HOST"));
    }

    #[test]
    fn every_missing_variable_is_named() {
        check("${A} ${B}", Err(&["environment variable A is not set", "environment variable B is not set"]));
        check("${A", Err(&["\"${\" has no closing \"}\""]));
        check("${}", Err(&["\"\" is not a variable's name"]));
        check("${a-b}", Err(&["\"a-b\" is not a variable's name"]));
        check("${A:-${B}}", Err(&["the default of ${A} holds another variable"]));
    }

    #[test]
    fn only_a_whole_variable_counts_as_one() {
        assert_eq!(whole_variable("${HOST}"), Some("HOST"));
        for text in ["${HOST:-x}", "x${HOST}", "${HOST}x", "$HOST", "${A}${B}", ""] {
            assert_eq!(whole_variable(text), None, "for {text:?}");
        }
    }

    proptest! {
        #[test]
        fn escaped_text_comes_back_as_it_was(text in ".*") {
            prop_assert_eq!(expand(&escape(&text), &env()).unwrap().text, text);
        }

        #[test]
        fn no_text_makes_expand_panic(text in "[$a{}:-]{0,20}") {
            let _ = expand(&text, &env());
        }
    }
}
