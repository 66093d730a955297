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
//! | `row` | the fields of a row, and its values |
//! | [`consul`] | the fields of the rows of Consul's lists |
//! | [`golang`] | what Go's standard library does to texts |

mod condition;
pub mod consul;
mod error;
pub mod golang;
mod grammar;
mod json;
mod row;
mod scanner;
#[cfg(test)]
mod tests;

use condition::Condition;
use grammar::Expression;

pub use error::FilterError;
pub use row::{FieldType, FilterValue};

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
