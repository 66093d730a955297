//! Accepts documents one at a time, and puts the accepted ones over the settings of the file.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    AppliedDocuments, DocumentResult, DocumentState, DocumentVersions, SettingsDocument,
    parsed::Parsed,
    scope::DocumentScope,
    seats::{SeatCandidate, give_seats},
};
use crate::{
    Config, DynamicConfig, LoadedConfig, Origin, Origins, Policy, Problem, Problems, TrafficRules,
    TunedService, UnknownKeys, Upstream,
    check::{
        DocumentTree, NamedServices, PolicyReader, PolicyReading, ServiceLinks, ServicePolicies, Subject,
        TrafficReading,
    },
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
            links: whole_services(self),
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
    let mut reader = PolicyReader::new(&none, rules, Origins::default(), unknown).read_alone();
    let service = DocumentScope::of(&document.name).and_then(|scope| scope.service());
    let base = Policy::default();
    let subject = Subject { path: "defaults", service, policy: &base, traffic: None };
    let (policy, traffic) = reader.read(subject, (None, keys::POLICY), &[&parsed.tree]);
    reader.finish_traffic("defaults", traffic, &policy, &ServicePolicies::new(&Config::default()));
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
    /// With the accepted documents.
    links: ServiceLinks,
}

/// What the services that others may name name themselves.
fn whole_services(loaded: &LoadedConfig) -> ServiceLinks {
    let mut links = ServiceLinks::default();
    for upstream in loaded.config.upstreams.iter().filter(|upstream| upstream.is_whole_service()) {
        let traffic = TrafficReading::from(upstream.traffic.clone());
        links.insert(upstream.service.to_ascii_lowercase(), traffic.named_services());
    }
    links
}

