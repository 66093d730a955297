//! Reads a policy from several layers: what the file says, and documents over it.

use std::sync::Arc;

use super::{
    policy::{out_of_bounds, read_policy},
    prune::prune_layers,
    reader::{Reader, Source},
    traffic::{ServiceCycle, ServicePolicies, TrafficReading},
};
use crate::{
    DynamicConfig, Origin, Origins, Policy, Problem, TrafficRules, UnknownKeys,
    error::InvalidValue,
    keys::{self, KeySpec},
    policy_source::FilePolicies,
    raw::{Node, NodeValue, Position},
    units,
};

/// A document of the registry's KV that can be read.
#[derive(Debug, Clone)]
pub(crate) struct DocumentTree {
    /// The whole key.
    pub(crate) key: Arc<str>,
    pub(crate) index: u64,
    pub(crate) root: Node,
}

/// Reads policies, and collects what is wrong.
pub(crate) struct PolicyReader<'a> {
    reader: Reader<'a>,
    file: &'a FilePolicies,
    unknown: UnknownKeys,
}

/// A section of the file, and the keys that it may have.
type FileSection<'n> = (Option<&'n Node>, &'static [KeySpec]);

/// What is read: a policy and, of a service, its traffic rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) path: &'a str,
    /// `None`: the defaults.
    pub(crate) service: Option<&'a str>,
    /// What it is without any layer.
    pub(crate) policy: &'a Policy,
    /// The same of its rules. Absent: none.
    pub(crate) traffic: Option<&'a TrafficRules>,
}

/// What the policies were read with.
#[derive(Debug)]
pub(crate) struct PolicyReading {
    pub(crate) origins: Origins,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

impl<'a> PolicyReader<'a> {
    /// `origins`: those of the settings that are read elsewhere.
    pub(crate) fn new(
        file: &'a FilePolicies,
        rules: &DynamicConfig,
        origins: Origins,
        unknown: UnknownKeys,
    ) -> Self {
        let mut reader = Reader::new(&file.file, file.renamed.clone(), &file.env, file.overlay.clone());
        reader.bounds.clone_from(&rules.bounds);
        reader.allow_services.clone_from(&rules.allow_services);
        reader.origins = origins;
        Self { reader, file, unknown }
    }

    /// A document is read without the layers that are below it in a sidecar.
    pub(crate) fn read_alone(mut self) -> Self {
        self.reader.is_alone = true;
        self
    }

    /// `subject`, overridden by the file's section, which may have `keys`, and then by each of `documents`. The last of them is
    /// checked against `dynamic_config.bounds`: those before it were the last one when they were accepted.
    pub(crate) fn read(
        &mut self,
        subject: Subject<'_>,
        section: FileSection<'_>,
        documents: &[&DocumentTree],
    ) -> (Policy, TrafficReading) {
        let (policy, traffic) = self.read_layers(subject, section, documents);
        if let Some((last, below)) = documents.split_last()
            && !self.reader.bounds.is_empty()
        {
            let origins = std::mem::take(&mut self.reader.origins);
            let known = (self.reader.problems.len(), self.reader.warnings.len());
            let (before, _) = self.read_layers(subject, section, below);
            self.reader.problems.truncate(known.0);
            self.reader.warnings.truncate(known.1);
            self.reader.origins = origins;
            self.check_bounds(last, &before, &policy);
        }
        (policy, traffic)
    }

    /// The rules of a service at this path, with the policies of its routes; `own` is its policy.
    pub(crate) fn finish_traffic(
        &mut self,
        path: &str,
        traffic: TrafficReading,
        own: &Policy,
        others: &ServicePolicies,
    ) -> TrafficRules {
        let r = &mut self.reader;
        let before = (r.problems.len(), r.warnings.len());
        let rules = traffic.finish(r, path, own, others);
        shorten_keys(r, before, path);
        rules
    }

    /// Reports services that would send each other's requests around, at the service at this path.
    pub(crate) fn report_cycle(&mut self, path: &str, cycle: &ServiceCycle) {
        let key = keys::join(path, cycle.key);
        let before = (self.reader.problems.len(), self.reader.warnings.len());
        let (what, hint) = cycle.describe();
        self.reader.report_set(&key, what, hint);
        shorten_keys(&mut self.reader, before, path);
    }

