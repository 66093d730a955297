//! What the attempts of one request share, and what bounds one of them.
//!
//! A [`Call`] has the head and how it is written, the settings and the deadline. [`Bounds`] are those of an attempt;
//! [`AttemptResult`] says how it can end.

use std::{fmt::Display, sync::Arc, time::Duration};

use outrigger_config::{self as config, format_size};
use outrigger_http1::{Edits, Framing, Head, HeadLimits, Name, NameSet, writer::write_head};
use outrigger_policy::{
    Deadline, Outcome, Sent,
    deadline::TimeoutCause,
    retry::{self, GiveUp, RequestTraits, RetryEligibility},
};
use tokio::time::Instant;

use crate::{
    limit::{limit, service_limit},
    metrics::cells::{Block, ServiceCells},
    metrics::labels::Tolerated,
    reason::Reason,
    request::{
        app::RequestAccount,
        applied::AppliedRules,
        fields::{ClientDeadline, HeadChanges},
        grpc,
    },
    transport::{
        channel::{Channel, give_head},
        exchange::Exchange,
        upload::Upload,
    },
    upstream::{
        cluster::{Cluster, ClusterSettings},
        endpoint::{CheckoutRequest, Endpoint},
        failover::FailoverTarget,
        lease::Lease,
        over::{LinkedFailover, PickRequest},
        pick_set::Tried,
        subset::Subset,
        traffic::Target,
    },
};

/// Names that no attempt passes on.
const DROPPED: NameSet = NameSet::of([Name::OutriggerRetry, Name::Http2Settings]);

/// One request on its way through its attempts.
#[derive(Debug)]
pub(crate) struct Call<'r> {
    pub(crate) cluster: &'r Arc<Cluster>,
    pub(crate) settings: &'r Arc<ClusterSettings>,
    /// What the rules of the service say. `None`: it has none, and the attempts go to any of the cluster's endpoints.
    pub(crate) rules: Option<&'r AppliedRules>,
    pub(crate) worker: usize,
    /// The app's head; empty once a response was chosen, because no other attempt needs it.
    pub(crate) head: &'r mut Head,
    pub(crate) changes: &'r HeadChanges,
    pub(crate) traits: RequestTraits,
    pub(crate) client_deadline: &'r ClientDeadline,
    pub(crate) deadline: Deadline,
    /// The request is one of gRPC.
    pub(crate) is_grpc: bool,
    /// The request is a probe of the half-open circuit breaker.
    pub(crate) is_probe: bool,
    pub(crate) response_limits: &'r HeadLimits,
}

