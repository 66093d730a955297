//! Finds pronouns of persons, which say nothing exact about sockets, processes and requests.

/// The words that comments and pages do not use.
const FORBIDDEN: [&str; 8] =
    ["who", "whom", "whose", "whoever", "nobody", "somebody", "anybody", "everybody"];

/// Each use in `text`, with its line. Of Rust only the comments count.
pub(crate) fn forbidden(text: &str, is_rust: bool) -> Vec<String> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let prose = if is_rust { comment(line) } else { line };
        let words = prose.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        let uses = words.filter(|word| FORBIDDEN.contains(&word.to_lowercase().as_str()));
        found.extend(uses.map(|word| format!("line {}: {word}", at + 1)));
    }
    found
}

/// The comment at the end of a line of Rust; empty without one. A string that began on a line before is not
/// recognised.
fn comment(line: &str) -> &str {
    let mut in_string = false;
    let mut before = ' ';
    for (at, letter) in line.char_indices() {
        match letter {
            '"' if before != '\\' && before != '\'' => in_string = !in_string,
            '/' if before == '/' && !in_string => return &line[at..],
            _ => {}
        }
        // The second backslash of two escapes nothing.
        before = if (before, letter) == ('\\', '\\') { ' ' } else { letter };
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_code_and_strings_of_rust_are_allowed() {
        let code = "let who = \"http://nobody\"; f('\"', whose);";
        assert_eq!(forbidden(code, true), [""; 0]);
        assert_eq!(forbidden("let a = \"\\\\\"; // who waits", true), ["line 1: who"]);
    }

    #[test]
    fn only_whole_words_count_in_either_case() {
        assert_eq!(forbidden("a whole row: `who_is`\n\n(Whoever)", false), ["line 3: Whoever"]);
    }
}
