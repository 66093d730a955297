//! Which instances of a service a request may go to: subsets, split, routes, mirror and failover of an upstream.

use std::{fmt, sync::Arc, time::Duration};

use outrigger_filter::{FieldType, Filter, FilterError, FilterExpression, consul};

use super::{Policy, Secret};

/// The rules of an upstream. The default has none: every request may go to every instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrafficRules {
    /// Named parts of the service's instances. An instance may be in several, or in none.
    pub subsets: Vec<Subset>,
    /// For requests that no route takes. Absent: every instance.
    pub split: Option<Split>,
    /// The first one that matches takes the request.
    pub routes: Vec<Route>,
    /// Copies of requests. Absent: none.
    pub mirror: Option<Mirror>,
    /// Where requests go while no instance is usable. Absent: nowhere else.
    pub failover: Option<Failover>,
    /// Requests stay in the zone of the sidecar, as far as every instance still gets its share. Absent: zones do not count.
    pub zone: Option<ZoneRouting>,
}

/// A named part of a service's instances: those for which all of these hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    /// Its name, of `[a-z0-9_-]`, at most 63 bytes. Required.
    pub name: Arc<str>,
    /// The instance has all these tags, in any case. Default: none is asked for.
    pub tags: Vec<Arc<str>>,
    /// The instance's metadata has these keys, with values that match. Default: none is asked for.
    pub meta: Vec<(String, Glob)>,
    /// An expression of Consul's filter language over the instance. Absent: none. The registry evaluates one that selects more than
    /// [`SUBSET_FIELDS`].
    pub filter: Option<SubsetFilter>,
    /// The instance has no check in the state `warning`. Default false. Only a chain of Consul sets it.
    pub only_passing: bool,
}

impl Subset {
    /// A subset of this name that has every instance.
    pub fn of_all(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), tags: Vec::new(), meta: Vec::new(), filter: None, only_passing: false }
    }
}

/// A filter expression over an instance.
#[derive(Debug, Clone)]
pub struct SubsetFilter {
    text: Arc<str>,
    filter: Arc<Filter>,
    is_evaluated_here: bool,
}

/// What the filter of a subset may select to be evaluated by the sidecar: what a registry keeps of an instance. Outputs and notes of checks change all the
/// time, and would make every change of them a change of the instance.
pub const SUBSET_FIELDS: FieldType = FieldType::Record(&[
    (
        "Service",
        FieldType::Record(&[
            ("ID", FieldType::Text),
            ("Service", FieldType::Text),
            ("Tags", FieldType::List(&FieldType::Text)),
            ("Meta", FieldType::Map(&FieldType::Text)),
            ("Address", FieldType::Text),
            ("Port", FieldType::Integer),
            (
                "Weights",
                FieldType::Record(&[("Passing", FieldType::Integer), ("Warning", FieldType::Integer)]),
            ),
        ]),
    ),
    (
        "Node",
        FieldType::Record(&[
            ("Node", FieldType::Text),
            ("Address", FieldType::Text),
            ("Datacenter", FieldType::Text),
            ("Meta", FieldType::Map(&FieldType::Text)),
        ]),
    ),
    (
        "Checks",
        FieldType::List(&FieldType::Record(&[
            ("Node", FieldType::Text),
            ("CheckID", FieldType::Text),
            ("Name", FieldType::Text),
            ("Status", FieldType::Text),
            ("ServiceID", FieldType::Text),
            ("ServiceName", FieldType::Text),
            ("ServiceTags", FieldType::List(&FieldType::Text)),
            ("Type", FieldType::Text),
        ])),
    ),
]);

impl SubsetFilter {
    /// Reads a filter.
    ///
    /// # Errors
    /// The expression is wrong, or selects what Consul does not list of an instance.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let expression = FilterExpression::parse(text)?;
        let (filter, is_evaluated_here) = match expression.bind(&SUBSET_FIELDS) {
            Ok(filter) => (filter, true),
            Err(_) => (expression.bind(&consul::HEALTH)?, false),
        };
        Ok(Self { text: text.into(), filter: Arc::new(filter), is_evaluated_here })
    }

    /// Whether it selects [`SUBSET_FIELDS`] alone. Otherwise Consul evaluates it, for a watch of its own.
    pub fn is_evaluated_here(&self) -> bool {
        self.is_evaluated_here
    }

    /// The expression as it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The filter.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }
}

impl PartialEq for SubsetFilter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SubsetFilter {}

/// A text in which `*` stands for any characters, also none. Nothing else is special.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(pub Arc<str>);

impl Glob {
    /// Whether `text` is matched as a whole.
    pub fn matches(&self, text: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return *self.0 == *text };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        let inner = text.strip_prefix(first).and_then(|text| text.strip_suffix(last));
        // The first place of each part is as good as any later one.
        let after = |text: &'_ str, part: &str| text.find(part).map(|at| at + part.len());
        inner.is_some_and(|mut text| {
            middle.split('*').all(|part| {
                let found = after(text, part).and_then(|end| text.get(end..));
                found.map(|rest| text = rest).is_some()
            })
        })
    }
}