impl<'r> Call<'r> {
    /// The worker's cells of the service.
    pub(crate) fn cells(&self) -> &'r Block<ServiceCells> {
        self.settings.cells(self.worker)
    }

    /// The part of the cluster's endpoints that the attempts go to. `None`: all.
    pub(crate) fn subset(&self) -> Option<&'r Subset> {
        self.rules.and_then(|rules| rules.subset.as_deref())
    }

    /// An endpoint that this request has not tried, or any usable one when it has tried all; none of `passed`.
    #[inline]
    pub(crate) fn pick(
        &self,
        tried: &[Arc<Endpoint>],
        passed: &[Arc<Endpoint>],
        retryable: bool,
        now: Instant,
    ) -> Option<Arc<Endpoint>> {
        if !tried.is_empty()
            && let Some(subset) = self.next_subset()
        {
            return self.cluster.pick(subset.as_deref(), tried, passed, retryable);
        }
        match self.failover() {
            None => self.cluster.pick(self.subset(), tried, passed, retryable),
            Some(failover) => {
                let request = PickRequest { subset: self.subset(), tried, passed, retryable, now };
                self.cluster.pick_over(&failover.failover, request)
            }
        }
    }

    /// Where another attempt goes when the subset of the request became empty with the one before, by what the rules say then.
    /// `None`: it stays. Failover comes first.
    #[cold]
    fn next_subset(&self) -> Option<Option<Arc<Subset>>> {
        let rules = self.rules?;
        if rules.failover.is_some() || rules.subset.as_ref()?.set().has_usable() {
            return None;
        }
        match rules.otherwise.as_ref()?.choose(self.head)? {
            Target::Any => Some(None),
            Target::Subset(subset) => Some(Some(subset)),
            Target::Service(_) | Target::Exact(_) => None,
        }
    }

    /// An endpoint that is neither in `tried` nor `current`. [`Call::pick`], after that was tried, gives such an endpoint whenever
    /// this does.
    pub(crate) fn pick_other(
        &self,
        tried: &[Arc<Endpoint>],
        current: &Arc<Endpoint>,
        retryable: bool,
        now: Instant,
    ) -> Option<Arc<Endpoint>> {
        if let Some(subset) = self.next_subset() {
            return self.cluster.pick_other(subset.as_deref(), tried, current, retryable);
        }
        match self.failover() {
            None => self.cluster.pick_other(self.subset(), tried, current, retryable),
            Some(failover) => {
                let passed = std::slice::from_ref(current);
                let request = PickRequest { subset: self.subset(), tried, passed, retryable, now };
                self.cluster.pick_untried_over(&failover.failover, request, &Tried(tried, passed))
            }
        }
    }

    /// Where the attempts go while the cluster's own endpoints cannot take them.
    #[inline]
    fn failover(&self) -> Option<&'r LinkedFailover> {
        self.rules.and_then(|rules| rules.failover.as_deref())
    }

    /// The failover target that an endpoint is of, with its cluster. `None`: it is one of the cluster's own.
    #[inline]
    fn target_of(&self, endpoint: &Endpoint) -> Option<(&'r FailoverTarget, &'r Arc<Cluster>)> {
        self.failover()?.target_of(endpoint)
    }

    /// A limit of the request: that of its route, where a route can set it, or that of the service. `key`: as of [`service_limit`].
    pub(crate) fn limit(&self, key: &str, value: impl Display) -> String {
        match &self.settings.route {
            Some(route) if config::is_key_of_routes(key) => limit(route, key, value),
            _ => service_limit(&self.cluster.label, key, value),
        }
    }

    /// Gives `act` the cluster of a target with its settings, or those of the request.
    #[inline]
    fn with_target<R>(
        &self,
        target: Option<(&FailoverTarget, &'r Arc<Cluster>)>,
        act: impl FnOnce(&'r Arc<Cluster>, &ClusterSettings) -> R,
    ) -> R {
        // One call of `act`, so that it is compiled into its caller.
        let view;
        let (owner, settings) = match target {
            None => (self.cluster, &**self.settings),
            Some((_, owner)) => {
                view = owner.view.load();
                (owner, &*view.settings)
            }
        };
        act(owner, settings)
    }

    /// The cluster that an endpoint is of, with its settings: that of the request, or a failover target.
    #[inline]
    pub(crate) fn with_owner<R>(
        &self,
        endpoint: &Endpoint,
        act: impl FnOnce(&'r Arc<Cluster>, &ClusterSettings) -> R,
    ) -> R {
        self.with_target(self.target_of(endpoint), act)
    }

    /// As [`Call::with_owner`], for what a lease records.
    #[inline]
    pub(crate) fn with_lease<R>(
        &self,
        lease: &mut Lease,
        act: impl FnOnce(&mut Lease, &'r Arc<Cluster>, &ClusterSettings) -> R,
    ) -> R {
        let target = self.target_of(lease.endpoint());
        self.with_target(target, |owner, settings| act(lease, owner, settings))
    }

    /// Begins an attempt at an endpoint; see [`Lease::begin`].
    #[inline]
    pub(crate) fn lease(
        &self,
        endpoint: Arc<Endpoint>,
        retryable: bool,
        now: Instant,
    ) -> Result<Lease, Arc<Endpoint>> {
        let target = self.target_of(&endpoint);
        self.with_target(target, |_, settings| Lease::begin(settings, endpoint, retryable, now))
    }

    /// Counts the attempt of a lease, which is made.
    #[inline]
    pub(crate) fn count_attempt(&self, lease: &Lease, account: &mut RequestAccount<'_>) {
        account.attempts += 1;
        self.name_instance(lease.endpoint(), account);
        lease.count_pick();
        if let Some((target, _)) = self.target_of(lease.endpoint()) {
            target.count_attempt();
        }
    }

    /// Notes the instance by which the request is served, for the access log.
    #[inline]
    pub(crate) fn name_instance(&self, endpoint: &Endpoint, account: &mut RequestAccount<'_>) {
        account.set_instance(&endpoint.id, || {
            let is_elsewhere =
                self.failover().is_some() && !Arc::ptr_eq(&endpoint.service, &self.cluster.label);
            is_elsewhere.then(|| endpoint.service.clone())
        });
    }

    /// The end of the request's time, as far as it is known now.
    pub(crate) fn ends(&self, upload: &Upload) -> Instant {
        self.deadline.expires_at(last_byte(upload).map(Instant::into_std)).0.into()
    }

    /// The longest silence in either body.
    pub(crate) fn body_idle(&self) -> Duration {
        body_idle(&self.settings.policy, self.is_grpc)
    }

    /// Whether the request goes to an endpoint as HTTP/2. A switch to another protocol is one of HTTP/1.1.
    #[inline]
    pub(crate) fn speaks_http2(&self, endpoint: &Endpoint) -> bool {
        let speaks = match self.settings.policy.protocol {
            config::Protocol::Http | config::Protocol::Tcp => false,
            config::Protocol::Auto => self.is_grpc || endpoint.speaks_http2(),
            config::Protocol::Http2 | config::Protocol::Grpc => true,
        };
        speaks && !self.changes.upgrades
    }

    /// Which idle connections the request may take.
    pub(crate) fn checkout(
        &self,
        bounds: &Bounds<'_>,
        endpoint: &Endpoint,
        now: Instant,
    ) -> CheckoutRequest<'r> {
        CheckoutRequest {
            is_http2: self.speaks_http2(endpoint),
            worker: self.worker,
            policy: &self.settings.policy,
            cells: self.cells(),
            is_repeatable: bounds.retry.accepts_race(),
            now,
        }
    }

    /// Begins the request on `exchange`, with the head as the instance gets it; `is_http10`: the instance speaks HTTP/1.0. Where
    /// there is a deadline, the head says what is left of it; with a body that is still being read, the end of the time-out is
    /// not known yet.
    pub(crate) fn begin(
        &self,
        exchange: &mut Exchange,
        upload: &Upload,
        is_http10: bool,
        retries: u32,
        now: Instant,
    ) {
        let mut drop = self.dropped();
        let asks = !self.changes.expects_continue || upload.expects_continue() && !is_http10;
        if !(self.changes.keeps_expect && asks) {
            drop = drop.with(Name::Expect);
        }
        let mut add: &[u8] = &self.changes.add;
        let mut with_deadline;
        let mut with_attempts;
        if self.is_grpc && retries > 0 {
            with_attempts = self.changes.add.clone();
            grpc::write_attempts(retries, &mut with_attempts);
            add = &with_attempts;
        }
        if let Some(cap) = self.deadline.cap() {
            let ends = if upload.is_ended() { self.ends(upload) } else { cap.into() };
            with_deadline = add.to_vec();
            self.client_deadline.write_fields(&mut with_deadline, ends, now);
            add = &with_deadline;
            drop = drop.union(self.client_deadline.replaced());
        }
        let edits = Edits { drop, add, ..self.edits() };
        let framing = if is_http10 { upload.framing_with_length() } else { upload.framing() };
        exchange.begin(self.head, &edits, framing, now);
    }

    /// Names that no attempt passes on, beside `Expect`.
    pub(crate) fn dropped(&self) -> NameSet {
        DROPPED.union(self.changes.drop)
    }

    /// How the head that an instance gets differs, beside `drop` and `add`.
    pub(crate) fn edits(&self) -> Edits<'r> {
        Edits {
            target: self.changes.target.as_deref(),
            host: self.changes.host.as_deref(),
            drop: NameSet::default(),
            remove: self.changes.remove.as_deref().unwrap_or_default(),
            add: &[],
            minor: Some(1),
        }
    }

    /// What the final head of an exchange means.
    pub(crate) fn judge_response(&self, framing: Framing, exchange: &Exchange) -> AttemptResult {
        let invalid = |detail: &str| {
            let sent = exchange.sent().max(Sent::Head);
            Err(Failed { sent, ..Failed::unsent(Outcome::BadResponse, detail.to_owned()) })
        };
        let Some(head) = exchange.response() else { return invalid("no head came") };
        self.count_tolerated(head);
        if framing == Framing::Tunnel && !self.changes.accepts_upgrade(self.head, head) {
            return invalid("the instance switched to a protocol that was not asked for");
        }
        let grpc = self.is_grpc.then(|| grpc::status_of(head)).flatten().and_then(Outcome::of_grpc);
        let outcome = if head.has(Name::OutriggerError) {
            Outcome::SidecarError(head.status())
        } else if let Some(failed) = grpc {
            failed
        } else {
            Outcome::Status(head.status())
        };
        Ok(Response { framing, outcome })
    }

    /// Counts what was tolerated in the head of a response.
    fn count_tolerated(&self, head: &Head) {
        let cells = self.cells();
        if head.has_controls() {
            cells.record_tolerated(Tolerated::ResponseControls);
        }
        if head.has(Name::TransferEncoding) && head.has(Name::ContentLength) {
            cells.record_tolerated(Tolerated::Framing);
        }
    }

    /// Passes an interim response on, or drops it: an app of HTTP/1.0 does not know them, and of two exchanges beside each other
    /// neither may speak. A 100 reaches the app only if it asked for one, and once.
    pub(crate) fn pass_interim(
        &self,
        exchange: &mut Exchange,
        app: &mut Channel,
        upload: &mut Upload,
        passes: bool,
    ) {
        let Some(head) = exchange.take_response() else { return };
        let passes = passes && self.head.minor() == 1;
        let is_wanted = if head.status() == 100 { upload.release(passes, Instant::now()) } else { true };
        if is_wanted && passes {
            let edits = Edits { minor: Some(1), ..Edits::default() };
            app.queue(|outbox| write_head(&head, &edits, Framing::None, outbox));
        }
        give_head(head);
    }

    /// Whether the request may be sent again, by its method and its fields.
    pub(crate) fn traits_of(
        head: &Head,
        changes: &HeadChanges,
        is_grpc: bool,
        policy: &config::Policy,
    ) -> RequestTraits {
        let target = || changes.target.as_deref().unwrap_or_else(|| head.target());
        RequestTraits {
            idempotent: is_grpc && policy.retry.repeats_grpc(target())
                || changes.has_idempotency_key
                || retry::is_idempotent(head.method()),
            safe: retry::is_safe(head.method()),
            allowed: changes.allows_retries,
        }
    }
}

/// How long a stream of gRPC may be silent, where `body_idle` is shorter: pings tell whether the instance is alive.
const STREAM_IDLE: Duration = Duration::from_secs(3600);

/// The longest silence in either body.
fn body_idle(policy: &config::Policy, is_grpc: bool) -> Duration {
    if is_grpc { policy.body_idle.max(STREAM_IDLE) } else { policy.body_idle }
}

/// What bounds an attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds<'a> {
    /// The request's time.
    pub(crate) deadline: Deadline,
    /// When this attempt began.
    pub(crate) begun: Instant,
    /// What may follow this attempt.
    pub(crate) retry: RetryEligibility<'a>,
    /// The attempt's own time, counted as the service's time-out is.
    pub(crate) policy: &'a config::Policy,
    /// The request is one of gRPC.
    pub(crate) is_grpc: bool,
}

