//! Sets of characters.

/// A set of characters: ranges, or all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CharClass {
    pub(super) ranges: Vec<(char, char)>,
    pub(super) inverted: bool,
    /// Letters count in both cases.
    pub(super) folds_case: bool,
}

impl CharClass {
    pub(super) fn has(&self, char: char) -> bool {
        let within = |char: char| self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&char));
        let found = within(char) || (self.folds_case && other_cases(char).any(within));
        found != self.inverted
    }
}

/// The forms of a letter in the other case, as far as they are single characters.
fn other_cases(char: char) -> impl Iterator<Item = char> {
    let lower = Some(char.to_lowercase()).filter(|forms| forms.len() == 1);
    let upper = Some(char.to_uppercase()).filter(|forms| forms.len() == 1);
    lower.into_iter().flatten().chain(upper.into_iter().flatten())
}

/// The ranges of `\d`, `\s` and `\w`: ASCII only, as in Go.
pub(super) fn perl_ranges(letter: char) -> Option<&'static [(char, char)]> {
    Some(match letter {
        'd' => &[('0', '9')],
        's' => &[('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')],
        'w' => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        _ => return None,
    })
}

/// The ranges of `[:NAME:]`.
pub(super) fn posix_ranges(name: &str) -> Option<&'static [(char, char)]> {
    Some(match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\u{7f}')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\u{1f}'), ('\u{7f}', '\u{7f}')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    })
}

/// All characters that `ranges`, in order, do not have.
pub(super) fn other_ranges(ranges: &[(char, char)]) -> Vec<(char, char)> {
    let mut others = Vec::new();
    let mut next = Some('\0');
    for (low, high) in ranges {
        if let (Some(first), Some(last)) = (next, before(*low))
            && first <= last
        {
            others.push((first, last));
        }
        next = after(*high);
    }
    others.extend(next.map(|first| (first, char::MAX)));
    others
}

fn before(char: char) -> Option<char> {
    ('\0'..char).next_back()
}

fn after(char: char) -> Option<char> {
    (char..=char::MAX).nth(1)
}
