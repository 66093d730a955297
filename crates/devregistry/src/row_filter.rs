//! Filters of the rows that a list answers.

use outrigger_filter::Filter;
use serde::Serialize;

/// Which rows of a list are answered.
#[derive(Debug, Default)]
pub(crate) struct RowFilter(Option<Filter>);

impl RowFilter {
    /// Whether the filter keeps this row. The default filter keeps every row.
    pub(crate) fn keeps<T: Serialize>(&self, row: &T) -> bool {
        let Some(filter) = &self.0 else { return true };
        serde_json::to_value(row).is_ok_and(|row| filter.keeps(&row))
    }
}

impl From<Filter> for RowFilter {
    fn from(filter: Filter) -> Self {
        Self(Some(filter))
    }
}
