//! Reads an expression as Go's `regexp/syntax` does, with Go's error texts.

use super::class::{CharClass, other_ranges, perl_ranges, posix_ranges};

/// Longest expression, bytes.
const LENGTH_MAX: usize = 16 * 1024;
/// Most groups within each other.
const NESTED_MAX: usize = 64;
/// Most repetitions, those of repetitions within each other multiplied; Go's limit.
const REPEAT_MAX: u32 = 1000;

/// A part of an expression. What a match captures, and which of several matches it is, does not count here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pattern {
    Class(CharClass),
    Place(Place),
    All(Vec<Pattern>),
    Any(Vec<Pattern>),
    Repeat {
        pattern: Box<Pattern>,
        min: u32,
        /// Absent: without a limit.
        max: Option<u32>,
    },
}

/// What a place in the text must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    TextStart,
    TextEnd,
    LineStart,
    LineEnd,
    WordEdge,
    NoWordEdge,
}

#[derive(Debug, Clone, Copy)]
struct Flags {
    folds_case: bool,
    several_lines: bool,
    dot_has_line_end: bool,
}

/// An open group.
struct Group {
    /// Those of the text around it, which count again after it.
    outer_flags: Flags,
    alternatives: Vec<Pattern>,
    /// The alternative that is being read.
    items: Vec<Pattern>,
}

impl Group {
    fn new(outer_flags: Flags) -> Self {
        Self { outer_flags, alternatives: Vec::new(), items: Vec::new() }
    }

    fn end_alternative(&mut self) {
        self.alternatives.push(Pattern::All(std::mem::take(&mut self.items)));
    }

    fn close(mut self) -> Pattern {
        self.end_alternative();
        Pattern::Any(self.alternatives)
    }
}

/// Reads an expression.
///
/// # Errors
/// Go's text.
pub(super) fn parse(text: &str) -> Result<Pattern, String> {
    if text.len() > LENGTH_MAX {
        return Err(format!("Regular expressions of up to {LENGTH_MAX} bytes are read"));
    }
    let flags = Flags { folds_case: false, several_lines: false, dot_has_line_end: false };
    Parser { text, rest: text, flags, groups: Vec::new(), group: Group::new(flags) }.read()
}

/// Go's text of an error: what is wrong, and where.
fn wrong<T>(what: &str, part: &str) -> Result<T, String> {
    Err(format!("error parsing regexp: {what}: `{part}`"))
}

const BAD_ESCAPE: &str = "invalid escape sequence";
const BAD_RANGE: &str = "invalid character class range";
const BAD_SIZE: &str = "invalid repeat count";
const NO_ARGUMENT: &str = "missing argument to repetition operator";
const NO_BRACKET: &str = "missing closing ]";
const NO_PAREN: &str = "missing closing )";

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    flags: Flags,
    /// Around `group`, the outermost first.
    groups: Vec<Group>,
    group: Group,
}

