//! Filter expressions, as Consul's lists take them in `filter`: `Service.Tags contains "v1" and Checks.Status != critical`.
//!
//! Pure: [`FilterExpression::parse`] reads a text, [`FilterExpression::bind`] checks it against the fields of a row, and
//! [`Filter::keeps`] evaluates it over a row's JSON. A field that the JSON leaves out has the zero value of its type, as
//! in Go.

use serde::Serialize;
use serde_json::Value;

use crate::golang::{parse_bool, parse_int, quote, regexp::Regexp};
use grammar::{Expression, Match, Operator, Relation};

mod grammar;
mod scanner;
#[cfg(test)]
mod tests;

/// The type of a field: what a selector may name below it, and which operators it has.
#[derive(Debug)]
pub(crate) enum FieldType {
    Text,
    Integer,
    Boolean,
    /// By any key.
    Map(&'static FieldType),
    List(&'static FieldType),
    /// The fields that a selector may name; JSON may have more.
    Record(&'static [(&'static str, FieldType)]),
}

/// An expression that was read. Its selectors may not exist.
#[derive(Debug)]
pub(crate) struct FilterExpression(Expression);

impl FilterExpression {
    /// Reads an expression.
    ///
    /// # Errors
    /// Where it is wrong and why, in Consul's words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        grammar::parse(text).map(Self)
    }

    /// The filter of rows with these fields.
    ///
    /// # Errors
    /// The first selector, operator or value that does not fit the fields, in Consul's words.
    pub(crate) fn bind(&self, row: &'static FieldType) -> Result<Filter, String> {
        bind(&self.0, row).map(|condition| Filter(Some(condition)))
    }
}

/// Which rows of a list are answered.
#[derive(Debug, Default)]
pub(crate) struct Filter(Option<Condition>);

impl Filter {
    /// Whether the filter keeps this row. The default filter keeps every row.
    pub(crate) fn keeps<T: Serialize>(&self, row: &T) -> bool {
        let Some(condition) = &self.0 else { return true };
        serde_json::to_value(row).is_ok_and(|row| condition.holds(&row))
    }
}

/// An expression over the fields of one kind of row.
#[derive(Debug)]
enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Test { path: Vec<Step>, test: Test, negated: bool },
}

/// One step from a row to the tested value.
#[derive(Debug)]
enum Step {
    Field(String),
    /// Of a map.
    Key(String),
    /// Any element of a list.
    Element,
}

/// What is asked of the selected value.
#[derive(Debug)]
enum Test {
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

fn bind(expression: &Expression, row: &'static FieldType) -> Result<Condition, String> {
    let all =
        |operands: &[Expression]| operands.iter().map(|operand| bind(operand, row)).collect::<Result<_, _>>();
    Ok(match expression {
        Expression::All(operands) => Condition::All(all(operands)?),
        Expression::Any(operands) => Condition::Any(all(operands)?),
        Expression::Not(operand) => Condition::Not(Box::new(bind(operand, row)?)),
        Expression::Match(found) => {
            let (path, field) = find_field(&found.selector, row)?;
            Condition::Test { path, test: make_test(found, field)?, negated: found.operator.negated }
        }
    })
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
fn make_test(found: &Match, field: &FieldType) -> Result<Test, String> {
    let Match { selector, operator, value } = found;
    let selector = quote(&selector.join("."));
    let coerced =
        |error: String| format!("Failed to coerce value {} for selector {selector}: {error}", quote(value));
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
        (Relation::Matches, FieldType::Text) => Some(
            Regexp::compile(value)
                .map(Test::Matches)
                .map_err(|error| format!("Failed to compile regular expression {}: {error}", quote(value))),
        ),
        _ => None,
    };
    test.unwrap_or_else(|| {
        Err(format!("Invalid match operator {} for selector {selector}", quote(label(*operator))))
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

impl Condition {
    fn holds(&self, row: &Value) -> bool {
        match self {
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(row)),
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(row)),
            Self::Not(condition) => !condition.holds(row),
            Self::Test { path, test, negated } => test.holds_at(path, row, *negated),
        }
    }
}

impl Test {
    /// Whether the test, or if `negated` its opposite, holds for what `path` leads to.
    fn holds_at(&self, path: &[Step], value: &Value, negated: bool) -> bool {
        match path.split_first() {
            None => self.holds(value) != negated,
            Some((Step::Field(name), rest)) => {
                self.holds_at(rest, value.get(name).unwrap_or(&Value::Null), negated)
            }
            Some((Step::Key(key), rest)) => match value.get(key) {
                Some(value) => self.holds_at(rest, value, negated),
                // As in Consul, also a regular expression matches what is not there.
                None => matches!(self, Self::IsEmpty | Self::Matches(_)) || negated,
            },
            // The opposite of a test holds for a list when it holds for any element.
            Some((Step::Element, rest)) => {
                value.as_array().into_iter().flatten().any(|element| self.holds_at(rest, element, negated))
            }
        }
    }

    /// Whether the test holds for a value; `Null` is the zero value of any type.
    fn holds(&self, value: &Value) -> bool {
        let text = || value.as_str().unwrap_or_default();
        match self {
            Self::IsText(expected) => text() == expected,
            Self::IsInteger(expected) => value.as_i64().unwrap_or_default() == *expected,
            Self::IsBoolean(expected) => value.as_bool().unwrap_or_default() == *expected,
            Self::HasPart(part) => text().contains(part.as_str()),
            Self::HasKey(key) => value.get(key).is_some(),
            Self::HasElement(test) => {
                value.as_array().into_iter().flatten().any(|element| test.holds(element))
            }
            Self::IsEmpty => match value {
                Value::Array(elements) => elements.is_empty(),
                Value::Object(entries) => entries.is_empty(),
                _ => true,
            },
            Self::Matches(regexp) => regexp.matches(text()),
        }
    }
}
