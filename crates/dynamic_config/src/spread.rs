//! How far documents have come: which sidecars have applied them, by their receipts. Pure.
//!
//! A document concerns every sidecar with a receipt, one of an app (`apps/APP/…`) those with the service APP. A sidecar without
//! a receipt is not seen: it has just started, and reads the documents before it is ready; or its token may not write one.

use outrigger_config::{SettingsDocument, document_app};

use crate::{FoundReceipt, ReceiptEntry, ReceiptState};

/// How far one document has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentSpread {
    /// The name of the document.
    pub name: String,
    /// The index of its version. `None`: it is deleted.
    pub index: Option<u64>,
    /// The sidecars that it concerns, in the order of their keys.
    pub sidecars: Vec<SidecarSpread>,
}

/// What one sidecar has done with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarSpread {
    /// The service in the key of the receipt.
    pub service: String,
    /// The id of the instance.
    pub id: String,
    /// What it has done.
    pub state: SpreadState,
}

/// What one sidecar has done with the version of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpreadState {
    /// It is in effect; of a deleted document: it is gone.
    Applied,
    /// The `rollout` leaves this instance out.
    NotSelected {
        /// The instances that it is for, as `10%`.
        rollout: String,
    },
    /// It is refused.
    Refused {
        /// Why.
        problems: Vec<String>,
        /// The index of the version that is in effect.
        in_effect: Option<u64>,
    },
    /// The receipt is about another version, or about none.
    Pending {
        /// The index of that version.
        seen: Option<u64>,
    },
    /// The receipt does not say it, and why.
    Unknown(String),
}

impl SpreadState {
    /// The name in lists.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::NotSelected { .. } => "not_selected",
            Self::Refused { .. } => "refused",
            Self::Pending { .. } => "pending",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// How far several documents have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpreadResult {
    /// Every sidecar has applied each of them, or is left out by its `rollout`.
    Applied,
    /// Some sidecar refuses one.
    Refused,
    /// Some sidecar has not answered.
    Pending,
}

/// How far these documents have come.
pub fn spread_of(documents: &[SettingsDocument], receipts: &[FoundReceipt]) -> Vec<DocumentSpread> {
    documents.iter().map(|document| spread(&document.name, Some(document.index), receipts)).collect()
}

/// How far the removal of a document has come.
pub fn removal_of(name: &str, receipts: &[FoundReceipt]) -> DocumentSpread {
    spread(name, None, receipts)
}

fn spread(name: &str, index: Option<u64>, receipts: &[FoundReceipt]) -> DocumentSpread {
    let app = document_app(name);
    let is_concerned =
        |receipt: &&FoundReceipt| app.is_none_or(|app| app.eq_ignore_ascii_case(&receipt.service));
    let sidecar = |found: &FoundReceipt| SidecarSpread {
        service: found.service.clone(),
        id: found.id.clone(),
        state: state_of(name, index, found),
    };
    let sidecars = receipts.iter().filter(is_concerned).map(sidecar).collect();
    DocumentSpread { name: name.to_owned(), index, sidecars }
}

fn state_of(name: &str, index: Option<u64>, found: &FoundReceipt) -> SpreadState {
    let receipt = match &found.receipt {
        Ok(receipt) => receipt,
        Err(why) => return SpreadState::Unknown(format!("its receipt cannot be read: {why}")),
    };
    match (receipt.documents.get(name), index) {
        (None, None) => SpreadState::Applied,
        (None, Some(_)) if receipt.left_out > 0 => {
            SpreadState::Unknown("its receipt has no room for this document".to_owned())
        }
        (None, Some(_)) => SpreadState::Pending { seen: None },
        (Some(entry), Some(index)) if entry.index == index => entry_state(entry),
        (Some(entry), _) => SpreadState::Pending { seen: Some(entry.index) },
    }
}

fn entry_state(entry: &ReceiptEntry) -> SpreadState {
    match entry.state {
        ReceiptState::Applied => SpreadState::Applied,
        ReceiptState::NotSelected => {
            SpreadState::NotSelected { rollout: entry.rollout.clone().unwrap_or_default() }
        }
        ReceiptState::Refused => {
            SpreadState::Refused { problems: entry.problems.clone(), in_effect: entry.in_effect }
        }
        ReceiptState::Unknown => {
            SpreadState::Unknown("it is a later version, whose answer this one does not know".to_owned())
        }
    }
}