/// The bound that is reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The service's `timeout`.
    Timeout,
    /// The deadline, the app's or the service's.
    Deadline,
    /// `per_try_timeout`.
    PerTry,
    /// `body_idle`.
    BodyIdle,
}

impl Bounds<'_> {
    /// The bound that `exchange` reaches next, and when.
    pub(crate) fn next(&self, upload: &Upload, exchange: &Exchange) -> (Instant, Bound) {
        let last = exchange.last_upload(upload);
        // While a body is held back nothing of it is waited for.
        if !exchange.is_upload_done() && upload.exists() && upload.held_since().is_none() {
            return self.moving(last.max(self.begun));
        }
        let last = last_byte(upload).map(|_| last);
        let from = last.map_or(self.begun, |last| last.max(self.begun));
        self.sooner(self.whole(last), from)
    }

    /// The bound of a body that moves, of which the last byte moved at `last`.
    pub(crate) fn moving(&self, last: Instant) -> (Instant, Bound) {
        let idle = last + body_idle(self.policy, self.is_grpc);
        match self.deadline.cap().map(Instant::from_std) {
            Some(cap) if cap < idle => (cap, Bound::Deadline),
            _ => (idle, Bound::BodyIdle),
        }
    }

    /// Until when a permit and a connection may be waited for.
    pub(crate) fn opening(&self, upload: &Upload) -> (Instant, Bound) {
        self.sooner(self.whole(last_byte(upload)), self.begun)
    }

    fn whole(&self, last_byte: Option<Instant>) -> (Instant, Bound) {
        let (at, cause) = self.deadline.expires_at(last_byte.map(Instant::into_std));
        let bound = match cause {
            TimeoutCause::Timeout => Bound::Timeout,
            TimeoutCause::Deadline => Bound::Deadline,
        };
        (at.into(), bound)
    }

    /// The attempt's end, when its own time is over before `whole`.
    fn sooner(&self, whole: (Instant, Bound), from: Instant) -> (Instant, Bound) {
        match self.policy.per_try_timeout.map(|limit| from + limit) {
            Some(one) if one < whole.0 => (one, Bound::PerTry),
            _ => whole,
        }
    }
}