    /// Reports what the document takes out of its bounds without a value that says so: by `off` or `on` of a section, by `null`, and by a
    /// value that limits another one.
    fn check_bounds(&mut self, document: &DocumentTree, before: &Policy, after: &Policy) {
        for (key, wrong, is_same) in out_of_bounds(&mut self.reader, before, after) {
            let mention = Mention::of(&document.root, &key);
            if is_same && !mention.is_off {
                continue;
            }
            let origin = Origin::Kv {
                key: Arc::clone(&document.key),
                index: document.index,
                line: mention.at.line,
                col: mention.at.col,
            };
            let subject = if mention.key == key { "what null leaves" } else { &key };
            let wrong = InvalidValue { what: format!("{subject} {}", wrong.what), ..wrong };
            self.reader.report(&origin, &mention.key, wrong);
        }
    }

    fn read_layers(
        &mut self,
        Subject { path, service, policy, traffic }: Subject<'_>,
        (section, keys): FileSection<'_>,
        documents: &[&DocumentTree],
    ) -> (Policy, TrafficReading) {
        let mut sources = Vec::new();
        let mut layers = Vec::new();
        if let Some(section) = section {
            sources.push((Source::File(Arc::clone(&self.file.file)), keys));
            layers.push(section.clone());
        }
        for document in documents {
            let DocumentTree { key, index, root } = *document;
            let source = Source::Document { key: Arc::clone(key), index: *index, unknown: self.unknown };
            let keys = if service.is_some() { keys::SERVICE_DOCUMENT } else { keys::POLICY };
            sources.push((source, keys));
            layers.push(root.clone());
        }
        prune_layers(&mut layers);
        let mut policy = policy.clone();
        let mut traffic = traffic.cloned().map(TrafficReading::from).unwrap_or_default();
        let r = &mut self.reader;
        for (n, ((source, keys), layer)) in sources.into_iter().zip(&layers).enumerate() {
            r.source = source;
            let before = (r.problems.len(), r.warnings.len());
            let section = r.open_section(path.to_owned(), keys, Some(layer));
            policy = read_policy(r, &section, &policy);
            if let Some(service) = service {
                let above = layers.get(n + 1..).unwrap_or_default();
                traffic.read(r, &section, service, above);
            }
            shorten_keys(r, before, path);
        }
        (policy, traffic)
    }

    pub(crate) fn finish(self) -> PolicyReading {
        let Reader { origins, mut problems, mut warnings, renamed, .. } = self.reader;
        problems.iter_mut().for_each(|problem| renamed.restore_key(problem));
        remove_repeated(&mut problems);
        remove_repeated(&mut warnings);
        PolicyReading { origins, problems, warnings }
    }
}

/// The part of a document that says most of a key: the key itself, or a section that it is in.
struct Mention {
    at: Position,
    key: String,
    /// It is a section that is `off`.
    is_off: bool,
}

impl Mention {
    fn of(root: &Node, key: &str) -> Self {
        let mut out = Self { at: Position { line: 0, col: 0 }, key: String::new(), is_off: false };
        let mut node = root;
        for part in key.split('.') {
            let Some(inside) = node.get(part) else { break };
            node = inside;
            (out.at, out.key) = (node.at, keys::join(&out.key, part));
        }
        out.is_off = out.key != key
            && matches!(&node.value, NodeValue::Scalar(text) if units::switch(text) == Ok(false));
        out
    }
}

/// Shortens the keys of the problems and warnings after the first `known` ones.
fn shorten_keys(r: &mut Reader<'_>, known: (usize, usize), path: &str) {
    let problems = r.problems.iter_mut().skip(known.0);
    problems.chain(r.warnings.iter_mut().skip(known.1)).for_each(|problem| shorten_key(problem, path));
}

/// The key of a problem of a document as the document has it.
fn shorten_key(problem: &mut Problem, path: &str) {
    if let (Origin::Kv { .. }, Some(key)) = (&problem.origin, problem.key.strip_prefix(path)) {
        problem.key = key.strip_prefix('.').unwrap_or(key).to_owned();
    }
}

/// A document is read for each upstream of its service.
fn remove_repeated(problems: &mut Vec<Problem>) {
    let mut known: Vec<Problem> = Vec::new();
    problems.retain(|problem| {
        let is_new = !known.contains(problem);
        if is_new {
            known.push(problem.clone());
        }
        is_new
    });
}

/// The problem of a value of a document that `parse` refuses, as the reader of a file words it.
pub(crate) fn parse_scalar<T>(
    written: &str,
    parse: impl Fn(&str) -> Result<T, InvalidValue>,
) -> Result<T, InvalidValue> {
    parse(written).map_err(|wrong| {
        let what = format!("{} {}", super::quote::quote(written), wrong.what);
        InvalidValue { what, hint: wrong.hint }
    })
}