/// The result over all sidecars. A refusal is the result also where others have not answered, because it stays.
pub fn spread_result(all: &[DocumentSpread]) -> SpreadResult {
    let mut result = SpreadResult::Applied;
    for state in all.iter().flat_map(|one| &one.sidecars).map(|sidecar| &sidecar.state) {
        match state {
            SpreadState::Refused { .. } => return SpreadResult::Refused,
            SpreadState::Pending { .. } | SpreadState::Unknown(_) => result = SpreadResult::Pending,
            SpreadState::Applied | SpreadState::NotSelected { .. } => {}
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(service: &str, id: &str, documents: &Value) -> FoundReceipt {
        let receipt = json!({"index": 9, "version": "1", "documents": documents});
        let receipt = serde_json::from_value(receipt).map_err(|error| error.to_string());
        FoundReceipt { service: service.into(), id: id.into(), receipt }
    }

    fn document(name: &str, index: u64) -> SettingsDocument {
        SettingsDocument { name: name.into(), index, created: 0, value: Vec::new() }
    }

    fn states(one: &DocumentSpread) -> Vec<(&str, &str)> {
        one.sidecars.iter().map(|sidecar| (sidecar.id.as_str(), sidecar.state.label())).collect()
    }

    #[test]
    fn each_sidecar_that_a_document_concerns_has_a_state() {
        let entry = |index: u64, state: &str| json!({"index": index, "state": state});
        let receipts = [
            found(".router", "r", &json!({"defaults": entry(7, "applied")})),
            found(
                "shop",
                "a",
                &json!({"defaults": entry(7, "refused"), "apps/shop/defaults": entry(3, "applied")}),
            ),
            found("shop", "b", &json!({"defaults": entry(5, "applied")})),
            found("web", "c", &json!({"defaults": entry(7, "not_selected")})),
            found("web", "d", &json!({})),
            found("web", "e", &json!({"defaults": entry(7, "of_the_future")})),
            FoundReceipt { service: "web".into(), id: "f".into(), receipt: Err("no JSON".into()) },
        ];
        let all = spread_of(&[document("defaults", 7), document("apps/SHOP/defaults", 3)], &receipts);
        let expected = [
            ("r", "applied"),
            ("a", "refused"),
            ("b", "pending"),
            ("c", "not_selected"),
            ("d", "pending"),
            ("e", "unknown"),
            ("f", "unknown"),
        ];
        assert_eq!(states(&all[0]), expected);
        // The name of the document has another case than the service of the receipts.
        assert_eq!(states(&all[1]), [("a", "pending"), ("b", "pending")]);
        let apps = spread_of(&[document("apps/shop/defaults", 3)], &receipts);
        assert_eq!(states(&apps[0]), [("a", "applied"), ("b", "pending")]);
    }

    #[test]
    fn a_deleted_document_is_pending_where_a_receipt_still_has_it() {
        let has = json!({"defaults": {"index": 7, "state": "applied"}});
        let gone = removal_of("defaults", &[found("shop", "a", &has), found("shop", "b", &json!({}))]);
        assert_eq!(states(&gone), [("a", "pending"), ("b", "applied")]);
        assert_eq!(gone.index, None);
    }

    #[test]
    fn a_receipt_without_room_for_a_document_does_not_say_what_became_of_it() {
        let mut full = found("shop", "a", &json!({}));
        full.receipt.as_mut().unwrap().left_out = 1;
        assert_eq!(states(&spread_of(&[document("defaults", 7)], &[full])[0]), [("a", "unknown")]);
    }

    #[test]
    fn one_refusal_is_the_result_and_then_one_sidecar_that_has_not_answered() {
        let of = |states: &[SpreadState]| {
            let sidecar = |state: &SpreadState| SidecarSpread {
                service: "s".into(),
                id: "i".into(),
                state: state.clone(),
            };
            let sidecars = states.iter().map(sidecar).collect();
            spread_result(&[DocumentSpread { name: "defaults".into(), index: Some(1), sidecars }])
        };
        let (applied, pending) = (SpreadState::Applied, SpreadState::Pending { seen: None });
        let refused = SpreadState::Refused { problems: Vec::new(), in_effect: None };
        let elsewhere = SpreadState::NotSelected { rollout: "1%".into() };
        assert_eq!(of(&[applied.clone(), elsewhere]), SpreadResult::Applied);
        assert_eq!(of(&[pending.clone(), applied.clone(), refused]), SpreadResult::Refused);
        assert_eq!(of(&[applied.clone(), pending]), SpreadResult::Pending);
        assert_eq!(of(&[applied, SpreadState::Unknown(String::new())]), SpreadResult::Pending);
        assert_eq!(spread_result(&[]), SpreadResult::Applied);
    }
}