/// Where the requests go, in shares.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// The parts, with a sum of weights above 0.
    pub entries: Vec<SplitEntry>,
    /// What keeps the requests of one user at one part. Absent: each request takes its turn.
    pub sticky: Option<Sticky>,
}

/// One part of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitEntry {
    /// Where its requests go.
    pub to: SplitTarget,
    /// Its share, relative to the sum of all, in hundredths: `weight: 2.5` is 250. 0: no request.
    pub weight: u32,
}

/// Where the requests of a part of a split go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SplitTarget {
    /// A subset of the upstream.
    Subset(Arc<str>),
    /// Another service, with the split and the settings that it has; in lower case.
    Service(Arc<str>),
    /// What a chain of Consul names.
    Exact(Arc<ExactTarget>),
}

/// The text of a request by which its part of a split is chosen. A request without it takes its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sticky {
    /// The value of this header, by its name in lower case.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
}

/// What happens to the requests that match.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// What a request has to be like. One that asks for nothing takes every request.
    pub matcher: RouteMatch,
    /// Where it goes.
    pub to: RouteTarget,
    /// What happens while the subset of `to` has no usable instance. Default `fail`.
    pub on_empty: OnEmpty,
    /// How the service of `to` is called: its policy with what the route sets. Absent: the route sets nothing of it.
    pub policy: Option<Arc<Policy>>,
    /// The prefix that takes the place of the matched one (or of the matched path). Absent: the target goes on as it is.
    pub rewrite_prefix: Option<String>,
    /// What is changed in the head that the instance gets.
    pub headers: HeaderEdits,
    /// What a chain of Consul sets of the policy that the target has. Absent: nothing.
    pub tuning: Option<Arc<PolicyTuning>>,
    /// Its number in the chain of Consul that it is of, where routes may have been left out. Absent: its place here.
    pub number: Option<usize>,
}

/// Where the requests of a route go.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum RouteTarget {
    /// To the upstream itself, by its own split: the route only sets how.
    #[default]
    Own,
    /// To a subset of it.
    Subset(Arc<str>),
    /// To another service, with the split and the settings that it has; in lower case.
    Service(Arc<str>),
    /// In shares.
    Split(Split),
    /// What a chain of Consul names.
    Exact(Arc<ExactTarget>),
}

/// Instances as a chain of Consul names them. Neither the rules nor the failover of their service count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExactTarget {
    /// Which instances.
    pub place: ExactPlace,
    /// In the order of use, while none of them is usable. Empty: nowhere.
    pub failover: Vec<ExactPlace>,
    /// In place of that of the service. Absent: nothing is set.
    pub connect_timeout: Option<Duration>,
}

/// The instances of a target of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExactPlace {
    /// As Consul calls it.
    pub id: Arc<str>,
    /// In lower case.
    pub service: Arc<str>,
    /// The datacenter that is asked for. Absent: the registry's default.
    pub datacenter: Option<Arc<str>>,
    /// The part of its instances. Absent: all.
    pub subset: Option<Subset>,
}

/// What a route sets of a policy, whichever it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyTuning {
    /// In place of [`Policy::timeout`].
    pub timeout: Option<Duration>,
    /// In place of that of the retries.
    pub max_retries: Option<u32>,
    /// In place of those of the retries.
    pub statuses: Option<Vec<u16>>,
}

/// What happens to a request while the subset that it is for has no usable instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum OnEmpty {
    /// 503 `subset_empty`.
    #[default]
    Fail,
    /// Any instance of the service.
    Any,
    /// An instance of this subset.
    Subset(Arc<str>),
}

/// What a request has to be like: all that is set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteMatch {
    /// The path, which is the target up to `?`, as it is written: nothing is decoded.
    pub path: Option<PathMatch>,
    /// Headers, by their names in lower case. Several values of one name are matched as one, joined by a comma.
    pub headers: Vec<(String, ValueMatch)>,
    /// Parameters of the query, by their names as they are written. The first of a name counts.
    pub query: Vec<(String, ValueMatch)>,
    /// Methods, as they are written. Empty: every method.
    pub methods: Vec<String>,
}

/// How a path is matched.
#[derive(Debug, Clone, PartialEq)]
pub enum PathMatch {
    /// It is this.
    Exact(String),
    /// It begins with this, as a text: `/a` is a prefix of `/ab`.
    Prefix(String),
    /// It matches as a whole.
    Regex(Pattern),
}

/// How a value is matched.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueMatch {
    /// The test.
    pub test: ValueTest,
    /// `not`: the opposite. A value that is absent passes it.
    pub negated: bool,
}

