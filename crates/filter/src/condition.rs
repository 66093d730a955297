//! An expression with the types of a row, and its evaluation.

use crate::{
    error::FilterError,
    golang::{Regexp, parse_bool, parse_int, quote},
    grammar::{Expression, Match, Operator, Relation},
    row::{FieldType, FilterValue},
};

/// An expression over the fields of one kind of row.
#[derive(Debug)]
pub(crate) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Test { path: Vec<Step>, test: Test, negated: bool },
}

/// One step from a row to the tested value.
#[derive(Debug)]
pub(crate) enum Step {
    Field(String),
    /// Of a map.
    Key(String),
    /// Any element of a list.
    Element,
}

/// What is asked of the selected value.
#[derive(Debug)]
pub(crate) enum Test {
    IsText(String),
    IsInteger(i64),
    IsBoolean(bool),
    /// A part of a text.
    HasPart(String),
    HasKey(String),
    HasElement(Box<Test>),
    IsEmpty,
    Matches(Regexp),
}

impl Condition {
    /// The condition of rows with these fields. `text` is what `expression` was read from.
    pub(crate) fn bind(
        expression: &Expression,
        text: &str,
        row: &'static FieldType,
    ) -> Result<Self, FilterError> {
        let all = |operands: &[Expression]| {
            operands.iter().map(|operand| Self::bind(operand, text, row)).collect::<Result<_, _>>()
        };
        Ok(match expression {
            Expression::All(operands) => Self::All(all(operands)?),
            Expression::Any(operands) => Self::Any(all(operands)?),
            Expression::Not(operand) => Self::Not(Box::new(Self::bind(operand, text, row)?)),
            Expression::Match(found) => {
                let at_selector = |why| FilterError::at(text, found.at.selector, why);
                let (path, field) = find_field(&found.selector, row).map_err(at_selector)?;
                let test = make_test(found, field).map_err(|wrong| match wrong {
                    WrongMatch::Operator(why) => at_selector(why),
                    WrongMatch::Value(why) => FilterError::at(text, found.at.value, why),
                })?;
                Self::Test { path, test, negated: found.operator.negated }
            }
        })
    }

    pub(crate) fn holds<'a>(&self, row: impl FilterValue<'a>) -> bool {
        match self {
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(row)),
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(row)),
            Self::Not(condition) => !condition.holds(row),
            Self::Test { path, test, negated } => test.holds_at(path, Some(row), *negated),
        }
    }

    /// About how many bytes of memory its regular expressions have.
    pub(crate) fn regexp_size(&self) -> usize {
        match self {
            Self::All(conditions) | Self::Any(conditions) => conditions.iter().map(Self::regexp_size).sum(),
            Self::Not(condition) => condition.regexp_size(),
            Self::Test { test: Test::Matches(regexp), .. } => regexp.size(),
            Self::Test { .. } => 0,
        }
    }
}

/// What does not fit the type of the field.
enum WrongMatch {
    Operator(String),
    Value(String),
}

/// The steps to the field that a selector names, and its type.
fn find_field(
    selector: &[String],
    row: &'static FieldType,
) -> Result<(Vec<Step>, &'static FieldType), String> {
    let mut path = Vec::new();
    let mut field = row;
    for (index, part) in selector.iter().enumerate() {
        while let FieldType::List(element @ FieldType::Record(_) | element @ FieldType::List(_)) = field {
            path.push(Step::Element);
            field = element;
        }
        let (step, next) = match field {
            FieldType::Record(fields) => {
                let named = fields.iter().find(|(name, _)| name == part);
                (Step::Field(part.clone()), named.map(|(_, field)| field))
            }
            FieldType::Map(value) => (Step::Key(part.clone()), Some(*value)),
            FieldType::Text | FieldType::Integer | FieldType::Boolean | FieldType::List(_) => {
                (Step::Element, None)
            }
        };
        path.push(step);
        field =
            next.ok_or_else(|| format!("Selector {} is not valid", quote(&selector[..=index].join("."))))?;
    }
    Ok((path, field))
}

