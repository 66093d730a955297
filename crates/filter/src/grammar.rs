//! The grammar of filter expressions:
//!
//! ```text
//! Or     = And ( _ "or" _ And )*            And   = Not ( _ "and" _ Not )*
//! Not    = ( "not" _ )* Group               Group = "(" _? Or _? ")" / Match
//! Match  = Selector Operator Value / Selector Emptiness / Value Membership Selector
//! Value  = Selector / Number / String       Selector = Name ( "." Name / "[" _? String _? "]" )*
//! ```
//!
//! The first alternative that fits counts, as in the parser of Consul; its errors are told in the same words.

use std::collections::HashMap;

use crate::{error::FilterError, golang::unquote, scanner::Scanner};

/// Most parentheses within each other. Consul has no limit, but its time grows by four with each.
const NESTED_MAX: usize = 64;

/// An expression as it was written, before its selectors are known to exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expression {
    All(Vec<Expression>),
    Any(Vec<Expression>),
    Not(Box<Expression>),
    Match(Match),
}

/// A selector, an operator, and the value of an operator that takes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Match {
    pub(crate) selector: Vec<String>,
    pub(crate) operator: Operator,
    /// As text: the field's type decides how it is read.
    pub(crate) value: String,
    pub(crate) at: MatchPlace,
}

/// Where the parts of a match are written, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MatchPlace {
    pub(crate) selector: usize,
    pub(crate) value: usize,
}

/// What a match does with the selected value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operator {
    pub(crate) relation: Relation,
    /// One of the operators with `not`.
    pub(crate) negated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    Equal,
    /// `in` and, the other way round, `contains`.
    In,
    Empty,
    Matches,
}

/// An operator as it is written: its words, and whether it needs white space around itself.
struct Spelling {
    words: &'static [&'static str],
    spaced: bool,
    operator: Operator,
}

const fn symbol(words: &'static [&'static str], negated: bool) -> Spelling {
    Spelling { words, spaced: false, operator: Operator { relation: Relation::Equal, negated } }
}

const fn word(words: &'static [&'static str], relation: Relation, negated: bool) -> Spelling {
    Spelling { words, spaced: true, operator: Operator { relation, negated } }
}

/// Between a selector and a value.
const SELECTOR_VALUE: &[Spelling] = &[
    symbol(&["=="], false),
    symbol(&["!="], true),
    word(&["contains"], Relation::In, false),
    word(&["not", "contains"], Relation::In, true),
    word(&["matches"], Relation::Matches, false),
    word(&["not", "matches"], Relation::Matches, true),
];
/// After a selector.
const SELECTOR_ONLY: &[Spelling] =
    &[word(&["is", "empty"], Relation::Empty, false), word(&["is", "not", "empty"], Relation::Empty, true)];
/// Between a value and a selector.
const VALUE_SELECTOR: &[Spelling] =
    &[word(&["in"], Relation::In, false), word(&["not", "in"], Relation::In, true)];

/// Reads a whole expression.
///
/// # Errors
/// Where it is wrong and why, one error a line.
pub(crate) fn parse(text: &str) -> Result<Expression, FilterError> {
    let mut grammar = Grammar { scan: Scanner::new(text), nested: 0, known: HashMap::new() };
    let whole = grammar.attempt(Grammar::in_parentheses_only).or_else(|| grammar.attempt(Grammar::whole));
    grammar.scan.finish(whole)
}

struct Grammar<'a> {
    scan: Scanner<'a>,
    nested: usize,
    /// What `or` found at a place, and where it ended: some alternatives ask again.
    known: HashMap<usize, (Option<Expression>, usize)>,
}

