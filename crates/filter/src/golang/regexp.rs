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
pub struct Regexp(Program);

impl Regexp {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Go's text, `error parsing regexp: …`; or that the expression is too large.
    pub fn compile(text: &str) -> Result<Self, String> {
        Program::compile(&parse::parse(text)?).map(Self)
    }

    /// About how many bytes of memory it has.
    pub fn size(&self) -> usize {
        self.0.size()
    }

    /// Whether the expression occurs anywhere in `text`.
    pub fn matches(&self, text: &str) -> bool {
        self.0.matches(text)
    }
}