/// The test of a match, with the value in the field's type.
fn make_test(found: &Match, field: &FieldType) -> Result<Test, WrongMatch> {
    let Match { selector, operator, value, .. } = found;
    let selector = quote(&selector.join("."));
    let coerced = |error: String| {
        let why = format!("Failed to coerce value {} for selector {selector}: {error}", quote(value));
        WrongMatch::Value(why)
    };
    let equal = |field: &FieldType| match field {
        FieldType::Integer => Some(parse_int(value).map(Test::IsInteger).map_err(coerced)),
        FieldType::Boolean => Some(parse_bool(value).map(Test::IsBoolean).map_err(coerced)),
        FieldType::Text => Some(Ok(Test::IsText(value.clone()))),
        FieldType::Map(_) | FieldType::List(_) | FieldType::Record(_) => None,
    };
    let test = match (operator.relation, field) {
        (Relation::Equal, field) => equal(field),
        (Relation::In, FieldType::Text) => Some(Ok(Test::HasPart(value.clone()))),
        (Relation::In, FieldType::Map(_)) => Some(Ok(Test::HasKey(value.clone()))),
        (Relation::In, FieldType::List(element)) => {
            equal(element).map(|test| test.map(|test| Test::HasElement(Box::new(test))))
        }
        (Relation::Empty, FieldType::Map(_) | FieldType::List(_)) => Some(Ok(Test::IsEmpty)),
        (Relation::Matches, FieldType::Text) => {
            Some(Regexp::compile(value).map(Test::Matches).map_err(|error| {
                WrongMatch::Value(format!("Failed to compile regular expression {}: {error}", quote(value)))
            }))
        }
        _ => None,
    };
    test.unwrap_or_else(|| {
        let operator = quote(label(*operator));
        Err(WrongMatch::Operator(format!("Invalid match operator {operator} for selector {selector}")))
    })
}

/// Consul's name of an operator.
fn label(operator: Operator) -> &'static str {
    match (operator.relation, operator.negated) {
        (Relation::Equal, false) => "Equal",
        (Relation::Equal, true) => "Not Equal",
        (Relation::In, false) => "In",
        (Relation::In, true) => "Not In",
        (Relation::Empty, false) => "Is Empty",
        (Relation::Empty, true) => "Is Not Empty",
        (Relation::Matches, false) => "Matches",
        (Relation::Matches, true) => "Not Matches",
    }
}

impl Test {
    /// Whether the test, or if `negated` its opposite, holds for what `path` leads to. `None` is the zero value of any type.
    fn holds_at<'a, V: FilterValue<'a>>(&self, path: &[Step], value: Option<V>, negated: bool) -> bool {
        let Some((step, rest)) = path.split_first() else { return self.holds(value) != negated };
        match step {
            Step::Field(name) => self.holds_at(rest, value.and_then(|value| value.entry(name)), negated),
            Step::Key(key) => match value.and_then(|value| value.entry(key)) {
                Some(value) => self.holds_at(rest, Some(value), negated),
                // As in Consul, also a regular expression matches what is not there.
                None => matches!(self, Self::IsEmpty | Self::Matches(_)) || negated,
            },
            // The opposite of a test holds for a list when it holds for any element.
            Step::Element => elements(value).any(|element| self.holds_at(rest, Some(element), negated)),
        }
    }

    fn holds<'a, V: FilterValue<'a>>(&self, value: Option<V>) -> bool {
        let text = || value.map(V::text).unwrap_or_default();
        match self {
            Self::IsText(expected) => text() == expected,
            Self::IsInteger(expected) => value.map(V::integer).unwrap_or_default() == *expected,
            Self::IsBoolean(expected) => value.map(V::boolean).unwrap_or_default() == *expected,
            Self::HasPart(part) => text().contains(part.as_str()),
            Self::HasKey(key) => value.and_then(|value| value.entry(key)).is_some(),
            Self::HasElement(test) => elements(value).any(|element| test.holds(Some(element))),
            Self::IsEmpty => value.is_none_or(V::is_empty),
            Self::Matches(regexp) => regexp.matches(text()),
        }
    }
}

fn elements<'a, V: FilterValue<'a>>(list: Option<V>) -> impl Iterator<Item = V> {
    list.into_iter().flat_map(|list| (0..).map_while(move |n| list.element(n)))
}