fn last_byte(upload: &Upload) -> Option<Instant> {
    (upload.exists() && upload.held_since().is_none()).then(|| upload.last_byte())
}

/// A response that an attempt brought; the exchange has its head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Response {
    pub(crate) framing: Framing,
    pub(crate) outcome: Outcome,
}

/// An attempt that brought no usable response.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) outcome: Outcome,
    pub(crate) sent: Sent,
    pub(crate) detail: String,
    /// The reason that the app gets, where the outcome does not tell it.
    pub(crate) reason: Option<Reason>,
}

/// How an attempt ended.
pub(crate) type AttemptResult = Result<Response, Failed>;

/// The outcome of an attempt.
pub(crate) fn outcome_of(result: &AttemptResult) -> Outcome {
    match result {
        Ok(response) => response.outcome,
        Err(failed) => failed.outcome,
    }
}

impl Failed {
    /// The instance takes no chunks, and the body is longer than what is kept to learn its length.
    pub(crate) fn without_length(call: &Call<'_>) -> Self {
        let most = format_size(call.settings.policy.retry.max_body);
        let detail = format!(
            "the instance speaks HTTP/1.0, and the chunked body is longer than what is kept of it; {}",
            call.limit("retry.max_body", most)
        );
        Self { reason: Some(Reason::LengthUnknown), ..Self::unsent(Outcome::BadRequest, detail) }
    }

