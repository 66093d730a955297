//! What is told of a request. Durations are in milliseconds; a share is a part of 1. No value of a header is in it.

use serde::Serialize;

use crate::status::ChainStatus;

/// What a request would meet.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Explanation {
    /// The request.
    pub request: ExplainedRequest,
    /// The service that it names. Absent: it is refused before.
    pub name: Option<ExplainedName>,
    /// What the instance gets of the target and the Host.
    pub sent: Option<ExplainedHead>,
    /// The request is refused before its service is looked at.
    pub refused: Option<ExplainedRefusal>,
    /// The sidecar answers the request itself: `Max-Forwards` is 0.
    pub answered_here: bool,
    /// What is known of Consul's chains of the service that is named and of each service to which the rules lead. Empty: chains do not
    /// count.
    pub chains: Vec<ExplainedChain>,
    /// The rules of the service that is named, then those of each service to which they lead.
    pub rules: Vec<ExplainedRules>,
    /// Copies of it. Absent: the rules have no mirror.
    pub mirror: Option<ExplainedMirror>,
    /// Where it goes. Several: a split takes requests in turn.
    pub destinations: Vec<ExplainedDestination>,
}

/// The request, as the sidecar reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ExplainedRequest {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The field Host.
    pub host: Option<String>,
    /// The listener that takes it.
    pub listener: Option<String>,
    /// The service of the listener. Absent: each request names its own.
    pub listener_service: Option<String>,
}

/// The service that a request names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedName {
    /// What names it: `host`, `path` or `listener`.
    pub by: &'static str,
    /// As metrics call it, with its tags and its datacenter.
    pub service: String,
    /// The datacenter that is asked for. Absent: the own one.
    pub datacenter: Option<String>,
    /// The tags that an instance must have.
    pub tags: Vec<String>,
}

/// Target and Host of a head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedHead {
    /// Path and query.
    pub target: String,
    /// The field Host.
    pub host: String,
}

/// An answer of the sidecar itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedRefusal {
    /// One of docs/errors.md.
    pub reason: &'static str,
    /// Its status.
    pub status: u16,
    /// Why.
    pub detail: String,
    /// `Retry-After`.
    pub retry_after_ms: Option<u64>,
}

/// What is known of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedChain {
    /// The service that it is of.
    pub service: String,
    /// As `/services` has it.
    #[serde(flatten)]
    pub status: ChainStatus,
}

/// The rules of one service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedRules {
    /// The service.
    pub service: String,
    /// Routes before the one that matches. A service to which rules lead is called without its routes.
    pub passed: Vec<PassedRoute>,
    /// The route that matches.
    pub route: Option<ExplainedRoute>,
    /// The split that chooses.
    pub split: Option<ExplainedSplit>,
}

/// A route that does not match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedRoute {
    /// Its key in the settings.
    pub key: String,
    /// Where it comes from.
    pub origin: String,
    /// The first part of its match that does not hold.
    pub why_not: String,
}

/// The route that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedRoute {
    /// Its key in the settings.
    pub key: String,
    /// Where it comes from.
    pub origin: String,
    /// What it asks of a request. Empty: nothing.
    pub asks: String,
    /// Where it sends the request.
    pub to: String,
    /// Where the request goes while that has no usable instance. Absent: it is refused.
    pub on_empty: Option<String>,
    /// `on_empty` holds now.
    pub is_empty: bool,
    /// Fields that it sets, and that it adds.
    pub sets_headers: Vec<String>,
    /// Fields that it leaves out.
    pub removes_headers: Vec<String>,
}

/// A split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedSplit {
    /// Its key in the settings.
    pub key: String,
    /// Where it comes from.
    pub origin: String,
    /// What keeps requests at one entry.
    pub sticky: Option<String>,
    /// The request has that, so that its entry is known. Else it takes its turn.
    pub is_known: bool,
    /// The entries.
    pub entries: Vec<ExplainedEntry>,
}

/// An entry of a split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedEntry {
    /// Where its requests go.
    pub to: String,
    /// Its weight.
    pub weight: f64,
    /// Its share now: that of an entry without a usable instance goes to the others.
    pub share: f64,
    /// It has a usable instance, or nothing is known of it.
    pub usable: bool,
    /// This request gets it.
    pub chosen: bool,
}

/// The copies of a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedMirror {
    /// Its key in the settings.
    pub key: String,
    /// Where it comes from.
    pub origin: String,
    /// Where copies go.
    pub to: String,
    /// Of how many requests.
    pub share: f64,
    /// Why the request is not copied. Absent: it is, with that share.
    pub why_not: Option<&'static str>,
}