/// What became of a document over the layers so far.
struct Trial {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// The services that its service names.
    named: Option<NamedServices>,
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
            let trial = self.try_layer(&scope, &current.tree);
            (result.problems, result.warnings) = (trial.problems, trial.warnings);
            if result.problems.is_empty() {
                result.state = DocumentState::Applied;
                result.in_effect = Some(*index);
                self.push(&scope, current.tree, trial.named);
            }
        }
        if let (None, None, Some(last)) = (result.in_effect, twin, last_good)
            && (last.value != *value || result.state == DocumentState::NotSelected)
        {
            let rules = &self.base.config.dynamic_config;
            let last = Parsed::new(last, rules.prefix.as_deref().unwrap_or_default(), rules);
            let trial = self.try_layer(&scope, &last.tree);
            if last.problems.is_empty() && trial.problems.is_empty() {
                result.in_effect = Some(last.tree.index);
                self.push(&scope, last.tree, trial.named);
            }
        }
        result
    }

    fn push(&mut self, scope: &DocumentScope<'_>, tree: DocumentTree, named: Option<NamedServices>) {
        let Some(service) = scope.service() else { return self.defaults.push(tree) };
        let service = service.to_ascii_lowercase();
        if let Some(named) = named {
            self.links.insert(service.clone(), named);
        }
        self.services.entry(service).or_default().push(tree);
    }

    /// The problems and warnings of the document over the layers so far.
    fn try_layer(&self, scope: &DocumentScope<'_>, tree: &DocumentTree) -> Trial {
        let mut reader = self.reader(Origins::default());
        let mut named = None;
        match scope.service() {
            None => {
                let defaults: Vec<_> = self.defaults.iter().chain([tree]).collect();
                let defaults = self.read_defaults(&mut reader, &defaults);
                let others = ServicePolicies::new(&self.base.config);
                for n in 0..self.base.config.upstreams.len() {
                    let (policy, traffic) = self.read_upstream(&mut reader, n, &defaults, &[]);
                    reader.finish_traffic(&format!("upstreams[{n}]"), traffic, &policy, &others);
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
                // Nearly those that the others have in the end; the settings of a route are read again over those.
                let others = ServicePolicies::new(&self.base.config);
                for n in &declared {
                    let (policy, traffic) = self.read_upstream(&mut reader, *n, &defaults, &documents);
                    let path = format!("upstreams[{n}]");
                    let is_whole = self.base.config.upstreams.get(*n).is_some_and(Upstream::is_whole_service);
                    if is_whole {
                        named = Some(traffic.named_services());
                        self.check_cycle(&mut reader, &path, &service, &traffic);
                    }
                    reader.finish_traffic(&path, traffic, &policy, &others);
                }
                if declared.is_empty() {
                    let path = tuned_path(0);
                    let (policy, traffic) =
                        self.read_tuned(&mut reader, (&path, &service), &defaults, &documents);
                    named = Some(traffic.named_services());
                    self.check_cycle(&mut reader, &path, &service, &traffic);
                    reader.finish_traffic(&path, traffic, &policy, &others);
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
        Trial { problems, warnings, named }
    }

    /// Reports that what the service names leads back to it.
    fn check_cycle(
        &self,
        reader: &mut PolicyReader<'_>,
        path: &str,
        service: &str,
        traffic: &TrafficReading,
    ) {
        let mut links = self.links.clone();
        links.insert(service.to_owned(), traffic.named_services());
        for cycle in links.find_cycles(service) {
            reader.report_cycle(path, &cycle);
        }
    }

    fn reader(&self, origins: Origins) -> PolicyReader<'_> {
        PolicyReader::new(self.file, &self.base.config.dynamic_config, origins, UnknownKeys::Warn)
    }

    /// Whether the policies of the file can be read again, layer by layer.
    fn has_file(&self) -> bool {
        self.base.source.file_policies().is_some()
    }

    fn read_defaults(&self, reader: &mut PolicyReader<'_>, documents: &[&DocumentTree]) -> Policy {
        let built_in = Policy::default();
        let base = if self.has_file() { &built_in } else { &self.base.config.defaults };
        let subject = Subject { path: "defaults", service: None, policy: base, traffic: None };
        reader.read(subject, (self.file.defaults.as_ref(), keys::POLICY), documents).0
    }

    fn read_upstream(
        &self,
        reader: &mut PolicyReader<'_>,
        n: usize,
        defaults: &Policy,
        documents: &[&DocumentTree],
    ) -> (Policy, TrafficReading) {
        let upstream = self.base.config.upstreams.get(n);
        let base = upstream.filter(|_| !self.has_file());
        let section = (self.file.upstreams.get(n), keys::UPSTREAM);
        let subject = Subject {
            path: &format!("upstreams[{n}]"),
            service: upstream.map(|upstream| upstream.service.as_str()),
            policy: base.map_or(defaults, |upstream| &upstream.policy),
            traffic: base.map(|upstream| &upstream.traffic),
        };
        let (mut policy, traffic) = reader.read(subject, section, documents);
        // That of the file, which no document sets.
        policy.protocol = upstream.map_or(policy.protocol, |upstream| upstream.protocol);
        (policy, traffic)
    }

    /// A service that the file does not declare.
    fn read_tuned(
        &self,
        reader: &mut PolicyReader<'_>,
        (path, service): (&str, &str),
        defaults: &Policy,
        documents: &[&DocumentTree],
    ) -> (Policy, TrafficReading) {
        let subject = Subject { path, service: Some(service), policy: defaults, traffic: None };
        reader.read(subject, (None, keys::POLICY), documents)
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
        let (mut declared_rules, mut tuned_rules) = (Vec::new(), Vec::new());
        for (n, upstream) in config.upstreams.iter_mut().enumerate() {
            let name = upstream.service.to_ascii_lowercase();
            let documents: Vec<_> = self.services.get(&name).into_iter().flatten().collect();
            let (policy, rules) = self.read_upstream(&mut reader, n, &config.defaults, &documents);
            upstream.policy = policy;
            declared_rules.push(rules);
            undeclared.remove(&name);
        }
        for (n, (service, documents)) in undeclared.into_iter().enumerate() {
            let documents: Vec<_> = documents.iter().collect();
            let place = (tuned_path(n), service);
            let (policy, rules) =
                self.read_tuned(&mut reader, (&place.0, &place.1), &config.defaults, &documents);
            config.tuned.push(TunedService { service: place.1, policy, traffic: TrafficRules::default() });
            tuned_rules.push(rules);
        }
        let policies = ServicePolicies::new(config);
        for (n, (upstream, rules)) in config.upstreams.iter_mut().zip(declared_rules).enumerate() {
            let path = format!("upstreams[{n}]");
            upstream.traffic = reader.finish_traffic(&path, rules, &upstream.policy, &policies);
        }
        for (n, (tuned, rules)) in config.tuned.iter_mut().zip(tuned_rules).enumerate() {
            tuned.traffic = reader.finish_traffic(&tuned_path(n), rules, &tuned.policy, &policies);
        }
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
    let name = of_upstream.and_then(|(_, rest)| rest.split(['.', '[']).next());
    below("defaults") || name.is_some_and(|name| keys::SERVICE_DOCUMENT.iter().any(|key| key.name == name))
}

#[cfg(test)]
mod tests;