impl<'a> Grammar<'a> {
    fn attempt<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let start = self.scan.at;
        let result = read(self);
        if result.is_none() {
            self.scan.at = start;
        }
        result
    }

    fn in_parentheses_only(&mut self) -> Option<Expression> {
        space(&mut self.scan);
        self.scan.literal("(").then_some(())?;
        space(&mut self.scan);
        let inner = self.or()?;
        space(&mut self.scan);
        self.scan.literal(")").then_some(())?;
        space(&mut self.scan);
        self.scan.end().then_some(inner)
    }

    fn whole(&mut self) -> Option<Expression> {
        space(&mut self.scan);
        let expression = self.or()?;
        space(&mut self.scan);
        self.scan.end().then_some(expression)
    }

    fn or(&mut self) -> Option<Expression> {
        let start = self.scan.at;
        if let Some((found, end)) = self.known.get(&start) {
            self.scan.at = *end;
            return found.clone();
        }
        let found = self.chain("or", Self::and, Expression::Any);
        self.known.insert(start, (found.clone(), self.scan.at));
        found
    }

    fn and(&mut self) -> Option<Expression> {
        self.chain("and", Self::not, Expression::All)
    }

    /// One operand, or several with `word` between them.
    fn chain(
        &mut self,
        word: &str,
        operand: fn(&mut Self) -> Option<Expression>,
        join: fn(Vec<Expression>) -> Expression,
    ) -> Option<Expression> {
        let first = self.attempt(operand)?;
        let mut operands = vec![first];
        let next = |grammar: &mut Self| {
            let between = space(&mut grammar.scan) && grammar.scan.literal(word) && space(&mut grammar.scan);
            between.then(|| operand(grammar)).flatten()
        };
        while let Some(more) = self.attempt(next) {
            operands.push(more);
        }
        match operands.pop() {
            Some(only) if operands.is_empty() => Some(only),
            last => Some(join(operands.into_iter().chain(last).collect())),
        }
    }

    fn not(&mut self) -> Option<Expression> {
        // `not` may also be a selector, so that as many words count as leave an operand.
        let mut starts = vec![self.scan.at];
        while self
            .attempt(|grammar| (grammar.scan.literal("not") && space(&mut grammar.scan)).then_some(()))
            .is_some()
        {
            starts.push(self.scan.at);
        }
        while let Some(start) = starts.pop() {
            self.scan.at = start;
            if let Some(operand) = self.group() {
                // Two of them cancel each other.
                let negated = starts.len() % 2 == 1;
                return Some(if negated { Expression::Not(Box::new(operand)) } else { operand });
            }
        }
        None
    }

    fn group(&mut self) -> Option<Expression> {
        let inner = self.attempt(|grammar| {
            let inner = grammar.opened()?;
            grammar.scan.literal(")").then_some(inner)
        });
        if let Some(inner) = inner.or_else(|| self.attempt(|grammar| read_match(&mut grammar.scan))) {
            return Some(inner);
        }
        let start = self.scan.at;
        if self.opened().is_some() && self.scan.not(|scan| scan.literal(")").then_some(())) {
            self.scan.fail(self.scan.at, "grouping", "Unmatched parentheses");
        }
        self.scan.at = start;
        None
    }

    /// What follows an opening parenthesis.
    fn opened(&mut self) -> Option<Expression> {
        let start = self.scan.at;
        self.scan.literal("(").then_some(())?;
        if self.nested == NESTED_MAX {
            let why = format!("At most {NESTED_MAX} parentheses within each other are read");
            self.scan.fail(start, "grouping", &why);
            return None;
        }
        self.nested += 1;
        space(&mut self.scan);
        let inner = self.or();
        self.nested -= 1;
        space(&mut self.scan);
        inner
    }
}

/// White space; whether there is any.
fn space(scan: &mut Scanner<'_>) -> bool {
    let start = scan.at;
    while scan.class("[ \\t\\r\\n]", |char| matches!(char, ' ' | '\t' | '\r' | '\n')) {}
    scan.at > start
}

fn read_match(scan: &mut Scanner<'_>) -> Option<Expression> {
    let start = scan.at;
    let selector_value = |scan: &mut Scanner<'_>| {
        let selector = read_selector(scan)?;
        let operator = read_operator(scan, SELECTOR_VALUE)?;
        let at = MatchPlace { selector: start, value: scan.at };
        Some(Match { selector, operator, value: read_value(scan)?, at })
    };
    let selector_only = |scan: &mut Scanner<'_>| {
        let selector = read_selector(scan)?;
        let operator = read_operator(scan, SELECTOR_ONLY)?;
        let at = MatchPlace { selector: start, value: start };
        Some(Match { selector, operator, value: String::new(), at })
    };
    let value_selector = |scan: &mut Scanner<'_>| {
        let value = read_value(scan)?;
        let operator = read_operator(scan, VALUE_SELECTOR)?;
        let at = MatchPlace { selector: scan.at, value: start };
        Some(Match { selector: read_selector(scan)?, operator, value, at })
    };
    let found = scan
        .attempt(selector_value)
        .or_else(|| scan.attempt(selector_only))
        .or_else(|| scan.attempt(value_selector));
    if let Some(found) = found {
        return Some(Expression::Match(found));
    }
    scan.attempt(|scan| {
        read_value(scan)?;
        read_operator(scan, VALUE_SELECTOR)?;
        if scan.not(read_selector) {
            scan.fail(scan.at, "match", "Invalid selector");
        }
        None
    })
}