/// Where a request goes: a service, or a subset of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedDestination {
    /// The share of requests like this one that go there.
    pub share: f64,
    /// The service, as metrics call it.
    pub service: String,
    /// The part of its instances. Absent: all.
    pub subset: Option<ExplainedSubset>,
    /// The key of what a chain of Consul names. Absent: no chain does.
    pub target: Option<String>,
    /// The settings name the service.
    pub declared: bool,
    /// What is known of it.
    pub registry: ExplainedKnowledge,
    /// The key of the section that its settings are in.
    pub settings_at: String,
    /// How it is called.
    pub settings: Vec<ExplainedSetting>,
    /// What of that bounds this request.
    pub limits: ExplainedLimits,
    /// The circuit breaker.
    pub breaker: ExplainedBreaker,
    /// The bulkhead. Absent: there is no limit.
    pub bulkhead: Option<ExplainedBulkhead>,
    /// What the first attempt would pick.
    pub pick: ExplainedPick,
    /// Every known instance.
    pub candidates: Vec<ExplainedCandidate>,
    /// Where requests go while none is usable.
    pub failover: Option<ExplainedFailover>,
    /// What happens without a usable instance: in this order.
    pub without_instance: Vec<String>,
    /// The request would be refused now.
    pub refused: Option<ExplainedRefusal>,
}

/// A subset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedSubset {
    /// Its name.
    pub name: String,
    /// Its key in the settings.
    pub key: String,
    /// Where it comes from.
    pub origin: String,
}

/// What is known of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ExplainedKnowledge {
    /// `not_open`: the first request opens it; else `unasked`, `remembered` from before a restart, or `answered`.
    pub state: &'static str,
    /// Time since the registry was last heard.
    pub heard_ago_ms: Option<u64>,
    /// Why the last question failed.
    pub error: Option<String>,
    /// How long a request waits for the first answer.
    pub first_answer_ms: u64,
}

/// A setting with its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedSetting {
    /// Its key below the service.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Where it comes from, and what it overrides.
    pub origin: String,
    /// The route sets it, or the target in a chain of Consul.
    pub of_route: bool,
}

/// What bounds a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ExplainedLimits {
    /// Until the head of the response.
    pub timeout_ms: u64,
    /// Of one attempt.
    pub per_try_timeout_ms: Option<u64>,
    /// Of a connect.
    pub connect_timeout_ms: u64,
    /// Until the end of the response.
    pub deadline_ms: Option<u64>,
    /// What the app itself asks for.
    pub own_deadline_ms: Option<u64>,
    /// Most attempts after the first.
    pub max_retries: u32,
    /// It may be sent again although an instance may have acted on it.
    pub repeatable: bool,
    /// It forbids other attempts (`x-outrigger-retry: off`).
    pub forbids_retries: bool,
    /// Statuses that are retried.
    pub statuses: Vec<u16>,
    /// Retries that the budget allows now. Absent: the service is not open.
    pub retry_budget: Option<u64>,
    /// After which time a second attempt starts beside the first. Absent: none does, or too few responses are known.
    pub hedge_after_ms: Option<u64>,
}

/// The circuit breaker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ExplainedBreaker {
    /// `off`, `closed`, `open`, `half_open`.
    pub state: &'static str,
    /// How long it refuses requests. Absent: it lets the request through.
    pub refuses_for_ms: Option<u64>,
}

/// The bulkhead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedBulkhead {
    /// Requests under way.
    pub in_flight: usize,
    /// The most.
    pub max_in_flight: usize,
    /// Requests that wait.
    pub pending: usize,
}

/// What the first attempt would pick.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ExplainedPick {
    /// The load balancer.
    pub balance: &'static str,
    /// Of which cluster: `own`, `failover`, `none`.
    pub from: &'static str,
    /// The service of the instance.
    pub service: Option<String>,
    /// Why these: `healthy`, `probation`, `stalled`, `last_resort`, `panic`; `none`.
    pub rank: &'static str,
    /// Among how many instances.
    pub among: usize,
    /// The share of each zone in first attempts. Empty: zones do not count.
    pub zones: Vec<ExplainedZone>,
}

/// A zone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedZone {
    /// Its name. Empty: the instances have none.
    pub zone: String,
    /// Its share.
    pub share: f64,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedCandidate {
    /// Its id in the registry, unique on its node.
    pub id: String,
    /// Its node.
    pub node: String,
    /// `address:port`, or `-`.
    pub address: String,
    /// Its health in the registry.
    pub status: &'static str,
    /// Its weight.
    pub weight: u32,
    /// Its zone, where zones count.
    pub zone: Option<String>,
    /// It has the tags, and is in the subset.
    pub in_subset: bool,
    /// It may be picked, as `/services` says.
    pub usable: bool,
    /// The first attempt could take it.
    pub takes: bool,
    /// Why the first attempt could not, or takes it only because no other is better.
    pub why_not: Option<String>,
}

/// A failover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedFailover {
    /// Its key in the settings.
    pub key: String,
    /// Where it comes from.
    pub origin: String,
    /// Requests go to a target now.
    pub active: bool,
    /// How long own instances have to be healthy before requests return.
    pub return_after_ms: u64,
    /// Requests return then, if own instances stay healthy. Absent: none is healthy, or requests are not elsewhere.
    pub returns_in_ms: Option<u64>,
    /// In the order of use.
    pub targets: Vec<ExplainedTarget>,
}

/// A target of a failover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedTarget {
    /// The service, as metrics call it.
    pub service: String,
    /// The part of its instances. Absent: all, or for a subset those of the same name.
    pub subset: Option<String>,
    /// Instances that can take requests.
    pub usable: usize,
    /// Its instances.
    pub candidates: Vec<ExplainedCandidate>,
}
