//! A receipt: what one sidecar says of the documents that concern it. Pure.
//!
//! It is the key `PREFIX/receipts/SERVICE/ID`, beside `PREFIX/settings/`, so that no watcher of settings is woken by it. SERVICE and
//! ID are the first service of the sidecar and the id of its instance; a sidecar without a service has
//! [`ROUTER`] and an id of its machine and port.

use std::collections::BTreeMap;

use outrigger_config::{DocumentResult, DocumentState, Problem};
use serde::{Deserialize, Serialize};

/// SERVICE in the key of a sidecar without a service. It is no name of a service.
pub const ROUTER: &str = ".router";

/// The part of a key between the prefix and SERVICE.
const RECEIPTS: &str = "receipts";

/// Most problems of a document that a receipt has.
const MAX_PROBLEMS: usize = 8;
/// Most bytes of a problem in a receipt.
const MAX_PROBLEM_BYTES: usize = 512;
/// Most bytes of all documents in a receipt. Consul takes a transaction of 512 KiB, in which the value is base64.
const MAX_BYTES: usize = 256 * 1024;

/// What every key of a receipt begins with: `outrigger/receipts/`.
pub fn receipts_prefix(prefix: &str) -> String {
    format!("{prefix}/{RECEIPTS}/")
}

/// The key of the receipt of one sidecar.
pub fn receipt_key(prefix: &str, service: Option<&str>, id: &str) -> String {
    format!("{}{}/{id}", receipts_prefix(prefix), service.unwrap_or(ROUTER))
}

/// The value of a receipt, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The highest index of the documents; 0 without one.
    pub index: u64,
    /// The version of the sidecar.
    pub version: String,
    /// What became of each document that concerns the sidecar, by its name.
    pub documents: BTreeMap<String, ReceiptEntry>,
    /// How many documents are left out, because the receipt would be too large.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: usize,
}

/// What became of one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptEntry {
    /// The index of the version that this is about.
    pub index: u64,
    /// What became of it.
    pub state: ReceiptState,
    /// The index of the version in effect, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_effect: Option<u64>,
    /// The instances that this version is for, as `10%`. `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// Why it is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// What became of a version of a document, by a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptState {
    /// It is in effect.
    Applied,
    /// It is wrong.
    Refused,
    /// Its `rollout` leaves this instance out.
    NotSelected,
    /// A later version of Outrigger says something else.
    #[serde(other)]
    Unknown,
}

impl From<DocumentState> for ReceiptState {
    fn from(state: DocumentState) -> Self {
        match state {
            DocumentState::Applied => Self::Applied,
            DocumentState::Refused => Self::Refused,
            DocumentState::NotSelected => Self::NotSelected,
        }
    }
}

impl Receipt {
    /// The receipt for these results, by a sidecar of this version.
    pub fn new(results: &[DocumentResult], version: &str) -> Self {
        let index = results.iter().map(|result| result.index).max().unwrap_or(0);
        let mut receipt =
            Self { index, version: version.to_owned(), documents: BTreeMap::new(), left_out: 0 };
        let mut bytes = 0;
        for result in results {
            let entry = ReceiptEntry::new(result);
            bytes += result.name.len() + 4 + serde_json::to_vec(&entry).map_or(0, |json| json.len());
            if bytes > MAX_BYTES {
                receipt.left_out += 1;
            } else {
                receipt.documents.insert(result.name.clone(), entry);
            }
        }
        receipt
    }

    /// The value of the key.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, numbers and maps with keys of text: it does not fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl ReceiptEntry {
    fn new(result: &DocumentResult) -> Self {
        let mut problems: Vec<_> = result.problems.iter().take(MAX_PROBLEMS).map(problem_text).collect();
        let more = result.problems.len() - problems.len();
        if more > 0 {
            problems.push(format!("{more} more"));
        }
        Self {
            index: result.index,
            state: result.state.into(),
            in_effect: result.in_effect.filter(|in_effect| *in_effect != result.index),
            rollout: result.rollout.map(|percent| format!("{percent}%")),
            problems,
        }
    }
}

