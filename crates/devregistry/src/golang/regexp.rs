//! Regular expressions with the syntax and the error texts of Go's `regexp`. Their time is linear in the text, and their
//! size is bounded. Unicode classes (`\pL`) are refused.

mod class;
mod machine;
mod parse;
#[cfg(test)]
mod tests;

use machine::Program;

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Regexp(Program);

impl Regexp {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Go's text, `error parsing regexp: …`; or that the expression is too large for the dev registry.
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        Program::compile(&parse::parse(text)?).map(Self)
    }

    /// Whether the expression occurs anywhere in `text`.
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.0.matches(text)
    }
}
