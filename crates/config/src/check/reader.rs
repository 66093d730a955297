//! Reads one key at a time: precedence, variables, origin, problems.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use super::{
    quote::{quote, sanitize},
    section::Section,
};
use crate::{
    Bounds, Environment, Layer, Origin, Origins, Problem, Secret, UnknownKeys,
    error::InvalidValue,
    expand, keys,
    layers::{Overlay, split_items},
    raw::{Node, NodeValue, Position},
    renamed::RenamedKeys,
    units,
};

/// Where the nodes of the tree that is being read come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// The settings file of this name.
    File(Arc<str>),
    /// A document of the registry's KV.
    Document {
        /// The whole key.
        key: Arc<str>,
        /// The index of the write that made this version.
        index: u64,
        unknown: UnknownKeys,
    },
}

/// `off`, or a value that this parser reads.
fn or_off<T>(
    parse: &impl Fn(&str) -> Result<T, InvalidValue>,
) -> impl Fn(&str) -> Result<Option<T>, InvalidValue> {
    |text| if units::switch(text) == Ok(false) { Ok(None) } else { parse(text).map(Some) }
}

/// That the value is within the bounds, if there are any. `None`: the value is `off`.
fn check_within<T: PartialOrd>(
    bounds: Option<&Bounds>,
    value: Option<&T>,
    parse: &impl Fn(&str) -> Result<T, InvalidValue>,
) -> Result<(), InvalidValue> {
    let Some(bounds) = bounds else { return Ok(()) };
    match (value, parse(&bounds.low), parse(&bounds.high)) {
        (Some(value), Ok(low), Ok(high)) if low <= *value && *value <= high => Ok(()),
        _ => Err(outside(bounds)),
    }
}

fn outside(Bounds { low, high }: &Bounds) -> InvalidValue {
    InvalidValue::new("is outside of dynamic_config.bounds", format!("allowed: {low} to {high}"))
}

/// A setting with bounds, as a policy has it.
#[derive(Debug, PartialEq)]
pub(super) struct BoundedValue {
    /// Equal for equal values.
    shown: String,
    pub(super) within: Result<(), InvalidValue>,
}

/// The state of one check.
pub(super) struct Reader<'a> {
    pub(super) source: Source,
    /// The path of the policy that is being read: `defaults`, `upstreams[0]`.
    policy_path: String,
    /// A document is read without the layers below it.
    pub(super) is_alone: bool,
    /// `dynamic_config.allow_services`.
    pub(super) allow_services: Vec<String>,
    /// `dynamic_config.bounds`.
    pub(super) bounds: BTreeMap<String, Bounds>,
    /// Collects the settings with bounds of the policy that is read.
    pub(super) bounded: Option<BTreeMap<String, BoundedValue>>,
    /// The places of the bounds that were not read yet.
    pub(super) unread_bounds: BTreeMap<String, Origin>,
    pub(super) renamed: RenamedKeys,
    pub(super) env: &'a Environment,
    pub(super) overlay: Overlay,
    pub(super) origins: Origins,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

