//! Filter expressions, as Consul's lists take them in `filter`: `Service.Tags contains "v1" and Checks.Status != critical`.
//!
//! Pure: [`FilterExpression::parse`] reads a text, [`FilterExpression::bind`] checks it against the fields of a row, and
//! [`Filter::keeps`] evaluates it over a row, which is any [`FilterValue`]: JSON, or a type of the caller, of which nothing is
//! copied. A field that a row leaves out has the zero value of its type, as in Go.
//!
//! | module | what it does |
//! |---|---|
//! | `grammar`, `scanner` | text → expression |
//! | `condition` | expression and fields of a row → condition → whether it holds |
//! | [`golang`] | what Go's standard library does to texts |

mod condition;
mod error;
pub mod golang;
mod grammar;
mod json;
mod scanner;
#[cfg(test)]
mod tests;

use condition::Condition;
use grammar::Expression;

pub use error::FilterError;

/// The type of a field: what a selector may name below it, and which operators it has.
#[derive(Debug)]
pub enum FieldType {
    /// A text. Its zero value is empty.
    Text,
    /// An integer of 64 bits.
    Integer,
    /// A boolean. Its zero value is false.
    Boolean,
    /// By any key.
    Map(&'static FieldType),
    /// Values of one type.
    List(&'static FieldType),
    /// The fields that a selector may name; a row may have more.
    Record(&'static [(&'static str, FieldType)]),
}

/// A value of a row, or the row itself. A method of another type than that of the value returns the zero value of its type.
pub trait FilterValue<'a>: Copy {
    /// The value of a text.
    fn text(self) -> &'a str;
    /// The value of an integer.
    fn integer(self) -> i64;
    /// The value of a boolean.
    fn boolean(self) -> bool;
    /// The value of a field of a record, or of a key of a map. `None`: it has none.
    fn entry(self, name: &str) -> Option<Self>;
    /// The value at this place of a list. `None`: the list is shorter.
    fn element(self, n: usize) -> Option<Self>;
    /// Whether a list or a map has nothing in it.
    fn is_empty(self) -> bool;
}

/// An expression that was read. Its selectors may not exist.
#[derive(Debug, Clone)]
pub struct FilterExpression {
    text: String,
    expression: Expression,
}

impl FilterExpression {
    /// Reads an expression.
    ///
    /// # Errors
    /// Where it is wrong and why.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        Ok(Self { text: text.to_owned(), expression: grammar::parse(text)? })
    }

    /// The filter of rows with these fields.
    ///
    /// # Errors
    /// The first selector, operator or value that does not fit the fields.
    pub fn bind(&self, row: &'static FieldType) -> Result<Filter, FilterError> {
        Condition::bind(&self.expression, &self.text, row).map(Filter)
    }
}

/// An expression over the fields of one kind of row.
#[derive(Debug)]
pub struct Filter(Condition);

impl Filter {
    /// Whether the filter keeps this row.
    pub fn keeps<'a>(&self, row: impl FilterValue<'a>) -> bool {
        self.0.holds(row)
    }

    /// About how many bytes of memory its regular expressions have.
    pub fn regexp_size(&self) -> usize {
        self.0.regexp_size()
    }
}
