//! What traffic rules may name.

use std::sync::Arc;

use crate::{error::InvalidValue, keys, names};

/// What the rules that are read may name.
pub(super) struct RuleNames<'a> {
    /// The upstream's own service.
    pub(super) service: &'a str,
    pub(super) subsets: Vec<Arc<str>>,
    /// There may be other subsets, in layers that are not known here.
    pub(super) is_open: bool,
}

impl RuleNames<'_> {
    /// The subset of this name.
    pub(super) fn subset(&self, text: &str) -> Result<Arc<str>, InvalidValue> {
        if let Some(known) = self.subsets.iter().find(|known| ***known == *text) {
            return Ok(Arc::clone(known));
        }
        if self.is_open {
            return names::subset(text).map(Arc::from);
        }
        let hint = match keys::nearest(text, self.subsets.iter().map(|name| &**name)) {
            Some(near) => format!("did you mean {near}?"),
            None if self.subsets.is_empty() => "there is none: declare it in subsets".to_owned(),
            None => format!("subsets: {}", self.subsets.join(", ")),
        };
        Err(InvalidValue::new("is no subset of this service", hint))
    }

    pub(super) fn other_service(&self, text: &str) -> Result<Arc<str>, InvalidValue> {
        let name = names::service(text)?.to_ascii_lowercase();
        if name.eq_ignore_ascii_case(self.service) {
            let hint = "leave the target out, or name a subset";
            return Err(InvalidValue::new("is the upstream itself", hint));
        }
        Ok(name.into())
    }
}
