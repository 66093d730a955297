//! Accepts documents one at a time, and puts the accepted ones over the settings of the file.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    AppliedDocuments, DocumentResult, DocumentState, DocumentVersions, SettingsDocument,
    parsed::Parsed,
    scope::DocumentScope,
    seats::{SeatCandidate, give_seats},
};
use crate::{
    DynamicConfig, LoadedConfig, Origin, Origins, Policy, Problem, Problems, TunedService, UnknownKeys,
    check::{DocumentTree, PolicyReader, PolicyReading},
    keys,
    policy_source::FilePolicies,
    settings::tuned_path,
};

impl LoadedConfig {
    /// These settings with documents over them; they must have none yet. `instance` is the id of this instance in the
    /// registry, for `rollout`. The app is the first service of these settings. Without `dynamic_config.prefix` no
    /// document applies. A document for another app, and a key that is no document, is passed over.
    pub fn with_documents(&self, documents: &[DocumentVersions], instance: &str) -> AppliedDocuments {
        let rules = &self.config.dynamic_config;
        let Some(prefix) = &rules.prefix else {
            return AppliedDocuments { loaded: self.clone(), documents: Vec::new() };
        };
        let none = FilePolicies::none();
        let mut layers = Layers {
            base: self,
            file: self.source.file_policies().unwrap_or(&none),
            defaults: Vec::new(),
            services: BTreeMap::new(),
        };
        let app = self.config.services.first().map(|service| service.name.as_str());
        let is_ours = |scope: &DocumentScope<'_>| {
            scope.app().is_none_or(|of| app.is_some_and(|app| app.eq_ignore_ascii_case(of)))
        };
        let mut ours: Vec<_> =
            documents.iter().filter_map(|one| SeatCandidate::new(one, (prefix, rules), instance)).collect();
        ours.retain(|one| is_ours(&one.scope));
        ours.sort_by_key(|one| (one.scope.rank(), one.versions.current.name.as_str()));
        give_seats(&mut ours);
        let mut results: Vec<_> = ours.into_iter().map(|one| layers.accept(one)).collect();
        results.sort_by(|a, b| a.name.cmp(&b.name));
        AppliedDocuments { loaded: layers.apply(), documents: results }
    }
}

/// Checks a document on its own, over the built-in defaults: as a sidecar with `rules` does before it puts the document over its
/// own settings.
///
/// # Errors
/// Every problem; with [`UnknownKeys::Refuse`] also unknown keys.
pub fn check_document(
    document: &SettingsDocument,
    prefix: &str,
    rules: &DynamicConfig,
    unknown: UnknownKeys,
) -> Result<Vec<Problem>, Problems> {
    let mut parsed = Parsed::new(document, prefix, rules);
    if DocumentScope::of(&document.name).is_none() {
        let hint = "write defaults, services/NAME, apps/APP/defaults or apps/APP/services/NAME";
        parsed.refuse("is not the key of a document".to_owned(), hint);
    }
    let none = FilePolicies::none();
    let mut reader = PolicyReader::new(&none, &rules.bounds, Origins::default(), unknown);
    reader.read("defaults", &Policy::default(), (None, keys::POLICY), &[&parsed.tree]);
    let PolicyReading { problems, warnings, .. } = reader.finish();
    parsed.problems.extend(problems);
    match parsed.problems.is_empty() {
        true => Ok(warnings),
        false => Err(Problems::new(parsed.problems, warnings)),
    }
}

/// The settings of the file, and the documents that were accepted so far.
struct Layers<'a> {
    base: &'a LoadedConfig,
    file: &'a FilePolicies,
    defaults: Vec<DocumentTree>,
    /// By the name of the service in lower case.
    services: BTreeMap<String, Vec<DocumentTree>>,
}