    /// The reason that the app gets when no attempt brought a response; `gave_up`: why there was no other attempt.
    pub(crate) fn reason_for_app(&self, gave_up: Option<GiveUp>) -> Reason {
        if let Some(reason) = self.reason {
            return reason;
        }
        match self.outcome {
            Outcome::ConnectRefused | Outcome::ConnectFailed | Outcome::UnreachableFromHere => {
                Reason::ConnectFailed
            }
            Outcome::TlsFailed => Reason::TlsFailed,
            Outcome::ConnectTimeout => Reason::ConnectTimeout,
            Outcome::Closed | Outcome::ClosedMidHead | Outcome::Resource
                if gave_up == Some(GiveUp::SentUnknown) =>
            {
                Reason::SentUnknown
            }
            Outcome::Closed | Outcome::ClosedMidHead => Reason::UpstreamClosed,
            Outcome::BadResponse => Reason::BadResponse,
            Outcome::Unprocessed => Reason::UpstreamClosed,
            Outcome::Http1Instance => Reason::Http1Instance,
            Outcome::PerTryTimeout | Outcome::Timeout => Reason::Timeout,
            Outcome::Deadline => Reason::DeadlineExceeded,
            Outcome::Overloaded => Reason::Overloaded,
            Outcome::Resource => Reason::LocalResource,
            Outcome::BadRequest => Reason::BadBody,
            Outcome::ClientGone => Reason::ClientGone,
            Outcome::Status(_) | Outcome::Grpc(_) | Outcome::SidecarError(_) | Outcome::Connected => {
                Reason::Internal
            }
        }
    }

    /// Nothing of the request was sent.
    pub(crate) fn unsent(outcome: Outcome, detail: String) -> Self {
        Self { outcome, sent: Sent::Nothing, detail, reason: None }
    }
}
