//! Which documents count where not all of them can. What is in effect stays, so that no new key displaces another one.
//!
//! | not all of | those that count |
//! |---|---|
//! | documents about the same service, with names that differ in their case | the one that is in effect, else the one that was created first |
//! | documents with more bytes together than [`MAX_DOCUMENTS_BYTES`] | what is in effect, then each new version that fits, in the order in which their keys were created |
//!
//! Documents for other apps, keys that are no document, and documents that cannot be read have no bytes here.

use std::collections::BTreeMap;

use super::{DocumentVersions, MAX_DOCUMENTS_BYTES, parsed::Parsed, scope::DocumentScope};
use crate::{DynamicConfig, format_size};

/// A document that concerns this sidecar.
#[derive(Debug)]
pub(super) struct SeatCandidate<'a> {
    pub(super) scope: DocumentScope<'a>,
    pub(super) versions: &'a DocumentVersions,
    pub(super) current: Parsed,
    /// The `rollout` of the current version has this instance.
    pub(super) is_selected: bool,
    /// The name of the document about the same service that counts instead.
    pub(super) twin: Option<&'a str>,
}

impl<'a> SeatCandidate<'a> {
    /// `None`: the key is no document.
    pub(super) fn new(
        versions: &'a DocumentVersions,
        (prefix, rules): (&str, &DynamicConfig),
        instance: &str,
    ) -> Option<Self> {
        let scope = DocumentScope::of(&versions.current.name)?;
        let current = Parsed::new(&versions.current, prefix, rules);
        let is_selected = current.selects(instance);
        Some(Self { scope, versions, current, is_selected, twin: None })
    }

    /// Which one is first: what was in effect, and then the older key.
    fn seniority(&self) -> (bool, u64, u64, &str) {
        let DocumentVersions { current, last_good } = self.versions;
        (last_good.is_none(), current.created, current.index, &current.name)
    }

    fn size(&self) -> usize {
        self.versions.current.value.len()
    }

    /// The size of the version that is in effect without the current one.
    fn size_before(&self) -> usize {
        self.versions.last_good.as_ref().map_or(0, |last| last.value.len())
    }
}

/// Refuses the documents that do not count.
pub(super) fn give_seats(candidates: &mut [SeatCandidate<'_>]) {
    refuse_twins(candidates);
    refuse_too_many_bytes(candidates);
}

fn refuse_twins(candidates: &mut [SeatCandidate<'_>]) {
    let of = |one: &SeatCandidate<'_>| (one.scope.rank(), one.scope.service().map(str::to_ascii_lowercase));
    let mut first = BTreeMap::new();
    candidates.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
    for one in candidates.iter_mut() {
        let own = one.versions.current.name.as_str();
        let seat = *first.entry(of(one)).or_insert(own);
        if seat != own {
            one.twin = Some(seat);
            let what = format!(
                "names have no case, and {seat} is about the same services and was there before: that one counts"
            );
            one.current.refuse(what, "remove one of the two");
        }
    }
    candidates.sort_by_key(|one| (one.scope.rank(), one.versions.current.name.as_str()));
}

fn refuse_too_many_bytes(candidates: &mut [SeatCandidate<'_>]) {
    let mut counted: Vec<_> = candidates.iter_mut().filter(|one| one.twin.is_none()).collect();
    counted.sort_by_key(|one| (one.versions.current.created, one.versions.current.name.as_str()));
    let mut bytes: usize = counted.iter().map(|one| one.size_before()).sum();
    let replaces = |one: &SeatCandidate<'_>| one.is_selected && one.current.problems.is_empty();
    for one in counted.iter().filter(|one| replaces(one) && one.size() <= one.size_before()) {
        bytes = bytes - one.size_before() + one.size();
    }
    for one in counted {
        if !replaces(one) || one.size() <= one.size_before() {
            continue;
        }
        let with = bytes - one.size_before() + one.size();
        if with <= MAX_DOCUMENTS_BYTES {
            bytes = with;
            continue;
        }
        let what = format!(
            "all documents together would have {with} bytes, more than {}",
            format_size(MAX_DOCUMENTS_BYTES)
        );
        one.current.refuse(what, "what is in effect stays; make documents smaller, or remove some");
    }
}