impl Layers<'_> {
    /// Uses the current version; where that cannot be, the last good one, unless another document is about the same service.
    fn accept(&mut self, candidate: SeatCandidate<'_>) -> DocumentResult {
        let SeatCandidate { scope, versions, current, is_selected, twin } = candidate;
        let DocumentVersions { current: SettingsDocument { name, index, value, .. }, last_good } = versions;
        let mut result = DocumentResult {
            name: name.clone(),
            index: *index,
            state: DocumentState::Refused,
            in_effect: None,
            rollout: current.rollout,
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        if !current.problems.is_empty() {
            result.problems = current.problems;
        } else if !is_selected {
            result.state = DocumentState::NotSelected;
        } else {
            let (problems, warnings) = self.try_layer(&scope, &current.tree);
            (result.problems, result.warnings) = (problems, warnings);
            if result.problems.is_empty() {
                result.state = DocumentState::Applied;
                result.in_effect = Some(*index);
                self.push(&scope, current.tree);
            }
        }
        if let (None, None, Some(last)) = (result.in_effect, twin, last_good)
            && (last.value != *value || result.state == DocumentState::NotSelected)
        {
            let rules = &self.base.config.dynamic_config;
            let last = Parsed::new(last, rules.prefix.as_deref().unwrap_or_default(), rules);
            if last.problems.is_empty() && self.try_layer(&scope, &last.tree).0.is_empty() {
                result.in_effect = Some(last.tree.index);
                self.push(&scope, last.tree);
            }
        }
        result
    }

    fn push(&mut self, scope: &DocumentScope<'_>, tree: DocumentTree) {
        match scope.service() {
            None => self.defaults.push(tree),
            Some(service) => self.services.entry(service.to_ascii_lowercase()).or_default().push(tree),
        }
    }

    /// The problems and warnings of the document over the layers so far.
    fn try_layer(&self, scope: &DocumentScope<'_>, tree: &DocumentTree) -> (Vec<Problem>, Vec<Problem>) {
        let mut reader = self.reader(Origins::default());
        match scope.service() {
            None => {
                let defaults: Vec<_> = self.defaults.iter().chain([tree]).collect();
                let defaults = self.read_defaults(&mut reader, &defaults);
                for n in 0..self.base.config.upstreams.len() {
                    self.read_upstream(&mut reader, n, &defaults, &[]);
                }
            }
            Some(service) => {
                let service = service.to_ascii_lowercase();
                let below = self.services.get(&service).map_or(&[][..], Vec::as_slice);
                let documents: Vec<_> = below.iter().chain([tree]).collect();
                let defaults = self.read_defaults(&mut reader, &self.defaults.iter().collect::<Vec<_>>());
                let upstreams = self.base.config.upstreams.iter().enumerate();
                let declared = upstreams.filter(|(_, up)| up.service.eq_ignore_ascii_case(&service));
                let declared: Vec<_> = declared.map(|(n, _)| n).collect();
                for n in &declared {
                    self.read_upstream(&mut reader, *n, &defaults, &documents);
                }
                if declared.is_empty() {
                    reader.read(&tuned_path(0), &defaults, (None, keys::POLICY), &documents);
                }
            }
        }
        let PolicyReading { mut problems, mut warnings, .. } = reader.finish();
        let is_of_document = |origin: &Origin| matches!(origin, Origin::Kv { key, index, .. } if *key == tree.key && *index == tree.index);
        for problem in problems.iter_mut().filter(|problem| !is_of_document(&problem.origin)) {
            let origin = Origin::Kv { key: Arc::clone(&tree.key), index: tree.index, line: 0, col: 0 };
            problem.what = format!("contradicts {} ({}): {}", problem.key, problem.origin, problem.what);
            problem.key = String::new();
            problem.origin = origin;
        }
        warnings.retain(|warning| is_of_document(&warning.origin));
        (problems, warnings)
    }

    fn reader(&self, origins: Origins) -> PolicyReader<'_> {
        PolicyReader::new(self.file, &self.base.config.dynamic_config.bounds, origins, UnknownKeys::Warn)
    }

    /// Whether the policies of the file can be read again, layer by layer.
    fn has_file(&self) -> bool {
        self.base.source.file_policies().is_some()
    }

    fn read_defaults(&self, reader: &mut PolicyReader<'_>, documents: &[&DocumentTree]) -> Policy {
        let built_in = Policy::default();
        let base = if self.has_file() { &built_in } else { &self.base.config.defaults };
        reader.read("defaults", base, (self.file.defaults.as_ref(), keys::POLICY), documents)
    }

    fn read_upstream(
        &self,
        reader: &mut PolicyReader<'_>,
        n: usize,
        defaults: &Policy,
        documents: &[&DocumentTree],
    ) -> Policy {
        let own = self.base.config.upstreams.get(n).map(|upstream| &upstream.policy);
        let base = own.filter(|_| !self.has_file()).unwrap_or(defaults);
        let section = (self.file.upstreams.get(n), keys::UPSTREAM);
        reader.read(&format!("upstreams[{n}]"), base, section, documents)
    }

    /// The settings with every accepted document.
    fn apply(&self) -> LoadedConfig {
        let mut loaded = self.base.clone();
        let mut origins = loaded.origins.clone();
        if self.has_file() {
            origins.retain(|key| !is_policy_key(key));
        }
        let mut reader = self.reader(origins);
        let config = &mut loaded.config;
        config.defaults = self.read_defaults(&mut reader, &self.defaults.iter().collect::<Vec<_>>());
        let mut undeclared = self.services.clone();
        for (n, upstream) in config.upstreams.iter_mut().enumerate() {
            let name = upstream.service.to_ascii_lowercase();
            let documents: Vec<_> = self.services.get(&name).into_iter().flatten().collect();
            upstream.policy = self.read_upstream(&mut reader, n, &config.defaults, &documents);
            undeclared.remove(&name);
        }
        config.tuned = undeclared
            .into_iter()
            .enumerate()
            .map(|(n, (service, documents))| {
                let documents: Vec<_> = documents.iter().collect();
                let section = (None, keys::POLICY);
                let policy = reader.read(&tuned_path(n), &config.defaults, section, &documents);
                TunedService { service, policy }
            })
            .collect();
        loaded.origins = reader.finish().origins;
        let documents = config.tuned.iter().map(|tuned| self.services.get(&tuned.service));
        for (n, documents) in documents.enumerate() {
            for DocumentTree { key, index, .. } in documents.into_iter().flatten() {
                let origin = Origin::Kv { key: Arc::clone(key), index: *index, line: 0, col: 0 };
                loaded.origins.set(keys::join(&tuned_path(n), "service"), origin);
            }
        }
        loaded
    }
}

/// Whether the key is of a policy, which is read again.
fn is_policy_key(key: &str) -> bool {
    let below = |section: &str| key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'));
    let of_upstream = key.strip_prefix("upstreams[").and_then(|rest| rest.split_once("]."));
    let name = of_upstream.and_then(|(_, rest)| rest.split('.').next());
    below("defaults") || name.is_some_and(|name| keys::POLICY.iter().any(|key| key.name == name))
}

#[cfg(test)]
mod tests;