impl<'a> Parser<'a> {
    fn read(mut self) -> Result<Pattern, String> {
        // Where the repetition began that ends here.
        let mut repeated: Option<&'a str> = None;
        while let Some(char) = self.rest.chars().next() {
            let before = self.rest;
            let mut repeats = false;
            self.skip(char.len_utf8());
            match char {
                '(' => self.open(before)?,
                '|' => self.group.end_alternative(),
                ')' => self.close()?,
                '^' if self.flags.several_lines => self.push_place(Place::LineStart),
                '^' => self.push_place(Place::TextStart),
                '$' if self.flags.several_lines => self.push_place(Place::LineEnd),
                '$' => self.push_place(Place::TextEnd),
                '.' => {
                    let line_end: &[(char, char)] = &[('\n', '\n')];
                    self.push_class(if self.flags.dot_has_line_end { &[] } else { line_end }, true);
                }
                '[' => self.read_class(before)?,
                '*' | '+' | '?' | '{' => match self.read_count(char) {
                    Some((min, max)) => {
                        self.repeat(min, max, before, repeated)?;
                        repeats = true;
                    }
                    None => self.push_char(char),
                },
                '\\' => self.read_escape(before)?,
                other => self.push_char(other),
            }
            repeated = repeats.then_some(before);
        }
        match self.groups.is_empty() {
            true => Ok(self.group.close()),
            false => wrong(NO_PAREN, self.text),
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// What was read since `before` was left.
    fn since(&self, before: &'a str) -> &'a str {
        &before[..before.len() - self.rest.len()]
    }

    fn next(&mut self) -> Option<char> {
        let char = self.rest.chars().next()?;
        self.skip(char.len_utf8());
        Some(char)
    }

    fn push_char(&mut self, char: char) {
        self.push_class(&[(char, char)], false);
    }

    fn push_class(&mut self, ranges: &[(char, char)], inverted: bool) {
        let folds_case = self.flags.folds_case;
        self.group.items.push(Pattern::Class(CharClass { ranges: ranges.to_vec(), inverted, folds_case }));
    }

    fn push_place(&mut self, place: Place) {
        self.group.items.push(Pattern::Place(place));
    }

    /// After an opening parenthesis.
    fn open(&mut self, before: &'a str) -> Result<(), String> {
        let outer = self.flags;
        if before.starts_with("(?P<") && before.len() > 4 {
            let Some(end) = before.find('>') else { return wrong("invalid named capture", before) };
            let name = &before[4..end];
            self.rest = &before[end + 1..];
            if name.is_empty() || !name.chars().all(|char| char == '_' || char.is_ascii_alphanumeric()) {
                return wrong("invalid named capture", self.since(before));
            }
        } else if before.len() > 1 && before.starts_with("(?") {
            self.skip(1);
            if !self.read_flags(before)? {
                return Ok(());
            }
        }
        if self.groups.len() == NESTED_MAX {
            return Err(format!("At most {NESTED_MAX} groups within each other are read"));
        }
        let inner = Group::new(outer);
        self.groups.push(std::mem::replace(&mut self.group, inner));
        Ok(())
    }

    /// The flags after `(?`; whether they begin a group.
    fn read_flags(&mut self, before: &'a str) -> Result<bool, String> {
        let mut flags = self.flags;
        let mut set = true;
        let mut seen = false;
        while let Some(char) = self.next() {
            match char {
                'i' => flags.folds_case = set,
                'm' => flags.several_lines = set,
                's' => flags.dot_has_line_end = set,
                // Which of several matches is found does not count here.
                'U' => {}
                '-' if set => (set, seen) = (false, false),
                ':' | ')' if set || seen => {
                    self.flags = flags;
                    return Ok(char == ':');
                }
                _ => break,
            }
            if char != '-' {
                seen = true;
            }
        }
        wrong("invalid or unsupported Perl syntax", self.since(before))
    }

    fn close(&mut self) -> Result<(), String> {
        let Some(outer) = self.groups.pop() else { return wrong("unexpected )", self.text) };
        let inner = std::mem::replace(&mut self.group, outer);
        self.flags = inner.outer_flags;
        self.group.items.push(inner.close());
        Ok(())
    }

    /// How often: for `*`, `+`, `?`, or for `{` what follows it. `None`: an ordinary `{`. A count that is too large is
    /// the largest number.
    fn read_count(&mut self, operator: char) -> Option<(u32, Option<u32>)> {
        match operator {
            '*' => return Some((0, None)),
            '+' => return Some((1, None)),
            '?' => return Some((0, Some(1))),
            _ => {}
        }
        let (counts, after) = self.rest.split_once('}')?;
        let count = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let fits = digits && (text == "0" || !text.starts_with('0'));
            fits.then(|| text.parse().unwrap_or(u32::MAX))
        };
        let bounds = match counts.split_once(',') {
            None => (count(counts)?, Some(count(counts)?)),
            Some((min, "")) => (count(min)?, None),
            Some((min, max)) => (count(min)?, Some(count(max)?)),
        };
        self.rest = after;
        Some(bounds)
    }

    fn repeat(
        &mut self,
        min: u32,
        max: Option<u32>,
        before: &'a str,
        repeated: Option<&'a str>,
    ) -> Result<(), String> {
        let counted = before.starts_with('{');
        if counted && (min > REPEAT_MAX || max.is_some_and(|max| max > REPEAT_MAX || max < min)) {
            return wrong(BAD_SIZE, self.since(before));
        }
        if self.rest.starts_with('?') {
            self.skip(1);
        }
        if let Some(first) = repeated {
            return wrong("invalid nested repetition operator", self.since(first));
        }
        let Some(pattern) = self.group.items.pop() else { return wrong(NO_ARGUMENT, self.since(before)) };
        let pattern = Pattern::Repeat { pattern: Box::new(pattern), min, max };
        if counted && (min >= 2 || max.is_some_and(|max| max >= 2)) && !repeats_at_most(&pattern, REPEAT_MAX)
        {
            return wrong(BAD_SIZE, self.since(before));
        }
        self.group.items.push(pattern);
        Ok(())
    }

    /// After a backslash, outside a class.
    fn read_escape(&mut self, before: &'a str) -> Result<(), String> {
        let letter = self.rest.chars().next();
        let place = match letter {
            Some('A') => Some(Place::TextStart),
            Some('z') => Some(Place::TextEnd),
            Some('b') => Some(Place::WordEdge),
            Some('B') => Some(Place::NoWordEdge),
            _ => None,
        };
        if let Some(place) = place {
            self.skip(1);
            self.push_place(place);
        } else if letter == Some('C') {
            self.skip(1);
            return wrong(BAD_ESCAPE, self.since(before));
        } else if letter == Some('Q') {
            self.skip(1);
            let (literal, after) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
            self.rest = after;
            literal.chars().for_each(|char| self.push_char(char));
        } else if let Some(ranges) = self.read_escaped_class(before)? {
            self.push_class(&ranges, false);
        } else {
            let char = self.read_escaped_char(before)?;
            self.push_char(char);
        }
        Ok(())
    }

    /// `\d`, `\D` and the like, or `\p`, after a backslash.
    fn read_escaped_class(&mut self, before: &'a str) -> Result<Option<Vec<(char, char)>>, String> {
        let Some(letter) = self.rest.chars().next() else { return Ok(None) };
        if matches!(letter, 'p' | 'P') {
            self.skip(1);
            return self.refuse_unicode_class(before);
        }
        let Some(ranges) = perl_ranges(letter.to_ascii_lowercase()) else { return Ok(None) };
        self.skip(1);
        Ok(Some(if letter.is_ascii_uppercase() { other_ranges(ranges) } else { ranges.to_vec() }))
    }

    fn refuse_unicode_class<T>(&mut self, before: &'a str) -> Result<T, String> {
        if self.next() == Some('{') {
            let Some(end) = self.rest.find('}') else { return wrong(BAD_RANGE, before) };
            self.skip(end + 1);
        }
        Err(format!("Unicode classes in regular expressions are not read: {}", self.since(before)))
    }

    /// A single character after a backslash.
    fn read_escaped_char(&mut self, before: &'a str) -> Result<char, String> {
        let Some(char) = self.next() else {
            return wrong("trailing backslash at end of expression", "");
        };
        let octal = |text: &str| text.bytes().next().is_some_and(|byte| (b'0'..=b'7').contains(&byte));
        let found = match char {
            // A single digit other than 0 would be a reference to a capture.
            '0' => Some(self.read_octal(0)),
            '1'..='7' if octal(self.rest) => Some(self.read_octal(char.to_digit(8).unwrap_or_default())),
            'x' => self.read_hexadecimal(),
            'a' => Some(0x07),
            'f' => Some(0x0c),
            'n' => Some(0x0a),
            'r' => Some(0x0d),
            't' => Some(0x09),
            'v' => Some(0x0b),
            char if char.is_ascii() && !char.is_ascii_alphanumeric() => Some(u32::from(char)),
            _ => None,
        };
        found.and_then(char::from_u32).map_or_else(|| wrong(BAD_ESCAPE, self.since(before)), Ok)
    }

    fn read_octal(&mut self, first: u32) -> u32 {
        let mut value = first;
        for _ in 0..2 {
            let Some(digit) = self.rest.chars().next().and_then(|char| char.to_digit(8)) else { break };
            self.skip(1);
            value = value * 8 + digit;
        }
        value
    }

    /// Two digits, or any number of them in braces.
    fn read_hexadecimal(&mut self) -> Option<u32> {
        let first = self.next()?;
        if first != '{' {
            let high = first.to_digit(16);
            let low = self.next().and_then(|char| char.to_digit(16));
            return Some(high? * 16 + low?);
        }
        let mut value = None;
        loop {
            let char = self.next()?;
            if char == '}' {
                return value;
            }
            let next = value.unwrap_or(0) * 16 + char.to_digit(16)?;
            value = (next <= u32::from(char::MAX)).then_some(next);
            value?;
        }
    }

    /// After an opening bracket.
    fn read_class(&mut self, before: &'a str) -> Result<(), String> {
        let inverted = self.rest.starts_with('^');
        self.skip(usize::from(inverted));
        let mut ranges = Vec::new();
        // A bracket that comes first is an ordinary character.
        let mut first = true;
        while first || !self.rest.starts_with(']') {
            first = false;
            if let Some(named) = self.read_named_class()? {
                ranges.extend(named);
                continue;
            }
            let start = self.rest;
            if start.starts_with('\\') {
                self.skip(1);
                if let Some(escaped) = self.read_escaped_class(start)? {
                    ranges.extend(escaped);
                    continue;
                }
                self.rest = start;
            }
            let low = self.read_class_char(before)?;
            let mut high = low;
            if self.rest.len() >= 2 && self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.skip(1);
                high = self.read_class_char(before)?;
                if high < low {
                    return wrong(BAD_RANGE, self.since(start));
                }
            }
            ranges.push((low, high));
        }
        self.skip(1);
        self.push_class(&ranges, inverted);
        Ok(())
    }

    /// `[:alpha:]`, `[:^alpha:]`, within a class.
    fn read_named_class(&mut self) -> Result<Option<Vec<(char, char)>>, String> {
        let Some((name, after)) = self.rest.strip_prefix("[:").and_then(|rest| rest.split_once(":]")) else {
            return Ok(None);
        };
        let whole = &self.rest[..self.rest.len() - after.len()];
        let (name, others) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
        let Some(ranges) = posix_ranges(name) else { return wrong(BAD_RANGE, whole) };
        self.rest = after;
        Ok(Some(if others { other_ranges(ranges) } else { ranges.to_vec() }))
    }

    fn read_class_char(&mut self, class: &'a str) -> Result<char, String> {
        let before = self.rest;
        match self.next() {
            None => wrong(NO_BRACKET, class),
            Some('\\') => self.read_escaped_char(before),
            Some(char) => Ok(char),
        }
    }
}

/// Whether the counted repetitions within each other, multiplied, are at most `most`.
fn repeats_at_most(pattern: &Pattern, most: u32) -> bool {
    match pattern {
        Pattern::Class(_) | Pattern::Place(_) => true,
        Pattern::All(parts) | Pattern::Any(parts) => parts.iter().all(|part| repeats_at_most(part, most)),
        // `*`, `+` and `?` are no counted repetitions.
        Pattern::Repeat { pattern, min: 0 | 1, max: None }
        | Pattern::Repeat { pattern, min: 0, max: Some(1) } => repeats_at_most(pattern, most),
        Pattern::Repeat { pattern, min, max } => match max.unwrap_or(*min) {
            0 => true,
            count if count > most => false,
            count => repeats_at_most(pattern, most / count),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_go() {
        let cases = [
            ("(", "missing closing ): `(`"),
            ("a(b|c", "missing closing ): `a(b|c`"),
            (")", "unexpected ): `)`"),
            ("(a))b", "unexpected ): `(a))b`"),
            ("[a", "missing closing ]: `[a`"),
            ("x[]a", "missing closing ]: `[]a`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            ("[[:word:]-[:nope:]]", "invalid character class range: `[:nope:]`"),
            ("*", "missing argument to repetition operator: `*`"),
            ("a|*?", "missing argument to repetition operator: `*?`"),
            ("(+)", "missing argument to repetition operator: `+`"),
            ("{2}", "missing argument to repetition operator: `{2}`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a*{3}?b", "invalid nested repetition operator: `*{3}?`"),
            ("a???", "invalid nested repetition operator: `???`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("a{2,1}", "invalid repeat count: `{2,1}`"),
            ("(a{100}){100}", "invalid repeat count: `{100}`"),
            ("\\", "trailing backslash at end of expression: ``"),
            ("[a\\", "trailing backslash at end of expression: ``"),
            ("\\q", "invalid escape sequence: `\\q`"),
            ("\\8", "invalid escape sequence: `\\8`"),
            ("\\1", "invalid escape sequence: `\\1`"),
            ("\\x1", "invalid escape sequence: `\\x1`"),
            ("\\x{110000}", "invalid escape sequence: `\\x{110000`"),
            ("\\C", "invalid escape sequence: `\\C`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?i-)", "invalid or unsupported Perl syntax: `(?i-)`"),
            ("(?", "invalid or unsupported Perl syntax: `(?`"),
            ("(?P<n", "invalid named capture: `(?P<n`"),
            ("(?P<a b>x)", "invalid named capture: `(?P<a b>`"),
            ("(?P=n)", "invalid or unsupported Perl syntax: `(?P`"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Err(format!("error parsing regexp: {expected}")), "{text}");
        }
    }

    #[test]
    fn what_looks_like_an_error_may_be_a_literal() {
        for text in ["a{", "a{,2}", "a{01}", "a{x}", "]", "}", "[]a]", "[a-]", "[^]]", "a|", "()", "(?i)", ""]
        {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn size_is_bounded() {
        let deep = "(".repeat(65) + &")".repeat(65);
        assert!(parse(&deep).unwrap_err().contains("groups within each other"));
        assert!(parse(&"a".repeat(20_000)).unwrap_err().contains("bytes"));
    }
}
