//! The tables in Markdown.

use std::fmt;

use crate::{
    chart::Chart,
    stats::{Samples, ThreeDigits},
};

/// The results of one part of the bench.
#[derive(Debug, Clone, Default)]
pub struct Section {
    title: &'static str,
    findings: Vec<Finding>,
    tables: Vec<Table>,
    remarks: Vec<String>,
    chart: Option<Chart>,
}

impl Section {
    /// A section without content.
    pub fn new(title: &'static str) -> Self {
        Self { title, ..Self::default() }
    }

    /// Adds a line to the table of all parts.
    #[must_use]
    pub fn finding(mut self, finding: Finding) -> Self {
        self.findings.push(finding);
        self
    }

    /// Adds a table of details.
    #[must_use]
    pub fn table(mut self, table: Table) -> Self {
        self.tables.push(table);
        self
    }

    /// Adds a sentence.
    #[must_use]
    pub fn remark(mut self, remark: impl Into<String>) -> Self {
        self.remarks.push(remark.into());
        self
    }

    /// Sets the chart of the part.
    #[must_use]
    pub fn with_chart(mut self, chart: Option<Chart>) -> Self {
        self.chart = chart;
        self
    }

    /// The chart of the part, which is not in its text.
    pub fn chart(&self) -> Option<&Chart> {
        self.chart.as_ref()
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}", self.title)?;
        for table in &self.tables {
            writeln!(f, "\n{table}")?;
        }
        if !self.remarks.is_empty() {
            writeln!(f)?;
        }
        self.remarks.iter().try_for_each(|remark| writeln!(f, "- {remark}"))
    }
}

/// A figure in the table of all parts.
#[derive(Debug, Clone)]
pub struct Finding {
    what: String,
    measured: String,
    target: String,
    met: Option<bool>,
}

impl Finding {
    /// A figure without a target.
    pub fn plain(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self { what: what.into(), measured: measured.into(), target: String::new(), met: None }
    }

    /// A figure that should be `target` or less, both in `unit` (empty: a bare number).
    pub fn at_most(what: impl Into<String>, measured: &Samples, unit: &str, target: f64) -> Self {
        Self {
            what: what.into(),
            measured: format!("{} {unit}", measured.middle()).trim_end().to_owned(),
            target: format!("≤ {} {unit}", ThreeDigits(target)).trim_end().to_owned(),
            met: Some(measured.median() <= target),
        }
    }

    /// A figure that should be below `target`, both in `unit` (empty: a bare number).
    pub fn below(what: impl Into<String>, measured: f64, unit: &str, target: f64) -> Self {
        Self {
            what: what.into(),
            measured: format!("{} {unit}", ThreeDigits(measured)).trim_end().to_owned(),
            target: format!("< {} {unit}", ThreeDigits(target)).trim_end().to_owned(),
            met: Some(measured < target),
        }
    }
}

/// All findings of all sections as one table.
#[derive(Debug)]
pub struct Summary<'a>(pub &'a [Section]);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new("", ["part", "what", "measured", "target", "met"]);
        for section in self.0 {
            for Finding { what, measured, target, met } in &section.findings {
                let met = met.map_or("", |met| if met { "yes" } else { "**no**" });
                table.row([section.title, what, measured, target, met]);
            }
        }
        table.fmt(f)
    }
}

/// A table in Markdown.
#[derive(Debug, Clone)]
pub struct Table {
    caption: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a caption (may be empty) and the heads of its columns.
    pub fn new<T: Into<String>>(caption: impl Into<String>, heads: impl IntoIterator<Item = T>) -> Self {
        let mut table = Self { caption: caption.into(), rows: Vec::new() };
        table.row(heads);
        table
    }

    /// Adds a row, which must have as many cells as there are heads.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.caption.is_empty() {
            writeln!(f, "{}:\n", self.caption)?;
        }
        for (at, row) in self.rows.iter().enumerate() {
            writeln!(f, "| {} |", row.join(" | "))?;
            if at == 0 {
                writeln!(f, "|{}", "---|".repeat(row.len()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_which_targets_are_missed() {
        let section = Section::new("Picks")
            .finding(Finding::below("a pick", 70.0, "ns", 60.0))
            .finding(Finding::at_most("the limit itself", &Samples::new([4.2]), "", 4.2))
            .finding(Finding::plain("another", "7"));
        let text = Summary(&[section]).to_string();
        assert!(text.contains("| Picks | a pick | 70.0 ns | < 60.0 ns | **no** |"), "{text}");
        assert!(text.contains("| Picks | the limit itself | 4.20 | ≤ 4.20 | yes |"), "{text}");
        assert!(text.contains("| Picks | another | 7 |  |  |"), "{text}");
    }
}