/// A value, its origin, and how a message may show it.
struct Candidate {
    text: String,
    shown: String,
    origin: Origin,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        file: &Arc<str>,
        mut renamed: RenamedKeys,
        env: &'a Environment,
        overlay: Overlay,
    ) -> Self {
        let problems = std::mem::take(&mut renamed.problems);
        let warnings = std::mem::take(&mut renamed.warnings);
        Self {
            source: Source::File(Arc::clone(file)),
            policy_path: String::new(),
            is_alone: false,
            allow_services: Vec::new(),
            bounds: BTreeMap::new(),
            bounded: None,
            unread_bounds: BTreeMap::new(),
            renamed,
            env,
            overlay,
            origins: Origins::default(),
            problems,
            warnings,
        }
    }

    pub(super) fn report(&mut self, origin: &Origin, key: &str, wrong: InvalidValue) {
        let InvalidValue { what, hint } = wrong;
        self.problems.push(Problem { origin: origin.clone(), key: key.to_owned(), what, hint });
    }

    pub(super) fn warn(
        &mut self,
        origin: Origin,
        key: &str,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.warnings.push(Problem { origin, key: key.to_owned(), what: what.into(), hint: hint.into() });
    }

    /// Whether a key of the section at this path has a problem.
    pub(super) fn has_problem_below(&self, path: &str) -> bool {
        let is_below = |key: &str| key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
        self.problems.iter().any(|problem| is_below(&problem.key))
    }

    /// Reports a value that is wrong beside others, at the place of the value.
    pub(super) fn report_set(&mut self, key: &str, what: impl Into<String>, hint: impl Into<String>) {
        self.report(&self.origins.get(key).clone(), key, InvalidValue::new(what, hint));
    }

    /// The name of the settings file.
    pub(super) fn file(&self) -> &str {
        match &self.source {
            Source::File(file) => file,
            Source::Document { .. } => "",
        }
    }

    pub(super) fn origin_at(&self, at: Position) -> Origin {
        match &self.source {
            Source::File(file) => Origin::File { file: Arc::clone(file), line: at.line, col: at.col },
            Source::Document { key, index, .. } => {
                Origin::Kv { key: Arc::clone(key), index: *index, line: at.line, col: at.col }
            }
        }
    }

    /// Puts the value that wins into `target`, and records its origin.
    pub(super) fn set<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        target: &mut T,
        parse: impl Fn(&str) -> Result<T, InvalidValue>,
    ) {
        if let Some(value) = self.get(section, name, parse) {
            *target = value;
        }
    }

    /// The settings from here on are those of the policy at this path.
    pub(super) fn begin_policy(&mut self, path: &str) {
        path.clone_into(&mut self.policy_path);
    }

    /// As [`Reader::set`], for a setting of a policy that has a range: a value of a document keeps to
    /// `dynamic_config.bounds`.
    pub(super) fn tune<T: PartialOrd + Debug>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        target: &mut T,
        parse: impl Fn(&str) -> Result<T, InvalidValue>,
    ) {
        let bounds = self.bounds_of(section, name, &parse);
        let within = |value: &T| check_within(bounds.as_ref(), Some(value), &parse);
        if let Some(value) = self.get_bounded(section, name, &parse, within) {
            *target = value;
        }
        self.collect_bounded(section, name, bounds.as_ref(), Some(&*target), &parse);
    }

    /// As [`Reader::tune`], for a setting that inherits a value: `off` removes it, and is outside of every bounds.
    pub(super) fn tune_or_off<T: PartialOrd + Debug>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        target: &mut Option<T>,
        parse: impl Fn(&str) -> Result<T, InvalidValue>,
    ) {
        let bounds = self.bounds_of(section, name, &parse);
        let within = |value: &Option<T>| check_within(bounds.as_ref(), value.as_ref(), &parse);
        if let Some(value) = self.get_bounded(section, name, or_off(&parse), within) {
            *target = value;
        }
        self.collect_bounded(section, name, bounds.as_ref(), target.as_ref(), &parse);
    }

    fn collect_bounded<T: PartialOrd + Debug>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        bounds: Option<&Bounds>,
        value: Option<&T>,
        parse: &impl Fn(&str) -> Result<T, InvalidValue>,
    ) {
        let (Some(all), Some(bounds)) = (&mut self.bounded, bounds) else { return };
        let path = section.key(name);
        let Some(key) = path.strip_prefix(&self.policy_path).and_then(|key| key.strip_prefix('.')) else {
            return;
        };
        let within = check_within(Some(bounds), value, parse);
        all.insert(key.to_owned(), BoundedValue { shown: format!("{value:?}"), within });
    }

    /// `off` of a setting with bounds: it is outside of all.
    pub(super) fn bounded_off(&self, key: &str) -> BoundedValue {
        let within = self.bounds.get(key).map_or(Ok(()), |bounds| Err(outside(bounds)));
        BoundedValue { shown: "None".to_owned(), within }
    }

    /// The bounds of a setting of the policy. Reads them for the first time.
    fn bounds_of<T: PartialOrd>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        parse: &impl Fn(&str) -> Result<T, InvalidValue>,
    ) -> Option<Bounds> {
        let path = section.key(name);
        let key = path.strip_prefix(&self.policy_path)?.strip_prefix('.')?;
        let bounds = self.bounds.get(key)?.clone();
        if let Some(origin) = self.unread_bounds.remove(key) {
            let path = keys::join("dynamic_config.bounds", key);
            let mut ends = Vec::new();
            for text in [&bounds.low, &bounds.high] {
                match parse(text) {
                    Ok(end) => ends.push(end),
                    Err(InvalidValue { what, hint }) => {
                        let what = format!("{} {what}", quote(text));
                        self.report(&origin, &path, InvalidValue { what, hint });
                    }
                }
            }
            if let [low, high] = ends.as_slice()
                && low > high
            {
                let what = format!("{} is above {}", quote(&bounds.low), quote(&bounds.high));
                self.report(&origin, &path, InvalidValue::new(what, "write the lower value first"));
            }
        }
        Some(bounds)
    }

    /// As [`Reader::set`], for a setting that inherits a value: `off` removes it.
    pub(super) fn set_or_off<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        target: &mut Option<T>,
        parse: impl Fn(&str) -> Result<T, InvalidValue>,
    ) {
        self.set(section, name, target, or_off(&parse));
    }

    /// The value that wins. The other values are checked too.
    pub(super) fn get<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        parse: impl Fn(&str) -> Result<T, InvalidValue>,
    ) -> Option<T> {
        self.get_bounded(section, name, parse, |_| Ok(()))
    }

    /// As [`Reader::get`]; a value of a document must be `within` its bounds.
    fn get_bounded<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        parse: impl Fn(&str) -> Result<T, InvalidValue>,
        within: impl Fn(&T) -> Result<(), InvalidValue>,
    ) -> Option<T> {
        let key = section.key(name);
        let mut winner = None;
        let mut decided = false;
        let candidates = self.candidates(section, name);
        let layer =
            |given: &Candidate| Layer { origin: given.origin.clone(), written: Some(given.shown.clone()) };
        self.record_layers(&key, candidates.iter().map(layer));
        for given in candidates {
            let is_bounded = matches!(given.origin, Origin::Kv { .. });
            let value = parse(&given.text).and_then(|value| match is_bounded {
                true => within(&value).map(|()| value),
                false => Ok(value),
            });
            match value {
                Ok(value) if !decided => winner = Some(value),
                Ok(_) => {}
                Err(wrong) => self.reject_value(&given, &key, wrong),
            }
            decided = true;
        }
        winner
    }

    /// The places that set a key over its layers so far, the one that wins first.
    fn record_layers(&mut self, key: &str, layers: impl DoubleEndedIterator<Item = Layer>) {
        layers.rev().for_each(|layer| self.origins.set(key.to_owned(), layer));
    }

    fn reject_value(&mut self, given: &Candidate, key: &str, wrong: InvalidValue) {
        let what = format!("{} {}", given.shown, wrong.what);
        self.report(&given.origin, key, InvalidValue { what, hint: wrong.hint });
    }

    /// All values of a key: flag, environment, file.
    fn candidates(&mut self, section: &Section<'_>, name: &str) -> Vec<Candidate> {
        let key = section.key(name);
        let overrides = self.overlay.get(&key).iter();
        let mut all: Vec<_> = overrides
            .map(|value| Candidate {
                shown: quote(&value.text),
                text: value.text.clone(),
                origin: value.origin.clone(),
            })
            .collect();
        if let Some(node) = section.node(name)
            && let Some(given) = self.read_scalar(node, &key, !all.is_empty())
        {
            all.push(given);
        }
        all
    }

    /// One value of the file, expanded. A missing variable is no problem when a flag wins (`lost`).
    fn read_scalar(&mut self, node: &Node, key: &str, lost: bool) -> Option<Candidate> {
        let origin = self.origin_at(node.at);
        let NodeValue::Scalar(written) = &node.value else {
            let wrong = match &node.value {
                NodeValue::Null => InvalidValue::new("has no value", "give one, or remove the key"),
                other => {
                    InvalidValue::new(format!("{} is not allowed here", other.kind()), "write a single value")
                }
            };
            self.report(&origin, key, wrong);
            return None;
        };
        if let Source::Document { .. } = &self.source {
            return self.read_literal(written, origin, key);
        }
        match expand::expand(written, self.env) {
            // The content of a variable may be a secret: the message shows its name.
            Ok(expanded) => {
                let shown = quote(if expanded.from_environment { written } else { &expanded.text });
                let given = Candidate { text: expanded.text, shown, origin };
                match self.renamed.convert(key, &given.text) {
                    Ok(text) => Some(Candidate { text, ..given }),
                    Err(wrong) => {
                        self.reject_value(&given, key, wrong);
                        None
                    }
                }
            }
            Err(errors) => {
                for error in errors {
                    if !lost {
                        self.report(&origin, key, error);
                    }
                }
                None
            }
        }
    }

    /// One value of a document, as it is written: the variables of this process are not for everyone that can write a key.
    fn read_literal(&mut self, written: &str, origin: Origin, key: &str) -> Option<Candidate> {
        if written.contains("${") {
            let what = format!("{} has a variable, and a document has none", quote(written));
            self.report(&origin, key, InvalidValue::new(what, "write the value itself"));
            return None;
        }
        Some(Candidate { text: written.to_owned(), shown: quote(written), origin })
    }

    /// A list of values; in a variable, commas separate them ([`split_items`]).
    pub(super) fn set_list<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        target: &mut Vec<T>,
        parse: impl Fn(&str) -> Result<T, InvalidValue>,
    ) {
        let key = section.key(name);
        let mut lists = Vec::new();
        for list in self.overlay.get(&key).to_vec() {
            let given =
                |item: String| Candidate { shown: quote(&item), text: item, origin: list.origin.clone() };
            let items = split_items(&list.text).into_iter().map(given).collect();
            lists.push((list.origin.clone(), self.parse_all(items, &key, &parse)));
        }
        if let Some(node) = section.node(name) {
            let given = self.read_scalars(node, name, &key, !lists.is_empty());
            lists.push((self.origin_at(node.at), self.parse_all(given, &key, &parse)));
        }
        self.record_layers(&key, lists.iter().map(|(origin, _)| Layer::from(origin.clone())));
        if let Some((_, values)) = lists.into_iter().next() {
            *target = values;
        }
    }

    /// The values of a list of the file.
    fn read_scalars(&mut self, node: &Node, name: &str, key: &str, lost: bool) -> Vec<Candidate> {
        let what = match &node.value {
            NodeValue::Seq(items) => {
                let items = items.iter().enumerate();
                return items
                    .filter_map(|(n, item)| self.read_scalar(item, &format!("{key}[{n}]"), lost))
                    .collect();
            }
            NodeValue::Null => "has no value".to_owned(),
            other => format!("{} is not allowed here", other.kind()),
        };
        self.report(
            &self.origin_at(node.at),
            key,
            InvalidValue::new(what, format!("write a list: {name}: [...]")),
        );
        Vec::new()
    }

    fn parse_all<T>(
        &mut self,
        given: Vec<Candidate>,
        key: &str,
        parse: &impl Fn(&str) -> Result<T, InvalidValue>,
    ) -> Vec<T> {
        let mut values = Vec::with_capacity(given.len());
        for given in given {
            match parse(&given.text) {
                Ok(value) => values.push(value),
                Err(wrong) => self.reject_value(&given, key, wrong),
            }
        }
        values
    }

    /// A mapping with free keys.
    pub(super) fn set_map(
        &mut self,
        section: &Section<'_>,
        name: &str,
        target: &mut BTreeMap<String, String>,
        parse_key: impl Fn(&str) -> Result<String, InvalidValue>,
        parse_value: impl Fn(&str) -> Result<String, InvalidValue>,
    ) {
        self.read_map(section, name, target, parse_key, parse_value, false);
    }

    /// As [`Reader::set_map`], for values that no message repeats.
    pub(super) fn set_secret_map(
        &mut self,
        section: &Section<'_>,
        name: &str,
        target: &mut BTreeMap<String, Secret>,
        parse_key: impl Fn(&str) -> Result<String, InvalidValue>,
        parse_value: impl Fn(&str) -> Result<Secret, InvalidValue>,
    ) {
        self.read_map(section, name, target, parse_key, parse_value, true);
    }

    fn read_map<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        target: &mut BTreeMap<String, T>,
        parse_key: impl Fn(&str) -> Result<String, InvalidValue>,
        parse_value: impl Fn(&str) -> Result<T, InvalidValue>,
        is_secret: bool,
    ) {
        let path = section.key(name);
        let Some(node) = section.node(name) else { return };
        let entries = match &node.value {
            NodeValue::Map(entries) => entries.as_slice(),
            NodeValue::Null => &[],
            other => {
                let wrong =
                    InvalidValue::new(format!("{} is not allowed here", other.kind()), "write a mapping");
                return self.report(&self.origin_at(node.at), &path, wrong);
            }
        };
        self.origins.set(path.clone(), self.origin_at(node.at));
        for (key, value) in entries {
            let at = self.origin_at(key.at);
            let key_path = keys::join(&path, &sanitize(&key.name));
            if let Err(wrong) = parse_key(&key.name) {
                let what = format!("{} {}", quote(&key.name), wrong.what);
                self.report(&at, &path, InvalidValue { what, hint: wrong.hint });
            }
            if target.contains_key(&key.name) {
                self.report(&at, &key_path, InvalidValue::new("is given twice", "remove one of them"));
            }
            let Some(mut given) = self.read_scalar(value, &key_path, false) else { continue };
            if is_secret {
                given.shown = "the value".to_owned();
            }
            match parse_value(&given.text) {
                Ok(value) => drop(target.insert(key.name.clone(), value)),
                Err(wrong) => self.reject_value(&given, &key_path, wrong),
            }
        }
    }

    /// Whether the section is a plain `off` or `on` in the file, instead of a mapping.
    pub(super) fn read_switch(&mut self, parent: &Section<'_>, name: &str) -> Option<bool> {
        let node = parent.node(name)?;
        let NodeValue::Scalar(_) = node.value else { return None };
        let key = parent.key(name);
        // `read_scalar` reported the problem. `true`: the caller does not open the value as a mapping too.
        let Some(given) = self.read_scalar(node, &key, false) else { return Some(true) };
        self.origins.set(key.clone(), given.origin.clone());
        match units::switch(&given.text) {
            Ok(on) => Some(on),
            Err(_) => {
                self.reject_value(
                    &given,
                    &key,
                    InvalidValue::new("is not allowed here", "write off, or a mapping of its settings"),
                );
                Some(true)
            }
        }
    }

    /// The place of a contradiction: the first of these keys that is set.
    pub(super) fn first_set_of(&self, section: &Section<'_>, names: &[&str]) -> Option<String> {
        names.iter().map(|name| section.key(name)).find(|key| self.origins.is_set(key))
    }
}