fn read_operator(scan: &mut Scanner<'_>, spellings: &[Spelling]) -> Option<Operator> {
    spellings.iter().find_map(|Spelling { words, spaced, operator }| {
        scan.attempt(|scan| {
            for word in *words {
                (space(scan) || !spaced).then_some(())?;
                scan.literal(word).then_some(())?;
            }
            // Nothing needs to follow `empty`.
            let followed = operator.relation == Relation::Empty || space(scan) || !spaced;
            followed.then_some(*operator)
        })
    })
}

fn read_selector(scan: &mut Scanner<'_>) -> Option<Vec<String>> {
    let mut parts = vec![scan.attempt(read_name)?];
    let dotted = |scan: &mut Scanner<'_>| {
        scan.literal(".").then_some(())?;
        read_name(scan)
    };
    while let Some(part) = scan.attempt(dotted).or_else(|| scan.attempt(read_index)) {
        parts.push(part);
    }
    Some(parts)
}

fn read_name(scan: &mut Scanner<'_>) -> Option<String> {
    let start = scan.at;
    scan.class("[a-zA-Z]", |char| char.is_ascii_alphabetic()).then_some(())?;
    while scan.class("[a-zA-Z0-9_]", |char| char.is_ascii_alphanumeric() || char == '_') {}
    Some(scan.since(start).to_owned())
}

fn read_index(scan: &mut Scanner<'_>) -> Option<String> {
    let open = |scan: &mut Scanner<'_>| {
        let opened = scan.literal("[");
        space(scan);
        opened.then_some(())
    };
    let key = scan.attempt(|scan| {
        open(scan)?;
        let key = read_string(scan)?;
        space(scan);
        scan.literal("]").then_some(key)
    });
    if key.is_some() {
        return key;
    }
    scan.attempt(|scan| {
        open(scan)?;
        if scan.not(read_string) {
            scan.fail(scan.at, "index", "Invalid index");
        }
        None::<()>
    });
    scan.attempt(|scan| {
        open(scan)?;
        read_string(scan)?;
        space(scan);
        if scan.not(|scan| scan.literal("]").then_some(())) {
            scan.fail(scan.at, "index", "Unclosed index expression");
        }
        None
    })
}

fn read_value(scan: &mut Scanner<'_>) -> Option<String> {
    let selector = scan.attempt(read_selector).map(|parts| parts.join("."));
    selector.or_else(|| scan.attempt(read_number)).or_else(|| scan.attempt(read_string))
}

fn read_number(scan: &mut Scanner<'_>) -> Option<String> {
    let start = scan.at;
    let digits = |scan: &mut Scanner<'_>| {
        let first = scan.at;
        while scan.class("[0-9]", |char| char.is_ascii_digit()) {}
        scan.at > first
    };
    let ends = |scan: &mut Scanner<'_>| {
        let fits = space(scan) || scan.end() || scan.literal(")");
        fits.then_some(())
    };
    let number = |scan: &mut Scanner<'_>| {
        scan.literal("-");
        if !scan.literal("0") {
            scan.class("[1-9]", |char| matches!(char, '1'..='9')).then_some(())?;
            digits(scan);
        }
        scan.attempt(|scan| (scan.literal(".") && digits(scan)).then_some(()));
        Some(())
    };
    number(scan)?;
    if scan.ahead(ends) {
        return Some(scan.since(start).to_owned());
    }
    if scan.not(ends) {
        scan.fail(scan.at, "number", "Invalid number literal");
    }
    None
}

fn read_string(scan: &mut Scanner<'_>) -> Option<String> {
    let start = scan.at;
    let opened = ["`", "\""].into_iter().find(|quote| scan.literal(quote))?;
    while scan
        .attempt(|scan| {
            let inside = scan.not(|scan| scan.literal(opened).then_some(()));
            (inside && scan.any()).then_some(())
        })
        .is_some()
    {}
    if scan.literal(opened) {
        let value = unquote(scan.since(start));
        if value.is_none() {
            scan.fail(start, "string", "invalid syntax");
        }
        return Some(value.unwrap_or_default());
    }
    if scan.end() {
        scan.fail(scan.at, "string", "Unterminated string literal");
    }
    None
}