fn problem_text(problem: &Problem) -> String {
    let mut text = problem.to_string();
    if text.len() > MAX_PROBLEM_BYTES {
        let end = (0..=MAX_PROBLEM_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use outrigger_config::Origin;
    use serde_json::json;

    use super::*;

    fn result(name: &str, index: u64, state: DocumentState) -> DocumentResult {
        DocumentResult {
            name: name.into(),
            index,
            state,
            in_effect: (state == DocumentState::Applied).then_some(index),
            rollout: None,
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn problem(what: &str) -> Problem {
        let origin = Origin::Kv { key: "o/settings/defaults".into(), index: 7, line: 2, col: 5 };
        Problem { origin, key: "timeout".into(), what: what.into(), hint: String::new() }
    }

    #[test]
    fn a_receipt_says_of_each_document_what_became_of_it() {
        let refused = DocumentResult {
            in_effect: Some(5),
            problems: vec![problem("is too long")],
            ..result("defaults", 7, DocumentState::Refused)
        };
        let elsewhere =
            DocumentResult { rollout: Some(12.5), ..result("services/a", 9, DocumentState::NotSelected) };
        let receipt =
            Receipt::new(&[refused, elsewhere, result("services/b", 8, DocumentState::Applied)], "1.2.3");
        let shown: serde_json::Value = serde_json::from_slice(&receipt.to_json()).unwrap();
        let expected = json!({"index": 9, "version": "1.2.3", "documents": {
            "defaults": {"index": 7, "state": "refused", "in_effect": 5,
                         "problems": ["kv:o/settings/defaults@7:2:5 timeout: is too long"]},
            "services/a": {"index": 9, "state": "not_selected", "rollout": "12.5%"},
            "services/b": {"index": 8, "state": "applied"},
        }});
        assert_eq!(shown, expected);
        assert_eq!(serde_json::from_value::<Receipt>(shown).unwrap(), receipt);
        assert_eq!(Receipt::new(&[], "1").index, 0);
    }

    #[test]
    fn a_receipt_of_a_later_version_can_be_read() {
        let text = r#"{"index": 3, "version": "9", "new": 1, "documents": {"defaults": {"index": 3, "state": "later", "more": 2}}}"#;
        let receipt: Receipt = serde_json::from_str(text).unwrap();
        assert_eq!(receipt.documents["defaults"].state, ReceiptState::Unknown);
    }

    #[test]
    fn the_size_of_a_receipt_is_bounded() {
        let many: Vec<_> = (0..9_000)
            .map(|n| DocumentResult {
                problems: vec![problem(&"é".repeat(600)); 40],
                ..result(&format!("services/s-{n:05}"), n, DocumentState::Refused)
            })
            .collect();
        let receipt = Receipt::new(&many, "1");
        assert_eq!(receipt.documents.len() + receipt.left_out, 9_000);
        assert!(receipt.left_out > 0 && receipt.to_json().len() < 257 * 1024, "{}", receipt.to_json().len());
        let first = &receipt.documents["services/s-00000"].problems;
        assert_eq!((first.len(), first[8].as_str()), (9, "32 more"));
        assert!(first[0].ends_with('…') && first[0].len() <= MAX_PROBLEM_BYTES + 3);
        // Without problems every document fits.
        let many: Vec<_> =
            (0..1_000).map(|n| result(&format!("services/s-{n}"), n, DocumentState::Applied)).collect();
        assert_eq!(Receipt::new(&many, "1").documents.len(), 1_000);
    }

    #[test]
    fn the_key_names_the_service_and_the_instance() {
        assert_eq!(
            receipt_key("team/o", Some("orders"), "orders-h-80"),
            "team/o/receipts/orders/orders-h-80"
        );
        assert_eq!(receipt_key("o", None, "h-7070"), "o/receipts/.router/h-7070");
    }
}