/// A test of a value. One that is absent passes none.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueTest {
    /// It is there, with any value.
    Present,
    /// It is this.
    Exact(String),
    /// It begins with this.
    Prefix(String),
    /// It ends with this.
    Suffix(String),
    /// It matches as a whole.
    Regex(Pattern),
}

/// A regular expression, which matches a value as a whole and in time linear to it.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// As it is written.
    pub text: Arc<str>,
    /// Anchored at both ends.
    pub regex: regex::bytes::Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// Changes of the fields of a request's head. Names are in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Fields that replace those of the same name. A value may be a credential, and is never printed.
    pub set: Vec<(String, Secret)>,
    /// Fields beside those of the same name.
    pub add: Vec<(String, Secret)>,
    /// Names of fields that are left out.
    pub remove: Vec<String>,
}

/// Copies of requests, of which the responses are dropped.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// Where the copies go.
    pub to: SplitTarget,
    /// Of how many requests there is a copy: 0 to 1. Default 1.
    pub share: f64,
    /// Of which methods. Default GET, HEAD and OPTIONS.
    pub methods: Vec<String>,
    /// Whether a copy to another service keeps `Authorization`, `Cookie` and `Proxy-Authorization`. Default false
    /// (`credentials: drop`); those to a subset keep them.
    pub keep_credentials: bool,
    /// Most copies that are under way at once, range 1–10000; a further one is left out. Default 32.
    pub max_in_flight: usize,
    /// Longest time of a copy, range 1ms–1h. Default 5s.
    pub timeout: Duration,
}

impl Mirror {
    /// Copies to this target, with the defaults.
    pub fn to(to: SplitTarget) -> Self {
        Self {
            to,
            share: 1.0,
            methods: ["GET", "HEAD", "OPTIONS"].map(str::to_owned).into(),
            keep_credentials: false,
            max_in_flight: 32,
            timeout: Duration::from_secs(5),
        }
    }
}

/// Where requests go while none of the service's instances is usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// In the order of use. Never empty.
    pub targets: Vec<FailoverTarget>,
    /// How long instances have to be usable without a break before requests return to them, range 0s–1h. Default 10s.
    pub return_after: Duration,
}

impl TrafficRules {
    /// Whether they say where requests go. Then what the registry says of that does not count.
    pub fn choose_instances(&self) -> bool {
        !self.subsets.is_empty() || self.split.is_some() || !self.routes.is_empty() || self.failover.is_some()
    }

    /// What a chain of Consul names in them.
    pub fn exact_targets(&self) -> Vec<&Arc<ExactTarget>> {
        fn of_split(split: &Split) -> impl Iterator<Item = &Arc<ExactTarget>> {
            split.entries.iter().filter_map(|entry| match &entry.to {
                SplitTarget::Exact(target) => Some(target),
                SplitTarget::Subset(_) | SplitTarget::Service(_) => None,
            })
        }
        let of_routes = self.routes.iter().flat_map(|route| match &route.to {
            RouteTarget::Exact(target) => vec![target],
            RouteTarget::Split(split) => of_split(split).collect(),
            RouteTarget::Own | RouteTarget::Subset(_) | RouteTarget::Service(_) => Vec::new(),
        });
        let mut all: Vec<_> = self.split.iter().flat_map(of_split).chain(of_routes).collect();
        let mut seen = Vec::new();
        all.retain(|one| {
            let is_new = !seen.contains(one);
            if is_new {
                seen.push(*one);
            }
            is_new
        });
        all
    }
}

impl Failover {
    /// The default of [`Failover::return_after`].
    pub const RETURN_AFTER: Duration = Duration::from_secs(10);
}

/// Instances that take the place of those of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverTarget {
    /// Another service, in lower case. Absent: the service itself, which is then in another datacenter.
    pub service: Option<Arc<str>>,
    /// The datacenter that is asked for. Absent: that of the upstream.
    pub datacenter: Option<String>,
}

/// How requests stay in the zone of the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneRouting {
    /// The zone of the sidecar. Required.
    pub own: Arc<str>,
    /// Where the zone of an instance is written; the first that an instance has counts. Default `service.meta.zone`, `node.meta.zone`.
    pub from: Vec<ZoneSource>,
    /// With fewer usable instances zones do not count, range 1–10000. Default 6.
    pub min_instances: usize,
}

impl ZoneRouting {
    /// The default of [`ZoneRouting::min_instances`].
    pub const MIN_INSTANCES: usize = 6;
}

/// Where the zone of an instance is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZoneSource {
    /// A key of its own metadata.
    ServiceMeta(String),
    /// A key of the metadata of its node.
    NodeMeta(String),
}

impl fmt::Display for ZoneSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceMeta(key) => write!(f, "service.meta.{key}"),
            Self::NodeMeta(key) => write!(f, "node.meta.{key}"),
        }
    }
}
